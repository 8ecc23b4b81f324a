"""netlink.dump: only messages that differ from the last dump are decoded."""

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
    """Messages that were decoded."""
    seen: list[bytes] = []

    def message_of(body: bytes) -> messages.Message:
        seen.append(body)
        return messages.message_of(body)

    monkeypatch.setattr(dump, "message_of", message_of)
    monkeypatch.setattr(dump, "_last", {})
    return seen


def bridge(index: int, *, mtu: int = 1500, stp: int = 0, timer: int = 0, name: str = "") -> bytes:
    timers = b"".join(attribute(kind, struct.pack("=Q", timer)) for kind in range(HELLO_TIMER, GC_TIMER + 1))
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


def test_unchanged_message_is_not_decoded_again(decoded: list[bytes]) -> None:
    first = dumped(bridge(1), bridge(2))
    assert dumped(bridge(2), bridge(1)) == first[::-1]
    assert len(decoded) == 2


def test_changed_bridge_timers_are_ignored(decoded: list[bytes]) -> None:
    assert len(timers_in(bridge(1))) == 4
    assert dumped(bridge(1, timer=5)) == dumped(bridge(1, timer=77))
    assert len(decoded) == 1


@pytest.mark.parametrize("change", [{"mtu": 9000}, {"stp": 1}, {"name": "qbrx"}])
def test_any_other_change_is_decoded(decoded: list[bytes], change: dict[str, Any]) -> None:
    (before,) = dumped(bridge(1))
    (after,) = dumped(bridge(1, timer=3, **change))
    assert before != after
    assert len(decoded) == 2
    assert dumped(bridge(1)) == [before]


def test_deleted_link_is_dropped_from_cache(decoded: list[bytes]) -> None:
    dumped(bridge(1), bridge(2))
    assert [device.index for device in dumped(bridge(2))] == [2]
    dumped(bridge(1), bridge(2))
    assert len(decoded) == 3


def test_cache_size_limits_cached_links(decoded: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump, "CACHE_SIZE", 1)
    assert dumped(bridge(1), bridge(2)) == dumped(bridge(1), bridge(2))
    assert decoded == [bridge(1), bridge(2), bridge(2)]


def test_renamed_master_is_reported_for_an_unchanged_member(decoded: list[bytes]) -> None:
    member = link_header(9) + attribute(IFNAME, "qvb9") + attribute(messages.MASTER, 1)
    assert dumped(bridge(1), member)[1].master == "qbr1"
    assert dumped(bridge(1, name="qbrx"), member)[1].master == "qbrx"
    assert len(decoded) == 3


def test_truncated_messages_raise_nothing() -> None:
    whole = bridge(1)
    for length in range(16, len(whole)):
        timers_in(whole[:length])
