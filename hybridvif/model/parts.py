"""Parts and their attributes: eight kinds, and ForeignObject for an object that only has one of our names.

A part holds the attributes that hybridvif sets. Nothing else is compared or changed: the VLAN tag belongs to Neutron's
agent, and most attributes of a tap to libvirt. Each attribute declares its legal values and its reason. An observed
part may hold any value. None agrees with any value: this kernel lacks the attribute, or no value is desired.

A create-only attribute is written when its part is created, and never compared or updated afterwards. An observed part
has the default value.
"""

# Without `from __future__ import annotations`: the declarations are read from the annotations.

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, TypeVar

from hybridvif.model.names import (
    DATAPATH_TYPES,
    EMPTY,
    FLAG,
    MAC,
    MAX_TAP_MTU,
    MIN_MTU,
    MTU,
    QOS_TYPES,
    SWITCH_BRIDGE,
    TRUNK_BRIDGE,
    UUID,
    Attribute,
    Reason,
    attribute,
    between,
    either,
    flag_outside_trunk,
    isolating,
    one_of,
    own_name,
    own_port_id,
)

PLACEHOLDER_TYPE = "patch"
"""Interface type of a placeholder, a row whose device is being recreated: a patch port without a peer."""
DEAD_VLAN = 4095
"""The VLAN in which Neutron's agent drops every packet. IEEE 802.1Q reserves this number."""
VHOST_USER_TYPES: Mapping[str, str] = {"client": "dpdkvhostuser", "server": "dpdkvhostuserclient"}
"""Interface type of a vhost-user port by the mode of QEMU, as in os-vif. The switch has the other mode."""
HOST_IP_OFF = "off"
"""host_ip of a device without IP: the host does not receive, answer or route. The only value that is written."""
OPEN = "open"
"""bridge_port of a member that exchanges every packet with its bridge, once. The only value that is written."""
CONVERTING = "yes"
"""converting of a row while its port is converted from a hybrid port to a native one, or back."""
KERNEL_DATAPATH = "ovs-system"
"""The master of every port of Open vSwitch's kernel datapath."""
ROOT, ANYBODY = 0, -1
"""Owners of a tap: the uid of root, and no owner. Without an owner every local user may attach."""
MAX_AGEING = 360_000_000
"""Hundredths of a second. The kernel's clock arithmetic takes it without overflow."""
MAX_FORWARD_DELAY = 3_000
"""Hundredths of a second: the maximum of IEEE 802.1D and of the kernel."""

_OWN_BRIDGE = either(EMPTY, own_name("bridge"))
_ACCEPTED = ("not taken by ovs-vswitchd", "taken by ovs-vswitchd")

# Attributes of several parts.
_Tag = Annotated[
    str,
    attribute(
        either(EMPTY, own_port_id),
        "the full port id identifies the owner: two ports can share the 11 characters of a name",
    ),
]
_Mtu = Annotated[int, attribute(MTU, "the network's MTU at every hop, updated on re-plug", 1623876, 1959586)]
_Promisc = Annotated[bool, attribute(FLAG, "frames for the VM's MAC must pass a device with another MAC")]
_Up = Annotated[
    bool, attribute(FLAG, "a device that is down forwards nothing", 1597287, label="", words=("down", "up"))
]
_Firewall = Annotated[
    bool | None,
    attribute(
        one_of(True, False, None), "only on request: Neutron's hybrid firewall filters the packets of this bridge only"
    ),
]
# HOST_IP_OFF, or the settings that let the host's IP stack receive.
_HostIp = Annotated[
    str | None,
    isolating(
        HOST_IP_OFF,
        "no IP of the host on any device of the port, so that the VM cannot reach or configure the host",
        *(1302080, 1470931, 1825888),
    ),
]
# OPEN, or the flags that make the bridge withhold or repeat packets. None outside of our bridges.
_BridgePort = Annotated[
    str | None, isolating(OPEN, "a flag that isolates, locks or does not flood a bridge port stops the VM's packets")
]
# "ip link delete group" deletes every link of a group.
_Group = Annotated[
    int, attribute(one_of(0), "a bulk delete deletes a whole group, also a port that a killed bulk delete left in it")
]


class Role(enum.Enum):
    """Kind of object that an executor is responsible for."""

    LINK = "link"
    SWITCH = "switch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Base class of all parts."""

    kind: ClassVar[str]
    role: ClassVar[Role] = Role.LINK
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge(Part):
    """The Linux bridge of one port, qbr. `ip` equivalent: ip link add qbr type bridge.

    Its MAC address is not an attribute. The executor draws one when it creates the bridge.
    """

    kind: ClassVar[str] = "bridge"
    alias: _Tag
    mtu: Annotated[int, attribute(MTU, "explicit, else the kernel resets it when the bridge is empty", 1623876)]
    up: _Up
    forward_delay: Annotated[
        int, attribute(between(0, MAX_FORWARD_DELAY), "no learning delay: the first DHCP request must pass", 1129055)
    ]
    """Hundredths of a second, the unit of IFLA_BR_FORWARD_DELAY."""
    ageing: Annotated[
        int,
        attribute(
            between(0, MAX_AGEING),
            "floods like a hub: no loss during live migration; only on this private bridge",
            *(1715317, 1414559, 1837252),
        ),
    ]
    """Hundredths of a second. 0: never learn, flood like a hub."""
    stp: Annotated[
        bool, isolating(False, "there is no loop behind a private two-port bridge, and STP would delay the port")
    ]
    multicast_snooping: Annotated[
        bool, isolating(False, "snooping drops IPv6 neighbor discovery on a two-port bridge", 1276038, label="snooping")
    ]
    disable_ipv6: Annotated[
        bool | None,
        isolating(
            True,
            "a tenant's router advertisements must not configure the host",
            1302080,
            1470931,
            label="ipv6",
            words=("on", "off"),
        ),
    ]
    addr_gen_mode: Annotated[
        str | None, isolating("none", "no link-local address of the host on a tenant's segment", 1302080, 1470931)
    ]
    """The word of `ip -d link`: eui64, none, stable_secret, random."""
    arp_ignore: Annotated[int, isolating(1, "the bridge must not answer ARP for the host's addresses", 1825888)]
    arp_announce: Annotated[int, isolating(2, "the bridge must not announce the host's addresses", 1825888)]
    nf_call_iptables: _Firewall = None
    """True if iptables filters the packets of this bridge, even if net.bridge.bridge-nf-call-iptables is 0."""
    nf_call_ip6tables: _Firewall = None
    group: _Group = 0
    host_ip: _HostIp = None
    """Of IPv4 only. IPv6 has attributes of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Veth(Part):
    """The veth pair. Its name is the end on the Linux bridge, qvb; its peer is the end on the switch, qvo."""

    kind: ClassVar[str] = "veth"
    peer: Annotated[str, attribute(own_name("switch_end"), "the other end of the pair, on the switch")]
    alias: _Tag
    peer_alias: _Tag
    mtu: _Mtu
    peer_mtu: _Mtu
    up: _Up
    peer_up: _Up
    promisc: _Promisc
    peer_promisc: _Promisc
    master: Annotated[
        str, attribute(_OWN_BRIDGE, "Neutron's firewall filters the port on this bridge, between tap and qvb")
    ]
    """The bridge that holds qvb, or "". The switch sets the master of qvo."""
    group: _Group = 0
    host_ip: _HostIp = None
    peer_host_ip: _HostIp = None
    bridge_port: _BridgePort = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap(Part):
    """The VM's device of libvirt, of any kind. hybridvif sets its master only, when it recreates the bridge."""

    kind: ClassVar[str] = "tap"
    master: Annotated[
        str, attribute(_OWN_BRIDGE, "a recreated bridge has lost the VM's device, and libvirt does not put it back")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedTap(Part):
    """The VM's device, created by hybridvif before the VM starts. `ip` equivalent: ip tuntap add tap mode tap.

    The alias makes the difference: a tap without a port id that matches its name is a Tap.
    """

    kind: ClassVar[str] = "made-tap"
    """A word of the JSON documents, which stays."""
    # A tap without an alias would belong to libvirt from then on.
    alias: Annotated[
        str, attribute(own_port_id, "the full port id marks the tap as created by hybridvif, and deleted with the port")
    ]
    mac: Annotated[str, attribute(MAC, "not the VM's own: a bridge consumes frames for the address of a member")]
    mtu: Annotated[
        int,
        attribute(
            between(MIN_MTU, MAX_TAP_MTU), "the network's MTU at every hop, updated on re-plug", 1623876, 1959586
        ),
    ]
    up: _Up
    master: Annotated[str, attribute(_OWN_BRIDGE, "the VM is connected before its first packet", 2069718)]
    group: _Group = 0
    host_ip: _HostIp = None
    bridge_port: _BridgePort = None
    owner: Annotated[
        int | None, isolating(ROOT, "root: without an owner every local user may attach to the tap and act as the VM")
    ] = None
    """The uid that may attach, beside CAP_NET_ADMIN. ANYBODY for no owner."""
    multi_queue: Annotated[
        bool,
        attribute(
            FLAG, "as many queues as the VM has: it cannot open a tap that was created for one", create_only=True
        ),
    ] = False
    """True if each queue of the VM can open it once (IFF_MULTI_QUEUE). The kernel cannot change it later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OvsPort(Part):
    """The OVSDB rows of one port: a Port and its Interface, named qvo, on a Bridge. "" is an absent id."""

    kind: ClassVar[str] = "ovs-port"
    role: ClassVar[Role] = Role.SWITCH
    bridge: Annotated[
        str, attribute(SWITCH_BRIDGE, "the integration bridge; a row is moved, never deleted and added again", 1670628)
    ]
    iface_id: Annotated[str, attribute(either(EMPTY, UUID), "Neutron's agent ignores a port without it")]
    iface_status: Annotated[str, attribute(one_of("active", ""), "marks the interface as in use for Neutron's agent")]
    attached_mac: Annotated[str, attribute(either(EMPTY, MAC), "Neutron's agent ignores a port without it")]
    vm_uuid: Annotated[str, attribute(either(EMPTY, UUID), "the VM of the port, for operators and tools")]
    port_id: Annotated[
        str,
        attribute(
            either(EMPTY, own_port_id),
            "hybridvif's own key, only if iface-id is not the port id",
            label="hybridvif-port-id",
        ),
    ]
    """external_ids:hybridvif-port-id: our own key. "" if iface_id is the port id."""
    bridge_name: Annotated[
        str,
        attribute(
            either(EMPTY, TRUNK_BRIDGE),
            "only on a trunk bridge: Neutron's agent uses it to clean up after a deleted trunk",
            2087944,
        ),
    ] = ""
    """external_ids:bridge_name: the trunk bridge. "" on any other bridge."""
    converting: Annotated[
        str,
        attribute(
            one_of("", CONVERTING),
            "only during a conversion: marks an interrupted one, and a requested OpenFlow port number",
            label="hybridvif-converting",
        ),
    ] = ""
    """external_ids:hybridvif-converting: "" or CONVERTING. Interface.ofport_request is cleared with it."""
    type: Annotated[
        str,
        attribute(
            one_of("", PLACEHOLDER_TYPE),
            "a system device; a patch as placeholder only while its device is recreated",
            1519926,
        ),
    ] = ""
    """Interface.type: "" for a system device, PLACEHOLDER_TYPE while its device is recreated."""
    realized: Annotated[
        bool,
        attribute(
            FLAG, "ovs-vswitchd must have accepted its device or socket, or no packet passes", label="", words=_ACCEPTED
        ),
    ] = True
    """True if ovs-vswitchd has accepted the current device. Read back, never written."""
    mtu_request: Annotated[
        int | None,
        attribute(
            one_of(None, 0),
            "none: ovs-vswitchd sets the device to it after every plug, and the kernel then gives it IPv6 back",
            *(1623876, 1959586),
        ),
    ] = 0
    """The MTU in bytes that ovs-vswitchd sets repeatedly. 0: no request. None: Open vSwitch has no such column.

    A request of the port's MTU is left as it was found. It is the only MTU of a vhost-user port.
    """
    isolated: Annotated[
        bool,
        attribute(
            flag_outside_trunk,
            "only on creation of the row: no packet may pass before Neutron's agent has wired the port",
            *(1734320, 2023300, 1930414, 2069543),
            create_only=True,
        ),
    ] = False
    """True if it is created in the dead VLAN: Port.tag and trunks are DEAD_VLAN, and vlan_mode is trunk."""
    datapath_type: Annotated[
        str,
        attribute(
            one_of("", *DATAPATH_TYPES),
            "only if the bridge is created with the row: a change would disconnect every port of the bridge",
            create_only=True,
        ),
    ] = ""
    """The datapath of its bridge, if the bridge is created with the row. "" for Open vSwitch's default."""
    qos_type: Annotated[
        str,
        attribute(
            one_of("", *QOS_TYPES),
            "only on creation of the row: otherwise ovs-vswitchd removes the queueing of the device",
            *(2017868, 2133225),
            create_only=True,
        ),
    ] = ""
    """The type of the QoS row that comes and goes with it. "" for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativePort(OvsPort):
    """The OVSDB rows of a converted port, whose tap is a port of the switch itself. It has the name of the tap.

    A row without our own key comes from libvirt or os-vif. It is no NativePort.
    """

    kind: ClassVar[str] = "native-port"
    port_id: Annotated[
        str,
        attribute(
            own_port_id,
            "hybridvif's own key marks the port as converted, so that its VM is not cut off by a later plug",
            label="hybridvif-port-id",
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class VhostUserPort(OvsPort):
    """The OVSDB rows of a port that the VM reaches through a socket, named vhu. It has no device.

    No part holds the path of the socket. The writer of the row composes it.
    """

    kind: ClassVar[str] = "vhost-user-port"
    type: Annotated[
        str,
        attribute(
            one_of(*VHOST_USER_TYPES.values()), "the opposite end of the socket to QEMU, whose mode Neutron sets"
        ),
    ] = ""
    """Interface.type: a value of VHOST_USER_TYPES."""
    mtu_request: Annotated[
        int | None,
        attribute(either(one_of(None, 0), MTU), "the network's MTU: there is no device to set it on", 1959586),
    ] = 0
    qos_type: Annotated[str, attribute(EMPTY, "none: ovs-vswitchd queues on kernel devices only", create_only=True)] = (
        ""
    )
    # The executor writes the configured path only. No other path can be checked.
    socket_as_configured: Annotated[
        bool, attribute(one_of(True), "composed from [hybridvif] vhost_socket_dir and the name: no caller sets a path")
    ] = True
    """True if the path in Interface.options is the one that this host's configuration gives for type and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IvsPort(Part):
    """The port of an Indigo Virtual Switch. It has only a name."""

    kind: ClassVar[str] = "ivs-port"
    role: ClassVar[Role] = Role.SWITCH


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignObject(Part):
    """An object with one of our names, but of another shape. It is in no plan, and stops every plan."""

    kind: ClassVar[str] = "stray"
    """A word of the JSON documents, which stays."""
    what: str
    """Description with an article: "a dummy link"."""
    alias: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignPort(ForeignObject):
    """A foreign object in the switch, such as a bond or an internal port named qvo."""

    role: ClassVar[Role] = Role.SWITCH


Link = Bridge | Veth | Tap | ManagedTap | ForeignObject
Member = Veth | Tap | ManagedTap
"""Member of a Linux bridge."""
SwitchPort = OvsPort | NativePort | VhostUserPort | IvsPort | ForeignPort

P = TypeVar("P", bound=Part)
PARTS: tuple[type[Part], ...] = (
    *(Bridge, Veth, Tap, ManagedTap),
    *(OvsPort, NativePort, VhostUserPort, IvsPort),
    *(ForeignObject, ForeignPort),
)

_ATTRIBUTES = {kind: tuple(spec.name for spec in fields(kind) if spec.name != "name") for kind in PARTS}
DECLARATIONS: Mapping[type[Part], Mapping[str, Attribute]] = {
    kind: {spec.name: spec.type.__metadata__[0] for spec in fields(kind) if hasattr(spec.type, "__metadata__")}
    for kind in PARTS
}
"""The declarations by kind and name, in order. All else that is known of an attribute derives from them."""
ISOLATING: Mapping[type[Part], Mapping[str, Any]] = {
    kind: {name: of.isolation for name, of in declared.items() if of.isolation is not None}
    for kind, declared in DECLARATIONS.items()
}
"""The attributes that isolate the VM from the host, with their only legal values. Every desired state has them."""
_CREATE_ONLY: Mapping[type[Part], dict[str, Any]] = {
    kind: {
        spec.name: spec.default for spec in fields(kind) if spec.name in declared and declared[spec.name].is_create_only
    }
    for kind, declared in DECLARATIONS.items()
}
_COMPARED = {
    kind: tuple(name for name in names if name not in _CREATE_ONLY[kind]) for kind, names in _ATTRIBUTES.items()
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One attribute that differs."""

    attribute: str
    before: object
    after: object


def with_article(kind: str) -> str:
    """Return a kind of part or device with its article: "a veth", "an ovs-port"."""
    return f"a{'n' if kind[:1] in 'aeiou' else ''} {kind}"


def attributes_of(kind: type[Part]) -> tuple[str, ...]:
    """Return the names of the attributes of a kind of part, without its own name, in declaration order."""
    return _ATTRIBUTES[kind]


def reason_of(part: Part, attribute: str) -> Reason:
    """Return the reason for the value of an attribute."""
    return DECLARATIONS[type(part)][attribute].reason


def invalid_attributes(part: Part, attributes: Mapping[str, object] | None = None) -> tuple[str, ...]:
    """Return the attributes with a value that must not be written: of those given, or of all.

    No plan creates a ForeignObject. Its kind is returned.
    """
    if isinstance(part, ForeignObject):
        return (part.kind,)
    declared = DECLARATIONS[type(part)]
    values = {name: getattr(part, name) for name in declared} if attributes is None else attributes
    return tuple(name for name, value in values.items() if not declared[name].is_legal(part, value))


def create_only_values(part: Part) -> dict[str, Any]:
    """Return the create-only attributes of a part, with their values."""
    return {name: getattr(part, name) for name in _CREATE_ONLY[type(part)]}


def as_observed(part: P) -> P:
    """Return the part as an observation returns it, with the defaults of its create-only attributes."""
    defaults = _CREATE_ONLY[type(part)]
    return part if create_only_values(part) == defaults else replace(part, **defaults)


def differences(before: Part, after: Part) -> tuple[Difference, ...]:
    """Return the attributes in which two parts of one kind differ, without the create-only attributes.

    None agrees with any value. `realized` differs only if it is False and should be True: no step can reset it.
    """
    if before == after:
        # The fast path: most parts are in sync.
        return ()
    found = []
    for name in _COMPARED[type(after)]:
        old, new = getattr(before, name), getattr(after, name)
        if old == new or old is None or new is None or (name == "realized" and not new):
            continue
        found.append(Difference(name, old, new))
    return tuple(found)
