"""Parts and their attributes: seven kinds, and ForeignObject for an object that only has one of our names.

A part holds the attributes that hybridvif sets. Nothing else is compared or changed: the VLAN tag belongs to Neutron's
agent, and most attributes of a tap to libvirt. Each attribute declares its legal values and its reason. An observed
part may hold any value. None agrees with any value: this kernel lacks the attribute, or no value is desired.

A create-only attribute is written when its part is created, and never compared or updated afterwards. An observed part
has the default value.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from hybridvif.model.attributes import (
    Attribute,
    Reason,
    attribute,
    between,
    declaration_of,
    flag,
    flag_outside_trunk,
    isolating,
    mtu_or_none,
    one_of,
    own_bridge_or_empty,
    own_port_id,
    own_port_id_or_empty,
    own_switch_end,
    switch_bridge,
    trunk_bridge_or_empty,
    unicast_mac,
    unicast_mac_or_empty,
    uuid_or_empty,
)
from hybridvif.model.names import PortNames
from hybridvif.model.port import DATAPATH_TYPES, MAX_MTU, MAX_TAP_MTU, MIN_MTU, QOS_TYPES

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
ROOT, ANYBODY = 0, -1
"""Owners of a tap: the uid of root, and no owner. Without an owner every local user may attach."""
MAX_AGEING = 360_000_000
"""Hundredths of a second. The kernel's clock arithmetic takes it without overflow."""
MAX_FORWARD_DELAY = 3_000
"""Hundredths of a second: the maximum of IEEE 802.1D and of the kernel."""

_OWNER = attribute(
    own_port_id_or_empty, "the full port id identifies the owner: two ports can share the 11 characters of a name"
)
_MTU = attribute(between(MIN_MTU, MAX_MTU), "the network's MTU at every hop, updated on re-plug", 1623876, 1959586)
_PROMISC = attribute(flag, "frames for the VM's MAC must pass a device with another MAC")
_UP = attribute(flag, "a device that is down forwards nothing", 1597287, label="")
_FIREWALL = attribute(
    one_of(True, False, None),
    "only on request: Neutron's hybrid firewall filters the packets of this bridge only",
)
_HOST_IP = isolating(
    HOST_IP_OFF,
    "no IP of the host on any device of the port, so that the VM cannot reach or configure the host",
    1302080,
    1470931,
    1825888,
)
_BRIDGE_PORT = isolating(OPEN, "a flag that isolates, locks or does not flood a bridge port stops the VM's packets")
# "ip link delete group" deletes every link of a group.
_GROUP = attribute(one_of(0), "a bulk delete deletes a whole group, also a port that a killed bulk delete left in it")


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
    alias: str = field(metadata=_OWNER)
    mtu: int = field(
        metadata=attribute(
            between(MIN_MTU, MAX_MTU), "explicit, else the kernel resets it when the bridge is empty", 1623876
        )
    )
    up: bool = field(metadata=_UP)
    forward_delay: int = field(
        metadata=attribute(
            between(0, MAX_FORWARD_DELAY), "no learning delay: the first DHCP request must pass", 1129055
        )
    )
    """Hundredths of a second, the unit of IFLA_BR_FORWARD_DELAY."""
    ageing: int = field(
        metadata=attribute(
            between(0, MAX_AGEING),
            "floods like a hub: no loss during live migration; only on this private bridge",
            1715317,
            1414559,
            1837252,
        )
    )
    """Hundredths of a second. 0: never learn, flood like a hub."""
    stp: bool = field(
        metadata=isolating(False, "there is no loop behind a private two-port bridge, and STP would delay the port")
    )
    multicast_snooping: bool = field(
        metadata=isolating(
            False, "snooping drops IPv6 neighbor discovery on a two-port bridge", 1276038, label="snooping"
        )
    )
    disable_ipv6: bool | None = field(
        metadata=isolating(
            True, "a tenant's router advertisements must not configure the host", 1302080, 1470931, label="ipv6"
        )
    )
    addr_gen_mode: str | None = field(
        metadata=isolating("none", "no link-local address of the host on a tenant's segment", 1302080, 1470931)
    )
    """The word of `ip -d link`: eui64, none, stable_secret, random."""
    arp_ignore: int = field(metadata=isolating(1, "the bridge must not answer ARP for the host's addresses", 1825888))
    arp_announce: int = field(metadata=isolating(2, "the bridge must not announce the host's addresses", 1825888))
    nf_call_iptables: bool | None = field(default=None, metadata=_FIREWALL)
    """True if iptables filters the packets of this bridge, even if net.bridge.bridge-nf-call-iptables is 0."""
    nf_call_ip6tables: bool | None = field(default=None, metadata=_FIREWALL)
    group: int = field(default=0, metadata=_GROUP)
    host_ip: str | None = field(default=None, metadata=_HOST_IP)
    """HOST_IP_OFF, or the settings that let the host's IPv4 stack receive. IPv6 has attributes of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Veth(Part):
    """The veth pair. Its name is the end on the Linux bridge, qvb; its peer is the end on the switch, qvo."""

    kind: ClassVar[str] = "veth"
    peer: str = field(metadata=attribute(own_switch_end, "the other end of the pair, on the switch"))
    alias: str = field(metadata=_OWNER)
    peer_alias: str = field(metadata=_OWNER)
    mtu: int = field(metadata=_MTU)
    peer_mtu: int = field(metadata=_MTU)
    up: bool = field(metadata=_UP)
    peer_up: bool = field(metadata=_UP)
    promisc: bool = field(metadata=_PROMISC)
    peer_promisc: bool = field(metadata=_PROMISC)
    master: str = field(
        metadata=attribute(
            own_bridge_or_empty, "Neutron's firewall filters the port on this bridge, between tap and qvb"
        )
    )
    """The bridge that holds qvb, or "". The switch sets the master of qvo."""
    group: int = field(default=0, metadata=_GROUP)
    host_ip: str | None = field(default=None, metadata=_HOST_IP)
    """HOST_IP_OFF, or the settings that let the host's IP stack receive."""
    peer_host_ip: str | None = field(default=None, metadata=_HOST_IP)
    bridge_port: str | None = field(default=None, metadata=_BRIDGE_PORT)
    """OPEN, or the flags that make the bridge withhold or repeat packets. None outside of our bridges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap(Part):
    """The VM's device of libvirt, of any kind. hybridvif sets its master only, when it recreates the bridge."""

    kind: ClassVar[str] = "tap"
    master: str = field(
        metadata=attribute(
            own_bridge_or_empty, "a recreated bridge has lost the VM's device, and libvirt does not put it back"
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedTap(Part):
    """The VM's device, created by hybridvif before the VM starts. `ip` equivalent: ip tuntap add tap mode tap.

    The alias makes the difference: a tap without a port id that matches its name is a Tap.
    """

    kind: ClassVar[str] = "made-tap"
    # A tap without an alias would belong to libvirt from then on.
    alias: str = field(
        metadata=attribute(
            own_port_id, "the full port id marks the tap as created by hybridvif, and deleted with the port"
        )
    )
    mac: str = field(
        metadata=attribute(unicast_mac, "not the VM's own: a bridge consumes frames for the address of a member")
    )
    mtu: int = field(
        metadata=attribute(
            between(MIN_MTU, MAX_TAP_MTU),
            "the network's MTU at every hop, updated on re-plug",
            1623876,
            1959586,
        )
    )
    up: bool = field(metadata=_UP)
    master: str = field(metadata=attribute(own_bridge_or_empty, "the VM is connected before its first packet", 2069718))
    group: int = field(default=0, metadata=_GROUP)
    host_ip: str | None = field(default=None, metadata=_HOST_IP)
    """HOST_IP_OFF, or the settings that let the host's IP stack receive."""
    bridge_port: str | None = field(default=None, metadata=_BRIDGE_PORT)
    """OPEN, or the flags that make the bridge withhold or repeat packets. None outside of our bridges."""
    owner: int | None = field(
        default=None,
        metadata=isolating(ROOT, "root: without an owner every local user may attach to the tap and act as the VM"),
    )
    """The uid that may attach, beside CAP_NET_ADMIN. ANYBODY for no owner."""
    multi_queue: bool = field(
        default=False,
        metadata=attribute(
            flag, "as many queues as the VM has: it cannot open a tap that was created for one", create_only=True
        ),
    )
    """True if each queue of the VM can open it once (IFF_MULTI_QUEUE). The kernel cannot change it later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OvsPort(Part):
    """The OVSDB rows of one port: a Port and its Interface, named qvo, on a Bridge. "" is an absent id."""

    kind: ClassVar[str] = "ovs-port"
    role: ClassVar[Role] = Role.SWITCH
    bridge: str = field(
        metadata=attribute(
            switch_bridge, "the integration bridge; a row is moved, never deleted and added again", 1670628
        )
    )
    iface_id: str = field(metadata=attribute(uuid_or_empty, "Neutron's agent ignores a port without it"))
    iface_status: str = field(
        metadata=attribute(one_of("active", ""), "marks the interface as in use for Neutron's agent")
    )
    attached_mac: str = field(metadata=attribute(unicast_mac_or_empty, "Neutron's agent ignores a port without it"))
    vm_uuid: str = field(metadata=attribute(uuid_or_empty, "the VM of the port, for operators and tools"))
    port_id: str = field(
        metadata=attribute(
            own_port_id_or_empty, "hybridvif's own key, only if iface-id is not the port id", label="hybridvif-port-id"
        )
    )
    """external_ids:hybridvif-port-id: our own key. "" if iface_id is the port id."""
    bridge_name: str = field(
        default="",
        metadata=attribute(
            trunk_bridge_or_empty,
            "only on a trunk bridge: Neutron's agent uses it to clean up after a deleted trunk",
            2087944,
        ),
    )
    """external_ids:bridge_name: the trunk bridge. "" on any other bridge."""
    type: str = field(
        default="",
        metadata=attribute(
            one_of("", PLACEHOLDER_TYPE),
            "a system device; a patch as placeholder only while its device is recreated",
            1519926,
        ),
    )
    """Interface.type: "" for a system device, PLACEHOLDER_TYPE while its device is recreated."""
    realized: bool = field(
        default=True,
        metadata=attribute(flag, "ovs-vswitchd must have accepted the current device, or no packet passes", label=""),
    )
    """True if ovs-vswitchd has accepted the current device. Read back, never written."""
    mtu_request: int | None = field(
        default=0,
        metadata=attribute(
            mtu_or_none,
            "none, or the network's MTU: ovs-vswitchd sets the device to it again after every plug",
            1623876,
            1959586,
        ),
    )
    """The MTU in bytes that ovs-vswitchd sets repeatedly. 0: no request. None: Open vSwitch has no such column.

    It is the only MTU of a vhost-user port.
    """
    isolated: bool = field(
        default=False,
        metadata=attribute(
            flag_outside_trunk,
            "only on creation of the row: no packet may pass before Neutron's agent has wired the port",
            1734320,
            2023300,
            1930414,
            2069543,
            create_only=True,
        ),
    )
    """True if it is created in the dead VLAN: Port.tag and trunks are DEAD_VLAN, and vlan_mode is trunk."""
    datapath_type: str = field(
        default="",
        metadata=attribute(
            one_of("", *DATAPATH_TYPES),
            "only if the bridge is created with the row: a change would disconnect every port of the bridge",
            create_only=True,
        ),
    )
    """The datapath of its bridge, if the bridge is created with the row. "" for Open vSwitch's default."""
    qos_type: str = field(
        default="",
        metadata=attribute(
            one_of("", *QOS_TYPES),
            "only on creation of the row: otherwise ovs-vswitchd removes the queueing of the device",
            2017868,
            2133225,
            create_only=True,
        ),
    )
    """The type of the QoS row that comes and goes with it. "" for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VhostUserPort(OvsPort):
    """The OVSDB rows of a port that the VM reaches through a socket, named vhu. It has no device.

    No part holds the path of the socket. The writer of the row composes it.
    """

    kind: ClassVar[str] = "vhost-user-port"
    type: str = field(
        default="",
        metadata=attribute(
            one_of(*VHOST_USER_TYPES.values()),
            "the opposite end of the socket to QEMU, whose mode Neutron sets",
        ),
    )
    """Interface.type: a value of VHOST_USER_TYPES."""
    realized: bool = field(
        default=True,
        metadata=attribute(flag, "ovs-vswitchd must have accepted it, which requires DPDK", label=""),
    )
    mtu_request: int | None = field(
        default=0,
        metadata=attribute(mtu_or_none, "the network's MTU: there is no device to set it on", 1959586),
    )
    datapath_type: str = field(
        default="",
        metadata=attribute(
            one_of("", *DATAPATH_TYPES),
            "only if the bridge is created with the row: the kernel's datapath has no vhost-user ports",
            create_only=True,
        ),
    )
    qos_type: str = field(
        default="",
        metadata=attribute(one_of(""), "none: ovs-vswitchd queues on kernel devices only", create_only=True),
    )
    # The executor writes the configured path only. No other path can be checked.
    socket_as_configured: bool = field(
        default=True,
        metadata=attribute(
            one_of(True), "composed from [hybridvif] vhost_socket_dir and the name: no caller sets a path"
        ),
    )
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
SwitchPort = OvsPort | VhostUserPort | IvsPort | ForeignPort

P = TypeVar("P", bound=Part)
PARTS: tuple[type[Part], ...] = (
    Bridge,
    Veth,
    Tap,
    ManagedTap,
    OvsPort,
    VhostUserPort,
    IvsPort,
    ForeignObject,
    ForeignPort,
)


@dataclass(frozen=True, slots=True)
class HostState:
    """A set of parts by role and name, observed or desired.

    links: by name. A veth pair has the name of its bridge end. ports: by name. qvo is a name in both.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    ports: Mapping[str, SwitchPort] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "links", MappingProxyType(dict(self.links)))
        object.__setattr__(self, "ports", MappingProxyType(dict(self.ports)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mappingproxy cannot be pickled or copied.
        return HostState, (dict(self.links), dict(self.ports))

    def __iter__(self) -> Iterator[Part]:
        yield from self.links.values()
        yield from self.ports.values()

    def of(self, names: PortNames) -> HostState:
        """Return the parts of one port."""
        # A switch port named tap does not belong to a hybrid port. It is plugged directly into the switch.
        ends = (names.switch_end, names.vhost_user)
        links, ports = self.links, self.ports
        return HostState(
            {name: links[name] for name in names if name in links},
            {name: ports[name] for name in ends if name in ports},
        )

    def with_parts(self, *parts: Part) -> HostState:
        """Return this state with these parts. They replace parts of the same name and role."""
        links, ports = dict(self.links), dict(self.ports)
        for part in parts:
            (ports if part.role is Role.SWITCH else links)[part.name] = part  # type: ignore[assignment]
        return HostState(links, ports)

    def without(self, part: Part) -> HostState:
        """Return this state without the part."""
        links, ports = dict(self.links), dict(self.ports)
        (ports if part.role is Role.SWITCH else links).pop(part.name, None)
        return HostState(links, ports)

    having, lacking = with_parts, without
    """Former names of these methods."""


NOTHING = HostState()
"""The goal of an unplug."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One attribute that differs."""

    attribute: str
    before: object
    after: object


def with_article(kind: str) -> str:
    """Return a kind of part or device with its article: "a veth", "an ovs-port"."""
    return f"a{'n' if kind[:1] in 'aeiou' else ''} {kind}"


_ATTRIBUTES = {kind: tuple(spec.name for spec in fields(kind) if spec.name != "name") for kind in PARTS}
_DECLARED: Mapping[type[Part], Mapping[str, Attribute]] = {
    kind: {spec.name: declared for spec in fields(kind) if (declared := declaration_of(spec))} for kind in PARTS
}
REASONS: Mapping[tuple[type[Part], str], Reason] = {
    (kind, name): declared.reason for kind, attributes in _DECLARED.items() for name, declared in attributes.items()
}
LABELS: Mapping[str, str] = {
    name: declared.label
    for attributes in _DECLARED.values()
    for name, declared in attributes.items()
    if declared.label is not None
}
"""Labels of attributes, if they differ from the name."""
ISOLATING: Mapping[type[Part], Mapping[str, object]] = {
    kind: values
    for kind, attributes in _DECLARED.items()
    if (values := {name: of.isolation for name, of in attributes.items() if of.isolation is not None})
}
"""Attributes that isolate the VM from the host, with their only legal values."""
_CREATE_ONLY: Mapping[type[Part], dict[str, Any]] = {
    kind: {spec.name: spec.default for spec in fields(kind) if (of := declaration_of(spec)) and of.is_create_only}
    for kind in PARTS
}
_COMPARED = {
    kind: tuple(name for name in names if name not in _CREATE_ONLY[kind]) for kind, names in _ATTRIBUTES.items()
}


def attributes_of(kind: type[Part]) -> tuple[str, ...]:
    """Return the names of the attributes of a kind of part, without its own name, in declaration order."""
    return _ATTRIBUTES[kind]


def reason_of(part: Part, attribute: str) -> Reason:
    """Return the reason for the value of an attribute."""
    return REASONS[type(part), attribute]


def invalid_attributes(part: Part, attributes: Mapping[str, object] | None = None) -> tuple[str, ...]:
    """Return the attributes with a value that must not be written: of those given, or of all.

    No plan creates a ForeignObject. Its kind is returned.
    """
    if isinstance(part, ForeignObject):
        return (part.kind,)
    declared = _DECLARED[type(part)]
    values = {name: getattr(part, name) for name in declared} if attributes is None else attributes
    return tuple(name for name, value in values.items() if not declared[name].is_legal(part, value))


def create_only_values(part: Part) -> dict[str, Any]:
    """Return the create-only attributes of a part, with their values."""
    return {name: getattr(part, name) for name in _CREATE_ONLY[type(part)]}


def as_observed(part: P) -> P:
    """Return the part as an observation returns it, with the defaults of its create-only attributes."""
    defaults = _CREATE_ONLY[type(part)]
    return part if all(getattr(part, name) == value for name, value in defaults.items()) else replace(part, **defaults)


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


def agree(first: HostState, second: HostState) -> bool:
    """Return True if two states have the same parts without differences."""
    return first is second or all(_agree(getattr(first, side), getattr(second, side)) for side in ("links", "ports"))


def _agree(first: Mapping[str, Part], second: Mapping[str, Part]) -> bool:
    return first.keys() == second.keys() and all(
        type(first[name]) is type(second[name]) and not differences(first[name], second[name]) for name in first
    )


def merge_states(states: Iterable[HostState]) -> HostState:
    """Merge several states of different names."""
    links: dict[str, Link] = {}
    ports: dict[str, SwitchPort] = {}
    for state in states:
        links |= state.links
        ports |= state.ports
    return HostState(links, ports)
