"""What the golden plans (golden/) and the laws (test_laws.py) leave to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridvif.model.errors import Conflict
from hybridvif.model.parts import NOTHING, PLACEHOLDER_TYPE, HostState
from hybridvif.model.planner import plan
from hybridvif.model.steps import Create, Delete, Update
from tests.support.strategies import BRIDGE, ROW, TAP, VETH, WIRING


def test_a_plan_is_data_and_changes_nothing() -> None:
    observed = WIRING.without(ROW)
    before = list(observed)
    assert plan(observed, WIRING) == (Create(ROW),)
    assert list(observed) == before


def test_a_pair_whose_other_end_is_not_qvo_is_not_led_there() -> None:
    misled = WIRING.with_parts(replace(VETH, peer="eth7"))
    with pytest.raises(Conflict, match="the peer of qvb5f2c0e1a-7b is eth7, not qvo5f2c0e1a-7b; remove the pair"):
        plan(misled, WIRING)


def test_a_pair_whose_other_end_is_not_qvo_is_not_deleted() -> None:
    misled = HostState().with_parts(replace(VETH, master="", peer="eth7"))
    with pytest.raises(Conflict, match="qvb5f2c0e1a-7b"):
        plan(misled, NOTHING)


def test_a_tap_in_the_goal_is_not_made() -> None:
    assert plan(WIRING, WIRING.with_parts(TAP)) == ()


def test_a_tap_that_libvirt_has_taken_out_of_its_bridge_is_left_there_while_the_bridge_is_repaired() -> None:
    small = replace(BRIDGE, mtu=1400)
    observed = WIRING.with_parts(replace(TAP, master=""), small)
    assert plan(observed, WIRING) == (Update(small, BRIDGE),)


def test_a_row_can_be_led_back_to_its_parking_place() -> None:
    parked = replace(ROW, type=PLACEHOLDER_TYPE, realized=False)
    assert plan(WIRING, WIRING.with_parts(parked)) == (Update(ROW, parked),)


def test_a_row_that_is_parked_is_no_longer_realized() -> None:
    """However it was found: vswitchd may not have noticed yet that its device has gone."""
    park, *_ = plan(WIRING.without(VETH), WIRING)
    assert park == Update(ROW, replace(ROW, type=PLACEHOLDER_TYPE, realized=False))
    assert ROW.realized


def test_a_parked_row_is_freed_with_all_that_had_drifted_in_the_same_step() -> None:
    found = replace(ROW, type=PLACEHOLDER_TYPE, realized=False, vm_uuid="", bridge="br-ex")
    assert plan(WIRING.with_parts(found), WIRING) == (Update(found, ROW),)


def test_the_members_go_before_the_bridge_that_holds_them() -> None:
    assert plan(WIRING, NOTHING) == (Delete(ROW), Delete(VETH), Delete(BRIDGE))


def test_the_first_of_several_strangers_is_the_one_that_is_named() -> None:
    held = replace(VETH, master="virbr0")
    with pytest.raises(Conflict, match="virbr0") as refusal:
        plan(HostState().with_parts(held), WIRING)
    assert refusal.value.report is None
    assert refusal.value.code == "conflict"
