"""netlink.connection: only messages that differ from the last one about a device are decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest

from hybridvif.executors.base import StepFailed
from hybridvif.executors.netlink import connection, devices, executor, socket as netlink_socket
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
from hybridvif.executors.netlink.socket import link_header, nested, packed, positions_of
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


@pytest.mark.parametrize(
    "other",
    [
        packed(2, b"12345678") + packed(1, b"1234"),
        packed(1, b"1234") + packed(3, b"12345678"),
        packed(1, b"12345678") + packed(2, b"1234"),
    ],
)
def test_parts_of_one_size_are_told_apart_by_their_headers(other: bytes) -> None:
    first = packed(1, b"1234") + packed(2, b"12345678")
    assert len(first) == len(other)
    for part in (first, other, first):
        found = {kind: part[where] for kind, where in positions_of(part).items()}
        assert b"".join(packed(kind, value) for kind, value in found.items()) == part


def test_layouts_are_forgotten_if_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink_socket, "MAX_LAYOUTS", 1)
    for size in (4, 8, 4):
        assert positions_of(packed(7, bytes(size))) == {7: slice(4, 4 + size)}
    assert len(netlink_socket._layouts) == 1


def test_part_with_an_impossible_length_ends_there() -> None:
    assert positions_of(packed(1, b"1234") + struct.pack("=HH", 3, 9)) == {1: slice(4, 8)}


def test_device_that_is_renamed_at_once_is_a_failure() -> None:
    assert executor._index_of("lo", "cannot create bridge lo") == 1
    with pytest.raises(StepFailed, match="cannot create bridge qbr-none: it was renamed at once"):
        executor._index_of("qbr-none", "cannot create bridge qbr-none")


def test_device_that_is_gone_leaves_the_cache_and_so_do_its_parts() -> None:
    for index in (1, 2):
        observed([device_of(bridge(index))], None)
    connection.forget(set())
    assert devices._part_of.cache_info().currsize > 0
    connection.forget({1, 9})
    assert connection._cache.keys() == {2}
    assert devices._part_of.cache_info().currsize == 0
