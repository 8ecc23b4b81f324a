"""Conversion of a hybrid port to a native one, and back: the plans, from every state that a kill leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from hybridvif.model.errors import Conflict
from hybridvif.model.orphans import find_orphans, states_of_ports
from hybridvif.model.parts import CONVERTING, ManagedTap, OvsPort, Part, Role, Tap
from hybridvif.model.planner import as_hybrid, as_native, goal_for, plan, replacement
from hybridvif.model.port import Port, VifType, desired_state
from hybridvif.model.state import (
    NOTHING,
    Create,
    Delete,
    Facts,
    HostState,
    LinkFact,
    Objection,
    Observed,
    Replace,
    Step,
    Update,
    objection,
    role_of,
    simulate,
    simulate_all,
)
from tests.support.strategies import (
    HYBRID,
    MADE_TAP,
    NAMES,
    NATIVE,
    PORT,
    ROW,
    TAP,
    TAPPED,
    VHOST_USER,
    WIRING,
    ports,
    the,
)

OTHER = "5f2c0e1a-7b00-4c00-8000-00000000000f"
RUNNING = WIRING.with_parts(TAP)
CONVERTED = HostState().with_parts(NATIVE, replace(TAP, master=""))
MARKED, MARKED_NATIVE = replace(ROW, converting=CONVERTING), replace(NATIVE, converting=CONVERTING)


def words(steps: tuple[Step, ...]) -> list[str]:
    return [f"{type(step).__name__} {step.part.name[:3]}" for step in steps]


def test_port_is_converted_to_native_in_order() -> None:
    steps = plan(RUNNING, as_native(WIRING, PORT.id, RUNNING))
    assert words(steps) == ["Update qvo", "Update tap", "Replace tap", "Delete qvb", "Delete qbr", "Update tap"]
    assert steps[0] == Update(ROW, MARKED)
    assert steps[1] == Update(TAP, replace(TAP, master=""))
    assert steps[2] == Replace(MARKED, MARKED_NATIVE)
    assert steps[5] == Update(MARKED_NATIVE, NATIVE)
    assert simulate_all(RUNNING, steps) == CONVERTED


def test_port_is_converted_back_in_order() -> None:
    steps = plan(CONVERTED, WIRING)
    assert words(steps) == ["Create qbr", "Create qvb", "Update tap", "Replace qvo", "Update tap", "Update qvo"]
    assert steps[3] == Replace(MARKED_NATIVE, MARKED)
    assert simulate_all(CONVERTED, steps) == RUNNING


def test_kernel_datapath_releases_the_tap_before_it_joins() -> None:
    """The tap is a port of the kernel's datapath, whose master is ovs-system, until the row is replaced."""
    start = CONVERTED.with_parts(replace(TAP, master="ovs-system"))
    steps = plan(start, WIRING)
    assert Update(replace(TAP, master=""), TAP) in steps[4:]
    assert simulate_all(start, steps) == RUNNING


@pytest.mark.parametrize("to_native", [True, False])
@pytest.mark.parametrize("again", ["conversion", "plug", "other conversion", "unplug"])
def test_any_call_after_a_kill_reaches_its_goal_and_reconnects_the_vm(to_native: bool, again: str) -> None:
    native = as_native(WIRING, PORT.id, RUNNING)
    start, goal, back = (RUNNING, native, WIRING) if to_native else (CONVERTED, WIRING, native)
    state, steps = start, plan(start, goal)
    for step in (*steps, None):
        stays_native = again == "plug"
        goals = {"conversion": goal, "other conversion": back, "unplug": NOTHING}
        wanted = goals.get(again) or goal_for(state, WIRING, NAMES, stays_native=stays_native)
        reached = simulate_all(state, plan(state, wanted))
        assert plan(reached, wanted) == ()
        if wanted is not NOTHING:
            assert is_connected(reached), words(plan(state, wanted))
        if step is not None:
            state = simulate(state, step)


def is_connected(state: HostState) -> bool:
    """Return True if the tap is either in qbr with a row of qvo, or itself in the switch."""
    (tap,) = (link for link in state.links.values() if isinstance(link, Tap))
    hybrid = tap.master == NAMES.bridge and [*state.ports] == [NAMES.switch_end]
    return hybrid or (tap.master == "" and [*state.ports] == [NAMES.tap])


@given(ports(st.just(VifType.OVS), HYBRID))
def test_round_trip_keeps_every_port(port: Port) -> None:
    wiring = desired_state(replace(port, isolate=False, qos_type="", datapath_type=""))
    if not port.create_tap:
        wiring = wiring.with_parts(Tap(name=port.names.tap, master=port.names.bridge))
    native = as_native(wiring, port.id, wiring)
    converted = simulate_all(wiring, plan(wiring, native))
    assert plan(converted, native) == ()
    hybrid = HostState({name: link for name, link in wiring.links.items() if not isinstance(link, Tap)}, wiring.ports)
    assert simulate_all(converted, plan(converted, hybrid)) == wiring


def test_managed_tap_goes_on_outside_of_its_bridge() -> None:
    wiring = desired_state(TAPPED)
    native = as_native(wiring, PORT.id, wiring)
    assert the(ManagedTap, native) == replace(MADE_TAP, master="", bridge_port=None)
    steps = plan(wiring, native)
    assert not [step for step in steps if isinstance(step, Delete) and isinstance(step.part, ManagedTap)]
    assert words(plan(simulate_all(wiring, steps), wiring))[3:] == ["Replace qvo", "Update tap", "Update qvo"]


def test_placeholder_is_not_replaced() -> None:
    parked = RUNNING.with_parts(replace(ROW, type="patch", realized=False))
    assert replacement(parked, as_native(WIRING, PORT.id, RUNNING)) is None
    with pytest.raises(Conflict, match="is not for a plan to make"):
        plan(parked, as_native(WIRING, PORT.id, RUNNING))


def test_row_keeps_its_own_interface_id_with_our_key() -> None:
    row = replace(ROW, iface_id=OTHER, port_id=PORT.id)
    native = the(OvsPort, as_native(HostState({}, {row.name: row}), PORT.id, NOTHING))
    assert (native.iface_id, native.port_id) == (OTHER, PORT.id)
    assert as_hybrid(native) == row  # type: ignore[arg-type]


def test_interrupted_replacement_is_not_marked_again() -> None:
    marked = RUNNING.without(TAP).with_parts(MARKED)
    assert plan(marked, as_native(WIRING, PORT.id, marked))[0] == Replace(MARKED, MARKED_NATIVE)


# Objections.


@pytest.mark.parametrize(
    ("state", "step", "reason", "retry"),
    [
        (RUNNING, Replace(MARKED, MARKED_NATIVE), "has changed", True),
        (RUNNING.with_parts(MARKED, NATIVE), Replace(MARKED, MARKED_NATIVE), "has appeared", True),
        (RUNNING.without(ROW), Replace(MARKED, MARKED_NATIVE), "has vanished", True),
        (RUNNING.with_parts(MARKED), Replace(MARKED, replace(MARKED_NATIVE, vm_uuid=OTHER)), "has changed", True),
        (RUNNING.with_parts(MARKED), Replace(MARKED, replace(MARKED_NATIVE, bridge="br-ex")), "has changed", True),
        (RUNNING.with_parts(MARKED), Replace(MARKED, NATIVE), "has changed", True),
        (RUNNING.with_parts(MARKED), Replace(MARKED, MARKED), "is not replaced by", False),
        (RUNNING.with_parts(MARKED), Replace(MARKED, VHOST_USER), "is not replaced by", False),
        (RUNNING.with_parts(MARKED), Replace(MARKED, replace(MARKED_NATIVE, name="tap91d3aa02-41")), "not repl", False),
        (RUNNING.with_parts(replace(MARKED, port_id=OTHER)), Replace(MARKED, MARKED_NATIVE), OTHER, False),
        (NOTHING, Create(NATIVE), "is not for a plan to make", False),
    ],
)
def test_replacement_that_would_change_more_is_refused(state: HostState, step: Step, reason: str, retry: bool) -> None:
    against = objection(state, step)
    assert against is not None
    assert reason in against.reason
    assert against.retry is retry


@pytest.mark.parametrize(("before", "after"), [(ROW, MARKED), (MARKED, ROW)], ids=["marked", "unmarked"])
def test_mark_holds_only_the_attached_mac_of_the_row(before: OvsPort, after: OvsPort) -> None:
    """The mark holds attached-mac, which is written back. A captured client must not choose it."""
    state = RUNNING.with_parts(before)
    illegal = [replace(row, attached_mac="x' -- del-br br-int") for row in (before, after)]
    against = objection(state, Update(*illegal))
    assert against == Objection(f"{ROW.name} has changed since it was observed", retry=True)
    assert objection(state, Update(before, after)) is None
    # A value that is written has been authorized.
    assert objection(state, Update(before, replace(after, attached_mac="fa:16:3e:00:00:07"))) is None
    assert objection(RUNNING.with_parts(illegal[0]), Update(*illegal)) is None


def test_replacement_of_a_row_without_its_device_is_not_accepted() -> None:
    state = simulate(HostState({}, {MARKED.name: MARKED}), Replace(MARKED, MARKED_NATIVE))
    assert not the(OvsPort, state).realized
    assert role_of(Replace(MARKED, MARKED_NATIVE)) is Role.SWITCH


# The native port beside the other functions of the model.


def test_native_row_belongs_to_its_port_only_with_our_key() -> None:
    theirs: Part = replace(ROW, name=NAMES.tap)
    assert [*HostState().with_parts(theirs).of(NAMES)] == []
    assert [*HostState().with_parts(NATIVE).of(NAMES)] == [NATIVE]
    assert [*states_of_ports(HostState().with_parts(NATIVE))] == ["5f2c0e1a-7b"]


def test_native_row_is_an_orphan_once_the_tap_is_gone() -> None:
    tap = LinkFact(7, "tun", up=True, carrier=True)
    running = Observed(CONVERTED, Facts(links={NAMES.tap: tap}))
    assert find_orphans(running, ()) == []
    (orphan,) = find_orphans(Observed(HostState().with_parts(NATIVE)), ())
    assert (orphan.port_id, orphan.is_tagged) == (PORT.id, True)


def test_plug_as_a_hybrid_port_replaces_a_native_row_without_a_vm() -> None:
    steps = plan(HostState().with_parts(replace(NATIVE, realized=False)), WIRING)
    assert words(steps) == ["Create qbr", "Create qvb", "Update tap", "Replace qvo", "Update qvo"]
    assert plan(HostState().with_parts(NATIVE), NOTHING) == (Delete(NATIVE),)
