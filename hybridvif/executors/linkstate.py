"""What was read about link devices, by whatever means -> parts and facts."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from hybridvif.facts import Facts, LinkFact, Observed
from hybridvif.names import KEY_LENGTH, is_uuid, key_of, names_of_key
from hybridvif.parts import (
    ANYBODY,
    HOST_IP_OFF,
    OPEN,
    ROOT,
    Bridge,
    HostState,
    Link,
    MadeTap,
    Stray,
    Tap,
    Veth,
    with_article,
)

ADDR_GEN_MODES = ("eui64", "none", "stable_secret", "random")
"""By value of enum in6_addr_gen_mode (linux/if_link.h), as iproute2 spells them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeOptions:
    """What only a bridge has, and what is only read of one; None: this kernel, or this device, has it not."""

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
    """One link device as it was read."""

    index: int
    name: str
    kind: str
    """As `ip -d link` says; "" for a device without a kind."""
    up: bool
    promisc: bool
    carrier: bool
    mtu: int
    mac: str
    alias: str
    group: int
    master: str
    """The name of its master, "" without one."""
    peer: str
    """The name of the other end of a veth pair; "" for other kinds, and where that is in another namespace."""
    options: BridgeOptions | None = None
    """Of a bridge."""
    runs: bool = True
    """Whether it is up, has carrier, and the kernel has told its bridge so (IFF_RUNNING)."""
    host_ip: str | None = None
    """As host_ip_of() words it; None for a device that is not of our grammar."""
    port_state: str = ""
    """As a bridge port, as `ip -d link` says: forwarding, disabled; "" in no bridge."""
    port_flags: str = ""
    """As port_flags_of() words them."""
    owner: int = ANYBODY
    """Of a tap: the uid that may attach to it."""
    known: list[tuple[object, Link | None, LinkFact]] = field(
        default_factory=list, init=False, compare=False, repr=False
    )
    """What it came to the last time, and with what of its peer: of a device that is read again and again, the same."""


IPV4_OFF = {"forwarding": 0, "proxy_arp": 0, "rp_filter": 1}
"""What silences IPv4 on a device, beside IFF_NOARP, by the names under net/ipv4/conf.

rp_filter counts as the larger of the device's and all's (Documentation/networking/ip-sysctl.rst), so 0 in all cannot
switch it off. A device without an address is given no packet in either mode (net/ipv4/fib_frontend.c, last_resort).
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
"""The flags of a bridge port that passes every packet, once, as iproute2 spells them; of others none stops a packet."""
STATE = "state"


def host_ip_of(
    *, arp: bool, ipv4: Mapping[str, int | None], disable_ipv6: int | None = None, addr_gen_mode: str | None = None
) -> str:
    """The settings by which the host's IP stack listens on a device, in words. None: it does not have that one.

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
    """The flags of a bridge port that are not as they should be, in words.

    >>> port_flags_of({"flood": False, "isolated": True, "locked": False})
    'flood off, isolated on'
    """
    return ", ".join(f"{name} {'on' if on else 'off'}" for name, on in flags.items() if on is not PORT_FLAGS[name])


def opening_of(before: Link) -> dict[str, int]:
    """What opens the bridge port of a part that was found so: flags and the state by name, with their values.

    Nothing else is written, since an older kernel does not know every flag.
    """
    words = {text.split(" ")[0] for text in (getattr(before, "bridge_port", None) or "").split(", ")}
    opened = {name: int(on) for name, on in PORT_FLAGS.items() if name in words}
    return opened | ({STATE: 3} if STATE in words else {})


def observed(
    devices: Iterable[Device], wanted: Collection[str] | None, members: Mapping[str, Iterable[str]]
) -> Observed:
    """The parts and facts under the wanted names (None: all of ours).

    devices: all that the wanted ones refer to, peers and members included.
    """
    by_name = {device.name: device for device in devices}
    ours = sorted(name for name in by_name if (key_of(name) if wanted is None else name in wanted))
    links = {name: part for name in ours if (part := _known(by_name[name], by_name)[0]) is not None}
    shown = set(ours) | {member for bridge in members if bridge in links for member in members[bridge]}
    return Observed(
        HostState(links),
        Facts(
            links={name: _known(by_name[name], by_name)[1] for name in sorted(shown & by_name.keys())},
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
                if isinstance(part, MadeTap) and part.owner != ROOT and by_name[part.name].carrier
            ),
        ),
    )


def members_of(devices: Iterable[Device]) -> dict[str, list[str]]:
    """The members of each bridge of ours, from all the devices of a host."""
    devices = list(devices)
    members: dict[str, list[str]] = {one.name: [] for one in devices if one.kind == "bridge" and key_of(one.name)}
    for device in devices:
        if device.master in members:
            members[device.master].append(device.name)
    return members


def _known(device: Device, by_name: Mapping[str, Device]) -> tuple[Link | None, LinkFact]:
    peer = by_name.get(device.peer)
    # Not the peer itself, which knows this one: Python would have to look for the two of them.
    seen: object = peer and (peer.name, peer.alias, peer.mtu, peer.up, peer.promisc, peer.host_ip)
    bridge_port = _bridge_port_of(device, by_name.get(device.master))
    seen = (seen, bridge_port)
    if not device.known or device.known[0][0] != seen:
        device.known[:] = [(seen, _part_of(device, peer, bridge_port), _fact_of(device))]
    return device.known[0][1:]


def _bridge_port_of(device: Device, bridge: Device | None) -> str | None:
    """How the Linux bridge of its port treats a device."""
    if bridge is None or bridge.options is None or bridge.name != names_of_key(key_of(device.name) or "").bridge:
        return None
    # A port without carrier, or of a bridge that is down, is disabled by the kernel.
    stopped = device.runs and bridge.up and device.port_state != "forwarding"
    state = f"{STATE} {device.port_state}" if stopped else ""
    return ", ".join(filter(None, (state, device.port_flags))) or OPEN


def _part_of(device: Device, peer: Device | None, bridge_port: str | None) -> Link | None:
    names = names_of_key(key_of(device.name) or "")
    if device.name == names.tap:
        return _made_tap_of(device, bridge_port) if _is_made(device) else Tap(name=device.name, master=device.master)
    if device.name == names.bridge and device.options is not None:
        return _bridge_of(device, device.options)
    if device.kind == "veth" and peer is not None:
        if (device.name, peer.name) == (names.bridge_end, names.switch_end):
            return _veth_of(device, peer, bridge_port)
        if (device.name, peer.name) == (names.switch_end, names.bridge_end):
            # Part of the pair, which is named for its other end.
            return None
    return Stray(name=device.name, what=_what(device), alias=device.alias)


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


def _is_made(device: Device) -> bool:
    """Whether it says that it was made here: a tap indeed, that bears the id of a port of its name."""
    return device.kind == "tun" and is_uuid(device.alias) and device.alias[:KEY_LENGTH] == key_of(device.name)


def _made_tap_of(device: Device, bridge_port: str | None) -> MadeTap:
    return MadeTap(
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
    """A unicast, locally administered MAC address that nobody can guess."""
    first, *rest = os.urandom(6)
    return bytes([first & 0xFC | 0x02, *rest])


def regained(before: Bridge, after: Bridge) -> dict[str, object]:
    """What is written of a bridge whose MTU changes: once it rises to 1280, IPv6 is back at the kernel's defaults.

    Whatever is said to have been there before, since only the kernel knows whether it was.
    """
    return {} if before.mtu == after.mtu else {"addr_gen_mode": "none", "disable_ipv6": True}
