"""Tests of the declarations of attributes: legal values and reasons."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridvif.model.names import MAX_MTU, MIN_MTU, Reason
from hybridvif.model.parts import (
    PARTS,
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
    invalid_attributes,
    reason_of,
)
from tests.support.strategies import BRIDGE, MADE_TAP, NAMES, NATIVE, PORT, REASONS, ROW, TAP, VETH, VHOST_USER

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

VALUES: dict[type[Part], dict[str, tuple[list[object], list[object]]]] = {
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
    ManagedTap: {
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
        "converting": (["", "yes"], ["no", "native", None, True]),
        "type": (["", PLACEHOLDER_TYPE], ["internal", "dpdk", "vxlan", None, 0]),
        "realized": FLAGS,
        "mtu_request": ([None, 0], [MIN_MTU, 1200, 1500, MAX_MTU, -1, "0", 0.0, False]),
        "isolated": FLAGS,
        "datapath_type": (["", "system", "netdev"], ["dummy", "netdev ", None, 1]),
        "qos_type": (["", "linux-noop", "linux-htb"], ["none", "egress-policer", "linux-noop\n", None, 1]),
    },
    IvsPort: {},
}
VALUES[NativePort] = VALUES[OvsPort] | {"port_id": ([PORT.id], ["", *ALIASES[1]])}
VALUES[VhostUserPort] = VALUES[OvsPort] | {
    "type": (["dpdkvhostuser", "dpdkvhostuserclient"], ["", PLACEHOLDER_TYPE, "dpdk", "internal", None, 0]),
    "qos_type": ([""], ["linux-noop", "none", None]),
    "mtu_request": ([None, 0, MIN_MTU, 1500, MAX_MTU], [MIN_MTU - 1, MAX_MTU + 1, -1, "1500", 1500.0, True, False]),
    "socket_as_configured": ([True], [False, 1, None, "/run/openvswitch"]),
}
WHOLE: dict[type[Part], Part] = {
    Bridge: BRIDGE,
    Veth: VETH,
    Tap: TAP,
    ManagedTap: MADE_TAP,
    OvsPort: ROW,
    NativePort: NATIVE,
    VhostUserPort: VHOST_USER,
    IvsPort: IvsPort(name=NAMES.switch_end),
}
EVERY = [(kind, attribute) for kind, attributes in VALUES.items() for attribute in attributes]


def test_attribute_has_legal_values() -> None:
    for kind in PARTS:
        if not issubclass(kind, ForeignObject):
            assert tuple(VALUES[kind]) == attributes_of(kind)
            assert invalid_attributes(WHOLE[kind], dict.fromkeys(attributes_of(kind), object())) == attributes_of(kind)


@pytest.mark.parametrize(("kind", "attribute"), EVERY)
def test_legal_value_is_valid(kind: type[Part], attribute: str) -> None:
    for value in VALUES[kind][attribute][0]:
        assert invalid_attributes(WHOLE[kind], {attribute: value}) == (), value


@pytest.mark.parametrize(("kind", "attribute"), EVERY)
def test_illegal_value_is_invalid(kind: type[Part], attribute: str) -> None:
    for value in VALUES[kind][attribute][1]:
        assert invalid_attributes(WHOLE[kind], {attribute: value}) == (attribute,), value


@pytest.mark.parametrize("kind", WHOLE)
def test_desired_part_is_valid(kind: type[Part]) -> None:
    assert invalid_attributes(WHOLE[kind]) == ()


def test_isolated_row_on_a_trunk_bridge_is_invalid() -> None:
    assert invalid_attributes(replace(ROW, bridge="tbr-1"), {"isolated": True}) == ("isolated",)
    assert invalid_attributes(replace(ROW, bridge="tbr-1"), {"isolated": False}) == ()


def test_invalid_attributes_are_in_declaration_order() -> None:
    assert invalid_attributes(replace(BRIDGE, group=7, mtu=0, alias="x")) == ("alias", "mtu", "group")


def test_invalid_attributes_of_given_values_ignores_the_others() -> None:
    assert invalid_attributes(replace(BRIDGE, group=7), {"mtu": 1500}) == ()


@pytest.mark.parametrize(
    "foreign",
    [ForeignObject(name=NAMES.bridge, what="a dummy link"), ForeignPort(name=NAMES.switch_end, what="a bond")],
)
def test_foreign_object_is_invalid(foreign: Part) -> None:
    assert invalid_attributes(foreign) == ("stray",)
    assert invalid_attributes(foreign, {}) == ("stray",)


@pytest.mark.parametrize("part", [replace(BRIDGE, name="br0"), replace(ROW, name="eth0")])
def test_port_id_on_a_foreign_name_is_invalid(part: Part) -> None:
    tag = "alias" if isinstance(part, Bridge) else "port_id"
    assert invalid_attributes(part, {tag: PORT.id}) == (tag,)


@pytest.mark.parametrize("part", [replace(VETH, name="veth0"), replace(TAP, name="tap0")])
def test_master_of_a_foreign_name_is_invalid(part: Part) -> None:
    assert invalid_attributes(part, {"master": NAMES.bridge}) == ("master",)


def test_reason_exists_for_every_attribute_and_no_other() -> None:
    assert set(REASONS) == set(EVERY)


def test_reason_is_one_clause_without_full_stop() -> None:
    assert not [
        reason.text
        for reason in REASONS.values()
        if not reason.text or reason.text.endswith(".") or "\n" in reason.text
    ]


def test_reason_of_a_part_depends_on_its_kind() -> None:
    assert reason_of(BRIDGE, "mtu") == REASONS[Bridge, "mtu"]
    assert reason_of(VETH, "master") == REASONS[Veth, "master"]
    assert reason_of(ROW, "bridge") == REASONS[OvsPort, "bridge"]


def test_reason_of_unknown_attribute_raises() -> None:
    with pytest.raises(KeyError):
        reason_of(ROW, "tag")


def test_reason_shows_its_bugs() -> None:
    assert str(Reason("because", (1129055,))) == "because (LP 1129055)"
    assert str(Reason("because", (1129055, 7))) == "because (LP 1129055, 7)"
    assert str(Reason("because")) == "because"
