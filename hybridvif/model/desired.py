"""The desired state of a port. The reason for each value, and the values that isolate the VM, are in parts.py."""

from __future__ import annotations

from hybridvif.model.attributes import QOS_TYPES
from hybridvif.model.names import is_trunk_bridge
from hybridvif.model.parts import (
    ISOLATING,
    VHOST_USER_TYPES,
    Bridge,
    IvsPort,
    ManagedTap,
    OvsPort,
    Veth,
    VhostUserPort,
    attributes_of,
)
from hybridvif.model.port import Port, VifType
from hybridvif.model.state import HostState


def desired_state(port: Port) -> HostState:
    """Return the parts of a plugged port, complete and in sync."""
    row = _row_of(port)
    if isinstance(row, VhostUserPort):
        return HostState().with_parts(row)
    names = port.names
    bridge = Bridge(
        name=names.bridge,
        alias=port.id,
        mtu=port.mtu,
        up=True,
        forward_delay=0,
        ageing=0,
        nf_call_iptables=port.call_iptables or None,
        nf_call_ip6tables=port.call_iptables or None,
        **ISOLATING[Bridge],
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
        **ISOLATING[Veth],
    )
    tap = ManagedTap(
        name=names.tap,
        alias=port.id,
        mac=tap_mac_of(port.mac),
        mtu=port.mtu,
        up=True,
        master=names.bridge,
        multi_queue=port.multiqueue,
        **ISOLATING[ManagedTap],
    )
    return HostState().with_parts(bridge, veth, row, *([tap] if port.create_tap else []))


def tap_mac_of(mac: str) -> str:
    """Return the MAC address of the tap of a VM. It differs from the VM's address, as with libvirt.

    A bridge consumes frames that are addressed to one of its members, and never forwards them.

    >>> tap_mac_of("fa:16:3e:aa:bb:cc")
    'fe:16:3e:aa:bb:cc'
    """
    return ("f2" if mac.startswith("fe") else "fe") + mac[2:]


def _row_of(port: Port) -> OvsPort | IvsPort:
    if port.vif_type is VifType.IVS:
        return IvsPort(name=port.names.switch_end)
    is_trunk = is_trunk_bridge(port.bridge)
    row = OvsPort(
        name=port.names.switch_end,
        bridge=port.bridge,
        iface_id=port.iface_id,
        iface_status="active",
        attached_mac=port.mac,
        vm_uuid=port.instance_id,
        port_id=port.id if port.iface_id != port.id else "",
        bridge_name=port.bridge if is_trunk else "",
        isolated=port.isolate and not is_trunk,
        datapath_type=port.datapath_type,
        qos_type=port.qos_type if port.qos_type in QOS_TYPES else "",
    )
    if not port.vhostuser_mode:
        return row
    values = {name: getattr(row, name) for name in attributes_of(OvsPort)} | {
        "name": port.names.vhost_user,
        "type": VHOST_USER_TYPES[port.vhostuser_mode],
        "mtu_request": port.mtu,
        # The kernel's datapath does not support vhost-user ports.
        "datapath_type": port.datapath_type or "netdev",
    }
    return VhostUserPort(**values)
