"""Tests of the planner that are neither golden plans (golden/) nor laws (test_laws.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridvif.model.errors import Conflict
from hybridvif.model.parts import PLACEHOLDER_TYPE
from hybridvif.model.planner import goal_for, plan
from hybridvif.model.state import NOTHING, Create, Delete, HostState, Update
from tests.support.strategies import BRIDGE, NAMES, ROW, TAP, VETH, WIRING


def test_plan_changes_no_state() -> None:
    observed = WIRING.without(ROW)
    before = list(observed)
    assert plan(observed, WIRING) == (Create(ROW),)
    assert list(observed) == before


def test_plug_with_a_foreign_peer_raises_conflict() -> None:
    foreign = WIRING.with_parts(replace(VETH, peer="eth7"))
    with pytest.raises(Conflict, match="the peer of qvb5f2c0e1a-7b is eth7, not qvo5f2c0e1a-7b; remove the pair"):
        plan(foreign, WIRING)


def test_unplug_with_a_foreign_peer_raises_conflict() -> None:
    foreign = HostState().with_parts(replace(VETH, master="", peer="eth7"))
    with pytest.raises(Conflict, match="qvb5f2c0e1a-7b"):
        plan(foreign, NOTHING)


def test_tap_of_libvirt_in_the_goal_is_not_created() -> None:
    assert plan(WIRING, WIRING.with_parts(TAP)) == ()


def test_repair_of_the_bridge_leaves_a_detached_tap() -> None:
    small = replace(BRIDGE, mtu=1400)
    observed = WIRING.with_parts(replace(TAP, master=""), small)
    assert plan(observed, WIRING) == (Update(small, BRIDGE),)


def test_row_can_become_a_placeholder_again() -> None:
    placeholder = replace(ROW, type=PLACEHOLDER_TYPE, realized=False)
    assert plan(WIRING, WIRING.with_parts(placeholder)) == (Update(ROW, placeholder),)


def test_placeholder_is_not_realized() -> None:
    """The observed row may still be realized: ovs-vswitchd notices the deletion of a device late."""
    first, *_ = plan(WIRING.without(VETH), WIRING)
    assert first == Update(ROW, replace(ROW, type=PLACEHOLDER_TYPE, realized=False))
    assert ROW.realized


def test_placeholder_is_restored_with_its_drift_in_one_step() -> None:
    found = replace(ROW, type=PLACEHOLDER_TYPE, realized=False, vm_uuid="", bridge="br-ex")
    assert plan(WIRING.with_parts(found), WIRING) == (Update(found, ROW),)


def test_unplug_deletes_members_before_the_bridge() -> None:
    assert plan(WIRING, NOTHING) == (Delete(ROW), Delete(VETH), Delete(BRIDGE))


def test_conflict_names_the_first_foreign_object() -> None:
    held = replace(VETH, master="virbr0")
    with pytest.raises(Conflict, match="virbr0") as refusal:
        plan(HostState().with_parts(held), WIRING)
    assert refusal.value.report is None
    assert refusal.value.code == "conflict"


@pytest.mark.parametrize(("request_of_others", "kept"), [(1500, 1500), (1400, 0)])
def test_goal_keeps_an_existing_mtu_request_of_the_desired_mtu(request_of_others: int, kept: int) -> None:
    observed = WIRING.with_parts(replace(ROW, mtu_request=request_of_others))
    assert goal_for(observed, WIRING, NAMES) == WIRING.with_parts(replace(ROW, mtu_request=kept))
