"""The laws of design.md section 5, over any state that a host can be in under one port's names."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridvif.errors import Conflict, NameCollision
from hybridvif.identity import claim
from hybridvif.limits import ISOLATING, restorable, unwritable
from hybridvif.parts import (
    NOTHING,
    OPEN,
    PARKED,
    VHOST_USER_TYPES,
    Bridge,
    HostState,
    MadeTap,
    OvsPort,
    Role,
    Stray,
    StrayPort,
    Tap,
    Veth,
    VhostUserPort,
    agree,
    as_seen,
    attributes_of,
    differences,
)
from hybridvif.planner import plan
from hybridvif.port import Port, VifType
from hybridvif.steps import Create, Delete, Step, Update, changes_of, owners_of, role_of, simulate, simulate_all
from hybridvif.wiring import wiring_of
from tests.unit.strategies import (
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
    """The first state is observed; the others are goals, of which none closes a port of a bridge."""
    port = draw(ports())
    observed, *goals = [draw(states_of(port, stale)) for _ in range(count)]
    return port, [observed, *map(with_open_ports, goals)]


def with_open_ports(goal: HostState) -> HostState:
    members = [link for link in goal.links.values() if isinstance(link, Veth | MadeTap)]
    return goal.having(*(replace(link, bridge_port=OPEN if link.master else None) for link in members))


def tap_of(port: Port, state: HostState) -> Tap | None:
    tap = state.links.get(port.names.tap)
    return tap if isinstance(tap, Tap) else None


# Law 1: after a plug the observed state is the wiring, and the next plan is empty.


@given(ports_and_states(stale=True))
def test_a_plug_from_any_state_ends_at_the_wiring(drawn: tuple[Port, list[HostState]]) -> None:
    port, [observed] = drawn
    wiring = wiring_of(port)
    plugged = simulate_all(observed, plan(observed, wiring))
    assert disagreements(plugged, wiring) == []
    assert agree(without_taps(plugged), wiring) or tap_of(port, plugged) is not None
    assert plan(plugged, wiring) == ()


@given(ports_and_states(stale=True))
def test_a_plan_from_a_state_to_itself_is_empty(drawn: tuple[Port, list[HostState]]) -> None:
    _, [state] = drawn
    assert plan(state, state) == ()


# Law 2: after a failed plug and its rollback everything reads as found, but what may not be written back.


@given(ports_and_states(stale=True))
def test_a_rollback_after_any_prefix_of_a_plug_reads_as_found(drawn: tuple[Port, list[HostState]]) -> None:
    port, [first] = drawn
    wiring = wiring_of(port)
    goal, left = restorable(first, wiring)
    for now in history(first, plan(first, wiring)):
        after = simulate_all(now, plan(now, goal))
        assert after.links.keys() == first.links.keys()
        assert after.ports.keys() == first.ports.keys()
        for found in without_taps(first):
            side = "ports" if found.role is Role.SWITCH else "links"
            part, wired = getattr(after, side)[found.name], getattr(wiring, side).get(found.name)
            for attribute in attributes_of(type(found)):
                if attribute != "realized":
                    source = wired if f"{found.name}: {attribute}" in left else found
                    # For a part of the other binding nothing is wired.
                    expected = getattr(source, attribute) if source else ISOLATING[type(found)][attribute]
                    if expected is not None:
                        assert getattr(part, attribute) == expected, f"{found.name}: {attribute}"


@given(ports_and_states())
def test_a_rollback_is_done_in_one_go(drawn: tuple[Port, list[HostState]]) -> None:
    port, [first] = drawn
    goal, _ = restorable(first, wiring_of(port))
    for now in history(first, plan(first, wiring_of(port))):
        after = simulate_all(now, plan(now, goal))
        assert disagreements(after, goal) == []
        assert plan(after, goal) == ()


@given(ports_and_states())
def test_a_rollback_takes_the_device_from_no_row_that_had_one(drawn: tuple[Port, list[HostState]]) -> None:
    port, [first] = drawn
    goal, _ = restorable(first, wiring_of(port))
    for now in history(first, plan(first, wiring_of(port))):
        after = simulate_all(now, plan(now, goal))
        for name, row in first.ports.items():
            if isinstance(row, OvsPort) and row.realized:
                assert after.ports[name] == as_seen(goal.ports[name])


@given(ports_and_states())
def test_a_rollback_leaves_a_tap_where_it_was_or_in_qbr(drawn: tuple[Port, list[HostState]]) -> None:
    port, [first] = drawn
    goal, _ = restorable(first, wiring_of(port))
    found = tap_of(port, first)
    for now in history(first, plan(first, wiring_of(port))):
        tap = tap_of(port, simulate_all(now, plan(now, goal)))
        if found is None or tap is None:
            assert tap is found
        else:
            stays_in_qbr = found.master == "" and port.names.bridge in first.links
            assert tap == found or (stays_in_qbr and tap.master == port.names.bridge)


@given(ports_and_states())
def test_every_write_of_a_rollback_is_writable(drawn: tuple[Port, list[HostState]]) -> None:
    port, [first] = drawn
    goal, _ = restorable(first, wiring_of(port))
    for now in history(first, plan(first, wiring_of(port))):
        assert_writable(plan(now, goal))


@given(ports_and_states())
def test_a_rollback_never_asks_for_stp_with_a_delay_that_the_kernel_refuses(
    drawn: tuple[Port, list[HostState]],
) -> None:
    port, [first] = drawn
    goal, _ = restorable(first, wiring_of(port))
    assert not [part for part in goal if isinstance(part, Bridge) and part.stp and part.forward_delay < 200]


@given(ports_and_states())
def test_a_rollback_gives_up_only_what_differs_from_the_wiring(drawn: tuple[Port, list[HostState]]) -> None:
    port, [first] = drawn
    wiring = wiring_of(port)
    goal, left = restorable(first, wiring)
    changed = {
        f"{before.name}: {change.attribute}"
        for before, after in zip(first, goal, strict=True)
        for change in differences(before, after)
    }
    assert changed == set(left)


# Law 3: after an unplug nothing of the port is left but the tap, and nothing else is gone.


@given(st.data())
def test_an_unplug_leaves_nothing_of_the_port_but_its_tap(data: st.DataObject) -> None:
    port = data.draw(ports())
    host = data.draw(hosts_with(port))
    tap = tap_of(port, host)
    after = simulate_all(host, plan(host.of(port.names), NOTHING))
    left = after.of(port.names)
    assert list(left) == ([] if tap is None else [tap_of(port, after)])
    if tap is not None:
        assert left.links[tap.name] == replace(tap, master="" if tap.master == port.names.bridge else tap.master)


@given(st.data())
def test_neither_plug_nor_unplug_changes_any_other_port(data: st.DataObject) -> None:
    port = data.draw(ports())
    host = data.draw(hosts_with(port))
    for goal in (wiring_of(port), NOTHING):
        after = simulate_all(host, plan(host.of(port.names), goal))
        assert others_than(port, after) == others_than(port, host)
        assert disagreements(after.of(port.names), goal) == []


def others_than(port: Port, host: HostState) -> HostState:
    for part in host.of(port.names):
        host = host.lacking(part)
    return host


# Law 4: any state reaches any other, also when the way there was cut short anywhere.


@given(ports_and_states(count=2))
def test_any_state_reaches_any_other(drawn: tuple[Port, list[HostState]]) -> None:
    _, [one, other] = drawn
    reached = simulate_all(one, plan(one, other))
    assert disagreements(reached, other) == []
    assert plan(reached, other) == ()


@given(ports_and_states(count=3))
def test_a_way_cut_short_anywhere_still_leads_on(drawn: tuple[Port, list[HostState]]) -> None:
    port, [one, other, third] = drawn
    for now in history(one, plan(one, other)):
        for goal in (third, wiring_of(port), NOTHING):
            assert disagreements(simulate_all(now, plan(now, goal)), goal) == []


@given(ports_and_states(), st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=6))
def test_plugs_and_unplugs_killed_again_and_again_converge(
    drawn: tuple[Port, list[HostState]], kills: list[tuple[bool, int]]
) -> None:
    port, [state] = drawn
    for is_plug, survived in kills:
        steps = plan(state, wiring_of(port) if is_plug else NOTHING)
        state = simulate_all(state, steps[:survived])
    for goal in (wiring_of(port), NOTHING):
        assert disagreements(simulate_all(state, plan(state, goal)), goal) == []


@given(ports(modes=HYBRID))
def test_a_waiting_tap_ends_in_qbr_wherever_the_plug_was_killed(port: Port) -> None:
    tap = Tap(name=port.names.tap, master="")
    found, wiring = HostState().having(tap), wiring_of(port)
    for now in history(found, plan(found, wiring)):
        plugged = simulate_all(now, plan(now, wiring))
        assert tap_of(port, plugged) == replace(tap, master=port.names.bridge)


# Law 6: another port's parts are never changed.


@given(st.data())
def test_a_port_that_bears_another_ports_marks_is_never_planned_on(data: st.DataObject) -> None:
    ours, theirs = data.draw(colliding_ids())
    port = replace(data.draw(ports()), id=theirs)
    interface_id = data.draw(st.just("") | uuids)
    found = data.draw(st.sampled_from([part for part in wiring_of(port) if owners_of(part)]))
    if isinstance(found, OvsPort) and interface_id == found.iface_id:
        return
    for asked in ("", interface_id):
        with pytest.raises(NameCollision) as refusal:
            claim(HostState().having(found), ours, asked)
        assert ours in str(refusal.value)
        assert (owners_of(found) & {theirs, port.iface_id}).pop() in str(refusal.value)


@given(ports())
def test_a_plugged_port_is_its_own(port: Port) -> None:
    claim(wiring_of(port), port.id)
    claim(wiring_of(port), port.id, port.interface_id)


# What every plan is like.


@given(ports_and_states(count=2, stale=True))
def test_no_plan_touches_an_attribute_that_agrees(drawn: tuple[Port, list[HostState]]) -> None:
    port, [one, other] = drawn
    for goal in (other, wiring_of(port), NOTHING):
        state = one
        for step in plan(one, goal):
            if isinstance(step, Update):
                found = (state.ports if role_of(step) is Role.SWITCH else state.links)[step.part.name]
                assert changes_of(step)
                assert not [name for name, value in changes_of(step).items() if getattr(found, name) == value]
            state = simulate(state, step)


@given(ports_and_states())
def test_a_plug_writes_only_what_had_drifted_and_the_parking_of_its_row(drawn: tuple[Port, list[HostState]]) -> None:
    port, [observed] = drawn
    wiring = wiring_of(port)
    drift = {
        (before.name, change.attribute)
        for side in ("links", "ports")
        for name, before in getattr(without_taps(observed), side).items()
        if name in getattr(wiring, side)
        for change in differences(before, getattr(wiring, side)[name])
    }
    written = {
        (step.part.name, attribute)
        for step in plan(observed, wiring)
        if isinstance(step, Update)
        for attribute in changes_of(step)
    }
    assert written <= drift | {(port.names.switch_end, "type"), (port.names.tap, "master")}


@given(ports_and_states(count=2, stale=True))
def test_a_tap_is_in_no_plan_but_to_be_put_into_qbr(drawn: tuple[Port, list[HostState]]) -> None:
    port, [one, other] = drawn
    for goal in (other, wiring_of(port), NOTHING):
        for step in plan(one, goal):
            if isinstance(step.part, Tap):
                assert isinstance(step, Update)
                assert (step.before, step.after) == (
                    Tap(name=port.names.tap, master=""),
                    Tap(name=port.names.tap, master=port.names.bridge),
                )


@given(ports_and_states(stale=True))
def test_a_tap_whose_qvb_is_in_place_is_libvirts_alone(drawn: tuple[Port, list[HostState]]) -> None:
    port, [observed] = drawn
    veth = observed.links.get(port.names.bridge_end)
    if isinstance(veth, Veth) and veth.master == port.names.bridge:
        assert not [step for step in plan(observed, wiring_of(port)) if isinstance(step.part, Tap)]


@given(ports_and_states(stale=True))
def test_every_write_of_a_plug_is_writable(drawn: tuple[Port, list[HostState]]) -> None:
    port, [observed] = drawn
    assert_writable(plan(observed, wiring_of(port)))


def assert_writable(steps: tuple[Step, ...]) -> None:
    for step in steps:
        match step:
            case Create(part):
                assert unwritable(part) == ()
            case Update(_, after):
                assert unwritable(after, changes_of(step)) == ()


@given(st.data())
def test_a_veth_pair_made_under_a_row_that_stays_finds_it_parked_and_frees_it_last(data: st.DataObject) -> None:
    port = data.draw(ovs_ports)
    observed = data.draw(states_of(port, stale=True))
    # Of a vhost-user port that makes room there is another law.
    steps = [step for step in plan(observed, wiring_of(port)) if step.part.name != port.names.vhost_user]
    row = observed.ports.get(port.names.switch_end)
    if not isinstance(row, OvsPort) or Create(veth_of(port)) not in steps:
        return
    first, last = steps[0], steps[-1]
    if row.type != PARKED:
        assert isinstance(first, Update)
        assert changes_of(first) == {"type": PARKED}
    assert isinstance(last, Update)
    assert last.after == wiring_of(port).ports[row.name]
    assert changes_of(last)["type"] == ""
    assert [role_of(step) for step in steps[1:-1]] == [Role.LINK] * len(steps[1:-1])


@given(st.data())
def test_a_row_of_the_other_binding_goes_before_anything_is_made_and_no_vhost_user_port_is_parked(
    data: st.DataObject,
) -> None:
    port = data.draw(ports(st.just(VifType.OVS)))
    steps = plan(data.draw(states_of(port)), wiring_of(port))
    made = [at for at, step in enumerate(steps) if isinstance(step, Create)]
    for at, step in enumerate(steps):
        if isinstance(step.part, VhostUserPort):
            assert step.part.type in VHOST_USER_TYPES.values()
            assert isinstance(step, Delete) == (not port.vhostuser_mode)
            assert not isinstance(step, Delete) or at < min(made, default=len(steps))


def veth_of(port: Port) -> Veth:
    veth = wiring_of(port).links[port.names.bridge_end]
    assert isinstance(veth, Veth)
    return veth


@given(ports_and_states(stale=True))
def test_the_switch_is_the_last_of_a_plug(drawn: tuple[Port, list[HostState]]) -> None:
    port, [observed] = drawn
    # That what the other binding had goes first is another law.
    wiring = wiring_of(port)
    gone = [Delete(part) for part in observed if part.name not in {*wiring.links, *wiring.ports}]
    steps = [step for step in plan(observed, wiring) if step not in gone]
    roles = [role_of(step) for step in steps]
    if Role.SWITCH in roles and not isinstance(steps[0], Update):
        assert roles == [Role.LINK] * (len(roles) - 1) + [Role.SWITCH]
    for at, step in enumerate(steps[:-1]):
        if role_of(step) is Role.SWITCH:
            assert at == 0
            assert isinstance(step, Update)
            assert changes_of(step) == {"type": PARKED}


@given(ports_and_states(stale=True))
def test_the_switch_is_the_first_of_an_unplug(drawn: tuple[Port, list[HostState]]) -> None:
    _, [observed] = drawn
    steps = plan(observed, NOTHING)
    assert all(isinstance(step, Delete) for step in steps)
    assert Role.SWITCH not in [role_of(step) for step in steps[len(observed.ports) :]]


@given(ports_and_states(count=2, stale=True), st.randoms(use_true_random=False))
def test_the_order_of_a_plan_does_not_depend_on_the_order_of_what_was_observed(
    drawn: tuple[Port, list[HostState]], chance: random.Random
) -> None:
    port, [one, other] = drawn
    for goal in (other, wiring_of(port), NOTHING):
        assert plan(shuffled(one, chance), shuffled(goal, chance)) == plan(one, goal)


def shuffled(state: HostState, chance: random.Random) -> HostState:
    parts = list(state)
    chance.shuffle(parts)
    return HostState().having(*parts)


@given(st.data())
def test_a_stray_stops_every_plan(data: st.DataObject) -> None:
    port = data.draw(ports())
    name = data.draw(st.sampled_from(list(port.names)))
    stray = data.draw(st.sampled_from([Stray, StrayPort]))(name=name, what="a dummy link")
    observed = data.draw(states_of(port)).having(stray)
    for goal in (wiring_of(port), NOTHING):
        with pytest.raises(Conflict, match=name):
            plan(observed, goal)


@given(st.data())
def test_a_foreign_bridge_that_holds_qvb_stops_every_plan(data: st.DataObject) -> None:
    port = data.draw(ports(modes=HYBRID))
    held = replace(veth_of(port), master=FOREIGN_BRIDGE)
    observed = data.draw(states_of(port)).having(held)
    for goal in (wiring_of(port), NOTHING):
        with pytest.raises(Conflict, match=f"{held.name} is in {FOREIGN_BRIDGE}"):
            plan(observed, goal)
