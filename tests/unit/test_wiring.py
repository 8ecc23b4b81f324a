from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from hybridvif.limits import ISOLATING, unwritable
from hybridvif.parts import Bridge, HostState, IvsPort, OvsPort, Veth, VhostUserPort
from hybridvif.port import Port, VifType
from hybridvif.wiring import wiring_of
from tests.unit.strategies import HYBRID, ports, the

PORT = Port(
    id="5f2c0e1a-7b00-4c00-8000-000000000001",
    mac="fa:16:3e:aa:bb:cc",
    instance_id="0b1c2d3e-0000-4000-8000-000000000002",
    mtu=1450,
    bridge="br-cloud",
)
OTHER = "91d3aa02-4100-4c00-8000-000000000003"


def test_the_wiring_of_a_port_is_these_three_parts() -> None:
    bridge = Bridge(
        name="qbr5f2c0e1a-7b",
        alias="5f2c0e1a-7b00-4c00-8000-000000000001",
        mtu=1450,
        up=True,
        forward_delay=0,
        ageing=0,
        stp=False,
        multicast_snooping=False,
        disable_ipv6=True,
        addr_gen_mode="none",
        arp_ignore=1,
        arp_announce=2,
        nf_call_iptables=None,
        nf_call_ip6tables=None,
        group=0,
        host_ip="off",
    )
    veth = Veth(
        name="qvb5f2c0e1a-7b",
        peer="qvo5f2c0e1a-7b",
        alias="5f2c0e1a-7b00-4c00-8000-000000000001",
        peer_alias="5f2c0e1a-7b00-4c00-8000-000000000001",
        mtu=1450,
        peer_mtu=1450,
        up=True,
        peer_up=True,
        promisc=True,
        peer_promisc=True,
        master="qbr5f2c0e1a-7b",
        group=0,
        host_ip="off",
        peer_host_ip="off",
        bridge_port="open",
    )
    row = OvsPort(
        name="qvo5f2c0e1a-7b",
        bridge="br-cloud",
        iface_id="5f2c0e1a-7b00-4c00-8000-000000000001",
        iface_status="active",
        attached_mac="fa:16:3e:aa:bb:cc",
        vm_uuid="0b1c2d3e-0000-4000-8000-000000000002",
        port_id="",
        bridge_name="",
        type="",
        realized=True,
    )
    assert wiring_of(PORT) == HostState({bridge.name: bridge, veth.name: veth}, {row.name: row})


def test_a_port_with_an_interface_id_of_its_own_bears_our_key() -> None:
    row = wiring_of(replace(PORT, interface_id=OTHER)).ports["qvo5f2c0e1a-7b"]
    assert isinstance(row, OvsPort)
    assert (row.iface_id, row.port_id) == (OTHER, PORT.id)


def test_an_interface_id_that_is_the_port_id_needs_no_key() -> None:
    assert wiring_of(replace(PORT, interface_id=PORT.id)) == wiring_of(PORT)


def test_a_port_to_be_isolated_is_born_so_but_on_no_trunk_bridge() -> None:
    rows = [
        the(OvsPort, wiring_of(replace(PORT, isolate=isolate, bridge=bridge)))
        for isolate, bridge in ((True, "br-int"), (False, "br-int"), (True, "tbr-1"))
    ]
    assert [row.isolated for row in rows] == [True, False, False]


def test_a_row_on_a_trunk_bridge_names_it() -> None:
    rows = [the(OvsPort, wiring_of(replace(PORT, bridge=bridge))) for bridge in ("br-int", "tbr-1")]
    assert [row.bridge_name for row in rows] == ["", "tbr-1"]


def test_what_a_bridge_calls_is_nobodys_wish_unless_it_is_asked_for() -> None:
    bridge = the(Bridge, wiring_of(replace(PORT, call_iptables=True)))
    assert (bridge.nf_call_iptables, bridge.nf_call_ip6tables) == (True, True)


def test_no_qos_is_asked_for_by_either_spelling_of_none() -> None:
    rows = [the(OvsPort, wiring_of(replace(PORT, qos_type=kind))) for kind in ("", "none", "linux-noop")]
    assert [row.qos_type for row in rows] == ["", "", "linux-noop"]


def test_an_indigo_switch_gets_a_port_that_is_only_a_name_and_the_same_links() -> None:
    wiring = wiring_of(replace(PORT, vif_type=VifType.IVS))
    assert wiring.ports == {"qvo5f2c0e1a-7b": IvsPort(name="qvo5f2c0e1a-7b")}
    assert wiring.links == wiring_of(PORT).links


@pytest.mark.parametrize("mtu", [68, 1500, 9000, 65535])
def test_the_mtu_is_the_same_at_every_hop(mtu: int) -> None:
    links = wiring_of(replace(PORT, mtu=mtu)).links.values()
    mtus = [getattr(link, name) for link in links for name in ("mtu", "peer_mtu") if hasattr(link, name)]
    assert mtus == [mtu, mtu, mtu]


@given(ports(modes=HYBRID))
def test_the_tap_is_in_no_wiring_but_where_it_is_to_be_made(port: Port) -> None:
    wiring = wiring_of(port)
    tap = [port.names.tap] if port.create_tap else []
    assert list(wiring.links) == [port.names.bridge, port.names.bridge_end, *tap]
    assert list(wiring.ports) == [port.names.switch_end]


@given(ports())
def test_all_of_a_wiring_is_writable(port: Port) -> None:
    assert {unwritable(part) for part in wiring_of(port)} == {()}


def test_wiring_has_every_isolating_value() -> None:
    links = wiring_of(replace(PORT, create_tap=True)).links.values()
    assert {type(link) for link in links} == set(ISOLATING)
    for link in links:
        assert {name: getattr(link, name) for name in ISOLATING[type(link)]} == ISOLATING[type(link)]


@pytest.mark.parametrize(("mode", "kind"), [("client", "dpdkvhostuser"), ("server", "dpdkvhostuserclient")])
def test_a_vhost_user_port_is_one_row_whose_type_is_the_other_end_of_qemus_mode(mode: str, kind: str) -> None:
    """As os-vif has it (vif_plug_ovs/ovs.py, _plug_vhostuser)."""
    wiring = wiring_of(replace(PORT, vhostuser_mode=mode, mtu=1450, bridge="br-cloud"))
    row = VhostUserPort(
        name="vhu5f2c0e1a-7b",
        bridge="br-cloud",
        iface_id="5f2c0e1a-7b00-4c00-8000-000000000001",
        iface_status="active",
        attached_mac="fa:16:3e:aa:bb:cc",
        vm_uuid="0b1c2d3e-0000-4000-8000-000000000002",
        port_id="",
        bridge_name="",
        type=kind,
        realized=True,
        datapath_type="netdev",
        mtu=1450,
        socket_as_configured=True,
    )
    assert wiring == HostState({}, {row.name: row})


def test_the_bridge_of_a_vhost_user_port_is_made_as_the_port_says() -> None:
    row = the(VhostUserPort, wiring_of(replace(PORT, vhostuser_mode="client", datapath_type="system")))
    assert row.datapath_type == "system"
