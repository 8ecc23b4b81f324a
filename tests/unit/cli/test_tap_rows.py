"""A tap with its own row, and rows that share an iface-id."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridvif import Conflict, Port, RecordingHost, Tap, VifType, check, desired_state, plug, unplug
from hybridvif.cli.commands import check as checking, list as listing
from hybridvif.cli.ports import PortRequest
from hybridvif.model.state import bearers_of
from tests.support.answers import ID, PORT, QBR, TAP, plugged, row_of

OTHER_ID = "91d3aa02-4100-4c00-8000-000000000003"


@pytest.mark.parametrize("port", [PORT, replace(PORT, create_tap=True), replace(PORT, vhostuser_mode="client")])
def test_tap_with_a_row_is_refused_without_changes(port: Port) -> None:
    host = RecordingHost()
    (row,) = desired_state(PORT).ports.values()
    host.state = host.state.with_parts(Tap(name=TAP, master=""), replace(row, name=TAP))
    before = host.state
    for refused in (plug, check):
        with pytest.raises(Conflict, match=f"{TAP} is a port of the switch itself"):
            refused(port, host)
    assert host.state == before
    assert not host.steps
    assert unplug(ID, host).ok


def test_hybrid_port_with_a_row_of_its_tap_is_a_conflict() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(Tap(name=TAP, master=QBR), replace(row_of(host), name=TAP))
    answer = listing.list_of(host)
    assert [row["state"] for row in answer.rows] == ["conflict"]
    assert answer.document["warnings"] == answer.warnings
    assert TAP in answer.warnings[0]


def test_second_row_with_the_iface_id_is_a_warning() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(replace(row_of(host), name="qvo91d3aa02-41", port_id=OTHER_ID))
    answer = checking.answer_of([PortRequest(fields={"id": ID})], host)
    assert answer.exit_code == 0
    assert answer.document["in_order"] is True
    (warning,) = answer.warnings
    assert "qvo91d3aa02-41" in warning
    assert checking.answer_of([PortRequest(fields={"id": ID})], plugged(PORT)).warnings == []


@pytest.mark.parametrize(
    ("rows", "bearers"),
    [
        ([], {}),
        ([("qvo5f2c0e1a-7b", ID)], {}),
        ([("tap5f2c0e1a-7b", ID)], {}),
        ([("vnet0", ID)], {ID: ("vnet0",)}),
        ([("vnet0", ""), ("vnet1", "")], {}),
        ([("tap5f2c0e1a-7b", ID), ("qvo5f2c0e1a-7b", ID)], {ID: ("qvo5f2c0e1a-7b", "tap5f2c0e1a-7b")}),
        ([("b\x1b", ID), ("a" * 500, ID)], {ID: (f"{'a' * 128}... (500 characters)", "b\\x1b")}),
    ],
)
def test_bearers_are_rows_that_share_an_iface_id(
    rows: list[tuple[str, str]], bearers: dict[str, tuple[str, ...]]
) -> None:
    assert bearers_of(rows) == bearers


def test_tap_row_of_an_ivs_port_is_a_conflict() -> None:
    port = replace(PORT, vif_type=VifType.IVS)
    host = RecordingHost()
    (row,) = desired_state(port).ports.values()
    host.state = host.state.with_parts(replace(row, name=TAP))
    with pytest.raises(Conflict, match=TAP):
        plug(port, host)
