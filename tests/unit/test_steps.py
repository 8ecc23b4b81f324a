from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from hybridvif.errors import Conflict
from hybridvif.parts import (
    NOTHING,
    PARKED,
    HostState,
    IvsPort,
    Part,
    Role,
    Stray,
    StrayPort,
    Tap,
)
from hybridvif.steps import (
    Create,
    Delete,
    Objection,
    Step,
    Update,
    changes_of,
    is_there,
    objection,
    owners_of,
    role_of,
    simulate,
    simulate_all,
)
from tests.unit.strategies import BRIDGE, PORT, ROW, TAP, VETH, WIRING

THEIRS = "5f2c0e1a-7b00-4c00-8000-00000000000f"
WAITING = replace(TAP, master="")
LOOSE = replace(VETH, master="")


# What a step is.


@pytest.mark.parametrize("step", [Create(BRIDGE), Update(LOOSE, VETH), Delete(TAP)])
def test_a_step_on_a_device_is_the_link_executors(step: Step) -> None:
    assert role_of(step) is Role.LINK


@pytest.mark.parametrize("step", [Create(ROW), Update(ROW, ROW), Delete(IvsPort(name=ROW.name))])
def test_a_step_on_a_switch_port_is_the_switch_executors(step: Step) -> None:
    assert role_of(step) is Role.SWITCH


def test_an_update_is_about_the_part_as_it_will_be() -> None:
    assert Update(LOOSE, VETH).part == VETH


def test_an_update_writes_only_that_in_which_its_two_parts_differ() -> None:
    assert changes_of(Update(replace(BRIDGE, stp=True, mtu=1400), BRIDGE)) == {"mtu": 1500, "stp": False}
    assert changes_of(Update(BRIDGE, BRIDGE)) == {}


def test_an_update_does_not_write_what_a_kernel_lacks() -> None:
    assert changes_of(Update(replace(BRIDGE, disable_ipv6=None), BRIDGE)) == {}


@pytest.mark.parametrize(
    "value",
    [Create(BRIDGE), Update(LOOSE, VETH), Delete(TAP), Objection("why", retry=True)],
    ids=type,
)
def test_a_step_is_a_value(value: Step | Objection) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, None)
    assert not hasattr(value, "__dict__")
    assert hash(value) == hash(replace(value))


# Whose a part says it is.


@pytest.mark.parametrize(
    ("part", "owners"),
    [
        (BRIDGE, {PORT.id}),
        (replace(BRIDGE, alias=""), set()),
        (replace(BRIDGE, alias="uplink"), set()),
        (replace(BRIDGE, alias=THEIRS.upper()), set()),
        (VETH, {PORT.id}),
        (replace(VETH, alias=""), {PORT.id}),
        (replace(VETH, peer_alias=THEIRS), {PORT.id, THEIRS}),
        (replace(VETH, alias="", peer_alias="x"), set()),
        (ROW, {PORT.id}),
        (replace(ROW, port_id=THEIRS), {THEIRS}),
        (replace(ROW, iface_id=""), set()),
        (TAP, set()),
        (IvsPort(name=ROW.name), set()),
        (Stray(name=BRIDGE.name, what="a dummy link", alias=THEIRS), set()),
    ],
)
def test_the_owners_of_a_part_are_the_ids_it_bears(part: Part, owners: set[str]) -> None:
    assert owners_of(part) == owners


# When a step must not run.


@pytest.mark.parametrize(
    ("state", "step"),
    [
        (NOTHING, Create(BRIDGE)),
        (HostState().having(BRIDGE), Create(VETH)),
        (NOTHING, Create(LOOSE)),
        (NOTHING, Create(ROW)),
        (NOTHING, Create(IvsPort(name=ROW.name))),
        (WIRING.having(LOOSE), Update(LOOSE, VETH)),
        (WIRING, Update(VETH, LOOSE)),
        (WIRING, Update(LOOSE, VETH)),
        (WIRING.having(WAITING), Update(WAITING, TAP)),
        (WIRING.having(LOOSE), Update(replace(VETH, master="virbr0"), VETH)),
        (WIRING, Update(replace(VETH, mtu=1400), VETH)),
        (WIRING, Delete(BRIDGE)),
        (WIRING, Delete(VETH)),
        (WIRING, Delete(ROW)),
        (NOTHING, Delete(BRIDGE)),
        (NOTHING, Delete(ROW)),
    ],
)
def test_there_is_no_objection_to(state: HostState, step: Step) -> None:
    assert objection(state, step) is None


def test_a_bridge_held_by_a_foreign_master_is_no_matter_to_an_update_of_another_attribute() -> None:
    held = replace(VETH, master="virbr0")
    assert objection(WIRING.having(held), Update(replace(VETH, mtu=1400), VETH)) is None


@pytest.mark.parametrize(
    ("state", "step", "reason", "retry"),
    [
        (WIRING, Create(BRIDGE), "qbr5f2c0e1a-7b has appeared since the host was observed", True),
        (WIRING, Create(VETH), "qvb5f2c0e1a-7b has appeared since the host was observed", True),
        (WIRING, Create(ROW), "qvo5f2c0e1a-7b has appeared since the host was observed", True),
        (
            HostState().having(BRIDGE, Stray(name=VETH.peer, what="a veth")),
            Create(VETH),
            "qvo5f2c0e1a-7b has appeared since the host was observed",
            True,
        ),
        (NOTHING, Create(VETH), "bridge qbr5f2c0e1a-7b has vanished since it was observed", True),
        (
            HostState().having(Stray(name=BRIDGE.name, what="a dummy link")),
            Create(VETH),
            "bridge qbr5f2c0e1a-7b has vanished since it was observed",
            True,
        ),
        (NOTHING, Create(TAP), "tap5f2c0e1a-7b is not for a plan to make or delete", False),
        (NOTHING, Create(Stray(name="x", what="a link")), "x is not for a plan to make or delete", False),
        (NOTHING, Create(StrayPort(name="x", what="a bond")), "x is not for a plan to make or delete", False),
        (WIRING.having(TAP), Delete(TAP), "tap5f2c0e1a-7b is not for a plan to make or delete", False),
        (NOTHING, Delete(TAP), "tap5f2c0e1a-7b is not for a plan to make or delete", False),
        (NOTHING, Update(LOOSE, VETH), "qvb5f2c0e1a-7b has vanished since it was observed", True),
        (
            HostState().having(LOOSE),
            Update(LOOSE, VETH),
            "bridge qbr5f2c0e1a-7b has vanished since it was observed",
            True,
        ),
        (
            WIRING.having(Stray(name=BRIDGE.name, what="a dummy link")),
            Delete(BRIDGE),
            "qbr5f2c0e1a-7b is a dummy link, not a bridge; remove it or rename it",
            False,
        ),
        (
            WIRING.having(replace(VETH, peer="eth0")),
            Delete(VETH),
            "the peer of qvb5f2c0e1a-7b is eth0, not qvo5f2c0e1a-7b; remove the pair",
            False,
        ),
        (
            WIRING.having(replace(BRIDGE, alias=THEIRS)),
            Delete(BRIDGE),
            f"qbr5f2c0e1a-7b belongs to port {THEIRS}; unplug that port first",
            False,
        ),
        (
            WIRING.having(replace(VETH, peer_alias=THEIRS)),
            Update(replace(VETH, mtu=1400), VETH),
            f"qvb5f2c0e1a-7b belongs to port {THEIRS}; unplug that port first",
            False,
        ),
        (
            WIRING.having(replace(ROW, iface_id=THEIRS)),
            Delete(ROW),
            f"qvo5f2c0e1a-7b belongs to port {THEIRS}; unplug that port first",
            False,
        ),
        (
            WIRING.having(replace(VETH, master="virbr0")),
            Update(LOOSE, VETH),
            "qvb5f2c0e1a-7b is in virbr0, which is not ours; take it out: ip link set qvb5f2c0e1a-7b nomaster",
            False,
        ),
        (
            WIRING.having(replace(TAP, master="virbr0")),
            Update(WAITING, TAP),
            "tap5f2c0e1a-7b is in virbr0, which is not ours; take it out: ip link set tap5f2c0e1a-7b nomaster",
            False,
        ),
    ],
)
def test_there_is_an_objection_to(state: HostState, step: Step, reason: str, retry: bool) -> None:
    assert objection(state, step) == Objection(reason, retry)
    with pytest.raises(Conflict) as refusal:
        simulate(state, step)
    assert str(refusal.value) == reason


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        (replace(BRIDGE, name="br0"), "'br0' is not the name of a bridge of ours"),
        (replace(VETH, name="eth0"), "'eth0' is not the name of a veth of ours"),
        (replace(VETH, peer="eth0"), "'qvb5f2c0e1a-7b' is not the name of a veth of ours"),
        (replace(ROW, name="../all"), "'../all' is not the name of an ovs-port of ours"),
        (replace(TAP, name="x" * 99), f"'{'x' * 32}' is not the name of a tap of ours"),
    ],
    ids=["bridge", "veth", "peer", "row", "tap"],
)
def test_a_device_whose_name_is_not_ours_is_in_no_step(part: Part, shown: str) -> None:
    steps: list[Step] = [Update(part, part), Delete(part), *([] if isinstance(part, Tap) else [Create(part)])]
    for step in steps:
        for state in (NOTHING, HostState().having(part)):
            assert objection(state, step) == Objection(shown, retry=False)


def test_a_part_is_there_if_anything_has_its_name_in_its_role() -> None:
    assert is_there(WIRING, BRIDGE)
    assert is_there(HostState().having(Stray(name=BRIDGE.name, what="a dummy link")), BRIDGE)
    assert is_there(HostState().having(IvsPort(name=ROW.name)), ROW)
    assert not is_there(HostState().having(Stray(name=ROW.name, what="a veth")), ROW)
    assert not is_there(NOTHING, ROW)


def test_a_port_of_the_other_switch_is_no_port_to_update() -> None:
    against = objection(WIRING.having(IvsPort(name=ROW.name)), Update(ROW, replace(ROW, bridge="br-ex")))
    assert against is not None
    assert not against.retry
    assert "ivs-port" in against.reason
    assert "ovs-port" in against.reason


@pytest.mark.parametrize("mark", ["iface_id", "port_id"])
def test_a_mark_that_was_there_when_the_plan_was_made_is_no_objection(mark: str) -> None:
    marked = replace(ROW, iface_id=THEIRS) if mark == "iface_id" else replace(ROW, port_id=THEIRS)
    host = WIRING.having(marked)
    assert objection(host, Update(marked, ROW)) is None
    assert objection(host, Delete(marked)) is None


# What a step does.


def test_a_created_link_is_there_as_described() -> None:
    assert simulate(NOTHING, Create(BRIDGE)) == HostState().having(BRIDGE)


def test_a_row_is_realized_if_its_device_is_there() -> None:
    assert simulate(WIRING.lacking(ROW), Create(replace(ROW, realized=False))) == WIRING


def test_a_row_without_a_device_is_not_realized() -> None:
    assert simulate(NOTHING, Create(ROW)) == HostState().having(replace(ROW, realized=False))


def test_a_row_is_not_realized_by_the_device_of_another_port() -> None:
    elsewhere = replace(LOOSE, name="qvb91d3aa02-41", peer="qvo91d3aa02-41")
    assert simulate(HostState().having(elsewhere), Create(ROW)).ports[ROW.name] == replace(ROW, realized=False)


def test_a_parked_row_is_not_realized_though_its_device_is_there() -> None:
    parked = replace(ROW, type=PARKED)
    assert simulate(WIRING.lacking(ROW), Create(parked)) == WIRING.having(replace(parked, realized=False))


def test_an_update_leaves_alone_what_someone_else_has_changed_meanwhile() -> None:
    host = WIRING.having(replace(BRIDGE, stp=True, mtu=1400))
    assert simulate(host, Update(replace(BRIDGE, stp=True), BRIDGE)) == WIRING.having(replace(BRIDGE, mtu=1400))


def test_an_update_of_a_row_leaves_alone_what_someone_else_has_changed_meanwhile() -> None:
    host = WIRING.having(replace(ROW, iface_status="", vm_uuid=""))
    after = simulate(host, Update(replace(ROW, iface_status=""), ROW))
    assert after == WIRING.having(replace(ROW, vm_uuid=""))


def test_parking_a_row_takes_its_device_from_it_and_freeing_it_gives_it_back() -> None:
    parked = replace(ROW, type=PARKED, realized=False)
    assert simulate(WIRING, Update(ROW, parked)) == WIRING.having(parked)
    assert simulate(WIRING.having(parked), Update(parked, ROW)) == WIRING


def test_freeing_a_row_without_a_device_does_not_realize_it() -> None:
    parked = replace(ROW, type=PARKED, realized=False)
    host = HostState().having(parked)
    assert simulate(host, Update(parked, ROW)) == HostState().having(replace(ROW, realized=False))


def test_realized_cannot_be_written() -> None:
    unrealized = replace(ROW, realized=False)
    host = WIRING.having(unrealized)
    assert simulate(host, Update(unrealized, ROW)) == host


def test_moving_a_row_does_not_take_its_device_from_it() -> None:
    moved = replace(ROW, bridge="br-ex")
    assert simulate(WIRING, Update(ROW, moved)) == WIRING.having(moved)


def test_a_deleted_bridge_lets_its_members_go() -> None:
    elsewhere = Tap(name="tap91d3aa02-41", master="virbr0")
    host = WIRING.having(TAP, elsewhere)
    loose = replace(LOOSE, bridge_port=None)
    assert simulate(host, Delete(BRIDGE)) == host.lacking(BRIDGE).having(WAITING, loose)


def test_a_deleted_veth_pair_takes_the_device_from_its_row() -> None:
    assert simulate(WIRING, Delete(VETH)) == WIRING.lacking(VETH).having(replace(ROW, realized=False))


def test_a_deleted_veth_pair_is_nothing_to_an_indigo_port() -> None:
    host = WIRING.having(IvsPort(name=ROW.name))
    assert simulate(host, Delete(VETH)) == host.lacking(VETH)


def test_a_deleted_row_leaves_the_links() -> None:
    assert simulate(WIRING, Delete(ROW)) == HostState(WIRING.links)


@pytest.mark.parametrize("part", [BRIDGE, VETH, ROW])
def test_deleting_what_is_gone_changes_nothing(part: Part) -> None:
    assert simulate(WIRING.lacking(part), Delete(part)) == WIRING.lacking(part)


def test_steps_are_simulated_one_after_another() -> None:
    assert simulate_all(NOTHING, [Create(BRIDGE), Create(VETH), Create(ROW)]) == WIRING
    assert simulate_all(WIRING, []) == WIRING


def test_the_first_step_that_cannot_run_ends_the_simulation() -> None:
    with pytest.raises(Conflict, match="bridge qbr5f2c0e1a-7b has vanished"):
        simulate_all(NOTHING, [Create(VETH), Create(BRIDGE)])
