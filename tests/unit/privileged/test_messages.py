"""The messages are those of oslo.privsep, so its own client could use our daemon."""

from __future__ import annotations

from oslo_privsep import comm

from hybridvif.privileged.messages import Message


def test_messages_have_the_numbers_of_oslo_privsep() -> None:
    assert {kind.name: kind.value for kind in Message} == {kind.name: kind.value for kind in comm.Message}
