"""Link devices: one table of their attributes, and devices that any executor has read -> parts and facts.

An attribute has the name of the part's field. The four tables say where netlink keeps it. A row holds its name in every
interface that reads or writes it: connection.py, sysctl.py, command_lines.py and pyroute2_executor.py.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hybridvif.model.names import KEY_LENGTH, LINK_PREFIXES, PortNames, is_uuid, key_of, names_of_key
from hybridvif.model.parts import (
    ANYBODY,
    HOST_IP_OFF,
    OPEN,
    ROOT,
    Bridge,
    ForeignObject,
    Link,
    ManagedTap,
    Part,
    Tap,
    Veth,
    attributes_of,
    with_article,
)
from hybridvif.model.state import Facts, HostState, LinkFact, Observed


class DeviceAttribute(NamedTuple):
    """One attribute of a device."""

    number: int
    """Number in netlink: IFF_* (linux/if.h), IFLA_* (linux/if_link.h), IPV4_DEVCONF_* (linux/ip.h)."""
    key: str
    """Name as an argument of pyroute2. In upper case, with its prefix, it is that of linux/if_link.h."""
    command: str
    """Words of `ip link set`, or of brctl for an attribute that brctl sets. {}: the value."""
    type: type = int
    format: str = "=I"
    """Format of a number in a message (struct)."""
    is_optional: bool = False
    """True if kernels lack it, or devices. It is then None."""


FLAGS = {
    "up": DeviceAttribute(0x1, "UP", "up|down", bool),
    "promisc": DeviceAttribute(0x100, "PROMISC", "promisc on|promisc off", bool),
    "noarp": DeviceAttribute(0x80, "NOARP", "arp off|arp on", bool),
}
LINK = {
    "mtu": DeviceAttribute(4, "mtu", "mtu {}"),
    "mac": DeviceAttribute(1, "address", "address {}", str),
    "group": DeviceAttribute(27, "group", "group {}"),
    "alias": DeviceAttribute(20, "ifalias", "alias {}", str),
}
BRIDGE = {
    "forward_delay": DeviceAttribute(1, "forward_delay", "setfd"),
    "stp": DeviceAttribute(5, "stp_state", "stp", bool),
    "ageing": DeviceAttribute(4, "ageing_time", "setageing"),
    "multicast_snooping": DeviceAttribute(23, "mcast_snooping", "mcast_snooping {}", bool, "=B"),
    "nf_call_iptables": DeviceAttribute(36, "nf_call_iptables", "nf_call_iptables {}", bool, "=B", is_optional=True),
    "nf_call_ip6tables": DeviceAttribute(37, "nf_call_ip6tables", "nf_call_ip6tables {}", bool, "=B", is_optional=True),
}
IPV4 = {
    "forwarding": DeviceAttribute(1, "", ""),
    "proxy_arp": DeviceAttribute(3, "", ""),
    "rp_filter": DeviceAttribute(8, "", ""),
    "arp_announce": DeviceAttribute(18, "", ""),
    "arp_ignore": DeviceAttribute(19, "", ""),
}
"""Settings under net/ipv4/conf. A message contains them as an array, in which the first has the index 0."""
IPV6 = {
    "disable_ipv6": DeviceAttribute(26, "", "", bool, is_optional=True),
    "addr_gen_mode": DeviceAttribute(8, "inet6_addr_gen_mode", "", str, is_optional=True),
}
"""Settings under net/ipv6/conf, absent without IPv6. The first is an index in an array (linux/ipv6.h)."""
ATTRIBUTES: Mapping[str, DeviceAttribute] = {**FLAGS, **LINK, **BRIDGE, **IPV4, **IPV6}
ADDR_GEN_MODES = ("eui64", "none", "stable_secret", "random")
"""By value of enum in6_addr_gen_mode (linux/if_link.h), in the spelling of iproute2."""
PORT_STATES = ("disabled", "listening", "learning", "forwarding", "blocking")
"""By value of BR_STATE_* (linux/if_bridge.h)."""
HOST_IPV4_OFF: Mapping[str, object] = {"noarp": True, "forwarding": 0, "proxy_arp": 0, "rp_filter": 1}
"""Attributes that silence the host's IPv4 on a device.

The larger rp_filter of the device and of `all` applies (Documentation/networking/ip-sysctl.rst), so 0 in `all` cannot
switch it off. Without an address, a device receives no packet in either mode (net/ipv4/fib_frontend.c, last_resort).
"""
HOST_IPV6_OFF: Mapping[str, object] = {"disable_ipv6": True, "addr_gen_mode": "none"}
"""Attributes that silence the host's IPv6 on a device."""


class PortFlag(NamedTuple):
    """One flag of a device as a port of its bridge."""

    number: int
    """IFLA_BRPORT_*, one byte."""
    open: int
    """Value with which the port passes every packet, once."""


NO_ADDRESSES: Mapping[int, Sequence[str]] = {}
STATE = "state"
PORT = {
    STATE: PortFlag(1, PORT_STATES.index("forwarding")),
    "hairpin": PortFlag(4, 0),
    "guard": PortFlag(5, 0),
    "root_block": PortFlag(6, 0),
    "flood": PortFlag(9, 1),
    "proxy_arp": PortFlag(10, 0),
    "proxy_arp_wifi": PortFlag(12, 0),
    "mcast_flood": PortFlag(27, 1),
    "bcast_flood": PortFlag(30, 1),
    "neigh_suppress": PortFlag(32, 0),
    "isolated": PortFlag(33, 0),
    "locked": PortFlag(39, 0),
}
"""In the spelling of iproute2. Other flags stop no packet. Older kernels lack some."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Device:
    """One link device, as it was read. Equal only to itself, so that a part can be cached by its devices."""

    index: int
    name: str
    kind: str
    """As in `ip -d link`; "" for a device without a kind."""
    carrier: bool
    runs: bool = True
    """True if it is up, has carrier, and the kernel has propagated that to its bridge (IFF_RUNNING)."""
    values: Mapping[str, Any]
    """By attribute. One that is absent in the kernel or the device is missing or None."""
    master: int = 0
    """Index of its master; 0 if none."""
    peer: int = 0
    """Index of the other end of a veth pair; 0 for other kinds and for a peer in another namespace."""
    altnames: tuple[str, ...] = ()
    port: Mapping[str, int] = field(default_factory=dict)
    """State and flags as a port of a Linux bridge, in numbers."""
    owner: int = ANYBODY
    """Of a tap: the uid that may attach to it."""
    is_tap: bool = True
    """False for a tun device in tun mode. Its packets have no Ethernet header, so no bridge takes it."""
    queues: int = 0
    """Of a multi-queue tap: the queues that processes hold, also those they have switched off.

    A process may switch its queue on again at any time, without being asked for its rights (tun_set_queue() in tun.c).
    """

    def value(self, attribute: str) -> Any:
        """Return an attribute in the type of the part's field."""
        if attribute == "host_ip":
            return host_ip_of(self)
        row, value = ATTRIBUTES[attribute], self.values.get(attribute)
        return None if value is None and row.is_optional else row.type() if value is None else row.type(value)


def host_ip_of(device: Device) -> str:
    """Return the settings by which the host's IP stack listens on a device, in words. A bridge has others for IPv6."""
    found = []
    for name in ("forwarding", "proxy_arp", "rp_filter"):
        value = device.values.get(name)
        if value is not None and (value < 1 if name == "rp_filter" else value != 0):
            found.append(f"{name} {value}")
    found += [] if device.values.get("noarp") else ["ARP on"]
    if device.kind != "bridge":
        found += ["IPv6 on"] if device.values.get("disable_ipv6") == 0 else []
        mode = device.values.get("addr_gen_mode")
        found += [] if mode in (None, "none") else [f"addr_gen_mode {mode}"]
    return ", ".join(found) or HOST_IP_OFF


def bridge_port_of(device: Device, bridge: Device | None, names: PortNames) -> str | None:
    """Return how the bridge of its port treats a device: `OPEN`, or the obstacles in words."""
    if bridge is None or bridge.kind != "bridge" or bridge.name != names.bridge:
        return None
    found = []
    # The kernel disables a port without carrier or of a bridge that is down.
    if device.runs and bridge.values["up"] and device.port.get(STATE) != PORT[STATE].open:
        state = device.port.get(STATE, -1)
        found.append(f"{STATE} {dict(enumerate(PORT_STATES)).get(state, state)}")
    found += [
        f"{name} {'on' if device.port[name] else 'off'}"
        for name, flag in PORT.items()
        if name != STATE and device.port.get(name, flag.open) != flag.open
    ]
    return ", ".join(found) or OPEN


def opening_of(before: Link) -> dict[str, int]:
    """Return the flags and the state that open this bridge port, as found; older kernels lack some flags."""
    words = {text.split(" ")[0] for text in (getattr(before, "bridge_port", None) or "").split(", ")}
    return {name: flag.open for name, flag in PORT.items() if name in words}


def random_mac() -> str:
    """Return a random unicast, locally administered MAC address."""
    first, *rest = os.urandom(6)
    return bytes([first & 0xFC | 0x02, *rest]).hex(":")


def observed(
    devices: Iterable[Device], wanted: Collection[str] | None, addresses: Mapping[int, Sequence[str]] = NO_ADDRESSES
) -> Observed:
    """Return the parts and facts under the wanted names (None: all names of ports).

    devices: all that the wanted ones refer to, including peers and members. addresses: those of IPv4, by device index.
    """
    devices = sorted(devices, key=lambda device: device.name)
    known = {device.index: device for device in devices}
    # A link with the name of a vhost-user port is not its device: Open vSwitch serves that one through a socket.
    ours = [device for device in devices if key_of(device.name) and device.name[:3] in LINK_PREFIXES]
    ours = ours if wanted is None else [device for device in ours if device.name in wanted]
    members: dict[str, list[str]] = {device.name: [] for device in ours if device.kind == "bridge"}
    masters = {device.name: _name(device.master, known) for device in devices}
    for name, master in masters.items():
        if master in members:
            members[master].append(name)
    links: dict[str, Link] = {}
    unchecked: list[str] = []
    for device in ours:
        peer = known.get(device.peer)
        found = tuple(tuple(addresses.get(end.index, ())) if end else () for end in (device, peer))
        part = _part_of(device, masters[device.name], known.get(device.master), peer, found)
        if part is not None:
            links[device.name] = part
        if isinstance(part, Bridge):
            unchecked += [f"{part.name}: {attribute}" for attribute in IPV6 if getattr(part, attribute) is None]
        if isinstance(part, ManagedTap) and part.owner != ROOT and device.carrier:
            unchecked.append(f"{part.name}: owner, which is set when no VM holds it")
    shown = {device.name for device in ours} | {
        name for bridge in members if bridge in links for name in members[bridge]
    }
    return Observed(
        HostState(links),
        Facts(
            links={device.name: _fact_of(device, masters[device.name]) for device in devices if device.name in shown},
            members={bridge: tuple(held) for bridge, held in members.items() if bridge in links},
            altnames={
                name: device.name
                for device in devices
                for name in device.altnames
                if (key_of(name) if wanted is None else name in wanted)
            },
            unchecked=tuple(unchecked),
        ),
    )


def _name(index: int, known: Mapping[int, Device]) -> str:
    if index in known:
        return known[index].name
    return f"interface {index}" if index else ""


def _fact_of(device: Device, master: str) -> LinkFact:
    up, mtu = device.value("up"), device.value("mtu")
    return LinkFact(ifindex=device.index, kind=device.kind, up=up, carrier=device.carrier, master=master, mtu=mtu)


@functools.lru_cache(maxsize=8192)
def _part_of(
    device: Device, master: str, bridge: Device | None, peer: Device | None, addresses: Sequence[tuple[str, ...]]
) -> Link | None:
    """Return the part of a device. Cached, because a device that is unchanged is read repeatedly.

    addresses: those of the device, and those of its peer.
    """
    near, far = addresses
    names = names_of_key(key_of(device.name) or "")
    if device.name == names.tap and device.is_tap:
        alias = device.value("alias")
        if not (device.kind == "tun" and is_uuid(alias) and alias[:KEY_LENGTH] == key_of(device.name)):
            # hybridvif marks a tap that it creates by the id of its port.
            return Tap(name=device.name, master=master)
        port = bridge_port_of(device, bridge, names)
        own = _fields(ManagedTap, device, near)
        return ManagedTap(name=device.name, master=master, bridge_port=port, owner=device.owner, **own)
    if device.name == names.bridge and device.kind == "bridge":
        return Bridge(name=device.name, **_fields(Bridge, device, near))
    if device.kind == "veth" and peer is not None:
        if (device.name, peer.name) == (names.bridge_end, names.switch_end):
            port = bridge_port_of(device, bridge, names)
            ends = _fields(Veth, device, near) | _fields(Veth, peer, far, "peer_")
            return Veth(name=device.name, peer=peer.name, master=master, bridge_port=port, **ends)
        if (device.name, peer.name) == (names.switch_end, names.bridge_end):
            # Part of the pair, which is named by its other end.
            return None
    text = f"{with_article(device.kind or 'physical')} link"
    if device.kind == "veth":
        text = f"a veth whose peer is {peer.name if peer else _name(device.peer, {}) or 'in another namespace'}"
    return ForeignObject(name=device.name, what=text, alias=device.value("alias"))


forget_parts = _part_of.cache_clear

_FIELDS: Mapping[tuple[type[Part], str], list[tuple[str, str]]] = {
    (kind, prefix): [
        (name, name.removeprefix(prefix))
        for name in attributes_of(kind)
        if name.startswith(prefix) and name.removeprefix(prefix) in (*ATTRIBUTES, "host_ip")
    ]
    for kind, prefix in ((Bridge, ""), (Veth, ""), (Veth, "peer_"), (ManagedTap, ""))
}
"""Fields of a part that are read from a device, each with its attribute: those of the peer have a prefix."""


def _fields(kind: type[Part], device: Device, addresses: Sequence[str], prefix: str = "") -> dict[str, Any]:
    fields = {name: device.value(own) for name, own in _FIELDS[kind, prefix]}
    if addresses:
        name = f"{prefix}host_ip"
        words = [f"address {address}" for address in addresses]
        fields[name] = ", ".join(words + [fields[name]] * (fields[name] != HOST_IP_OFF))
    return fields
