"""What of a dump is decoded anew: what is not the same, to the byte, as in the last one."""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest

from hybridvif.executors.netlink import dump, messages
from hybridvif.executors.netlink.messages import IFNAME, INFO_DATA, INFO_KIND, LINKINFO, MTU, devices_of, timers_in
from hybridvif.executors.netlink.socket import attribute, link_header, nested

STP, HELLO_TIMER, GC_TIMER = 5, 16, 19


@pytest.fixture(autouse=True)
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What has been decoded."""
    seen: list[bytes] = []

    def message_of(body: bytes) -> messages.Message:
        seen.append(body)
        return messages.message_of(body)

    monkeypatch.setattr(dump, "message_of", message_of)
    monkeypatch.setattr(dump, "_last", {})
    return seen


def bridge(index: int, *, mtu: int = 1500, stp: int = 0, clock: int = 0, name: str = "") -> bytes:
    timers = b"".join(attribute(kind, struct.pack("=Q", clock)) for kind in range(HELLO_TIMER, GC_TIMER + 1))
    data = nested(INFO_DATA, attribute(STP, struct.pack("=I", stp)) + timers)
    return (
        link_header(index)
        + attribute(IFNAME, name or f"qbr{index}")
        + attribute(MTU, mtu)
        + nested(LINKINFO, attribute(INFO_KIND, "bridge"), data)
    )


def dumped(*bodies: bytes) -> list[Any]:
    class Channel:
        def dump(self, _request: object) -> list[bytes]:
            return list(bodies)

    return devices_of(dump.dump_links(time.monotonic() + 1, channel=Channel()))  # type: ignore[arg-type]


def test_what_is_the_same_is_not_decoded_again(decoded: list[bytes]) -> None:
    first = dumped(bridge(1), bridge(2))
    assert dumped(bridge(2), bridge(1)) == first[::-1]
    assert len(decoded) == 2


def test_a_bridges_timers_alone_are_no_difference(decoded: list[bytes]) -> None:
    assert len(timers_in(bridge(1))) == 4
    assert dumped(bridge(1, clock=5)) == dumped(bridge(1, clock=77))
    assert len(decoded) == 1


@pytest.mark.parametrize("change", [{"mtu": 9000}, {"stp": 1}, {"name": "qbrx"}])
def test_whatever_else_differs_is_decoded(decoded: list[bytes], change: dict[str, Any]) -> None:
    (before,) = dumped(bridge(1))
    (after,) = dumped(bridge(1, clock=3, **change))
    assert before != after
    assert len(decoded) == 2
    assert dumped(bridge(1)) == [before]


def test_a_link_that_has_gone_is_forgotten(decoded: list[bytes]) -> None:
    dumped(bridge(1), bridge(2))
    assert [device.index for device in dumped(bridge(2))] == [2]
    dumped(bridge(1), bridge(2))
    assert len(decoded) == 3


def test_no_more_links_are_remembered_than_that(decoded: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump, "CACHE_SIZE", 1)
    assert dumped(bridge(1), bridge(2)) == dumped(bridge(1), bridge(2))
    assert decoded == [bridge(1), bridge(2), bridge(2)]


def test_a_name_that_a_master_gets_is_told_though_the_message_is_the_same(decoded: list[bytes]) -> None:
    member = link_header(9) + attribute(IFNAME, "qvb9") + attribute(messages.MASTER, 1)
    assert dumped(bridge(1), member)[1].master == "qbr1"
    assert dumped(bridge(1, name="qbrx"), member)[1].master == "qbrx"
    assert len(decoded) == 3


def test_messages_cut_short_anywhere_do_no_harm() -> None:
    whole = bridge(1)
    for length in range(16, len(whole)):
        timers_in(whole[:length])
