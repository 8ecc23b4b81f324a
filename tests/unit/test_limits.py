from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridvif.limits import restorable, unwritable
from hybridvif.parts import (
    NOTHING,
    PARKED,
    PARTS,
    Bridge,
    HostState,
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
)
from hybridvif.port import MAX_MTU, MIN_MTU, VifType
from hybridvif.settings import Settings
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
    the,
)

OTHER = "91d3aa02-4100-4c00-8000-000000000003"

FLAGS: tuple[list[object], list[object]] = ([True, False], [1, 0, None, "yes"])
ALIASES: tuple[list[object], list[object]] = (
    ["", PORT.id, "5f2c0e1a-7b00-4c00-8000-00000000000f"],
    [OTHER, "uplink", PORT.id.upper(), f"{PORT.id}\n", None, 7, [PORT.id]],
)
UUIDS: tuple[list[object], list[object]] = (["", PORT.id, OTHER], ["vm-7", OTHER.upper(), None, 7])
MTUS: tuple[list[object], list[object]] = (
    [MIN_MTU, 1500, MAX_MTU],
    [MIN_MTU - 1, MAX_MTU + 1, -1, "1500", 1500.0, None, True],
)
GROUPS: tuple[list[object], list[object]] = ([0], [1, -1, False, "0", None])
MASTERS: tuple[list[object], list[object]] = (["", NAMES.bridge], ["br0", NAMES.switch_end, "qbr91d3aa02-41", None])

HOST_IPS: tuple[list[object], list[object]] = (["off"], ["on", "forwarding 1", "OFF", "", None, True])
BRIDGE_PORTS: tuple[list[object], list[object]] = (["open"], ["isolated on", "", "OPEN", None, True])

LIMITS: dict[type[Part], dict[str, tuple[list[object], list[object]]]] = {
    Bridge: {
        "alias": ALIASES,
        "mtu": MTUS,
        "up": FLAGS,
        "forward_delay": ([0, 1500, 3000], [-1, 3001, False, "0", 0.0, None]),
        "ageing": ([0, 30000, 360_000_000], [-1, 360_000_001, False, "0", None]),
        "stp": ([False], [True, 0, None, "yes"]),
        "multicast_snooping": ([False], [True, 0, None, "yes"]),
        "disable_ipv6": ([True], [False, None, 1, 0, "1"]),
        "addr_gen_mode": (["none"], ["eui64", "random", None, "stable_secret", "", 1, False]),
        "arp_ignore": ([1], [0, 2, 8, -1, 9, True, "1", None]),
        "arp_announce": ([2], [0, 1, -1, 3, True, "2", None]),
        "nf_call_iptables": ([True, False, None], [1, 0, "1"]),
        "nf_call_ip6tables": ([True, False, None], [1, 0, "1"]),
        "group": GROUPS,
        "host_ip": HOST_IPS,
    },
    Veth: {
        "peer": ([NAMES.switch_end], ["eth0", "", "qvo91d3aa02-41", None]),
        "alias": ALIASES,
        "peer_alias": ALIASES,
        "mtu": MTUS,
        "peer_mtu": MTUS,
        "up": FLAGS,
        "peer_up": FLAGS,
        "promisc": FLAGS,
        "peer_promisc": FLAGS,
        "master": MASTERS,
        "group": GROUPS,
        "host_ip": HOST_IPS,
        "peer_host_ip": HOST_IPS,
        "bridge_port": BRIDGE_PORTS,
    },
    Tap: {"master": MASTERS},
    MadeTap: {
        "alias": ([PORT.id], ["", *ALIASES[1]]),
        "mac": (["fe:16:3e:aa:bb:cc"], ["", "01:00:5e:00:00:01", "00:00:00:00:00:00", None]),
        "mtu": ([68, 1500, 65_521], [67, 65_522, "1500", None, True]),
        "up": FLAGS,
        "master": MASTERS,
        "group": GROUPS,
        "host_ip": HOST_IPS,
        "bridge_port": BRIDGE_PORTS,
        "owner": ([0], [-1, 1000, False, "0", None]),
        "multi_queue": FLAGS,
    },
    OvsPort: {
        "bridge": (["br-int", "br-ex"], ["", "br int", "br/int", "b" * 16, "-x", None, 7]),
        "iface_id": UUIDS,
        "iface_status": (["active", ""], ["inactive", "ACTIVE", None, 1]),
        "attached_mac": (["", "fa:16:3e:aa:bb:cc"], ["FA:16:3E:AA:BB:CC", "ff:ff:ff:ff:ff:ff", "x", None]),
        "vm_uuid": UUIDS,
        "port_id": ALIASES,
        "bridge_name": (["", "tbr-1", "tbr-5f2c0e1a-7"], ["br-int", "tbr-1 2", "tbr-" + 12 * "a", None, 7]),
        "type": (["", PARKED], ["internal", "dpdk", "vxlan", None, 0]),
        "realized": FLAGS,
        "isolated": FLAGS,
        "datapath_type": (["", "system", "netdev"], ["dummy", "netdev ", None, 1]),
        "qos_type": (["", "linux-noop", "linux-htb"], ["none", "egress-policer", "linux-noop\n", None, 1]),
    },
    IvsPort: {},
}
LIMITS[VhostUserPort] = LIMITS[OvsPort] | {
    "type": (["dpdkvhostuser", "dpdkvhostuserclient"], ["", PARKED, "dpdk", "internal", None, 0]),
    "qos_type": ([""], ["linux-noop", "none", None]),
    "mtu": ([None, 0, MIN_MTU, 1500, MAX_MTU], [MIN_MTU - 1, MAX_MTU + 1, -1, "1500", 1500.0, True, False]),
    "socket_as_configured": ([True], [False, 1, None, "/run/openvswitch"]),
}
WHOLE: dict[type[Part], Part] = {
    Bridge: BRIDGE,
    Veth: VETH,
    Tap: TAP,
    MadeTap: MADE_TAP,
    OvsPort: ROW,
    VhostUserPort: VHOST_USER,
    IvsPort: IvsPort(name=NAMES.switch_end),
}
EVERY = [(kind, attribute) for kind, attributes in LIMITS.items() for attribute in attributes]


def test_every_attribute_of_every_part_has_a_limit() -> None:
    for kind in PARTS:
        if not issubclass(kind, Stray):
            assert tuple(LIMITS[kind]) == attributes_of(kind)
            assert unwritable(WHOLE[kind], dict.fromkeys(attributes_of(kind), object())) == attributes_of(kind)


@pytest.mark.parametrize(("kind", "attribute"), EVERY)
def test_a_legal_value_may_be_written(kind: type[Part], attribute: str) -> None:
    for value in LIMITS[kind][attribute][0]:
        assert unwritable(WHOLE[kind], {attribute: value}) == (), value


@pytest.mark.parametrize(("kind", "attribute"), EVERY)
def test_an_illegal_value_may_not_be_written(kind: type[Part], attribute: str) -> None:
    for value in LIMITS[kind][attribute][1]:
        assert unwritable(WHOLE[kind], {attribute: value}) == (attribute,), value


@pytest.mark.parametrize("kind", WHOLE)
def test_a_part_in_order_may_be_written_as_a_whole(kind: type[Part]) -> None:
    assert unwritable(WHOLE[kind]) == ()


def test_no_row_is_born_in_the_dead_vlan_of_a_trunk_bridge() -> None:
    assert unwritable(replace(ROW, bridge="tbr-1"), {"isolated": True}) == ("isolated",)
    assert unwritable(replace(ROW, bridge="tbr-1"), {"isolated": False}) == ()


def test_what_is_made_again_on_the_way_back_is_born_as_the_plug_would_have_had_it() -> None:
    born = wiring_of(replace(PORT, isolate=True, qos_type="linux-noop"))
    goal, left = restorable(WIRING, born)
    assert (goal.ports[ROW.name], left) == (replace(ROW, isolated=True, qos_type="linux-noop"), ())
    on_a_trunk = WIRING.having(replace(ROW, bridge="tbr-1"))
    assert restorable(on_a_trunk, wiring_of(replace(PORT, isolate=True))) == (on_a_trunk, ())


def test_all_that_may_not_be_written_is_named_in_the_order_of_declaration() -> None:
    assert unwritable(replace(BRIDGE, group=7, mtu=0, alias="x")) == ("alias", "mtu", "group")


def test_only_the_attributes_that_are_given_are_judged() -> None:
    assert unwritable(replace(BRIDGE, group=7), {"mtu": 1500}) == ()


@pytest.mark.parametrize(
    "stray", [Stray(name=NAMES.bridge, what="a dummy link"), StrayPort(name=NAMES.switch_end, what="a bond")]
)
def test_a_stray_may_not_be_written_at_all(stray: Part) -> None:
    assert unwritable(stray) == ("stray",)
    assert unwritable(stray, {}) == ("stray",)


@pytest.mark.parametrize("part", [replace(BRIDGE, name="br0"), replace(ROW, name="eth0")])
def test_an_id_belongs_on_no_part_whose_name_is_not_ours(part: Part) -> None:
    mark = "alias" if isinstance(part, Bridge) else "port_id"
    assert unwritable(part, {mark: PORT.id}) == (mark,)


@pytest.mark.parametrize("part", [replace(VETH, name="veth0"), replace(TAP, name="tap0")])
def test_a_link_whose_name_is_not_ours_has_no_bridge_of_its_own(part: Part) -> None:
    assert unwritable(part, {"master": NAMES.bridge}) == ("master",)


# What a rollback may go back to.


def test_a_state_that_is_all_writable_can_be_gone_back_to() -> None:
    for first in (NOTHING, WIRING, WIRING.lacking(VETH), WIRING.having(replace(BRIDGE, mtu=1400, ageing=30000))):
        assert restorable(first, WIRING) == (first, ())


def test_what_may_not_be_written_stays_as_wired_and_is_named() -> None:
    first = WIRING.having(
        replace(BRIDGE, group=7, mtu=1400, addr_gen_mode="stable_secret"),
        replace(VETH, alias="uplink"),
        replace(ROW, attached_mac="?", bridge="br-ex"),
    )
    assert restorable(first, WIRING) == (
        WIRING.having(replace(BRIDGE, mtu=1400), replace(ROW, bridge="br-ex")),
        (
            "qbr5f2c0e1a-7b: addr_gen_mode",
            "qbr5f2c0e1a-7b: group",
            "qvb5f2c0e1a-7b: alias",
            "qvo5f2c0e1a-7b: attached_mac",
        ),
    )


WEAK = {
    "stp": True,
    "multicast_snooping": True,
    "disable_ipv6": False,
    "addr_gen_mode": "eui64",
    "arp_ignore": 0,
    "arp_announce": 0,
    "host_ip": "forwarding 1",
}


@pytest.mark.parametrize(("name", "value"), WEAK.items())
def test_rollback_leaves_what_isolates_as_wired(name: str, value: object) -> None:
    first = WIRING.having(replace(BRIDGE, mtu=1400, **{name: value}))  # type: ignore[arg-type]
    goal, left = restorable(first, WIRING)
    assert (goal, left) == (WIRING.having(replace(BRIDGE, mtu=1400)), (f"{BRIDGE.name}: {name}",))


def test_rollback_of_vhost_user_port_makes_no_weak_links() -> None:
    """The links that made room are made anew, and nothing in the wiring says with which values."""
    bridge = replace(BRIDGE, mtu=1000, disable_ipv6=None, addr_gen_mode=None, host_ip="forwarding 1")
    veth = replace(VETH, host_ip="IPv6 on", bridge_port=None)
    goal, left = restorable(HostState().having(bridge, veth), wiring_of(replace(PORT, vhostuser_mode="server")))
    assert goal == HostState().having(replace(BRIDGE, mtu=1000), VETH)
    assert left == (f"{BRIDGE.name}: host_ip", f"{VETH.name}: host_ip")


def test_what_was_never_touched_is_left_as_it_is_and_not_named() -> None:
    first = WIRING.having(replace(BRIDGE, group=7), replace(VETH, alias="uplink"))
    now = first.having(replace(VETH, alias=PORT.id))
    goal, left = restorable(first, WIRING, now)
    assert left == ("qvb5f2c0e1a-7b: alias",)
    assert goal == first.having(replace(VETH, alias=PORT.id))


def test_no_bridge_goes_back_to_where_iptables_would_not_see_its_packets() -> None:
    wiring = wiring_of(replace(PORT, call_iptables=True))
    first = wiring.having(replace(BRIDGE, nf_call_iptables=False, nf_call_ip6tables=True))
    assert restorable(first, wiring, wiring, Settings(call_iptables=True)) == (
        wiring,
        ("qbr5f2c0e1a-7b: nf_call_iptables",),
    )
    assert restorable(first, wiring, wiring, Settings()) == (first, ())


def test_a_row_does_not_go_back_to_a_bridge_that_may_not_be_written() -> None:
    first = WIRING.having(replace(ROW, bridge="br-ex"))
    assert restorable(first, WIRING, WIRING, Settings()) == (WIRING, ("qvo5f2c0e1a-7b: bridge",))
    assert restorable(first, WIRING, WIRING, Settings(integration_bridges=("br-int", "br-ex"))) == (first, ())


@pytest.mark.parametrize("iface_id", ["91d3aa02-4100-4c00-8000-000000000003", "vm-7"])
def test_a_row_does_not_go_back_to_ids_that_tell_of_another_port(iface_id: str) -> None:
    port = replace(PORT, interface_id="91d3aa02-4100-4c00-8000-000000000003")
    wired = the(OvsPort, wiring_of(port))
    first = WIRING.having(replace(ROW, iface_id=iface_id))
    goal, left = restorable(first, wiring_of(port))
    assert goal == WIRING.having(wired)
    assert "qvo5f2c0e1a-7b: port_id" in left
    first = WIRING.having(replace(ROW, iface_id="0b1c2d3e-0000-4000-8000-000000000003", attached_mac=""))
    assert restorable(first, WIRING) == (WIRING.having(replace(ROW, attached_mac="")), ("qvo5f2c0e1a-7b: iface_id",))


def test_a_tap_and_a_stray_are_left_to_themselves() -> None:
    first = HostState().having(
        replace(TAP, master="virbr0"),
        Stray(name=NAMES.bridge, what="a dummy link"),
        StrayPort(name=NAMES.switch_end, what="a bond"),
    )
    assert restorable(first, WIRING) == (first, ())


def test_a_row_of_the_other_switch_has_nothing_wired_to_take_its_values_from() -> None:
    first = HostState().having(replace(ROW, iface_id="?"))
    assert restorable(first, wiring_of(replace(PORT, vif_type=VifType.IVS))) == (first, ())


@given(st.data())
def test_no_part_is_added_to_or_taken_from_what_a_rollback_goes_back_to(data: st.DataObject) -> None:
    port = data.draw(ports())
    first = data.draw(states_of(port))
    goal, left = restorable(first, wiring_of(port))
    assert [part.name for part in goal] == [part.name for part in first]
    assert len(set(left)) == len(left)
    assert all(unwritable(part) == () for part in goal if not isinstance(part, Tap))
