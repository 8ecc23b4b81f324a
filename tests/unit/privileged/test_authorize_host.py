"""The second pass of authorization: the owner that a plan states, and the evidence on the host."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st

from hybridvif.model.errors import Conflict, Refused
from hybridvif.model.parts import (
    CONVERTING,
    KERNEL_DATAPATH,
    PLACEHOLDER_TYPE,
    ForeignObject,
    ForeignPort,
    IvsPort,
    ManagedTap,
    OvsPort,
    Part,
    Tap,
)
from hybridvif.model.planner import check_ownership, native_row, plan, rollback_target
from hybridvif.model.port import Port, VifType, desired_state
from hybridvif.model.report import Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import NOTHING, Create, Delete, HostState, Replace, Step, Update, owners_of
from hybridvif.privileged.authorize import permit_found, permit_plans, refusals, stated_owner
from tests.support.strategies import BRIDGE, NAMES, NATIVE, PORT, ROW, TAP, VETH, WIRING, history, ports, states_of, the

TWIN = "5f2c0e1a-7b00-4c00-8000-0000000000ff"
"""The id of another port, with the same first 11 characters."""
STRANGER = "91d3aa02-4100-4c00-8000-000000000003"
BRIDGES = ("br-int", "br-ex", "tbr-5f2c0e1a-7", "a.b_c-d")
SETTINGS = Settings(integration_bridges=BRIDGES)
BARE = HostState().with_parts(
    replace(BRIDGE, alias=""), replace(VETH, alias="", peer_alias=""), replace(ROW, iface_id="")
)
"""A port plugged by hand: no part has an ownership tag."""
THEIRS = desired_state(replace(PORT, id=TWIN))
UNPLUG: list[Step] = [Delete(ROW), Delete(VETH), Delete(BRIDGE)]


def refusal(steps: Sequence[Step], found: HostState, settings: Settings = SETTINGS) -> str:
    with pytest.raises(Refused) as caught:
        permit_found(steps, found, settings)
    return str(caught.value)


# The stated owner.


@pytest.mark.parametrize(
    ("steps", "owner"),
    [
        ([], ""),
        ([Create(part) for part in WIRING], PORT.id),
        (UNPLUG, PORT.id),
        ([Delete(part) for part in BARE], ""),
        ([Update(replace(BRIDGE, alias="uplink"), BRIDGE)], PORT.id),
        ([Delete(ROW)], PORT.id),
        ([Delete(replace(ROW, port_id=PORT.id, iface_id=STRANGER))], PORT.id),
        ([Delete(IvsPort(name=NAMES.switch_end))], ""),
        ([Update(TAP, replace(TAP, master=""))], ""),
    ],
)
def test_plan_states_its_owner_by_its_parts(steps: list[Step], owner: str) -> None:
    assert stated_owner(steps) == owner


def test_wrong_ids_of_an_existing_row_do_not_contradict_its_links() -> None:
    wrong = replace(ROW, iface_id=STRANGER)
    assert stated_owner([Update(wrong, ROW)]) == PORT.id
    assert stated_owner([Update(wrong, replace(wrong, type=PLACEHOLDER_TYPE)), Create(VETH)]) == PORT.id
    assert stated_owner([Delete(wrong), Delete(VETH)]) == PORT.id
    assert stated_owner([Update(wrong, replace(wrong, type=PLACEHOLDER_TYPE))]) == ""


@pytest.mark.parametrize(
    "steps",
    [
        [Create(BRIDGE), Create(replace(VETH, alias=TWIN, peer_alias=TWIN))],
        [Create(replace(VETH, peer_alias=TWIN))],
        [Update(replace(BRIDGE, alias=TWIN), BRIDGE)],
        [Delete(replace(BRIDGE, alias=TWIN)), Delete(VETH)],
        [Create(VETH), Create(replace(ROW, iface_id=TWIN))],
        [Create(VETH), Create(replace(ROW, port_id=TWIN))],
        [Create(VETH), Create(replace(ROW, iface_id=STRANGER))],
    ],
)
def test_plan_of_two_ports_is_refused(steps: list[Step]) -> None:
    with pytest.raises(Refused, match=r"^refused: a plan is of two ports, .* and ") as caught:
        permit_plans([steps], Settings())
    assert PORT.id in str(caught.value)


@pytest.mark.parametrize(
    "steps",
    [
        [Delete(replace(BRIDGE, alias=STRANGER))],
        [Create(replace(ROW, iface_id=STRANGER))],
        [Update(ROW, replace(ROW, iface_id=STRANGER))],
    ],
)
def test_plan_with_names_of_another_port_is_refused(steps: list[Step]) -> None:
    with pytest.raises(Refused, match=f"^refused: {steps[0].part.name} is not named for port {STRANGER}$"):
        permit_plans([steps], Settings())


def test_foreign_iface_id_is_permitted_with_our_key() -> None:
    permit_plans([[Create(replace(ROW, iface_id=STRANGER, port_id=PORT.id))]], Settings())
    permit_plans([[Update(ROW, replace(ROW, iface_id=STRANGER, port_id=PORT.id))]], Settings())
    permit_plans([[Update(ROW, replace(ROW, iface_id=""))]], Settings())


@pytest.mark.parametrize("part", [VETH, TAP], ids=lambda part: part.kind)
def test_device_is_not_taken_out_of_a_foreign_bridge(part: Any) -> None:
    with pytest.raises(Refused, match=r"^refused: .* is not taken out of 'br-foreign'"):
        permit_plans([[Update(replace(part, master="br-foreign"), replace(part, master=""))]], Settings())


# The proof.


@given(st.data(), ports(st.just(VifType.OVS)))
def test_plan_on_own_parts_is_permitted_in_any_state(data: st.DataObject, port: Port) -> None:
    """Plan a plug, an unplug and a rollback after any prefix of a plug. A refusal would leave a broken host."""
    first = data.draw(states_of(port))
    tap = first.links.get(port.names.tap)
    # A row becomes native only if its tap is there, and in no foreign bridge.
    assume(native_row(first) is None or (isinstance(tap, Tap) and tap.master in ("", port.names.bridge)))
    try:
        check_ownership(first, port.id, port.iface_id)
    except Refused:
        assume(False)
    wiring = desired_state(port)
    for now in history(first, plan(first, wiring)):
        back, _ = rollback_target(first, wiring, now, SETTINGS)
        for goal in (wiring, back, NOTHING):
            try:
                check_ownership(now, port.id, "" if goal is NOTHING else port.iface_id)
            except Refused:
                # An unplug does not have the interface id.
                continue
            steps = plan(now, goal)
            permit_plans([steps], SETTINGS)
            owners = {owner for part in now for owner in owners_of(part)}
            is_identified = owners <= {port.id} or stated_owner(steps)
            aliased = any(port.id in owners_of(link) for link in now.links.values())
            if is_identified or aliased:
                # A row with only the interface id identifies its port only by that id.
                permit_found(steps, now, SETTINGS)


@given(st.data(), ports(st.just(VifType.OVS)), st.uuids().map(str))
def test_plan_on_parts_of_another_port_is_refused(data: st.DataObject, port: Port, tail: str) -> None:
    other = replace(port, id=port.id[:11] + tail[11:])
    assume(other.id != port.id)
    theirs = data.draw(st.lists(st.sampled_from(list(desired_state(other))), min_size=1, unique=True))
    mine = list(desired_state(port))
    chosen = data.draw(st.lists(st.sampled_from(mine), min_size=1, unique=True))
    steps: list[Step] = [*map(Create, chosen)] if data.draw(st.booleans()) else [*map(Delete, chosen)]
    with pytest.raises(Refused):
        permit_found(steps, HostState().with_parts(*theirs), SETTINGS)


MARKED, NATIVE_ROW = replace(ROW, converting=CONVERTING), replace(NATIVE, converting=CONVERTING)
OUT = replace(TAP, master="")


@pytest.mark.parametrize(
    ("steps", "found", "reason"),
    [
        ([Replace(MARKED, NATIVE_ROW)], [], f"no row with the id of port {PORT.id}, so"),
        (
            [Replace(*(replace(row, iface_id="", port_id="") for row in (MARKED, NATIVE_ROW)))],
            [],
            "the id of port of the plan, so",
        ),
        ([Replace(MARKED, NATIVE_ROW)], [replace(NATIVE_ROW, name=MARKED.name), OUT], "no row with the id of port"),
        ([Replace(MARKED, NATIVE_ROW)], [replace(MARKED, iface_id="", port_id=""), OUT], "no row with the id of port"),
        ([Replace(NATIVE_ROW, MARKED)], [replace(NATIVE_ROW, bridge="br-else"), OUT], "which is not in [hybridvif]"),
        ([Replace(MARKED, NATIVE_ROW)], [MARKED], "not a tap of this port, or in a foreign bridge"),
        ([Replace(MARKED, NATIVE_ROW)], [MARKED, replace(TAP, master="virbr0")], "or in a foreign bridge"),
    ],
)
def test_conversion_of_what_is_not_this_ports_is_refused(steps: list[Step], found: list[Part], reason: str) -> None:
    assert reason in refusal(steps, HostState().with_parts(*found))


@pytest.mark.parametrize(
    ("step", "found"),
    [
        (Replace(MARKED, NATIVE_ROW), [MARKED, OUT]),
        (Replace(NATIVE_ROW, MARKED), [NATIVE_ROW, replace(TAP, master=KERNEL_DATAPATH)]),
        (Replace(NATIVE_ROW, MARKED), [NATIVE_ROW]),
    ],
    ids=["to native", "to hybrid", "to hybrid without the VM"],
)
def test_conversion_of_the_ports_own_row_is_permitted(step: Step, found: list[Part]) -> None:
    permit_found([step], HostState().with_parts(*found), SETTINGS)


def test_fitting_name_is_no_proof() -> None:
    for steps in (
        UNPLUG,
        [Delete(ROW)],
        [Create(ROW)],
        [Create(VETH)],
        [Update(ROW, replace(ROW, type=PLACEHOLDER_TYPE))],
    ):
        assert TWIN in refusal(steps, THEIRS)
        assert TWIN in refusal(steps, HostState().with_parts(replace(BRIDGE, alias=TWIN), ROW))


def test_plan_without_owner_changes_only_parts_without_owner() -> None:
    nobodys = [Delete(part) for part in BARE]
    permit_found(nobodys, BARE, SETTINGS)
    permit_found(UNPLUG, BARE, SETTINGS)
    message = refusal(nobodys, HostState().with_parts(replace(ROW, iface_id=STRANGER)))
    assert f"belongs to port {STRANGER}, of which the plan says nothing" in message
    twins = HostState().with_parts(BRIDGE, replace(VETH, alias=TWIN, peer_alias=TWIN))
    assert "of which the plan says nothing" in refusal(nobodys, twins)


def test_row_with_a_foreign_iface_id_is_changed_by_a_plan_with_our_key() -> None:
    row = replace(ROW, iface_id=STRANGER, port_id="")
    found = HostState().with_parts(row)
    permit_found([Update(row, replace(row, port_id=PORT.id))], found, SETTINGS)
    assert STRANGER in refusal([Update(row, replace(row, iface_id=PORT.id))], found)


def test_part_without_tag_has_the_owner_of_its_siblings() -> None:
    """A rollback of a part that is half changed has such a plan."""
    bare = replace(BRIDGE, alias="", mtu=1400)
    half = [Update(bare, replace(bare, mtu=1500))]
    for mark in (VETH, ROW):
        permit_found(half, HostState().with_parts(bare, mark), SETTINGS)


def test_row_with_wrong_ids_has_the_owner_of_its_links() -> None:
    """A rollback that ends a placeholder has such a plan, without links."""
    wrong = replace(ROW, iface_id=STRANGER)
    parked = replace(wrong, type=PLACEHOLDER_TYPE)
    permit_found([Update(parked, wrong)], HostState().with_parts(BRIDGE, VETH, parked), SETTINGS)
    assert STRANGER in refusal([Update(parked, wrong)], HostState().with_parts(parked))


@pytest.mark.parametrize(
    "stray",
    [
        ForeignObject(name=NAMES.switch_end, what="a dummy link"),
        ForeignObject(name=NAMES.bridge, what="a veth link"),
        ForeignPort(name=NAMES.switch_end, what="a bond"),
        replace(VETH, master="br-foreign", alias="", peer_alias=""),
    ],
    ids=lambda part: f"{part.kind} {part.name}",
)
def test_foreign_object_or_foreign_master_refuses_the_plan(stray: Part) -> None:
    for steps in ([Create(ROW)], [Delete(stray)], [Delete(replace(BRIDGE, alias=""))]):
        with pytest.raises(Conflict):
            permit_found(steps, BARE.without(ROW).with_parts(stray), SETTINGS)


def test_own_veth_in_a_foreign_bridge_is_not_deleted() -> None:
    with pytest.raises(Conflict, match="br-foreign"):
        permit_found([Delete(VETH)], WIRING.with_parts(replace(VETH, master="br-foreign")), SETTINGS)


def test_rollback_beside_foreign_parts_is_permitted() -> None:
    strangers = replace(VETH, alias=TWIN, peer_alias=TWIN)
    for beside in (strangers, ForeignObject(name=NAMES.bridge_end, what="a dummy link")):
        permit_found([Delete(BRIDGE)], HostState().with_parts(BRIDGE, beside), SETTINGS)
    assert TWIN in refusal([Delete(ROW)], HostState().with_parts(ROW, strangers))


def test_row_on_another_bridge_needs_an_id_of_the_port() -> None:
    there = replace(ROW, bridge="br-ex", iface_id="")
    steps = [Update(there, ROW)]
    message = refusal(steps, HostState().with_parts(there), Settings())
    assert message.startswith("refused: ")
    assert "br-ex" in message
    assert "does not bear the port's id" in message
    assert refusal([Delete(there)], HostState().with_parts(there), Settings()) == message
    # The client may have written the alias of a link.
    assert refusal(steps, HostState().with_parts(there, BRIDGE, VETH), Settings()) == message
    assert refusal([Delete(ROW)], HostState().with_parts(there, BRIDGE, VETH), Settings()) == message
    permit_found(steps, HostState().with_parts(replace(there, iface_id=PORT.id)), Settings())
    permit_found(steps, HostState().with_parts(there), SETTINGS)


def test_plan_on_missing_parts_is_permitted() -> None:
    permit_found(UNPLUG, NOTHING, SETTINGS)
    permit_found([Delete(part) for part in BARE], NOTHING, SETTINGS)
    permit_found([Update(Tap(name=NAMES.tap, master=""), TAP)], NOTHING, SETTINGS)


# The outcomes of refused plans.


def outcomes_of(plans: Sequence[Sequence[Step]], found: HostState) -> dict[int, Any]:
    refused = refusals(plans, found, Settings())
    for index, outcomes in refused.items():
        assert [outcome.step for outcome in outcomes] == list(plans[index])
    return refused


# Open vSwitch adds a device to the bridge of the row with its name.


@pytest.mark.parametrize(
    "row",
    [
        replace(ROW, bridge="br-ex", iface_id=""),
        replace(ROW, bridge="br-ex", iface_id=STRANGER),
        replace(ROW, bridge="br-ex", iface_id="", port_id=TWIN),
        ForeignPort(name=NAMES.switch_end, what="a bond"),
        replace(ROW, name=NAMES.bridge),
        replace(ROW, name=NAMES.bridge_end),
        ForeignPort(name=NAMES.bridge, what="a bond"),
    ],
    ids=lambda row: f"{row.kind} {row.name}",
)
def test_device_under_row_of_its_name_is_refused(row: OvsPort | ForeignPort) -> None:
    made: list[Step] = [Create(BRIDGE), Create(VETH)]
    plans: list[list[Step]] = [made, [*made, Create(ROW)], [Create(BRIDGE), Update(TAP, TAP), Create(VETH)]]
    for steps in plans:
        (outcomes,) = outcomes_of([steps], HostState({}, {row.name: row})).values()
        assert {outcome.result for outcome in outcomes} == {Result.REFUSED}
        assert row.name in outcomes[0].reason


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        replace(ROW, iface_id=""),
        replace(ROW, bridge="br-ex"),
        replace(ROW, bridge="br-ex", iface_id=STRANGER, port_id=PORT.id),
        IvsPort(name=NAMES.switch_end),
    ],
)
def test_device_under_row_of_its_own_port_is_permitted(row: OvsPort | IvsPort) -> None:
    made: list[Step] = [Create(BRIDGE), Create(VETH)]
    assert outcomes_of([made], HostState({}, {row.name: row})) == {}


def test_tap_under_row_of_its_name_is_refused() -> None:
    tap = the(ManagedTap, desired_state(replace(PORT, create_tap=True)))
    row = replace(ROW, name=tap.name)
    (outcomes,) = outcomes_of([[Create(replace(tap, master=""))]], HostState({}, {row.name: row})).values()
    assert "which would take the device" in outcomes[0].reason
    assert "ovs-vsctl del-port" in outcomes[0].reason


def test_tap_may_be_created_by_a_plan_that_takes_it_out_of_the_switch() -> None:
    tap = the(ManagedTap, desired_state(replace(PORT, create_tap=True)))
    steps: list[Step] = [Delete(NATIVE), Create(replace(tap, master=""))]
    permit_found(steps, HostState().with_parts(NATIVE), SETTINGS)
    assert "which would take the device" in refusal(steps[1:], HostState().with_parts(NATIVE, TAP))


@pytest.mark.parametrize("step", [Create(BRIDGE), Create(ROW), Update(replace(TAP, master=""), TAP)])
def test_plug_with_tap_in_the_switch_is_refused(step: Step) -> None:
    state = HostState().with_parts(replace(ROW, name=NAMES.tap))
    with pytest.raises(Refused, match=f"^refused: {NAMES.tap} is a port of the switch itself"):
        permit_found([step], state, SETTINGS)
    permit_found([step], NOTHING, SETTINGS)
    permit_found(UNPLUG, state, SETTINGS)


@pytest.mark.parametrize("name", [NAMES.bridge, NAMES.bridge_end])
@pytest.mark.parametrize(
    "step", [Create(ROW), Update(replace(VETH, up=False), VETH), Update(replace(TAP, master=""), TAP)]
)
def test_plug_beside_a_loop_is_refused(step: Step, name: str) -> None:
    state = WIRING.with_parts(replace(ROW, name=name))
    with pytest.raises(Refused, match=f"^refused: {name} is a port of the switch itself.* ovs-vsctl del-port {name}"):
        permit_found([step], state, SETTINGS)
    permit_found(UNPLUG, state, SETTINGS)


def test_row_is_not_moved_out_of_a_trunk_bridge_if_isolation_is_required() -> None:
    trunk, other = replace(ROW, bridge="tbr-5f2c0e1a-7"), replace(ROW, bridge="a.b_c-d")
    required = replace(SETTINGS, require_isolate=True)
    on_trunk = WIRING.with_parts(trunk)
    # The row as it is found counts, and so does one that the same plan creates.
    for found, before in ((on_trunk, trunk), (on_trunk, other), (WIRING, trunk)):
        reason = refusal([Update(before, ROW)], found, required)
        assert "may not be moved from a trunk bridge to br-int" in reason
        assert "since [hybridvif] require_isolate of this host asks for the dead VLAN; unplug the port" in reason
        assert reason.endswith("unplug the port and plug it again")
        permit_found([Update(before, ROW)], found, SETTINGS)
    permit_found([Update(other, ROW)], WIRING.with_parts(other), required)
    permit_found([Update(ROW, trunk)], WIRING, required)
    permit_found([Delete(trunk)], on_trunk, required)


def test_plan_without_proof_is_refused_alone_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="hybridvif.privileged.authorize")
    other = [Delete(part) for part in desired_state(replace(PORT, id=STRANGER))]
    found = outcomes_of([other, UNPLUG], THEIRS)
    assert found.keys() == {1}
    assert {(outcome.result, outcome.code) for outcome in found[1]} == {(Result.REFUSED, "name-collision")}
    assert all(outcome.reason.startswith("refused: ") and TWIN in outcome.reason for outcome in found[1])
    assert [record.getMessage() for record in caplog.records] == [found[1][0].reason]


def test_refusal_contains_the_prefix_once() -> None:
    row = replace(ROW, bridge="br-ex", iface_id="")
    (outcome,) = outcomes_of([[Delete(row)]], HostState().with_parts(row))[0]
    assert outcome.reason.count("refused") == 1
