"""Laws of planning, for any state of the parts of one port."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import assume, given, strategies as st

from hybridvif.model.errors import Conflict, NameCollision
from hybridvif.model.parts import (
    ISOLATING,
    OPEN,
    PLACEHOLDER_TYPE,
    VHOST_USER_TYPES,
    Bridge,
    ForeignObject,
    ForeignPort,
    ManagedTap,
    OvsPort,
    Role,
    Tap,
    Veth,
    VhostUserPort,
    as_observed,
    attributes_of,
    differences,
    invalid_attributes,
)
from hybridvif.model.planner import check_ownership, is_converting, native_row, plan, replacement, rollback_target
from hybridvif.model.port import Port, VifType, desired_state
from hybridvif.model.state import (
    NOTHING,
    Create,
    Delete,
    HostState,
    Step,
    Update,
    agree,
    changes_of,
    owners_of,
    role_of,
    simulate,
    simulate_all,
)
from tests.support.strategies import (
    FOREIGN_BRIDGE,
    HYBRID,
    colliding_ids,
    disagreements,
    history,
    hosts_with,
    ports,
    states_of,
    uuids,
    without_taps,
)

ovs_ports = ports(st.just(VifType.OVS), modes=HYBRID)


@st.composite
def ports_and_states(draw: st.DrawFn, count: int = 1, stale: bool = False) -> tuple[Port, list[HostState]]:
    """Draw an observed state and goals. The bridge ports of a goal are open."""
    port = draw(ports())
    observed, *goals = [draw(states_of(port, stale)) for _ in range(count)]
    return port, [observed, *map(with_open_ports, goals)]


def with_open_ports(goal: HostState) -> HostState:
    members = [link for link in goal.links.values() if isinstance(link, Veth | ManagedTap)]
    return goal.with_parts(*(replace(link, bridge_port=OPEN if link.master else None) for link in members))


def is_reachable(start: HostState, goal: HostState) -> bool:
    """Return True unless a native row or its tap would have to be created.

    Such a row only replaces the row of a hybrid port, and its tap belongs to the VM.
    """
    native = native_row(goal)
    if native is None:
        return True
    return native.name in start.links and (native_row(start) is not None or replacement(start, goal) is not None)


def tap_of(port: Port, state: HostState) -> Tap | None:
    tap = state.links.get(port.names.tap)
    return tap if isinstance(tap, Tap) else None


# Law 1: after a plug the observed state is the desired state, and the next plan is empty.


@given(ports_and_states(stale=True))
def test_plug_from_any_state_reaches_the_desired_state(drawn: tuple[Port, list[HostState]]) -> None:
    port, [observed] = drawn
    desired = desired_state(port)
    plugged = simulate_all(observed, plan(observed, desired))
    assert disagreements(plugged, desired) == []
    assert agree(without_taps(plugged), desired) or tap_of(port, plugged) is not None
    assert plan(plugged, desired) == ()


@given(ports_and_states(stale=True))
def test_plan_to_the_same_state_is_empty(drawn: tuple[Port, list[HostState]]) -> None:
    _, [state] = drawn
    assert plan(state, state) == ()


# Law 2: a rollback restores the first state, except for the attributes that it lists as lost.


@given(ports_and_states(stale=True))
def test_rollback_after_any_prefix_of_a_plug_restores_the_state(drawn: tuple[Port, list[HostState]]) -> None:
    port, [first] = drawn
    # A native row that a plug has deleted is not created again.
    assume(native_row(first) is None)
    desired = desired_state(port)
    goal, lost = rollback_target(first, desired)
    for current in history(first, plan(first, desired)):
        after = simulate_all(current, plan(current, goal))
        assert after.links.keys() == first.links.keys()
        assert after.ports.keys() == first.ports.keys()
        for found in without_taps(first):
            side = "ports" if found.role is Role.SWITCH else "links"
            part, wanted = getattr(after, side)[found.name], getattr(desired, side).get(found.name)
            for attribute in attributes_of(type(found)):
                if attribute != "realized":
                    source = wanted if f"{found.name}: {attribute}" in lost else found
                    # A part of the other binding has no desired value.
                    expected = getattr(source, attribute) if source else ISOLATING[type(found)][attribute]
                    if expected is not None:
                        assert getattr(part, attribute) == expected, f"{found.name}: {attribute}"


@given(ports_and_states())
def test_rollback_needs_one_plan(drawn: tuple[Port, list[HostState]]) -> None:
    port, [first] = drawn
    assume(native_row(first) is None)
    goal, _ = rollback_target(first, desired_state(port))
    for current in history(first, plan(first, desired_state(port))):
        after = simulate_all(current, plan(current, goal))
        assert disagreements(after, goal) == []
        assert plan(after, goal) == ()


@given(ports_and_states())
def test_rollback_keeps_the_device_of_every_row(drawn: tuple[Port, list[HostState]]) -> None:
    port, [first] = drawn
    assume(native_row(first) is None)
    goal, _ = rollback_target(first, desired_state(port))
    for current in history(first, plan(first, desired_state(port))):
        after = simulate_all(current, plan(current, goal))
        for name, row in first.ports.items():
            if isinstance(row, OvsPort) and row.realized:
                assert after.ports[name] == as_observed(goal.ports[name])


@given(ports_and_states())
def test_rollback_leaves_a_tap_in_place_or_in_qbr(drawn: tuple[Port, list[HostState]]) -> None:
    port, [first] = drawn
    assume(native_row(first) is None)
    goal, _ = rollback_target(first, desired_state(port))
    found = tap_of(port, first)
    for current in history(first, plan(first, desired_state(port))):
        tap = tap_of(port, simulate_all(current, plan(current, goal)))
        if found is None or tap is None:
            assert tap is found
        else:
            stays_in_qbr = found.master == "" and port.names.bridge in first.links
            assert tap == found or (stays_in_qbr and tap.master == port.names.bridge)


@given(ports_and_states())
def test_rollback_writes_legal_values_only(drawn: tuple[Port, list[HostState]]) -> None:
    port, [first] = drawn
    assume(native_row(first) is None)
    goal, _ = rollback_target(first, desired_state(port))
    for current in history(first, plan(first, desired_state(port))):
        assert_writable(plan(current, goal))


@given(ports_and_states())
def test_rollback_never_combines_stp_with_a_short_delay(
    drawn: tuple[Port, list[HostState]],
) -> None:
    port, [first] = drawn
    assume(native_row(first) is None)
    goal, _ = rollback_target(first, desired_state(port))
    assert not [part for part in goal if isinstance(part, Bridge) and part.stp and part.forward_delay < 200]


@given(ports_and_states())
def test_rollback_lists_exactly_the_lost_attributes(drawn: tuple[Port, list[HostState]]) -> None:
    port, [first] = drawn
    desired = desired_state(port)
    assume(native_row(first) is None)
    goal, lost = rollback_target(first, desired)
    changed = {
        f"{before.name}: {change.attribute}"
        for before, after in zip(first, goal, strict=True)
        for change in differences(before, after)
    }
    assert changed == set(lost)


# Law 3: an unplug deletes all parts of the port except the tap, and nothing else.


@given(st.data())
def test_unplug_leaves_only_the_tap(data: st.DataObject) -> None:
    port = data.draw(ports())
    host = data.draw(hosts_with(port))
    tap = tap_of(port, host)
    after = simulate_all(host, plan(host.of(port.names), NOTHING))
    remaining = after.of(port.names)
    assert list(remaining) == ([] if tap is None else [tap_of(port, after)])
    if tap is not None:
        assert remaining.links[tap.name] == replace(tap, master="" if tap.master == port.names.bridge else tap.master)


@given(st.data())
def test_plug_and_unplug_leave_other_ports_unchanged(data: st.DataObject) -> None:
    port = data.draw(ports())
    host = data.draw(hosts_with(port))
    for goal in (desired_state(port), NOTHING):
        after = simulate_all(host, plan(host.of(port.names), goal))
        assert others_than(port, after) == others_than(port, host)
        assert disagreements(after.of(port.names), goal) == []


def others_than(port: Port, host: HostState) -> HostState:
    for part in host.of(port.names):
        host = host.without(part)
    return host


# Law 4: a plan leads from any state to any other, even after an interrupted plan.


@given(ports_and_states(count=2))
def test_plan_reaches_any_state_from_any_state(drawn: tuple[Port, list[HostState]]) -> None:
    _, [start, other] = drawn
    assume(is_reachable(start, other))
    reached = simulate_all(start, plan(start, other))
    assert disagreements(reached, other) == []
    assert plan(reached, other) == ()


@given(ports_and_states(count=3))
def test_plan_after_an_interrupted_plan_reaches_its_goal(drawn: tuple[Port, list[HostState]]) -> None:
    port, [start, other, third] = drawn
    assume(is_reachable(start, other))
    for current in history(start, plan(start, other)):
        for goal in filter(lambda goal: is_reachable(current, goal), (third, desired_state(port), NOTHING)):
            assert disagreements(simulate_all(current, plan(current, goal)), goal) == []


@given(ports_and_states(), st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=6))
def test_plugs_and_unplugs_killed_repeatedly_converge(
    drawn: tuple[Port, list[HostState]], kills: list[tuple[bool, int]]
) -> None:
    port, [state] = drawn
    for is_plug, survived in kills:
        steps = plan(state, desired_state(port) if is_plug else NOTHING)
        state = simulate_all(state, steps[:survived])
    for goal in (desired_state(port), NOTHING):
        assert disagreements(simulate_all(state, plan(state, goal)), goal) == []


@given(ports(modes=HYBRID))
def test_waiting_tap_ends_in_qbr_after_a_killed_plug(port: Port) -> None:
    tap = Tap(name=port.names.tap, master="")
    found, desired = HostState().with_parts(tap), desired_state(port)
    for current in history(found, plan(found, desired)):
        plugged = simulate_all(current, plan(current, desired))
        assert tap_of(port, plugged) == replace(tap, master=port.names.bridge)


# Law 5: the parts of another port are never changed.


@given(st.data())
def test_part_with_another_ports_tag_is_refused(data: st.DataObject) -> None:
    ours, theirs = data.draw(colliding_ids())
    port = replace(data.draw(ports()), id=theirs)
    interface_id = data.draw(st.just("") | uuids)
    found = data.draw(st.sampled_from([part for part in desired_state(port) if owners_of(part)]))
    if isinstance(found, OvsPort) and interface_id == found.iface_id:
        return
    for given_id in ("", interface_id):
        with pytest.raises(NameCollision) as refusal:
            check_ownership(HostState().with_parts(found), ours, given_id)
        assert ours in str(refusal.value)
        assert (owners_of(found) & {theirs, port.iface_id}).pop() in str(refusal.value)


@given(ports())
def test_plugged_port_passes_the_ownership_check(port: Port) -> None:
    check_ownership(desired_state(port), port.id)
    check_ownership(desired_state(port), port.id, port.interface_id)


# Properties of every plan.


@given(ports_and_states(count=2, stale=True))
def test_plan_writes_no_attribute_in_sync(drawn: tuple[Port, list[HostState]]) -> None:
    port, [start, other] = drawn
    for goal in (other, desired_state(port), NOTHING):
        if not is_reachable(start, goal):
            continue
        state = start
        for step in plan(start, goal):
            if isinstance(step, Update):
                found = (state.ports if role_of(step) is Role.SWITCH else state.links)[step.part.name]
                assert changes_of(step)
                assert not [name for name, value in changes_of(step).items() if getattr(found, name) == value]
            state = simulate(state, step)


@given(ports_and_states())
def test_plug_writes_only_drift_and_the_placeholder(drawn: tuple[Port, list[HostState]]) -> None:
    port, [observed] = drawn
    assume(native_row(observed) is None)
    desired = desired_state(port)
    drift = {
        (before.name, change.attribute)
        for side in ("links", "ports")
        for name, before in getattr(without_taps(observed), side).items()
        if name in getattr(desired, side)
        for change in differences(before, getattr(desired, side)[name])
    }
    written = {
        (step.part.name, attribute)
        for step in plan(observed, desired)
        if isinstance(step, Update)
        for attribute in changes_of(step)
    }
    assert written <= drift | {(port.names.switch_end, "type"), (port.names.tap, "master")}


@given(ports_and_states(count=2, stale=True))
def test_plan_changes_a_tap_only_to_put_it_into_qbr_or_out_if_native(drawn: tuple[Port, list[HostState]]) -> None:
    port, [start, other] = drawn
    apart = Tap(name=port.names.tap, master="")
    within = Tap(name=port.names.tap, master=port.names.bridge)
    for goal in filter(lambda goal: is_reachable(start, goal), (other, desired_state(port), NOTHING)):
        for step in plan(start, goal):
            if isinstance(step.part, Tap):
                assert isinstance(step, Update)
                assert (step.before, step.after) == ((apart, within) if native_row(goal) is None else (within, apart))


@given(ports_and_states(stale=True))
def test_plan_ignores_a_tap_if_qvb_is_in_place(drawn: tuple[Port, list[HostState]]) -> None:
    port, [observed] = drawn
    veth = observed.links.get(port.names.bridge_end)
    in_conversion = native_row(observed) is not None or is_converting(observed)
    if isinstance(veth, Veth) and veth.master == port.names.bridge and not in_conversion:
        assert not [step for step in plan(observed, desired_state(port)) if isinstance(step.part, Tap)]


@given(ports_and_states(stale=True))
def test_plug_writes_legal_values_only(drawn: tuple[Port, list[HostState]]) -> None:
    port, [observed] = drawn
    assert_writable(plan(observed, desired_state(port)))


def assert_writable(steps: tuple[Step, ...]) -> None:
    for step in steps:
        match step:
            case Create(part):
                assert invalid_attributes(part) == ()
            case Update(_, after):
                assert invalid_attributes(after, changes_of(step)) == ()


@given(st.data())
def test_plug_with_a_recreated_veth_uses_a_placeholder(data: st.DataObject) -> None:
    port = data.draw(ovs_ports)
    observed = data.draw(states_of(port, stale=True))
    # The deletion of a vhost-user port has a test of its own.
    steps = [step for step in plan(observed, desired_state(port)) if step.part.name != port.names.vhost_user]
    row = observed.ports.get(port.names.switch_end)
    if not isinstance(row, OvsPort) or native_row(observed) or Create(veth_of(port)) not in steps:
        return
    first, last = steps[0], steps[-1]
    if row.type != PLACEHOLDER_TYPE:
        assert isinstance(first, Update)
        assert (
            {"type": PLACEHOLDER_TYPE}.items()
            <= changes_of(first).items()
            <= {"type": PLACEHOLDER_TYPE, "mtu_request": 0}.items()
        )
    assert isinstance(last, Update)
    assert last.after == desired_state(port).ports[row.name]
    assert changes_of(last)["type"] == ""
    assert [role_of(step) for step in steps[1:-1]] == [Role.LINK] * len(steps[1:-1])


@given(st.data())
def test_plug_deletes_the_row_of_the_other_binding_first(
    data: st.DataObject,
) -> None:
    port = data.draw(ports(st.just(VifType.OVS)))
    steps = plan(data.draw(states_of(port)), desired_state(port))
    created = [index for index, step in enumerate(steps) if isinstance(step, Create)]
    for index, step in enumerate(steps):
        if isinstance(step.part, VhostUserPort):
            assert step.part.type in VHOST_USER_TYPES.values()
            assert isinstance(step, Delete) == (not port.vhostuser_mode)
            assert not isinstance(step, Delete) or index < min(created, default=len(steps))


def veth_of(port: Port) -> Veth:
    veth = desired_state(port).links[port.names.bridge_end]
    assert isinstance(veth, Veth)
    return veth


@given(ports_and_states(stale=True))
def test_plug_changes_the_switch_last(drawn: tuple[Port, list[HostState]]) -> None:
    port, [observed] = drawn
    # test_conversion.py has the order of a conversion.
    assume(native_row(observed) is None)
    # The deletion of the other binding has a test of its own.
    desired = desired_state(port)
    gone = [Delete(part) for part in observed if part.name not in {*desired.links, *desired.ports}]
    steps = [step for step in plan(observed, desired) if step not in gone]
    roles = [role_of(step) for step in steps]
    if Role.SWITCH in roles and not isinstance(steps[0], Update):
        assert roles == [Role.LINK] * (len(roles) - 1) + [Role.SWITCH]
    for index, step in enumerate(steps[:-1]):
        if role_of(step) is Role.SWITCH:
            assert index == 0
            assert isinstance(step, Update)
            assert changes_of(step).items() <= {"type": PLACEHOLDER_TYPE, "mtu_request": 0}.items()


@given(ports_and_states(stale=True))
def test_unplug_changes_the_switch_first(drawn: tuple[Port, list[HostState]]) -> None:
    _, [observed] = drawn
    steps = plan(observed, NOTHING)
    assert all(isinstance(step, Delete) for step in steps)
    assert Role.SWITCH not in [role_of(step) for step in steps[len(observed.ports) :]]


@given(ports_and_states(count=2, stale=True), st.randoms(use_true_random=False))
def test_plan_does_not_depend_on_the_order_of_observation(
    drawn: tuple[Port, list[HostState]], chance: random.Random
) -> None:
    port, [start, other] = drawn
    for goal in filter(lambda goal: is_reachable(start, goal), (other, desired_state(port), NOTHING)):
        assert plan(shuffled(start, chance), shuffled(goal, chance)) == plan(start, goal)


def shuffled(state: HostState, chance: random.Random) -> HostState:
    parts = list(state)
    chance.shuffle(parts)
    return HostState().with_parts(*parts)


@given(st.data())
def test_plan_with_a_foreign_object_raises_conflict(data: st.DataObject) -> None:
    port = data.draw(ports())
    name = data.draw(st.sampled_from(list(port.names)))
    foreign = data.draw(st.sampled_from([ForeignObject, ForeignPort]))(name=name, what="a dummy link")
    observed = data.draw(states_of(port)).with_parts(foreign)
    for goal in (desired_state(port), NOTHING):
        with pytest.raises(Conflict, match=name):
            plan(observed, goal)


@given(st.data())
def test_plan_with_qvb_in_a_foreign_bridge_raises_conflict(data: st.DataObject) -> None:
    port = data.draw(ports(modes=HYBRID))
    held = replace(veth_of(port), master=FOREIGN_BRIDGE)
    observed = data.draw(states_of(port)).with_parts(held)
    for goal in (desired_state(port), NOTHING):
        with pytest.raises(Conflict, match=f"{held.name} is in {FOREIGN_BRIDGE}"):
            plan(observed, goal)
