"""The messages are those of oslo.privsep, so that its own client could ask our daemon."""

from __future__ import annotations

from oslo_privsep import comm

from hybridvif.privileged.messages import Message


def test_messages_have_the_numbers_of_oslo_privsep() -> None:
    assert {one.name: one.value for one in Message} == {one.name: one.value for one in comm.Message}
