from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from hybridvif.model.errors import Conflict
from hybridvif.model.parts import PLACEHOLDER_TYPE, ForeignObject, ForeignPort, IvsPort, Part, Role, Tap
from hybridvif.model.state import (
    NOTHING,
    Create,
    Delete,
    HostState,
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
from tests.support.strategies import BRIDGE, PORT, ROW, TAP, VETH, WIRING

THEIRS = "5f2c0e1a-7b00-4c00-8000-00000000000f"
WAITING = replace(TAP, master="")
LOOSE = replace(VETH, master="")


# Values of a step.


@pytest.mark.parametrize("step", [Create(BRIDGE), Update(LOOSE, VETH), Delete(TAP)])
def test_step_on_a_device_has_role_link(step: Step) -> None:
    assert role_of(step) is Role.LINK


@pytest.mark.parametrize("step", [Create(ROW), Update(ROW, ROW), Delete(IvsPort(name=ROW.name))])
def test_step_on_a_switch_port_has_role_switch(step: Step) -> None:
    assert role_of(step) is Role.SWITCH


def test_part_of_an_update_is_the_new_part() -> None:
    assert Update(LOOSE, VETH).part == VETH


def test_update_writes_only_differences() -> None:
    assert changes_of(Update(replace(BRIDGE, stp=True, mtu=1400), BRIDGE)) == {"mtu": 1500, "stp": False}
    assert changes_of(Update(BRIDGE, BRIDGE)) == {}


def test_update_does_not_write_none() -> None:
    assert changes_of(Update(replace(BRIDGE, disable_ipv6=None), BRIDGE)) == {}


@pytest.mark.parametrize(
    "value",
    [Create(BRIDGE), Update(LOOSE, VETH), Delete(TAP), Objection("why", retry=True)],
    ids=type,
)
def test_step_is_immutable_and_hashable(value: Step | Objection) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, None)
    assert not hasattr(value, "__dict__")
    assert hash(value) == hash(replace(value))


# Ownership tags.


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
        (ForeignObject(name=BRIDGE.name, what="a dummy link", alias=THEIRS), set()),
    ],
)
def test_owners_of_a_part_are_the_ids_in_its_tags(part: Part, owners: set[str]) -> None:
    assert owners_of(part) == owners


# Objections.


@pytest.mark.parametrize(
    ("state", "step"),
    [
        (NOTHING, Create(BRIDGE)),
        (HostState().with_parts(BRIDGE), Create(VETH)),
        (NOTHING, Create(LOOSE)),
        (NOTHING, Create(ROW)),
        (NOTHING, Create(IvsPort(name=ROW.name))),
        (WIRING.with_parts(LOOSE), Update(LOOSE, VETH)),
        (WIRING, Update(VETH, LOOSE)),
        (WIRING, Update(LOOSE, VETH)),
        (WIRING.with_parts(WAITING), Update(WAITING, TAP)),
        (WIRING.with_parts(LOOSE), Update(replace(VETH, master="virbr0"), VETH)),
        (WIRING, Update(replace(VETH, mtu=1400), VETH)),
        (WIRING, Delete(BRIDGE)),
        (WIRING, Delete(VETH)),
        (WIRING, Delete(ROW)),
        (NOTHING, Delete(BRIDGE)),
        (NOTHING, Delete(ROW)),
    ],
)
def test_objection_is_none(state: HostState, step: Step) -> None:
    assert objection(state, step) is None


def test_update_of_another_attribute_ignores_a_foreign_master() -> None:
    held = replace(VETH, master="virbr0")
    assert objection(WIRING.with_parts(held), Update(replace(VETH, mtu=1400), VETH)) is None


@pytest.mark.parametrize(
    ("state", "step", "reason", "retry"),
    [
        (WIRING, Create(BRIDGE), "qbr5f2c0e1a-7b has appeared since the host was observed", True),
        (WIRING, Create(VETH), "qvb5f2c0e1a-7b has appeared since the host was observed", True),
        (WIRING, Create(ROW), "qvo5f2c0e1a-7b has appeared since the host was observed", True),
        (
            HostState().with_parts(BRIDGE, ForeignObject(name=VETH.peer, what="a veth")),
            Create(VETH),
            "qvo5f2c0e1a-7b has appeared since the host was observed",
            True,
        ),
        (NOTHING, Create(VETH), "bridge qbr5f2c0e1a-7b has vanished since it was observed", True),
        (
            HostState().with_parts(ForeignObject(name=BRIDGE.name, what="a dummy link")),
            Create(VETH),
            "bridge qbr5f2c0e1a-7b has vanished since it was observed",
            True,
        ),
        (NOTHING, Create(TAP), "tap5f2c0e1a-7b is not for a plan to make or delete", False),
        (NOTHING, Create(ForeignObject(name="x", what="a link")), "x is not for a plan to make or delete", False),
        (NOTHING, Create(ForeignPort(name="x", what="a bond")), "x is not for a plan to make or delete", False),
        (WIRING.with_parts(TAP), Delete(TAP), "tap5f2c0e1a-7b is not for a plan to make or delete", False),
        (NOTHING, Delete(TAP), "tap5f2c0e1a-7b is not for a plan to make or delete", False),
        (NOTHING, Update(LOOSE, VETH), "qvb5f2c0e1a-7b has vanished since it was observed", True),
        (
            HostState().with_parts(LOOSE),
            Update(LOOSE, VETH),
            "bridge qbr5f2c0e1a-7b has vanished since it was observed",
            True,
        ),
        (
            WIRING.with_parts(ForeignObject(name=BRIDGE.name, what="a dummy link")),
            Delete(BRIDGE),
            "qbr5f2c0e1a-7b is a dummy link, not a bridge; remove it or rename it",
            False,
        ),
        (
            WIRING.with_parts(replace(VETH, peer="eth0")),
            Delete(VETH),
            "the peer of qvb5f2c0e1a-7b is eth0, not qvo5f2c0e1a-7b; remove the pair",
            False,
        ),
        (
            WIRING.with_parts(replace(BRIDGE, alias=THEIRS)),
            Delete(BRIDGE),
            f"qbr5f2c0e1a-7b belongs to port {THEIRS}; unplug that port first",
            False,
        ),
        (
            WIRING.with_parts(replace(VETH, peer_alias=THEIRS)),
            Update(replace(VETH, mtu=1400), VETH),
            f"qvb5f2c0e1a-7b belongs to port {THEIRS}; unplug that port first",
            False,
        ),
        (
            WIRING.with_parts(replace(ROW, iface_id=THEIRS)),
            Delete(ROW),
            f"qvo5f2c0e1a-7b belongs to port {THEIRS}; unplug that port first",
            False,
        ),
        (
            WIRING.with_parts(replace(VETH, master="virbr0")),
            Update(LOOSE, VETH),
            "qvb5f2c0e1a-7b is in virbr0, which is not ours; take it out: ip link set qvb5f2c0e1a-7b nomaster",
            False,
        ),
        (
            WIRING.with_parts(replace(TAP, master="virbr0")),
            Update(WAITING, TAP),
            "tap5f2c0e1a-7b is in virbr0, which is not ours; take it out: ip link set tap5f2c0e1a-7b nomaster",
            False,
        ),
    ],
)
def test_objection_has_reason_and_retry(state: HostState, step: Step, reason: str, retry: bool) -> None:
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
def test_step_on_a_foreign_name_is_refused(part: Part, shown: str) -> None:
    steps: list[Step] = [Update(part, part), Delete(part), *([] if isinstance(part, Tap) else [Create(part)])]
    for step in steps:
        for state in (NOTHING, HostState().with_parts(part)):
            assert objection(state, step) == Objection(shown, retry=False)


def test_is_there_compares_name_and_role() -> None:
    assert is_there(WIRING, BRIDGE)
    assert is_there(HostState().with_parts(ForeignObject(name=BRIDGE.name, what="a dummy link")), BRIDGE)
    assert is_there(HostState().with_parts(IvsPort(name=ROW.name)), ROW)
    assert not is_there(HostState().with_parts(ForeignObject(name=ROW.name, what="a veth")), ROW)
    assert not is_there(NOTHING, ROW)


def test_update_of_a_port_of_the_other_switch_is_refused() -> None:
    refusal = objection(WIRING.with_parts(IvsPort(name=ROW.name)), Update(ROW, replace(ROW, bridge="br-ex")))
    assert refusal is not None
    assert not refusal.retry
    assert "ivs-port" in refusal.reason
    assert "ovs-port" in refusal.reason


@pytest.mark.parametrize("tag", ["iface_id", "port_id"])
def test_tag_known_to_the_plan_is_allowed(tag: str) -> None:
    tagged = replace(ROW, iface_id=THEIRS) if tag == "iface_id" else replace(ROW, port_id=THEIRS)
    host = WIRING.with_parts(tagged)
    assert objection(host, Update(tagged, ROW)) is None
    assert objection(host, Delete(tagged)) is None


# Simulation.


def test_created_link_is_in_the_state() -> None:
    assert simulate(NOTHING, Create(BRIDGE)) == HostState().with_parts(BRIDGE)


def test_created_row_with_its_device_is_realized() -> None:
    assert simulate(WIRING.without(ROW), Create(replace(ROW, realized=False))) == WIRING


def test_created_row_without_device_is_not_realized() -> None:
    assert simulate(NOTHING, Create(ROW)) == HostState().with_parts(replace(ROW, realized=False))


def test_created_row_with_another_device_is_not_realized() -> None:
    foreign = replace(LOOSE, name="qvb91d3aa02-41", peer="qvo91d3aa02-41")
    assert simulate(HostState().with_parts(foreign), Create(ROW)).ports[ROW.name] == replace(ROW, realized=False)


def test_created_placeholder_is_not_realized() -> None:
    placeholder = replace(ROW, type=PLACEHOLDER_TYPE)
    assert simulate(WIRING.without(ROW), Create(placeholder)) == WIRING.with_parts(replace(placeholder, realized=False))


def test_update_keeps_changes_of_others() -> None:
    host = WIRING.with_parts(replace(BRIDGE, stp=True, mtu=1400))
    assert simulate(host, Update(replace(BRIDGE, stp=True), BRIDGE)) == WIRING.with_parts(replace(BRIDGE, mtu=1400))


def test_update_of_a_row_keeps_changes_of_others() -> None:
    host = WIRING.with_parts(replace(ROW, iface_status="", vm_uuid=""))
    after = simulate(host, Update(replace(ROW, iface_status=""), ROW))
    assert after == WIRING.with_parts(replace(ROW, vm_uuid=""))


def test_placeholder_loses_its_device_until_it_is_restored() -> None:
    placeholder = replace(ROW, type=PLACEHOLDER_TYPE, realized=False)
    assert simulate(WIRING, Update(ROW, placeholder)) == WIRING.with_parts(placeholder)
    assert simulate(WIRING.with_parts(placeholder), Update(placeholder, ROW)) == WIRING


def test_restored_row_without_device_is_not_realized() -> None:
    placeholder = replace(ROW, type=PLACEHOLDER_TYPE, realized=False)
    host = HostState().with_parts(placeholder)
    assert simulate(host, Update(placeholder, ROW)) == HostState().with_parts(replace(ROW, realized=False))


def test_update_does_not_write_realized() -> None:
    unrealized = replace(ROW, realized=False)
    host = WIRING.with_parts(unrealized)
    assert simulate(host, Update(unrealized, ROW)) == host


def test_moved_row_keeps_its_device() -> None:
    moved = replace(ROW, bridge="br-ex")
    assert simulate(WIRING, Update(ROW, moved)) == WIRING.with_parts(moved)


def test_deleted_bridge_releases_its_members() -> None:
    foreign = Tap(name="tap91d3aa02-41", master="virbr0")
    host = WIRING.with_parts(TAP, foreign)
    loose = replace(LOOSE, bridge_port=None)
    assert simulate(host, Delete(BRIDGE)) == host.without(BRIDGE).with_parts(WAITING, loose)


def test_deleted_veth_takes_the_device_of_its_row() -> None:
    assert simulate(WIRING, Delete(VETH)) == WIRING.without(VETH).with_parts(replace(ROW, realized=False))


def test_deleted_veth_leaves_an_ivs_port() -> None:
    host = WIRING.with_parts(IvsPort(name=ROW.name))
    assert simulate(host, Delete(VETH)) == host.without(VETH)


def test_deleted_row_leaves_the_links() -> None:
    assert simulate(WIRING, Delete(ROW)) == HostState(WIRING.links)


@pytest.mark.parametrize("part", [BRIDGE, VETH, ROW])
def test_deletion_of_a_missing_part_changes_nothing(part: Part) -> None:
    assert simulate(WIRING.without(part), Delete(part)) == WIRING.without(part)


def test_simulate_all_applies_steps_in_order() -> None:
    assert simulate_all(NOTHING, [Create(BRIDGE), Create(VETH), Create(ROW)]) == WIRING
    assert simulate_all(WIRING, []) == WIRING


def test_simulate_all_raises_at_the_first_refused_step() -> None:
    with pytest.raises(Conflict, match="bridge qbr5f2c0e1a-7b has vanished"):
        simulate_all(NOTHING, [Create(VETH), Create(BRIDGE)])
