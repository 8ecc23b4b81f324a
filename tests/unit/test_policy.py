"""What the daemon lets anybody ask for: hybrid plugging of one port a plan, on this host's bridges; nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridvif.errors import Refused
from hybridvif.identity import claim
from hybridvif.limits import unwritable
from hybridvif.names import names_of
from hybridvif.parts import (
    NOTHING,
    PARKED,
    Bridge,
    IvsPort,
    MadeTap,
    OvsPort,
    Part,
    Stray,
    StrayPort,
    Tap,
    Veth,
    VhostUserPort,
    attributes_of,
    births_of,
)
from hybridvif.planner import plan
from hybridvif.port import Port, VifType
from hybridvif.privileged.policy import permit_names, permit_plans
from hybridvif.settings import Settings
from hybridvif.steps import Create, Delete, Step, Update, changes_of
from hybridvif.wiring import wiring_of
from tests.unit.strategies import (
    BRIDGE,
    MADE_TAP,
    NAMES,
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


def test_the_names_of_our_grammar_may_be_asked_about() -> None:
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
def test_any_other_name_is_refused_and_not_repeated_at_length(name: str) -> None:
    with pytest.raises(Refused, match=r"^refused: ") as caught:
        permit_names([NAMES.bridge, name])
    assert len(str(caught.value)) < 200


@given(st.text(st.characters(codec="utf-8")))
def test_no_text_that_is_not_of_our_grammar_passes(name: str) -> None:
    with pytest.raises(Refused):
        permit_names([name])


# Plans that are ours.


@given(st.data(), ports(st.just(VifType.OVS)))
def test_every_plan_to_plug_and_unplug_is_permitted(data: st.DataObject, port: Port) -> None:
    """On whatever state: a plug that the daemon refused would leave a host that nothing could mend."""
    settings = Settings(integration_bridges=(port.bridge,))
    state = data.draw(states_of(port))
    for goal in (wiring_of(port), NOTHING):
        try:
            claim(state, port.id, port.iface_id)
            steps = plan(state, goal)
        except Refused:
            continue
        permit_plans([steps], settings)


def test_a_port_of_the_other_kind_of_switch_is_permitted() -> None:
    permit([Create(IvsPort(name=NAMES.switch_end)), Delete(IvsPort(name=NAMES.switch_end))])


def test_no_plans_and_empty_plans_are_permitted() -> None:
    permit()
    permit([], [])


# Whose names.


def test_a_plan_is_one_ports() -> None:
    theirs = replace(BRIDGE, name=OTHERS.bridge, alias="")
    assert "not one port's" in refusal([Create(BRIDGE), Create(theirs)])
    assert "not one port's" in refusal([Update(replace(VETH, name=OTHERS.bridge_end), VETH), Delete(theirs)])
    permit([Create(BRIDGE)], [Create(theirs)])


def test_a_port_has_one_plan_a_call() -> None:
    assert "same port" in refusal([Create(BRIDGE)], [Delete(VETH)])


@pytest.mark.parametrize("name", ["eth0", "../all", "br-int", "", "qbr5f2c0e1a-7b\0", "vnet0"])
@pytest.mark.parametrize("part", [BRIDGE, VETH, TAP, MADE_TAP, ROW, VHOST_USER], ids=lambda part: part.kind)
def test_a_part_of_any_other_name_is_refused(part: Part, name: str) -> None:
    for step in (Create(replace(part, name=name)), Delete(replace(part, name=name))):
        assert "not one port's" in refusal([step])


@pytest.mark.parametrize(
    "part", [BRIDGE, VETH, TAP, MADE_TAP, ROW, VHOST_USER, IvsPort(name=ROW.name)], ids=lambda part: part.kind
)
def test_each_kind_of_part_has_its_own_name(part: Part) -> None:
    for name in NAMES:
        step = Delete(replace(part, name=name)) if not isinstance(part, Tap) else Update(part, replace(part, name=name))
        if name == part.name:
            permit([step])
        else:
            assert "cannot be named" in refusal([step])


@pytest.mark.parametrize("peer", ["eth0", NAMES.tap, OTHERS.switch_end, "x" * 500])
@pytest.mark.parametrize("verb", [Create, Delete])
def test_the_peer_of_a_veth_is_the_switch_end(verb: Any, peer: str) -> None:
    said = refusal([verb(replace(VETH, peer=peer))])
    assert "peer" in said
    assert len(said) < 200


def test_of_a_strange_peer_the_beginning_is_told() -> None:
    said = refusal([Create(replace(VETH, peer="x" * 40))])
    assert said == f"refused: the peer of {VETH.name} cannot be named {'x' * 32!r}"


# Whose ids.

TWINS = [PORT.id[:-1] + digit for digit in "23"]
"""Ids whose devices would have the names of our port's."""


def test_a_key_that_is_written_says_whose_the_plan_is() -> None:
    """Though the iface-id beside it stays: the row of one port must not be given to its twin with the other's links."""
    theirs = replace(ROW, port_id=TWINS[0])
    said = refusal([Update(ROW, theirs), Create(VETH)])
    assert said == f"refused: a plan is of two ports, {PORT.id} and {TWINS[0]}"
    permit([Update(ROW, theirs)])


def test_rows_that_are_found_to_be_of_two_ports_are_not_one_ports() -> None:
    theirs = replace(ROW, iface_id=TWINS[0])
    assert "of two ports" in refusal([Update(theirs, replace(theirs, type=PARKED)), Delete(ROW)])


def test_of_three_ports_two_are_named() -> None:
    said = refusal([Create(replace(VETH, peer_alias=TWINS[0])), Create(replace(BRIDGE, alias=TWINS[1]))])
    assert said == f"refused: a plan is of two ports, {PORT.id} and {TWINS[0]}"


def test_of_a_strange_bridge_the_beginning_is_told() -> None:
    said = refusal([Update(replace(VETH, master="x" * 40), VETH)])
    assert said == f"refused: {VETH.name} is not taken out of {'x' * 32!r}, which is not its bridge"


def test_veth_that_was_found_with_another_peer_is_refused() -> None:
    """No plan has found one: it is a Stray. The executor of programs raised KeyError for it."""
    said = refusal([Update(replace(VETH, peer=OTHERS.switch_end), VETH)])
    assert said == f"refused: the peer of {VETH.name} cannot be named {OTHERS.switch_end!r}"


# What nobody makes here.


@pytest.mark.parametrize("verb", [Create, Delete])
def test_the_vms_device_is_neither_made_nor_deleted(verb: Any) -> None:
    assert "VM's device" in refusal([verb(TAP)])


@pytest.mark.parametrize("name", list(NAMES))
def test_a_stray_is_in_no_plan(name: str) -> None:
    for stray in (Stray(name=name, what="a veth link"), StrayPort(name=name, what="a bond")):
        for step in (Create(stray), Update(stray, stray), Delete(stray)):
            assert "cannot be named" in refusal([step])


def test_a_vhost_user_port_has_a_place_of_its_own_for_its_socket_and_no_caller_names_another() -> None:
    elsewhere = replace(VHOST_USER, socket_as_configured=False)
    for step in (Create(elsewhere), Update(VHOST_USER, elsewhere)):
        assert refusal([step]) == f"refused: {VHOST_USER.name} may not be given that socket_as_configured"
    permit([Update(elsewhere, VHOST_USER)])
    permit([Delete(elsewhere)])


@pytest.mark.parametrize("kind", ["", "patch", "dpdkvhostuser\n", "system", "internal", "vxlan"])
def test_a_vhost_user_port_is_of_no_other_type(kind: str) -> None:
    assert "type" in refusal([Create(replace(VHOST_USER, type=kind))])


@pytest.mark.parametrize("again", [{"realized": False}, {"socket_as_configured": False}], ids=str)
def test_a_vhost_user_port_that_is_asked_for_again_is_of_no_other_type(again: dict[str, Any]) -> None:
    """An executor may write the type with what does change, as `ovs-vsctl` does."""
    other = replace(VHOST_USER, type="internal")
    assert refusal([Update(replace(other, **again), other)]) == f"refused: {other.name} may not be given that type"


@pytest.mark.parametrize("kind", ["dpdkvhostuser", "dpdkvhostuserclient"])
def test_no_other_row_is_of_its_types(kind: str) -> None:
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
    MadeTap: {
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
        "type": "internal",
    },
}
BAD[VhostUserPort] = BAD[OvsPort] | {"type": "dpdk", "mtu": 67}
ELSEWHERE = {("alias", BAD[Bridge]["alias"]), ("master", "br-foreign")}
"""What says that a part is another port's, or is held by what is not ours."""
CASES = [
    (part, name, value)
    for part in (BRIDGE, VETH, TAP, MADE_TAP, ROW, VHOST_USER)
    for name, value in BAD[type(part)].items()
]


def test_a_bad_value_of_each_attribute_is_tried_here() -> None:
    # A flag is one by its type (wire.py); a peer, and what is of a birth, have tests of their own.
    for part in (BRIDGE, VETH, TAP, MADE_TAP, ROW, VHOST_USER):
        flags = {name for name in attributes_of(type(part)) if type(getattr(part, name)) is bool}
        assert BAD[type(part)].keys() | flags | births_of(part).keys() | {"peer"} >= set(attributes_of(type(part)))


@pytest.mark.parametrize(("part", "name", "value"), CASES, ids=lambda case: getattr(case, "kind", str(case)))
def test_a_value_that_is_out_of_bounds_is_not_written(part: Part, name: str, value: Any) -> None:
    bad = replace(part, **{name: value})
    assert unwritable(bad) == (name,)
    assert name in refusal([Update(part, bad)])
    if not isinstance(part, Tap):
        assert name in refusal([Create(bad)])


def test_all_that_may_not_be_written_is_told() -> None:
    said = refusal([Create(replace(BRIDGE, mtu=67, group=7))])
    assert said == f"refused: {BRIDGE.name} may not be given that mtu, group"


@pytest.mark.parametrize(("part", "name", "value"), CASES, ids=lambda case: getattr(case, "kind", str(case)))
def test_a_value_that_is_out_of_bounds_is_mended_kept_and_deleted(part: Part, name: str, value: Any) -> None:
    """It may have been found so: only what is to be written is range-checked."""
    found = replace(part, **{name: value})
    if (name, value) in ELSEWHERE:
        return
    permit([Update(found, part)])
    permit([Update(found, found)])
    if not isinstance(part, Tap):
        permit([Delete(found)])


@pytest.mark.parametrize("born", [{"qos_type": "egress-policer"}, {"isolated": True, "bridge": "tbr-5f2c0e1a-7"}])
def test_no_row_is_born_out_of_bounds_and_of_one_that_is_there_no_birth_is_written(born: dict[str, Any]) -> None:
    bad = replace(ROW, **born)
    assert next(iter(born)) in refusal([Create(bad)])
    step = Update(bad, replace(bad, vm_uuid=""))
    permit([step])
    assert changes_of(step) == {"vm_uuid": ""}


def test_no_bridge_is_made_out_of_bounds_for_a_row_that_moves() -> None:
    moved = replace(ROW, datapath_type="dummy")
    assert "datapath_type" in refusal([Update(replace(ROW, bridge="br-ex"), moved)])
    # Nothing else of it is written, so it may be as it was found.
    odd = replace(ROW, iface_status="odd", attached_mac="none")
    permit([Update(replace(odd, bridge="br-ex"), odd)])


def test_a_host_that_wants_its_ports_filtered_has_no_bridge_that_is_not() -> None:
    """A captured caller must not switch security groups off."""
    host, filtered = Settings(call_iptables=True), replace(BRIDGE, nf_call_iptables=True, nf_call_ip6tables=True)
    half = replace(filtered, nf_call_ip6tables=False)
    permit_plans([[Create(filtered)]], host)
    permit_plans([[Update(half, filtered)]], host)
    permit_plans([[Update(half, replace(half, mtu=1400))]], host)
    both, one = "nf_call_iptables, nf_call_ip6tables", "nf_call_ip6tables"
    for step, off in ((Create(BRIDGE), both), (Create(half), one), (Update(filtered, half), one)):
        with pytest.raises(Refused) as caught:
            permit_plans([[step]], host)
        assert str(caught.value) == (
            f"refused: {BRIDGE.name} may not be without {off}, since [hybridvif] call_iptables of this host "
            "asks for them; set it in the caller's configuration, too"
        )
        permit([step])


def test_trunk_bridges_are_allowed_all_together() -> None:
    row = replace(ROW, bridge="tbr-0b1c2d3e-0", bridge_name="tbr-0b1c2d3e-0")
    permit_plans([[Create(row)]], Settings(integration_bridges=("tbr-*",)))
    with pytest.raises(Refused, match="integration_bridges"):
        permit_plans([[Create(row)]], Settings(integration_bridges=("br-int",)))
    with pytest.raises(Refused, match="integration_bridges"):
        permit_plans([[Create(ROW)]], Settings(integration_bridges=("tbr-*",)))


@pytest.mark.parametrize(
    ("name", "value"), [("disable_ipv6", False), ("disable_ipv6", None), ("addr_gen_mode", "eui64")]
)
def test_what_a_bridge_that_grows_gets_anew_is_not_out_of_bounds(name: str, value: Any) -> None:
    """An executor sets it though it is no change: what is None before agrees with anything."""
    small = replace(BRIDGE, mtu=1000, disable_ipv6=None, addr_gen_mode=None)
    permit([Update(small, BRIDGE)])
    assert name in refusal([Update(small, replace(BRIDGE, **{name: value}))])


# Bridges of the switch.


def test_a_port_is_only_put_into_a_bridge_of_this_hosts_configuration() -> None:
    there = replace(ROW, bridge="br-ex")
    for step in (Create(there), Update(ROW, there)):
        said = refusal([step])
        assert "br-ex" in said
        assert "integration_bridges" in said
        assert "br-int, tbr-5f2c0e1a-7" in said
    permit([Create(replace(ROW, bridge="tbr-5f2c0e1a-7"))])


def test_a_port_in_any_bridge_is_brought_home_mended_and_deleted() -> None:
    there = replace(ROW, bridge="br-ex")
    permit([Update(there, ROW)])
    permit([Update(there, replace(there, type=PARKED))])
    permit([Delete(there)])


def test_one_bad_step_refuses_the_whole_call() -> None:
    steps = [Create(part) for part in WIRING]
    permit(steps)
    assert refusal(steps, [Create(replace(BRIDGE, name=OTHERS.bridge))])
