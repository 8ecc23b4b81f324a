"""Link devices as they were read, by any executor -> parts and facts."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from hybridvif.model.names import KEY_LENGTH, is_uuid, key_of, names_of_key
from hybridvif.model.parts import (
    ANYBODY,
    HOST_IP_OFF,
    OPEN,
    ROOT,
    Bridge,
    ForeignObject,
    Link,
    ManagedTap,
    Tap,
    Veth,
    with_article,
)
from hybridvif.model.state import Facts, HostState, LinkFact, Observed

ADDR_GEN_MODES = ("eui64", "none", "stable_secret", "random")
"""By value of enum in6_addr_gen_mode (linux/if_link.h), in the spelling of iproute2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeOptions:
    """Attributes that only a bridge has, or that are read only of bridges; None: absent in this kernel or device."""

    forward_delay: int
    ageing: int
    stp: bool
    multicast_snooping: bool
    disable_ipv6: bool | None
    addr_gen_mode: str | None
    arp_ignore: int
    arp_announce: int
    nf_call_iptables: bool | None = None
    nf_call_ip6tables: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One link device, as it was read."""

    index: int
    name: str
    kind: str
    """As in `ip -d link`; "" for a device without a kind."""
    up: bool
    promisc: bool
    carrier: bool
    mtu: int
    mac: str
    alias: str
    group: int
    master: str
    """Name of its master; "" if none."""
    peer: str
    """Name of the other end of a veth pair; "" for other kinds and for a peer in another namespace."""
    options: BridgeOptions | None = None
    """Of a bridge."""
    runs: bool = True
    """True if it is up, has carrier, and the kernel has propagated that to its bridge (IFF_RUNNING)."""
    host_ip: str | None = None
    """In the words of host_ip_of(); None for a device that has no name of a port."""
    port_state: str = ""
    """State as a bridge port, as in `ip -d link` (forwarding, disabled); "" if in no bridge."""
    port_flags: str = ""
    """In the words of port_flags_of()."""
    owner: int = ANYBODY
    """Of a tap: the uid that may attach to it."""
    known: list[tuple[object, Link | None, LinkFact]] = field(
        default_factory=list, init=False, compare=False, repr=False
    )
    """Cached part and fact, with the attributes of the peer that they depend on. A device is read repeatedly."""


IPV4_OFF = {"forwarding": 0, "proxy_arp": 0, "rp_filter": 1}
"""Settings under net/ipv4/conf that silence IPv4 on a device, in addition to IFF_NOARP.

The larger rp_filter of the device and of `all` applies (Documentation/networking/ip-sysctl.rst), so 0 in `all` cannot
switch it off. Without an address, a device receives no packet in either mode (net/ipv4/fib_frontend.c, last_resort).
"""
PORT_FLAGS = {
    "hairpin": False,
    "guard": False,
    "root_block": False,
    "flood": True,
    "proxy_arp": False,
    "proxy_arp_wifi": False,
    "mcast_flood": True,
    "bcast_flood": True,
    "neigh_suppress": False,
    "isolated": False,
    "locked": False,
}
"""The flags of a bridge port that passes every packet, in the spelling of iproute2. Other flags stop no packet."""
STATE = "state"


def host_ip_of(
    *, arp: bool, ipv4: Mapping[str, int | None], disable_ipv6: int | None = None, addr_gen_mode: str | None = None
) -> str:
    """Return the settings by which the host's IP stack listens on a device, in words. None: setting absent.

    >>> host_ip_of(arp=True, ipv4={"forwarding": 1, "rp_filter": 2}, disable_ipv6=0, addr_gen_mode="none")
    'forwarding 1, ARP on, IPv6 on'
    """
    found = [
        f"{name} {value}"
        for name, value in ipv4.items()
        if value is not None and (value < 1 if name == "rp_filter" else value != IPV4_OFF[name])
    ]
    found += ["ARP on"] if arp else []
    found += ["IPv6 on"] if disable_ipv6 == 0 else []
    found += [] if addr_gen_mode in (None, "none") else [f"addr_gen_mode {addr_gen_mode}"]
    return ", ".join(found) or HOST_IP_OFF


def port_flags_of(flags: Mapping[str, bool]) -> str:
    """Return the wrong flags of a bridge port, in words.

    >>> port_flags_of({"flood": False, "isolated": True, "locked": False})
    'flood off, isolated on'
    """
    return ", ".join(f"{name} {'on' if on else 'off'}" for name, on in flags.items() if on is not PORT_FLAGS[name])


def opening_of(before: Link) -> dict[str, int]:
    """Return the flags and the state that open this bridge port, as found; older kernels lack some flags."""
    words = {text.split(" ")[0] for text in (getattr(before, "bridge_port", None) or "").split(", ")}
    opened = {name: int(on) for name, on in PORT_FLAGS.items() if name in words}
    return opened | ({STATE: 3} if STATE in words else {})


def observed(
    devices: Iterable[Device], wanted: Collection[str] | None, members: Mapping[str, Iterable[str]]
) -> Observed:
    """Return the parts and facts under the wanted names (None: all names of ports).

    devices: all that the wanted ones refer to, including peers and members.
    """
    by_name = {device.name: device for device in devices}
    ours = sorted(name for name in by_name if (key_of(name) if wanted is None else name in wanted))
    links = {name: part for name in ours if (part := _cached_part(by_name[name], by_name)[0]) is not None}
    shown = set(ours) | {member for bridge in members if bridge in links for member in members[bridge]}
    return Observed(
        HostState(links),
        Facts(
            links={name: _cached_part(by_name[name], by_name)[1] for name in sorted(shown & by_name.keys())},
            members={bridge: tuple(sorted(held)) for bridge, held in members.items() if bridge in links},
            unchecked=tuple(
                f"{part.name}: {attribute}"
                for part in links.values()
                if isinstance(part, Bridge)
                for attribute in ("disable_ipv6", "addr_gen_mode")
                if getattr(part, attribute) is None
            )
            + tuple(
                f"{part.name}: owner, which is set when no VM holds it"
                for part in links.values()
                if isinstance(part, ManagedTap) and part.owner != ROOT and by_name[part.name].carrier
            ),
        ),
    )


def members_of(devices: Iterable[Device]) -> dict[str, list[str]]:
    """Return the members of each bridge of a port, from all devices of a host."""
    devices = list(devices)
    members: dict[str, list[str]] = {
        device.name: [] for device in devices if device.kind == "bridge" and key_of(device.name)
    }
    for device in devices:
        if device.master in members:
            members[device.master].append(device.name)
    return members


def _cached_part(device: Device, by_name: Mapping[str, Device]) -> tuple[Link | None, LinkFact]:
    peer = by_name.get(device.peer)
    # Not the peer itself: the two would form a reference cycle.
    seen: object = peer and (peer.name, peer.alias, peer.mtu, peer.up, peer.promisc, peer.host_ip)
    bridge_port = _bridge_port_of(device, by_name.get(device.master))
    seen = (seen, bridge_port)
    if not device.known or device.known[0][0] != seen:
        device.known[:] = [(seen, _part_of(device, peer, bridge_port), _fact_of(device))]
    return device.known[0][1:]


def _bridge_port_of(device: Device, bridge: Device | None) -> str | None:
    """Return how the bridge of its port treats a device: `OPEN`, or the obstacles in words."""
    if bridge is None or bridge.options is None or bridge.name != names_of_key(key_of(device.name) or "").bridge:
        return None
    # The kernel disables a port without carrier or of a bridge that is down.
    stopped = device.runs and bridge.up and device.port_state != "forwarding"
    state = f"{STATE} {device.port_state}" if stopped else ""
    return ", ".join(filter(None, (state, device.port_flags))) or OPEN


def _part_of(device: Device, peer: Device | None, bridge_port: str | None) -> Link | None:
    names = names_of_key(key_of(device.name) or "")
    if device.name == names.tap:
        return (
            _managed_tap_of(device, bridge_port) if _is_managed(device) else Tap(name=device.name, master=device.master)
        )
    if device.name == names.bridge and device.options is not None:
        return _bridge_of(device, device.options)
    if device.kind == "veth" and peer is not None:
        if (device.name, peer.name) == (names.bridge_end, names.switch_end):
            return _veth_of(device, peer, bridge_port)
        if (device.name, peer.name) == (names.switch_end, names.bridge_end):
            # Part of the pair, which is named by its other end.
            return None
    return ForeignObject(name=device.name, what=_what(device), alias=device.alias)


def _what(device: Device) -> str:
    if device.kind == "veth":
        return f"a veth whose peer is {device.peer or 'in another namespace'}"
    return f"{with_article(device.kind or 'physical')} link"


def _bridge_of(device: Device, options: BridgeOptions) -> Bridge:
    return Bridge(
        name=device.name,
        alias=device.alias,
        mtu=device.mtu,
        up=device.up,
        forward_delay=options.forward_delay,
        ageing=options.ageing,
        stp=options.stp,
        multicast_snooping=options.multicast_snooping,
        disable_ipv6=options.disable_ipv6,
        addr_gen_mode=options.addr_gen_mode,
        arp_ignore=options.arp_ignore,
        arp_announce=options.arp_announce,
        nf_call_iptables=options.nf_call_iptables,
        nf_call_ip6tables=options.nf_call_ip6tables,
        group=device.group,
        host_ip=device.host_ip,
    )


def _veth_of(device: Device, peer: Device, bridge_port: str | None) -> Veth:
    return Veth(
        name=device.name,
        peer=peer.name,
        alias=device.alias,
        peer_alias=peer.alias,
        mtu=device.mtu,
        peer_mtu=peer.mtu,
        up=device.up,
        peer_up=peer.up,
        promisc=device.promisc,
        peer_promisc=peer.promisc,
        master=device.master,
        group=device.group,
        host_ip=device.host_ip,
        peer_host_ip=peer.host_ip,
        bridge_port=bridge_port,
    )


def _is_managed(device: Device) -> bool:
    """Return whether hybridvif created this tap: its alias is the id of a port of its name."""
    return device.kind == "tun" and is_uuid(device.alias) and device.alias[:KEY_LENGTH] == key_of(device.name)


def _managed_tap_of(device: Device, bridge_port: str | None) -> ManagedTap:
    return ManagedTap(
        name=device.name,
        alias=device.alias,
        mac=device.mac,
        mtu=device.mtu,
        up=device.up,
        master=device.master,
        group=device.group,
        host_ip=device.host_ip,
        bridge_port=bridge_port,
        owner=device.owner,
    )


def _fact_of(device: Device) -> LinkFact:
    return LinkFact(
        ifindex=device.index,
        kind=device.kind,
        up=device.up,
        carrier=device.carrier,
        master=device.master,
        mtu=device.mtu,
    )


def random_mac() -> bytes:
    """Return a random unicast, locally administered MAC address."""
    first, *rest = os.urandom(6)
    return bytes([first & 0xFC | 0x02, *rest])


def reset_by_mtu(before: Bridge, after: Bridge) -> dict[str, object]:
    """Return the attributes to write again when the MTU of a bridge changes.

    Once the MTU rises to 1280, IPv6 returns with the kernel's defaults. They are written at every change, since only
    the kernel detects the rise.
    """
    return {} if before.mtu == after.mtu else {"addr_gen_mode": "none", "disable_ipv6": True}
