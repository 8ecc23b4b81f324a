"""netlink.connection: only messages that differ from the last one about a device are decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest

from hybridvif.executors.netlink import connection
from hybridvif.executors.netlink.connection import (
    BRIDGE_TIMERS,
    IFNAME,
    INFO_DATA,
    INFO_KIND,
    LINKINFO,
    MASTER,
    device_of,
)
from hybridvif.executors.netlink.devices import LINK, observed
from hybridvif.executors.netlink.socket import link_header, nested, packed
from hybridvif.model.parts import Tap

STP = 5
QBR, QBR_X, TAP = "qbr5f2c0e1a-7b", "qbr5f2c0e1a-7c", "tap5f2c0e1a-7b"


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    connection._cache.clear()
    yield
    connection._cache.clear()


def bridge(index: int, *, mtu: int = 1500, stp: int = 0, timer: int = 0, name: str = QBR) -> bytes:
    timers = b"".join(packed(kind, struct.pack("=Q", timer)) for kind in BRIDGE_TIMERS)
    data = nested(INFO_DATA, packed(STP, struct.pack("=I", stp)) + timers)
    return (
        link_header(index)
        + packed(IFNAME, name)
        + packed(LINK["mtu"].number, mtu)
        + nested(LINKINFO, packed(INFO_KIND, "bridge"), data)
    )


def test_unchanged_message_is_not_decoded_again() -> None:
    first, second = device_of(bridge(1)), device_of(bridge(2))
    assert (device_of(bridge(2)), device_of(bridge(1))) == (second, first)
    assert (first.index, first.name, first.value("mtu"), first.value("stp")) == (1, QBR, 1500, False)


def test_changed_bridge_timers_are_ignored() -> None:
    assert len(BRIDGE_TIMERS) == 4
    assert device_of(bridge(1, timer=5)) is device_of(bridge(1, timer=77))


@pytest.mark.parametrize("change", [{"mtu": 9000}, {"stp": 1}, {"name": "qbrx"}])
def test_any_other_change_is_decoded(change: dict[str, Any]) -> None:
    before, after = device_of(bridge(1)), device_of(bridge(1, timer=3, **change))
    assert (before.name, before.values) != (after.name, after.values)


def test_full_cache_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CACHE_SIZE", 1)
    first = device_of(bridge(1))
    device_of(bridge(2))
    assert device_of(bridge(1)).values == first.values
    assert len(connection._cache) == 1


def test_renamed_master_is_reported_for_an_unchanged_member() -> None:
    member = link_header(9) + packed(IFNAME, TAP) + packed(MASTER, 1)
    for name in (QBR, QBR_X):
        seen = observed(map(device_of, (bridge(1, name=name), member)), None)
        assert seen.state.links[TAP] == Tap(name=TAP, master=name)
        assert seen.facts.members == {name: (TAP,)}


def test_truncated_messages_raise_nothing() -> None:
    whole = bridge(1)
    for length in range(16, len(whole)):
        device_of(whole[:length])
