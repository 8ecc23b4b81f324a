"""The hybrid recipe on one screen: a Port -> the HostState it needs. Why each value is what it is: reasons.py."""

from __future__ import annotations

from typing import Any

from hybridvif.names import is_trunk_bridge
from hybridvif.parts import (
    HOST_IP_OFF,
    OPEN,
    ROOT,
    VHOST_USER_TYPES,
    Bridge,
    HostState,
    IvsPort,
    MadeTap,
    OvsPort,
    Veth,
    VhostUserPort,
)
from hybridvif.port import QOS_TYPES, Port, VifType

ISOLATING_ARP_IGNORE, ISOLATING_ARP_ANNOUNCE = 1, 2


def wiring_of(port: Port) -> HostState:
    """The parts that a plugged port has, whole and in order."""
    names = port.names
    if port.vhostuser_mode:
        return HostState({}, {names.vhost_user: _vhost_user_port_of(port)})
    bridge = Bridge(
        name=names.bridge,
        alias=port.id,
        mtu=port.mtu,
        up=True,
        forward_delay=0,
        ageing=0,
        stp=False,
        multicast_snooping=False,
        disable_ipv6=True,
        addr_gen_mode="none",
        arp_ignore=ISOLATING_ARP_IGNORE,
        arp_announce=ISOLATING_ARP_ANNOUNCE,
        nf_call_iptables=port.call_iptables or None,
        nf_call_ip6tables=port.call_iptables or None,
        host_ip=HOST_IP_OFF,
    )
    veth = Veth(
        name=names.bridge_end,
        peer=names.switch_end,
        alias=port.id,
        peer_alias=port.id,
        mtu=port.mtu,
        peer_mtu=port.mtu,
        up=True,
        peer_up=True,
        promisc=True,
        peer_promisc=True,
        master=names.bridge,
        host_ip=HOST_IP_OFF,
        peer_host_ip=HOST_IP_OFF,
        bridge_port=OPEN,
    )
    wiring = HostState(
        {bridge.name: bridge, veth.name: veth}, {names.switch_end: _switch_port_of(port, names.switch_end)}
    )
    return wiring.having(_tap_of(port)) if port.create_tap else wiring


def tap_mac_of(mac: str) -> str:
    """The MAC address of the tap that carries a VM's: another, as libvirt gives it.

    A bridge takes what is sent to the address of one of its members for its own, and never passes it on.

    >>> tap_mac_of("fa:16:3e:aa:bb:cc")
    'fe:16:3e:aa:bb:cc'
    """
    return ("f2" if mac.startswith("fe") else "fe") + mac[2:]


def _tap_of(port: Port) -> MadeTap:
    return MadeTap(
        name=port.names.tap,
        alias=port.id,
        mac=tap_mac_of(port.mac),
        mtu=port.mtu,
        up=True,
        master=port.names.bridge,
        host_ip=HOST_IP_OFF,
        bridge_port=OPEN,
        owner=ROOT,
        multi_queue=port.multiqueue,
    )


def _switch_port_of(port: Port, name: str) -> OvsPort | IvsPort:
    if port.vif_type is VifType.IVS:
        return IvsPort(name=name)
    return OvsPort(
        name=name,
        **_row_of(port),
        datapath_type=port.datapath_type,
        qos_type=port.qos_type if port.qos_type in QOS_TYPES else "",
    )


def _vhost_user_port_of(port: Port) -> VhostUserPort:
    return VhostUserPort(
        name=port.names.vhost_user,
        **_row_of(port),
        # Of a vhost-user port the kernel's datapath knows nothing.
        datapath_type=port.datapath_type or "netdev",
        type=VHOST_USER_TYPES[port.vhostuser_mode],
        mtu=port.mtu,
    )


def _row_of(port: Port) -> dict[str, Any]:
    """What all rows of Open vSwitch have."""
    return {
        "bridge": port.bridge,
        "iface_id": port.iface_id,
        "iface_status": "active",
        "attached_mac": port.mac,
        "vm_uuid": port.instance_id,
        "port_id": port.id if port.iface_id != port.id else "",
        "bridge_name": port.bridge if is_trunk_bridge(port.bridge) else "",
        "isolated": port.isolate and not is_trunk_bridge(port.bridge),
    }
