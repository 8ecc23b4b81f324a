"""Port: the request of the caller, and its desired state. Every Port is valid, because its constructor checks it.

The reason for each desired value, and the values that isolate the VM, are in parts.py.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hybridvif.model.errors import InvalidInput
from hybridvif.model.names import (
    DATAPATH_TYPES,
    EMPTY,
    FLAG,
    MAX_MTU,
    MAX_TAP_MTU,
    MIN_MTU,
    MTU,
    NONE,
    QOS_TYPES,
    SWITCH_BRIDGE,
    UUID,
    VHOSTUSER_MODES,
    PortNames,
    Rule,
    either,
    is_mac,
    is_trunk_bridge,
    names_of,
    not_canonical,
    one_of,
    text,
)
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
from hybridvif.model.state import HostState

if TYPE_CHECKING:
    from hybridvif.model.settings import Settings


_FLAGS = ("call_iptables", "isolate", "create_tap", "multiqueue")


class VifType(enum.Enum):
    """Kind of switch, with the values of Neutron's binding:vif_type."""

    OVS = "ovs"
    IVS = "ivs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One Neutron port, for hybrid or vhost-user plugging.

    Raises InvalidInput with the field, the value and the rule.

    >>> Port(id="5f2c0e1a-7b00-4c00-8000-000000000001", mac="FA:16:3E:AA:BB:CC",
    ...      instance_id="0b1c2d3e-0000-4000-8000-000000000002").mac
    'fa:16:3e:aa:bb:cc'
    """

    id: str
    """The Neutron port's id, a canonical UUID."""
    mac: str
    """The VM's MAC address: external_ids:attached-mac, by which Neutron's agent finds the port."""
    instance_id: str
    """The VM's id, a canonical UUID: external_ids:vm-uuid."""
    interface_id: str = ""
    """external_ids:iface-id, a canonical UUID. If empty, the port id."""
    mtu: int = 1500
    """Bytes, 68 to 65535, for the Linux bridge and both ends of the veth pair."""
    bridge: str = "br-int"
    """The integration bridge. It must exist, and the configuration of this host must list it."""
    vif_type: VifType = VifType.OVS
    """The kind of switch."""
    call_iptables: bool = False
    """True if its Linux bridge calls iptables and ip6tables, even if the host does not.

    False: the call_iptables of the host. If that is false too, the flags of the bridge are not changed."""
    isolate: bool = False
    """True if a new row stays in the dead VLAN until Neutron's agent wires it. For Open vSwitch.

    An existing row is not changed. A row on a trunk bridge is never isolated."""
    qos_type: str = ""
    """QoS of a new row: one of QOS_TYPES or "none". If empty, the default_qos_type of the host. For Open vSwitch.

    An existing row is not changed."""
    datapath_type: str = ""
    """Datapath of a new integration bridge: system or netdev. If empty, the default of Open vSwitch.

    A bridge is created if it is missing and create_bridges lists it. An existing bridge is not changed."""
    create_tap: bool = False
    """True if a persistent tap is created before the VM starts, and deleted with the port.

    An existing tap of libvirt is used unchanged. A managed tap stays, even if a later plug does not request it."""
    multiqueue: bool = False
    """True if each queue of the VM can open the new tap once. Requires create_tap.

    An existing tap keeps its queues."""
    vhostuser_mode: str = ""
    """Mode of QEMU for a vhost-user port, as in Neutron's binding:vif_details. "" for a hybrid port.

    client: QEMU connects and Open vSwitch listens. server: QEMU listens."""

    def __post_init__(self) -> None:
        names_of(self.id)
        for error in _errors(self):
            raise InvalidInput(f"port {self.id}: {error}")
        if not self.mac.islower():
            object.__setattr__(self, "mac", self.mac.lower())

    def on(self, settings: Settings) -> Port:
        """Return the port with the defaults of this host."""
        if self.vhostuser_mode:
            return replace(self, isolate=True) if settings.require_isolate > self.isolate else self
        takes_qos = self.vif_type is VifType.OVS and not self.qos_type and settings.default_qos_type != NONE
        isolate = self.isolate or (self.vif_type is VifType.OVS and settings.require_isolate)
        call_iptables = self.call_iptables or settings.call_iptables
        if not takes_qos and (isolate, call_iptables) == (self.isolate, self.call_iptables):
            return self
        qos_type = settings.default_qos_type if takes_qos else self.qos_type
        return replace(self, qos_type=qos_type, call_iptables=call_iptables, isolate=isolate)

    @property
    def names(self) -> PortNames:
        """The device names of this port."""
        return names_of(self.id)

    @property
    def iface_id(self) -> str:
        """The value of external_ids:iface-id."""
        return self.interface_id or self.id


_RULES: Mapping[str, tuple[Rule, str]] = {
    "mac": (
        text(lambda mac: is_mac(mac.lower()), "a unicast MAC address"),
        "is not a unicast MAC address; write it as fa:16:3e:aa:bb:cc",
    ),
    "instance_id": (UUID, ""),
    "interface_id": (either(EMPTY, UUID), ""),
    "mtu": (MTU, f"is not a whole number from {MIN_MTU} to {MAX_MTU}; leave it out for 1500"),
    "bridge": (
        SWITCH_BRIDGE,
        "cannot be the name of an Open vSwitch bridge; use 1 to 15 letters, digits, '_', '.' or '-'",
    ),
    **dict.fromkeys(_FLAGS, (FLAG, "is neither true nor false; leave it out for false")),
    "vif_type": (one_of(*VifType), f"is not known; use one of {', '.join(kind.value for kind in VifType)}"),
    "qos_type": (one_of("", NONE, *QOS_TYPES), f"is not known; use one of {', '.join((NONE, *QOS_TYPES))}"),
    "datapath_type": (one_of("", *DATAPATH_TYPES), f"is not known; use one of {', '.join(DATAPATH_TYPES)}"),
    "vhostuser_mode": (
        one_of("", *VHOSTUSER_MODES),
        f"is not known; use one of {', '.join(VHOSTUSER_MODES)}, or leave it out for a hybrid port",
    ),
}
"""The legal values of each field, and the sentence for any other value. "": that of not_canonical()."""
_NOT_OF_IVS = {
    "qos_type": "has none",
    "datapath_type": "has no bridges",
    "isolate": "has no VLAN tag of a port's",
    "vhostuser_mode": "has no such ports",
}


def _errors(port: Port) -> Iterator[str]:
    """Yield the errors of a port. Only the first is reported, and each check relies on the earlier ones."""
    for field, (is_legal, sentence) in _RULES.items():
        if not is_legal(port, getattr(port, field)):
            value = getattr(port, field)
            yield f"{field} {value!r} {sentence or not_canonical(value)}"
    if port.multiqueue and not port.create_tap:
        yield "multiqueue is of the tap that create_tap makes; give create_tap, too, or leave it out"
    if port.create_tap and port.mtu > MAX_TAP_MTU:
        yield f"mtu {port.mtu} is more than the {MAX_TAP_MTU} of a tap; make it smaller, or leave create_tap out"
    for field, reason in _NOT_OF_IVS.items() if port.vif_type is VifType.IVS else ():
        if getattr(port, field) not in ("", NONE, False):
            yield f"{field} is for Open vSwitch, and an Indigo Virtual Switch {reason}; leave it out"
    if port.vhostuser_mode and port.call_iptables:
        yield "a vhost-user port has no Linux bridge that could call iptables; leave call_iptables out"
    if port.vhostuser_mode and port.create_tap:
        yield "a vhost-user port has a socket and no tap that could be made; leave create_tap and multiqueue out"
    if port.vhostuser_mode and port.qos_type not in ("", NONE):
        yield f"qos_type {port.qos_type} is of the kernel's devices, and a vhost-user port is none; leave it out"


# -- the desired state -------------------------------------------------------------------------------------------------


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
    parts = [bridge, veth, row]
    if port.create_tap:
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
        parts.append(tap)
    return HostState().with_parts(*parts)


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
