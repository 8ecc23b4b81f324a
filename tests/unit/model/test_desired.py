from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from hybridvif.model.parts import ISOLATING, Bridge, IvsPort, OvsPort, Veth, VhostUserPort, invalid_attributes
from hybridvif.model.port import Port, VifType, desired_state
from hybridvif.model.state import HostState
from tests.support.strategies import HYBRID, ports, the

PORT = Port(
    id="5f2c0e1a-7b00-4c00-8000-000000000001",
    mac="fa:16:3e:aa:bb:cc",
    instance_id="0b1c2d3e-0000-4000-8000-000000000002",
    mtu=1450,
    bridge="br-cloud",
)
OTHER = "91d3aa02-4100-4c00-8000-000000000003"


def test_desired_state_of_a_port_has_three_parts() -> None:
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
    assert desired_state(PORT) == HostState({bridge.name: bridge, veth.name: veth}, {row.name: row})


def test_row_with_another_interface_id_has_our_key() -> None:
    row = desired_state(replace(PORT, interface_id=OTHER)).ports["qvo5f2c0e1a-7b"]
    assert isinstance(row, OvsPort)
    assert (row.iface_id, row.port_id) == (OTHER, PORT.id)


def test_row_with_the_port_id_as_interface_id_has_no_key() -> None:
    assert desired_state(replace(PORT, interface_id=PORT.id)) == desired_state(PORT)


def test_row_on_a_trunk_bridge_is_never_isolated() -> None:
    rows = [
        the(OvsPort, desired_state(replace(PORT, isolate=isolate, bridge=bridge)))
        for isolate, bridge in ((True, "br-int"), (False, "br-int"), (True, "tbr-1"))
    ]
    assert [row.isolated for row in rows] == [True, False, False]


def test_row_on_a_trunk_bridge_has_its_name() -> None:
    rows = [the(OvsPort, desired_state(replace(PORT, bridge=bridge))) for bridge in ("br-int", "tbr-1")]
    assert [row.bridge_name for row in rows] == ["", "tbr-1"]


def test_bridge_with_call_iptables_has_both_flags() -> None:
    bridge = the(Bridge, desired_state(replace(PORT, call_iptables=True)))
    assert (bridge.nf_call_iptables, bridge.nf_call_ip6tables) == (True, True)


def test_row_without_qos_type_has_no_qos() -> None:
    rows = [the(OvsPort, desired_state(replace(PORT, qos_type=kind))) for kind in ("", "none", "linux-noop")]
    assert [row.qos_type for row in rows] == ["", "", "linux-noop"]


def test_ivs_port_has_a_name_only_and_the_same_links() -> None:
    desired = desired_state(replace(PORT, vif_type=VifType.IVS))
    assert desired.ports == {"qvo5f2c0e1a-7b": IvsPort(name="qvo5f2c0e1a-7b")}
    assert desired.links == desired_state(PORT).links


@pytest.mark.parametrize("mtu", [68, 1500, 9000, 65535])
def test_mtu_is_equal_at_every_hop(mtu: int) -> None:
    links = desired_state(replace(PORT, mtu=mtu)).links.values()
    mtus = [getattr(link, name) for link in links for name in ("mtu", "peer_mtu") if hasattr(link, name)]
    assert mtus == [mtu, mtu, mtu]


@given(ports(modes=HYBRID))
def test_desired_state_has_a_tap_only_with_create_tap(port: Port) -> None:
    desired = desired_state(port)
    tap = [port.names.tap] if port.create_tap else []
    assert list(desired.links) == [port.names.bridge, port.names.bridge_end, *tap]
    assert list(desired.ports) == [port.names.switch_end]


@given(ports())
def test_desired_state_is_writable(port: Port) -> None:
    assert {invalid_attributes(part) for part in desired_state(port)} == {()}


def test_desired_state_has_every_isolating_value() -> None:
    links = desired_state(replace(PORT, create_tap=True)).links.values()
    assert {type(link) for link in links} == {kind for kind, values in ISOLATING.items() if values}
    for link in links:
        assert {name: getattr(link, name) for name in ISOLATING[type(link)]} == ISOLATING[type(link)]


@pytest.mark.parametrize(("mode", "kind"), [("client", "dpdkvhostuser"), ("server", "dpdkvhostuserclient")])
def test_vhost_user_port_has_the_opposite_type_of_qemu_mode(mode: str, kind: str) -> None:
    """The type is the same as in os-vif (vif_plug_ovs/ovs.py, _plug_vhostuser)."""
    desired = desired_state(replace(PORT, vhostuser_mode=mode, mtu=1450, bridge="br-cloud"))
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
        mtu_request=1450,
        socket_as_configured=True,
    )
    assert desired == HostState({}, {row.name: row})


def test_vhost_user_port_keeps_its_datapath_type() -> None:
    row = the(VhostUserPort, desired_state(replace(PORT, vhostuser_mode="client", datapath_type="system")))
    assert row.datapath_type == "system"
