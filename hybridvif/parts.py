"""What a host is made of, as far as we manage it: seven kinds of part, and Stray for what only has our name.

A part holds only what hybridvif sets. What it does not set it neither compares nor touches: the VLAN tag is the agent's
after birth, a tap that was not made here is libvirt's. An observed part accepts any value the kernel or OVSDB can hold;
only what is to be written is range-checked (limits.py). An attribute that is None does not exist on this kernel, or is
nobody's wish, and agrees with any other value.

An attribute of birth is written when its part is made, and never again: from then on it is somebody else's. So it is
not read back, and agrees with any other value as well; a part that was observed has it at its default.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from hybridvif.names import PortNames

PARKED = "patch"
"""The Interface type of a row whose device is about to be made anew (semantics.md, Re-creating qvo)."""
DEAD_VLAN = 4095
"""The VLAN in which Neutron's agent lets no packet pass (IEEE 802.1Q leaves this number to the implementation)."""
VHOST_USER_TYPES: Mapping[str, str] = {"client": "dpdkvhostuser", "server": "dpdkvhostuserclient"}
"""The Interface type of a vhost-user port by the mode of QEMU's side, as os-vif has them: the switch is the other."""
HOST_IP_OFF = "off"
"""host_ip of a device on which the host neither receives, answers nor routes; the only value that is written."""
OPEN = "open"
"""bridge_port of a device with which the bridge exchanges every packet, once; the only value that is written."""
ROOT, ANYBODY = 0, -1
"""Owners of a tap: the uid, and no owner at all, so that every local user may attach."""
_BIRTH = {"birth": True}


class Role(enum.Enum):
    """Who carries a step out."""

    LINK = "link"
    SWITCH = "switch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What all parts have in common: a name, and a role."""

    kind: ClassVar[str]
    role: ClassVar[Role] = Role.LINK
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge(Part):
    """The Linux bridge of one port, qbr. Its `ip` twin: ip link add qbr type bridge."""

    kind: ClassVar[str] = "bridge"
    alias: str
    """Whose it is: the full port id. Its MAC is no attribute: the executor draws one when it makes the bridge."""
    mtu: int
    """In bytes."""
    up: bool
    forward_delay: int
    """In hundredths of a second, as IFLA_BR_FORWARD_DELAY counts."""
    ageing: int
    """In hundredths of a second; 0: never learn, flood like a hub."""
    stp: bool
    multicast_snooping: bool
    disable_ipv6: bool | None
    addr_gen_mode: str | None
    """As `ip -d link` spells it: eui64, none, stable_secret, random."""
    arp_ignore: int
    arp_announce: int
    nf_call_iptables: bool | None = None
    """Whether iptables sees what crosses this bridge, also where net.bridge.bridge-nf-call-iptables is 0."""
    nf_call_ip6tables: bool | None = None
    group: int = 0
    host_ip: str | None = None
    """HOST_IP_OFF, or the settings by which the host's IPv4 stack listens on it; IPv6 has attributes of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Veth(Part):
    """The veth pair, named for its end on the Linux bridge, qvb; the end on the switch, qvo, is its peer."""

    kind: ClassVar[str] = "veth"
    peer: str
    alias: str
    peer_alias: str
    mtu: int
    peer_mtu: int
    up: bool
    peer_up: bool
    promisc: bool
    peer_promisc: bool
    master: str
    """The bridge that holds qvb, or "". The master of qvo is the switch's own business."""
    group: int = 0
    host_ip: str | None = None
    """HOST_IP_OFF, or the settings by which the host's IP stack listens on it."""
    peer_host_ip: str | None = None
    bridge_port: str | None = None
    """OPEN, or the flags by which the bridge withholds packets from qvb or repeats them; None in no bridge of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap(Part):
    """The VM's device, of whatever kind; libvirt's but for its master, which is mended where qbr is made anew."""

    kind: ClassVar[str] = "tap"
    master: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeTap(Part):
    """The VM's device where it was made for it, ahead of it. Its `ip` twin: ip tuntap add tap mode tap.

    Its alias is what makes it one: a tap without a port id of its own name there is a Tap, whoever made it.
    """

    kind: ClassVar[str] = "made-tap"
    alias: str
    mac: str
    mtu: int
    up: bool
    master: str
    group: int = 0
    host_ip: str | None = None
    """HOST_IP_OFF, or the settings by which the host's IP stack listens on it."""
    bridge_port: str | None = None
    """OPEN, or the flags by which the bridge withholds packets from it or repeats them; None in no bridge of ours."""
    owner: int | None = None
    """The uid that may attach to it, beside CAP_NET_ADMIN; ANYBODY for no owner."""
    multi_queue: bool = field(default=False, metadata=_BIRTH)
    """Whether it can be opened once for each queue of the VM (IFF_MULTI_QUEUE); no tap changes that while it lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OvsPort(Part):
    """The OVSDB rows of one port: a Port and its one Interface, named qvo, on a Bridge. An id that is "" is absent."""

    kind: ClassVar[str] = "ovs-port"
    role: ClassVar[Role] = Role.SWITCH
    bridge: str
    iface_id: str
    iface_status: str
    attached_mac: str
    vm_uuid: str
    port_id: str
    """external_ids:hybridvif-port-id: our own key, only where iface_id is not the port id."""
    bridge_name: str = ""
    """external_ids:bridge_name: the bridge again, only where that is a trunk bridge."""
    type: str = ""
    """Interface.type: "" for a system device, PARKED while its device is made anew."""
    realized: bool = True
    """Whether ovs-vswitchd has taken the device as it is now. Read back, never written."""
    isolated: bool = field(default=False, metadata=_BIRTH)
    """Whether it is born in the dead VLAN: Port.tag and trunks are DEAD_VLAN, and vlan_mode is trunk."""
    datapath_type: str = field(default="", metadata=_BIRTH)
    """What its bridge is made with, if that must be made first; "" for Open vSwitch's own default."""
    qos_type: str = field(default="", metadata=_BIRTH)
    """The type of the QoS row that is made with it, and goes with it; "" for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VhostUserPort(OvsPort):
    """The OVSDB rows of a port that the VM has through a socket: as of any other, but named vhu, and of no device.

    Its `type` is one of VHOST_USER_TYPES. Where the socket is no part says: whoever writes the row composes it.
    """

    kind: ClassVar[str] = "vhost-user-port"
    mtu: int | None = None
    """Interface.mtu_request, in bytes; 0 if none is asked for. None: this Open vSwitch has no such column."""
    socket_as_configured: bool = True
    """Whether the path in Interface.options is what this host's configuration makes of the type and the name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IvsPort(Part):
    """The port of an Indigo Virtual Switch: a name, no more."""

    kind: ClassVar[str] = "ivs-port"
    role: ClassVar[Role] = Role.SWITCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray(Part):
    """Something that has one of our names but is not of our shape; it is in no plan, and stops every plan."""

    kind: ClassVar[str] = "stray"
    what: str
    """What it is, with its article: "a dummy link"."""
    alias: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayPort(Stray):
    """A Stray in the switch: a bond, an internal port, anything named qvo that is not one system interface."""

    role: ClassVar[Role] = Role.SWITCH


Link = Bridge | Veth | Tap | MadeTap | Stray
Member = Veth | Tap | MadeTap
"""What a Linux bridge holds."""
SwitchPort = OvsPort | VhostUserPort | IvsPort | StrayPort

P = TypeVar("P", bound=Part)
PARTS: tuple[type[Part], ...] = (Bridge, Veth, Tap, MadeTap, OvsPort, VhostUserPort, IvsPort, Stray, StrayPort)


@dataclass(frozen=True, slots=True)
class HostState:
    """What is on a host, or should be, under the names of our grammar. Frozen; absent means not there.

    links: by name; a veth pair by the name of its bridge end. ports: by name; apart, since qvo is in both.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    ports: Mapping[str, SwitchPort] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "links", MappingProxyType(dict(self.links)))
        object.__setattr__(self, "ports", MappingProxyType(dict(self.ports)))

    def __iter__(self) -> Iterator[Part]:
        yield from self.links.values()
        yield from self.ports.values()

    def of(self, names: PortNames) -> HostState:
        """The parts of one port alone."""
        # A switch port named tap is plugged straight into the switch, and no part of a hybrid port.
        ends = (names.switch_end, names.vhost_user)
        links, ports = self.links, self.ports
        return HostState(
            {name: links[name] for name in names if name in links},
            {name: ports[name] for name in ends if name in ports},
        )

    def having(self, *parts: Part) -> HostState:
        """This state with these parts put in, or put in the place of those of the same name and role."""
        links, ports = dict(self.links), dict(self.ports)
        for part in parts:
            (ports if part.role is Role.SWITCH else links)[part.name] = part  # type: ignore[assignment]
        return HostState(links, ports)

    def lacking(self, part: Part) -> HostState:
        """This state without that part."""
        links, ports = dict(self.links), dict(self.ports)
        (ports if part.role is Role.SWITCH else links).pop(part.name, None)
        return HostState(links, ports)


NOTHING = HostState()
"""The goal of an unplug."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One attribute that is not as it should be."""

    attribute: str
    before: object
    after: object


def with_article(kind: str) -> str:
    """A kind of part or device in a sentence: "a veth", "an ovs-port"."""
    return f"a{'n' if kind[:1] in 'aeiou' else ''} {kind}"


def attributes_of(kind: type[Part]) -> tuple[str, ...]:
    """The names of the attributes that a part of this kind has beside its own name, in the order of its declaration."""
    return _ATTRIBUTES[kind]


_ATTRIBUTES = {kind: tuple(spec.name for spec in fields(kind) if spec.name != "name") for kind in PARTS}
_BIRTHS: Mapping[type[Part], dict[str, Any]] = {
    kind: {spec.name: spec.default for spec in fields(kind) if spec.metadata == _BIRTH} for kind in PARTS
}
_COMPARED = {kind: tuple(name for name in names if name not in _BIRTHS[kind]) for kind, names in _ATTRIBUTES.items()}


def births_of(part: Part) -> dict[str, Any]:
    """The attributes of birth that a part has, with their values."""
    return {name: getattr(part, name) for name in _BIRTHS[type(part)]}


def as_seen(part: P) -> P:
    """The part as it is observed once it is there: of its birth nothing is told."""
    births = _BIRTHS[type(part)]
    return part if all(getattr(part, name) == value for name, value in births.items()) else replace(part, **births)


def differences(before: Part, after: Part) -> tuple[Difference, ...]:
    """The attributes in which two parts of one kind differ, those of birth apart, and None agreeing with anything.

    Nobody can make a device unrealized, so `realized` differs only where it should be True and is not.
    """
    if before == after:
        # Of hundreds of ports in order, most: at a fortieth of what the comparison one by one takes.
        return ()
    found = []
    for name in _COMPARED[type(after)]:
        old, new = getattr(before, name), getattr(after, name)
        if old == new or old is None or new is None or (name == "realized" and not new):
            continue
        found.append(Difference(name, old, new))
    return tuple(found)


def agree(one: HostState, other: HostState) -> bool:
    """Whether two states are the same, attributes that a kernel lacks apart."""
    return one is other or all(_agree(getattr(one, side), getattr(other, side)) for side in ("links", "ports"))


def _agree(one: Mapping[str, Part], other: Mapping[str, Part]) -> bool:
    return one.keys() == other.keys() and all(
        type(one[name]) is type(other[name]) and not differences(one[name], other[name]) for name in one
    )


def merged(states: Iterable[HostState]) -> HostState:
    """Several states of different names as one."""
    links: dict[str, Link] = {}
    ports: dict[str, SwitchPort] = {}
    for state in states:
        links |= state.links
        ports |= state.ports
    return HostState(links, ports)
