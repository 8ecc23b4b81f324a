"""The link messages that plugging needs: requests as bytes, and the kernel's responses -> devices.

Attributes have their numbers from linux/if_link.h. tests/contract compares each with pyroute2.
"""

from __future__ import annotations

import functools
import socket
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hybridvif.executors.netlink.devices import (
    ADDR_GEN_MODES,
    IPV4_OFF,
    PORT_FLAGS,
    STATE,
    BridgeOptions,
    Device,
    host_ip_of,
    port_flags_of,
)
from hybridvif.executors.netlink.socket import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
    RTM_SETLINK,
    Request,
    attribute,
    attributes_of,
    link_header,
    link_header_of,
    nested,
    positions_of,
)
from hybridvif.model.errors import escaped
from hybridvif.model.names import key_of
from hybridvif.model.parts import ANYBODY, Bridge, Veth

IFF_UP, IFF_RUNNING, IFF_NOARP, IFF_PROMISC = 0x1, 0x40, 0x80, 0x100
RTEXT_FILTER_SKIP_STATS = 1 << 3
"""linux/rtnetlink.h: omit the counters, the largest part of a response."""

ADDRESS, IFNAME, MTU, LINK, MASTER, LINKINFO, IFALIAS = 1, 3, 4, 5, 10, 18, 20
AF_SPEC, GROUP, EXT_MASK, CARRIER, LINK_NETNSID = 26, 27, 29, 33, 37
INFO_KIND, INFO_DATA, INFO_SLAVE_KIND, INFO_SLAVE_DATA, VETH_PEER = 1, 2, 4, 5, 1
INET_CONF, INET6_CONF, ADDR_GEN_MODE = 1, 2, 8
ARP_ANNOUNCE, ARP_IGNORE = 18, 19
"""linux/ip.h, IPV4_DEVCONF_*: numbered from 1 when written; read back as an array, from 0."""
_IPV4 = {"forwarding": 1, "proxy_arp": 3, "rp_filter": 8}
_LISTENING = struct.Struct("=i4xi16xi")
"""The three settings of _IPV4 in that array."""
_INET = {"arp_ignore": ARP_IGNORE, "arp_announce": ARP_ANNOUNCE, **_IPV4}
OF_FAMILIES = ("arp_ignore", "arp_announce", "addr_gen_mode", "host_ip")
"""Attributes that set_link() writes in the IPv4 and IPv6 parts of a message."""
TUN_OWNER, TUN_NUM_QUEUES, TUN_NUM_DISABLED_QUEUES = 1, 8, 9
_PORT = {
    STATE: 1,
    "hairpin": 4,
    "guard": 5,
    "root_block": 6,
    "flood": 9,
    "proxy_arp": 10,
    "proxy_arp_wifi": 12,
    "mcast_flood": 27,
    "bcast_flood": 30,
    "neigh_suppress": 32,
    "isolated": 33,
    "locked": 39,
}
"""IFLA_BRPORT_*, one byte each."""
_PORT_KINDS = frozenset(_PORT.values())
_Families = tuple[bytes, int | None, str | None]
"""The IPv4 settings of a device, its disable_ipv6, and its addr_gen_mode."""
_NO_FAMILIES: _Families = (b"", None, None)
_STATES = ("disabled", "listening", "learning", "forwarding", "blocking")
"""By value of BR_STATE_* (linux/if_bridge.h)."""
DISABLE_IPV6 = 26
"""linux/ipv6.h, DEVCONF_DISABLE_IPV6: the index in the array."""
BRIDGE_OPTIONS = {
    "forward_delay": (1, "=I"),
    "ageing": (4, "=I"),
    "stp": (5, "=I"),
    "multicast_snooping": (23, "=B"),
    "nf_call_iptables": (36, "=B"),
    "nf_call_ip6tables": (37, "=B"),
}
"""IFLA_BR_* and its width."""

_DECODED = frozenset({ADDRESS, IFNAME, MTU, LINK, MASTER, LINKINFO, IFALIAS, AF_SPEC, GROUP, CARRIER, LINK_NETNSID})
_OPTIONS = frozenset(kind for kind, _ in BRIDGE_OPTIONS.values())
_TIMERS = frozenset(range(16, 20))
"""IFLA_BR_HELLO_TIMER to IFLA_BR_GC_TIMER."""
_NO_COUNTERS = attribute(EXT_MASK, RTEXT_FILTER_SKIP_STATS)
_FLAGS = {"up": IFF_UP, "promisc": IFF_PROMISC}


# -- requests ----------------------------------------------------------------------------------------------------------


def get_link(which: str | int) -> Request:
    """Request one device, by name or index."""
    if isinstance(which, int):
        return Request(RTM_GETLINK, 0, link_header(which) + _NO_COUNTERS)
    return Request(RTM_GETLINK, 0, link_header() + attribute(IFNAME, which) + _NO_COUNTERS)


def dump_request(master: int = 0) -> Request:
    """Request all devices, or the members of one bridge."""
    only = attribute(MASTER, master) if master else b""
    return Request(RTM_GETLINK, NLM_F_DUMP, link_header() + _NO_COUNTERS + only)


def create_bridge(bridge: Bridge, mac: bytes) -> Request:
    """Create a bridge, with all attributes that the message can carry.

    mac: explicit, so that neither members nor udev change it.

    The MTU differs from the desired one, which is set later. Only a change marks it as set by the user. The kernel
    resets any other MTU when members come and go (net/bridge/br_if.c, BROPT_MTU_SET_BY_USER). The spanning tree and its
    forward delay depend on each other and are also set later.
    """
    options = {
        "forward_delay": 0,
        "stp": 0,
        "multicast_snooping": bridge.multicast_snooping,
        "ageing": bridge.ageing,
        "nf_call_iptables": bridge.nf_call_iptables,
        "nf_call_ip6tables": bridge.nf_call_ip6tables,
    }
    return _create(
        link_header(),
        attribute(IFNAME, bridge.name),
        attribute(ADDRESS, mac),
        attribute(MTU, bridge.mtu ^ 1),
        _bridge_info(tuple(options.items())),
    )


def create_veth(veth: Veth, master: int) -> Request:
    """Create a veth pair, with all attributes that the message can carry. The peer cannot be created up (ENOTCONN)."""
    change = IFF_UP | IFF_PROMISC | IFF_NOARP
    flags = IFF_UP * veth.up | IFF_PROMISC * veth.promisc | IFF_NOARP
    peer = nested(
        VETH_PEER,
        link_header(flags=IFF_PROMISC * veth.peer_promisc | IFF_NOARP, change=IFF_PROMISC | IFF_NOARP),
        attribute(IFNAME, veth.peer),
        attribute(MTU, veth.peer_mtu),
    )
    return _create(
        link_header(flags=flags, change=change),
        attribute(IFNAME, veth.name),
        attribute(MTU, veth.mtu),
        attribute(MASTER, master) if master else b"",
        _link_info("veth", peer),
    )


def set_link(index: int, changes: Mapping[str, object], master: int | None = None) -> Request:
    """Set the changes that one message can carry; master: an index, 0 for none, None to leave it unchanged.

    host_ip is switched off, whatever its value. Its disable_ipv6 is a file, so it is not part of the message. A device
    without IPv6 rejects the whole message with EAFNOSUPPORT if it contains addr_gen_mode.
    """
    change = sum(flag for name, flag in _FLAGS.items() if name in changes)
    flags = sum(flag for name, flag in _FLAGS.items() if changes.get(name))
    if "host_ip" in changes:
        change, flags = change | IFF_NOARP, flags | IFF_NOARP
    parts = [link_header(index, flags=flags, change=change)]
    if "mac" in changes:
        parts.append(attribute(ADDRESS, bytes.fromhex(str(changes["mac"]).replace(":", ""))))
    parts += [
        attribute(kind, changes[name])  # type: ignore[arg-type]  # an int, or the alias
        for name, kind in (("mtu", MTU), ("group", GROUP), ("alias", IFALIAS))
        if name in changes
    ]
    if master is not None:
        parts.append(attribute(MASTER, master))
    parts.append(_families(tuple((name, changes[name]) for name in OF_FAMILIES if changes.get(name) is not None)))
    return Request(RTM_SETLINK, NLM_F_ACK, b"".join(parts))


def set_bridge(index: int, options: Mapping[str, object]) -> Request:
    """Set options that only a bridge has."""
    return Request(RTM_NEWLINK, NLM_F_ACK, link_header(index) + _bridge_info(tuple(options.items())))


def set_port(index: int, flags: Mapping[str, int]) -> Request:
    """Set the state and flags of a device as a port of its bridge."""
    values = [attribute(_PORT[name], bytes([value])) for name, value in flags.items()]
    slave = nested(LINKINFO, attribute(INFO_SLAVE_KIND, "bridge"), nested(INFO_SLAVE_DATA, *values))
    return Request(RTM_NEWLINK, NLM_F_ACK, link_header(index) + slave)


def delete_link(index: int) -> Request:
    """Delete one device."""
    return Request(RTM_DELLINK, NLM_F_ACK, link_header(index))


def delete_group(group: int) -> Request:
    """Delete all devices of one group."""
    return Request(RTM_DELLINK, NLM_F_ACK, link_header() + attribute(GROUP, group))


def _create(*body: bytes) -> Request:
    return Request(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, b"".join(body))


def _link_info(kind: str, options: bytes) -> bytes:
    return nested(LINKINFO, attribute(INFO_KIND, kind), nested(INFO_DATA, options))


@functools.lru_cache(maxsize=64)
def _bridge_info(options: tuple[tuple[str, object], ...]) -> bytes:
    """Return the options of a bridge. Cached: nearly all ports of a host have the same."""
    values = dict(options)
    encoded = [
        attribute(kind, struct.pack(width, int(values[name])))  # type: ignore[call-overload]
        for name, (kind, width) in BRIDGE_OPTIONS.items()
        if values.get(name) is not None
    ]
    return _link_info("bridge", b"".join(encoded))


@functools.lru_cache(maxsize=64)
def _families(values: tuple[tuple[str, Any], ...]) -> bytes:
    """Return the IPv4 and IPv6 settings of a device. Cached: nearly all ports of a host have the same."""
    settings = dict(values)
    settings |= IPV4_OFF if "host_ip" in settings else {}
    inet = [attribute(kind, settings[name]) for name, kind in _INET.items() if name in settings]
    families = [nested(socket.AF_INET, nested(INET_CONF, *inet))] if inet else []
    if "addr_gen_mode" in settings:
        mode = bytes([ADDR_GEN_MODES.index(settings["addr_gen_mode"])])
        families.append(nested(socket.AF_INET6, attribute(ADDR_GEN_MODE, mode)))
    return nested(AF_SPEC, *families) if families else b""


# -- answers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """One device, as the kernel reports it."""

    index: int
    flags: int
    name: str
    kind: str
    master: int
    link: int
    """Index of the other end of a veth pair in this namespace; 0 for none and for other kinds."""
    attributes: Mapping[int, bytes]
    details: bytes
    """IFLA_INFO_DATA."""
    port: bytes = b""
    """IFLA_INFO_SLAVE_DATA of a bridge port."""
    known: dict[tuple[str, str], Device] = field(default_factory=dict, compare=False, repr=False)
    """Cached devices by the names of master and peer."""


def message_of(body: bytes) -> Message:
    """Decode a link message."""
    index, flags = link_header_of(body)
    found = attributes_of(body, 16, _DECODED)
    own = attributes_of(found[LINKINFO]) if LINKINFO in found else {}
    kind = _text(own.get(INFO_KIND, b""))
    # A link in another namespace has an index of that namespace, which may be another device here.
    here = kind == "veth" and LINK_NETNSID not in found
    return Message(
        index=index,
        flags=flags,
        name=_text(found.get(IFNAME, b"")),
        kind=kind,
        master=_number(found.get(MASTER, b"")),
        link=_number(found.get(LINK, b"")) if here else 0,
        attributes=found,
        details=own.get(INFO_DATA, b""),
        port=own.get(INFO_SLAVE_DATA, b"") if own.get(INFO_SLAVE_KIND) == b"bridge\0" else b"",
    )


def name_in(body: bytes) -> str:
    """Return only the device name of a link message."""
    return _text(attributes_of(body, 16, (IFNAME,)).get(IFNAME, b""))


def timers_in(body: bytes) -> list[slice]:
    """Return the positions of the bridge timers, which change constantly and are excluded from comparison."""
    found: list[slice] = []
    for info in positions_of(body, 16, len(body), (LINKINFO,)):
        for data in positions_of(body, info.start, info.stop, (INFO_DATA,)):
            found += positions_of(body, data.start, data.stop, _TIMERS)
    return found


def carrier_of(body: bytes) -> bool:
    """Return whether the device of a link message has carrier, even if it is down."""
    return bool(_number(attributes_of(body, 16, (CARRIER,)).get(CARRIER, b"")))


def group_of(body: bytes) -> int:
    """Return the group of the device of a link message."""
    return _number(attributes_of(body, 16, (GROUP,)).get(GROUP, b""))


def devices_of(messages: Iterable[Message]) -> list[Device]:
    """Return the devices of these messages. Masters and peers get their names if they are among them."""
    messages = list(messages)
    names = {message.index: message.name for message in messages}
    return [
        _cached_device(message, _name_of_index(message.master, names), _name_of_index(message.link, names))
        for message in messages
    ]


def _cached_device(message: Message, master: str, peer: str) -> Device:
    device = message.known.get((master, peer))
    if device is None:
        message.known.clear()
        device = message.known[master, peer] = _device_of(message, master, peer)
    return device


def _device_of(message: Message, master: str, peer: str) -> Device:
    found = message.attributes
    ours = key_of(message.name) is not None
    port = attributes_of(message.port, 0, _PORT_KINDS) if ours and message.port else {}
    state, flags = _port_of(tuple(port.items())) if port else ("", "")
    families = _families_of(message) if ours or message.kind == "bridge" else _NO_FAMILIES
    carrier = bool(_number(found.get(CARRIER, b"")))
    return Device(
        index=message.index,
        name=message.name,
        kind=message.kind,
        up=bool(message.flags & IFF_UP),
        promisc=bool(message.flags & IFF_PROMISC),
        carrier=carrier,
        mtu=_number(found.get(MTU, b"")),
        mac=found.get(ADDRESS, b"").hex(":"),
        alias=_text(found.get(IFALIAS, b"")),
        group=_number(found.get(GROUP, b"")),
        master=master,
        peer=peer,
        options=_options_of(message, families) if message.kind == "bridge" else None,
        runs=carrier and message.flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING,
        host_ip=_host_ip_of(message, families) if ours else None,
        port_state=state,
        port_flags=flags,
        owner=_owner_of(message) if message.kind == "tun" else ANYBODY,
    )


@functools.lru_cache(maxsize=64)
def _port_of(values: tuple[tuple[int, bytes], ...]) -> tuple[str, str]:
    """Return the state and the flags of a bridge port. Cached: nearly all ports of a host have the same."""
    numbers = {kind: value[0] for kind, value in values}
    number = numbers.get(_PORT[STATE], len(_STATES))
    state = _STATES[number] if number < len(_STATES) else str(number)
    return state, port_flags_of({name: bool(numbers[_PORT[name]]) for name in PORT_FLAGS if _PORT[name] in numbers})


def _owner_of(message: Message) -> int:
    owner = attributes_of(message.details, 0, (TUN_OWNER,)).get(TUN_OWNER)
    return ANYBODY if owner is None else _number(owner)


def queues_of(message: Message) -> int:
    """Return the number of queues of a multi-queue tap that processes hold, also of those they have switched off.

    A process may switch its queue on again at any time, without being asked for its rights (tun_set_queue() in tun.c).
    """
    counts = attributes_of(message.details, 0, (TUN_NUM_QUEUES, TUN_NUM_DISABLED_QUEUES))
    return sum(map(_number, counts.values()))


def _name_of_index(index: int, names: Mapping[int, str]) -> str:
    return names.get(index, f"interface {index}") if index else ""


def _options_of(message: Message, families: _Families) -> BridgeOptions:
    options = attributes_of(message.details, 0, _OPTIONS)
    numbers = {name: _number(options[kind]) for name, (kind, _) in BRIDGE_OPTIONS.items() if kind in options}
    inet, switched_off, mode = families
    return BridgeOptions(
        forward_delay=numbers.get("forward_delay", 0),
        ageing=numbers.get("ageing", 0),
        stp=bool(numbers.get("stp")),
        multicast_snooping=bool(numbers.get("multicast_snooping")),
        disable_ipv6=None if switched_off is None else bool(switched_off),
        addr_gen_mode=mode,
        arp_ignore=_entry(inet, ARP_IGNORE - 1) or 0,
        arp_announce=_entry(inet, ARP_ANNOUNCE - 1) or 0,
        # Absent if the kernel was built without CONFIG_BRIDGE_NETFILTER.
        **{name: bool(numbers[name]) for name in ("nf_call_iptables", "nf_call_ip6tables") if name in numbers},
    )


def _host_ip_of(message: Message, families: _Families) -> str:
    inet, disable_ipv6, mode = families
    ipv4 = _LISTENING.unpack_from(inet) if len(inet) >= _LISTENING.size else (None, None, None)
    # A bridge has attributes of its own for IPv6.
    ipv6 = (None, None) if message.kind == "bridge" else (disable_ipv6, mode)
    return _host_ip_text(not message.flags & IFF_NOARP, *ipv4, *ipv6)


@functools.lru_cache(maxsize=64)
def _host_ip_text(
    arp: bool,
    forwarding: int | None,
    proxy_arp: int | None,
    rp_filter: int | None,
    disable_ipv6: int | None,
    addr_gen_mode: str | None,
) -> str:
    """Return the value of host_ip. Cached: nearly all devices of a host have the same."""
    ipv4 = {"forwarding": forwarding, "proxy_arp": proxy_arp, "rp_filter": rp_filter}
    return host_ip_of(arp=arp, ipv4=ipv4, disable_ipv6=disable_ipv6, addr_gen_mode=addr_gen_mode)


def _families_of(message: Message) -> _Families:
    families = attributes_of(message.attributes.get(AF_SPEC, b""))
    inet = attributes_of(families.get(socket.AF_INET, b"")).get(INET_CONF, b"")
    inet6 = attributes_of(families.get(socket.AF_INET6, b""), 0, (INET6_CONF, ADDR_GEN_MODE))
    mode = inet6[ADDR_GEN_MODE][0] if ADDR_GEN_MODE in inet6 else None
    spelled = None if mode is None else ADDR_GEN_MODES[mode] if mode < len(ADDR_GEN_MODES) else str(mode)
    return inet, _entry(inet6.get(INET6_CONF, b""), DISABLE_IPV6), spelled


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


def _text(value: bytes) -> str:
    # A name may contain any bytes except "/" and white space; an alias may contain any.
    return escaped(value.rstrip(b"\0").decode(errors="surrogateescape"))


def _entry(array: bytes, index: int) -> int | None:
    """Return one number of an array of 32-bit numbers."""
    return struct.unpack_from("=i", array, 4 * index)[0] if len(array) >= 4 * (index + 1) else None
