"""The first pass of authorization: one port per plan, own names, legal values, and the bridges of this host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hybridvif.model.errors import Refused
from hybridvif.model.names import names_of
from hybridvif.model.parts import (
    PLACEHOLDER_TYPE,
    Bridge,
    ForeignObject,
    ForeignPort,
    IvsPort,
    ManagedTap,
    NativePort,
    OvsPort,
    Part,
    Tap,
    Veth,
    VhostUserPort,
    attributes_of,
    create_only_values,
    invalid_attributes,
)
from hybridvif.model.planner import check_ownership, plan
from hybridvif.model.port import Port, VifType, desired_state
from hybridvif.model.settings import Settings
from hybridvif.model.state import NOTHING, Create, Delete, Replace, Step, Update, changes_of
from hybridvif.privileged.authorize import permit_names, permit_plans
from tests.support.strategies import (
    BRIDGE,
    MADE_TAP,
    NAMES,
    NATIVE,
    PORT,
    ROW,
    TAP,
    VETH,
    VHOST_USER,
    WIRING,
    ports,
    states_of,
)

SETTINGS = Settings(integration_bridges=("br-int", "tbr-5f2c0e1a-7"))
OTHERS = names_of("91d3aa02-4100-4c00-8000-000000000003")


def permit(*plans: Sequence[Step]) -> None:
    permit_plans(plans, SETTINGS)


def refusal(*plans: Sequence[Step]) -> str:
    with pytest.raises(Refused) as caught:
        permit(*plans)
    assert str(caught.value).startswith("refused: ")
    return str(caught.value)


# Names.


def test_own_names_may_be_observed() -> None:
    permit_names(None)
    permit_names([])
    permit_names([*NAMES, *OTHERS])


@pytest.mark.parametrize(
    "name",
    [
        "",
        "eth0",
        "lo",
        "br-int",
        "../all",
        "qbr../../all",
        "qbr5f2c0e1a-7b/",
        "qbr5f2c0e1a-7b\n",
        "qbr5f2c0e1a-7b\0",
        "\0",
        "qbr5f2c0e1a-7B",
        "qbr5f2c0e1a-7",
        "qbr5f2c0e1a-7bb",
        "QBR5f2c0e1a-7b",
        "qbr\N{FULLWIDTH DIGIT FIVE}f2c0e1a-7b",
        "x" * 10_000_000,
    ],
    ids=lambda name: repr(name[:20]),
)
def test_other_name_is_refused_in_a_short_message(name: str) -> None:
    with pytest.raises(Refused, match=r"^refused: ") as caught:
        permit_names([NAMES.bridge, name])
    assert len(str(caught.value)) < 200


@given(st.text(st.characters(codec="utf-8")))
def test_arbitrary_text_is_refused_as_a_name(name: str) -> None:
    with pytest.raises(Refused):
        permit_names([name])


# Permitted plans.


@given(st.data(), ports(st.just(VifType.OVS)))
def test_plug_and_unplug_plans_are_permitted_in_any_state(data: st.DataObject, port: Port) -> None:
    """A refused plan would leave a host that cannot be repaired."""
    settings = Settings(integration_bridges=(port.bridge,))
    state = data.draw(states_of(port))
    for goal in (desired_state(port), NOTHING):
        try:
            check_ownership(state, port.id, port.iface_id)
            steps = plan(state, goal)
        except Refused:
            continue
        permit_plans([steps], settings)


def test_ivs_port_is_permitted() -> None:
    permit([Create(IvsPort(name=NAMES.switch_end)), Delete(IvsPort(name=NAMES.switch_end))])


def test_empty_plans_are_permitted() -> None:
    permit()
    permit([], [])


# Names of one port.


def test_plan_with_names_of_two_ports_is_refused() -> None:
    theirs = replace(BRIDGE, name=OTHERS.bridge, alias="")
    assert "not one port's" in refusal([Create(BRIDGE), Create(theirs)])
    assert "not one port's" in refusal([Update(replace(VETH, name=OTHERS.bridge_end), VETH), Delete(theirs)])
    permit([Create(BRIDGE)], [Create(theirs)])


def test_second_plan_for_a_port_is_refused() -> None:
    assert "same port" in refusal([Create(BRIDGE)], [Delete(VETH)])


@pytest.mark.parametrize("name", ["eth0", "../all", "br-int", "", "qbr5f2c0e1a-7b\0", "vnet0"])
@pytest.mark.parametrize("part", [BRIDGE, VETH, TAP, MADE_TAP, ROW, VHOST_USER], ids=lambda part: part.kind)
def test_part_with_another_name_is_refused(part: Part, name: str) -> None:
    for step in (Create(replace(part, name=name)), Delete(replace(part, name=name))):
        assert "not one port's" in refusal([step])


@pytest.mark.parametrize(
    "part", [BRIDGE, VETH, TAP, MADE_TAP, ROW, VHOST_USER, IvsPort(name=ROW.name)], ids=lambda part: part.kind
)
def test_name_of_another_kind_is_refused(part: Part) -> None:
    for name in NAMES:
        step = Delete(replace(part, name=name)) if not isinstance(part, Tap) else Update(part, replace(part, name=name))
        if name == part.name:
            permit([step])
        else:
            assert "cannot be named" in refusal([step])


@pytest.mark.parametrize("peer", ["eth0", NAMES.tap, OTHERS.switch_end, "x" * 500])
@pytest.mark.parametrize("verb", [Create, Delete])
def test_veth_with_another_peer_is_refused(verb: Any, peer: str) -> None:
    message = refusal([verb(replace(VETH, peer=peer))])
    assert "peer" in message
    assert len(message) < 200


def test_refusal_of_a_peer_contains_the_start_of_its_name() -> None:
    message = refusal([Create(replace(VETH, peer="x" * 40))])
    assert message == f"refused: the peer of {VETH.name} cannot be named {'x' * 32!r}"


# Ids of one port.

TWINS = [PORT.id[:-1] + digit for digit in "23"]
"""Ids of ports with the device names of our port."""


def test_written_key_states_the_owner_of_the_plan() -> None:
    """The iface-id stays. A row must not go to another port together with the links of the first one."""
    theirs = replace(ROW, port_id=TWINS[0])
    message = refusal([Update(ROW, theirs), Create(VETH)])
    assert message == f"refused: a plan is of two ports, {PORT.id} and {TWINS[0]}"
    permit([Update(ROW, theirs)])


def test_existing_rows_of_two_owners_are_refused() -> None:
    theirs = replace(ROW, iface_id=TWINS[0])
    assert "of two ports" in refusal([Update(theirs, replace(theirs, type=PLACEHOLDER_TYPE)), Delete(ROW)])


def test_refusal_of_three_owners_names_two() -> None:
    message = refusal([Create(replace(VETH, peer_alias=TWINS[0])), Create(replace(BRIDGE, alias=TWINS[1]))])
    assert message == f"refused: a plan is of two ports, {PORT.id} and {TWINS[0]}"


def test_refusal_of_a_master_contains_the_start_of_its_name() -> None:
    message = refusal([Update(replace(VETH, master="x" * 40), VETH)])
    assert message == f"refused: {VETH.name} is not taken out of {'x' * 32!r}, which is not its bridge"


def test_veth_found_with_another_peer_is_refused() -> None:
    """The planner treats such a pair as a ForeignObject, but a captured client can send it."""
    message = refusal([Update(replace(VETH, peer=OTHERS.switch_end), VETH)])
    assert message == f"refused: the peer of {VETH.name} cannot be named {OTHERS.switch_end!r}"


# Forbidden parts.


@pytest.mark.parametrize("verb", [Create, Delete])
def test_tap_of_the_vm_is_neither_created_nor_deleted(verb: Any) -> None:
    assert "VM's device" in refusal([verb(TAP)])


@pytest.mark.parametrize("name", list(NAMES))
def test_foreign_object_in_a_plan_is_refused(name: str) -> None:
    for stray in (ForeignObject(name=name, what="a veth link"), ForeignPort(name=name, what="a bond")):
        for step in (Create(stray), Update(stray, stray), Delete(stray)):
            assert "cannot be named" in refusal([step])


def test_vhost_user_port_with_another_socket_is_refused() -> None:
    elsewhere = replace(VHOST_USER, socket_as_configured=False)
    for step in (Create(elsewhere), Update(VHOST_USER, elsewhere)):
        assert refusal([step]) == f"refused: {VHOST_USER.name} may not be given that socket_as_configured"
    permit([Update(elsewhere, VHOST_USER)])
    permit([Delete(elsewhere)])


@pytest.mark.parametrize("kind", ["", "patch", "dpdkvhostuser\n", "system", "internal", "vxlan"])
def test_vhost_user_port_of_another_type_is_refused(kind: str) -> None:
    assert "type" in refusal([Create(replace(VHOST_USER, type=kind))])


@pytest.mark.parametrize("again", [{"realized": False}, {"socket_as_configured": False}], ids=str)
def test_vhost_user_port_written_again_with_another_type_is_refused(again: dict[str, Any]) -> None:
    """The executor of ovs-vsctl writes the type together with a change."""
    other = replace(VHOST_USER, type="internal")
    assert refusal([Update(replace(other, **again), other)]) == f"refused: {other.name} may not be given that type"


@pytest.mark.parametrize("kind", ["dpdkvhostuser", "dpdkvhostuserclient"])
def test_ovs_port_of_a_vhost_user_type_is_refused(kind: str) -> None:
    assert "type" in refusal([Create(replace(ROW, type=kind))])


# Values.


BAD: dict[type[Part], dict[str, Any]] = {
    Bridge: {
        "alias": "91d3aa02-4100-4c00-8000-000000000003",
        "mtu": 67,
        "forward_delay": 3_001,
        "ageing": 2**32 - 1,
        "stp": True,
        "multicast_snooping": True,
        "disable_ipv6": False,
        "addr_gen_mode": "eui64",
        "arp_ignore": 0,
        "arp_announce": 0,
        "host_ip": "forwarding 1",
        "nf_call_iptables": 1,
        "nf_call_ip6tables": "yes",
        "group": 7,
    },
    Veth: {
        "alias": "someone wrote here",
        "peer_alias": "someone wrote here",
        "mtu": 65_536,
        "peer_mtu": 0,
        "master": "br-foreign",
        "group": 7,
        "host_ip": "rp_filter 0",
        "peer_host_ip": "IPv6 on",
        "bridge_port": "isolated on",
    },
    Tap: {"master": "br-foreign"},
    ManagedTap: {
        "alias": "someone wrote here",
        "mac": "01:00:5e:00:00:01",
        "mtu": 65_522,
        "master": "br-foreign",
        "group": 7,
        "host_ip": "ARP on",
        "bridge_port": "locked on",
        "owner": -1,
    },
    OvsPort: {
        "bridge": "br-int; reboot",
        "iface_id": "vm-7",
        "iface_status": "inactive",
        "attached_mac": "01:00:5e:00:00:01",
        "vm_uuid": "vm-7",
        "port_id": "91d3aa02-4100-4c00-8000-000000000003",
        "bridge_name": "br-int",
        "converting": "no",
        "type": "internal",
        "mtu_request": 67,
    },
}
BAD[NativePort] = BAD[OvsPort]
BAD[VhostUserPort] = BAD[OvsPort] | {"type": "dpdk"}
ELSEWHERE = {("alias", BAD[Bridge]["alias"]), ("master", "br-foreign")}
"""Values of a part that belongs to another port, or is in a foreign bridge."""
CASES = [
    (part, name, value)
    for part in (BRIDGE, VETH, TAP, MADE_TAP, ROW, NATIVE, VHOST_USER)
    for name, value in BAD[type(part)].items()
]


def test_every_attribute_has_an_invalid_value_in_this_test() -> None:
    # codec.py checks flags by their type. A peer and the create-only attributes have their own tests.
    for part in (BRIDGE, VETH, TAP, MADE_TAP, ROW, NATIVE, VHOST_USER):
        flags = {name for name in attributes_of(type(part)) if type(getattr(part, name)) is bool}
        assert BAD[type(part)].keys() | flags | create_only_values(part).keys() | {"peer"} >= set(
            attributes_of(type(part))
        )


@pytest.mark.parametrize(("part", "name", "value"), CASES, ids=lambda case: getattr(case, "kind", str(case)))
def test_invalid_value_is_not_written(part: Part, name: str, value: Any) -> None:
    bad = replace(part, **{name: value})
    assert invalid_attributes(bad) == (name,)
    assert name in refusal([Update(part, bad)])
    if not isinstance(part, Tap | NativePort):
        assert name in refusal([Create(bad)])


def test_refusal_lists_all_invalid_attributes() -> None:
    message = refusal([Create(replace(BRIDGE, mtu=67, group=7))])
    assert message == f"refused: {BRIDGE.name} may not be given that mtu, group"


@pytest.mark.parametrize(("part", "name", "value"), CASES, ids=lambda case: getattr(case, "kind", str(case)))
def test_invalid_value_may_be_repaired_kept_and_deleted(part: Part, name: str, value: Any) -> None:
    """Another tool may have written it: only values to write are checked."""
    found = replace(part, **{name: value})
    if (name, value) in ELSEWHERE:
        return
    permit([Update(found, part)])
    permit([Update(found, found)])
    if not isinstance(part, Tap):
        permit([Delete(found)])


@pytest.mark.parametrize("born", [{"qos_type": "egress-policer"}, {"isolated": True, "bridge": "tbr-5f2c0e1a-7"}])
def test_invalid_create_only_attribute_is_refused_on_create_only(born: dict[str, Any]) -> None:
    bad = replace(ROW, **born)
    assert next(iter(born)) in refusal([Create(bad)])
    step = Update(bad, replace(bad, vm_uuid=""))
    permit([step])
    assert changes_of(step) == {"vm_uuid": ""}


def test_move_of_a_row_checks_the_attributes_of_its_bridge() -> None:
    moved = replace(ROW, datapath_type="dummy")
    assert "datapath_type" in refusal([Update(replace(ROW, bridge="br-ex"), moved)])
    # The other attributes are not written, so they may have any value.
    odd = replace(ROW, iface_status="odd", attached_mac="none")
    permit([Update(replace(odd, bridge="br-ex"), odd)])


def test_host_with_call_iptables_refuses_an_unfiltered_bridge() -> None:
    """A captured client must not disable security groups."""
    host, filtered = Settings(call_iptables=True), replace(BRIDGE, nf_call_iptables=True, nf_call_ip6tables=True)
    half = replace(filtered, nf_call_ip6tables=False)
    permit_plans([[Create(filtered)]], host)
    permit_plans([[Update(half, filtered)]], host)
    permit_plans([[Update(half, replace(half, mtu=1400))]], host)
    both, second = "nf_call_iptables, nf_call_ip6tables", "nf_call_ip6tables"
    for step, off in ((Create(BRIDGE), both), (Create(half), second), (Update(filtered, half), second)):
        with pytest.raises(Refused) as caught:
            permit_plans([[step]], host)
        assert str(caught.value) == (
            f"refused: {BRIDGE.name} may not be without {off}, since [hybridvif] call_iptables of this host "
            "asks for them; set it in the caller's configuration, too"
        )
        permit([step])


def test_host_with_require_isolate_refuses_a_row_outside_of_the_dead_vlan() -> None:
    """Otherwise a captured client moves a port into the untagged network: it deletes the row and creates it again."""
    host = Settings(require_isolate=True, integration_bridges=("br-int", "tbr-*"))
    isolated, trunk = replace(ROW, isolated=True), replace(ROW, bridge="tbr-0b1c2d3e-0", bridge_name="tbr-0b1c2d3e-0")
    permit_plans([[Delete(ROW)]], host)
    permit_plans([[Create(isolated)]], host)
    permit_plans([[Update(replace(ROW, attached_mac=""), ROW)]], host)
    permit_plans([[Create(trunk)]], host)
    with pytest.raises(Refused) as caught:
        permit_plans([[Create(ROW)]], host)
    assert str(caught.value) == (
        f"refused: {ROW.name} may not be made outside of the dead VLAN, since [hybridvif] require_isolate of this host "
        "asks for it; set it in the caller's configuration, too"
    )
    permit_plans([[Create(ROW)]], Settings())


def test_trunk_option_allows_all_trunk_bridges() -> None:
    row = replace(ROW, bridge="tbr-0b1c2d3e-0", bridge_name="tbr-0b1c2d3e-0")
    permit_plans([[Create(row)]], Settings(integration_bridges=("tbr-*",)))
    with pytest.raises(Refused, match="integration_bridges"):
        permit_plans([[Create(row)]], Settings(integration_bridges=("br-int",)))
    with pytest.raises(Refused, match="integration_bridges"):
        permit_plans([[Create(ROW)]], Settings(integration_bridges=("tbr-*",)))


@pytest.mark.parametrize(
    ("name", "value"), [("disable_ipv6", False), ("disable_ipv6", None), ("addr_gen_mode", "eui64")]
)
def test_values_regained_by_a_growing_bridge_are_checked(name: str, value: Any) -> None:
    """An executor writes it without a change, because a value of None equals any other."""
    small = replace(BRIDGE, mtu=1000, disable_ipv6=None, addr_gen_mode=None)
    permit([Update(small, BRIDGE)])
    assert name in refusal([Update(small, replace(BRIDGE, **{name: value}))])


# Bridges of the switch.


def test_bridge_that_is_not_configured_is_refused() -> None:
    there = replace(ROW, bridge="br-ex")
    for step in (Create(there), Update(ROW, there)):
        message = refusal([step])
        assert "br-ex" in message
        assert "integration_bridges" in message
        assert "br-int, tbr-5f2c0e1a-7" in message
    permit([Create(replace(ROW, bridge="tbr-5f2c0e1a-7"))])


def test_port_in_another_bridge_may_be_moved_repaired_and_deleted() -> None:
    there = replace(ROW, bridge="br-ex")
    permit([Update(there, ROW)])
    permit([Update(there, replace(there, type=PLACEHOLDER_TYPE))])
    permit([Delete(there)])


def test_invalid_step_refuses_the_whole_request() -> None:
    steps = [Create(part) for part in WIRING]
    permit(steps)
    assert refusal(steps, [Create(replace(BRIDGE, name=OTHERS.bridge))])


def test_tap_leaves_its_bridge_in_a_conversion_only() -> None:
    marked, native = replace(ROW, converting="yes"), replace(NATIVE, converting="yes")
    leave = Update(TAP, replace(TAP, master=""))
    permit([leave, Replace(marked, native)])
    assert "leaves its bridge in a conversion only" in refusal([leave])
    assert "is not plugged into the switch" in refusal([Create(NATIVE)])


def test_conversion_writes_legal_values_and_carries_over_any_other() -> None:
    marked, native = replace(ROW, converting="yes"), replace(NATIVE, converting="yes")
    found: dict[str, Any] = {"attached_mac": "x", "vm_uuid": "vm-7"}
    illegal: dict[str, Any] = {"converting": "no", "port_id": "vm-7"}
    permit([Replace(replace(marked, **found), replace(native, **found))])
    for name, value in illegal.items():
        reason = refusal([Replace(marked, replace(native, **{name: value}))])
        assert f"{NATIVE.name} may not be given that {name}" in reason
