"""What was read about link devices, by whatever means -> parts and facts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from hybridvif.facts import Facts, LinkFact, Observed
from hybridvif.names import KEY_LENGTH, is_uuid, key_of, names_of_key
from hybridvif.parts import Bridge, HostState, Link, MadeTap, Stray, Tap, Veth, with_article

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
    known: list[tuple[object, Link | None, LinkFact]] = field(
        default_factory=list, init=False, compare=False, repr=False
    )
    """What it came to the last time, and with what of its peer: of a device that is read again and again, the same."""


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
    seen = peer and (peer.name, peer.alias, peer.mtu, peer.up, peer.promisc)
    if not device.known or device.known[0][0] != seen:
        device.known[:] = [(seen, _part_of(device, peer), _fact_of(device))]
    return device.known[0][1:]


def _part_of(device: Device, peer: Device | None) -> Link | None:
    names = names_of_key(key_of(device.name) or "")
    if device.name == names.tap:
        return _made_tap_of(device) if _is_made(device) else Tap(name=device.name, master=device.master)
    if device.name == names.bridge and device.options is not None:
        return _bridge_of(device, device.options)
    if device.kind == "veth" and peer is not None:
        if (device.name, peer.name) == (names.bridge_end, names.switch_end):
            return _veth_of(device, peer)
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
        mac=device.mac,
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
    )


def _veth_of(device: Device, peer: Device) -> Veth:
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
    )


def _is_made(device: Device) -> bool:
    """Whether it says that it was made here: a tap indeed, that bears the id of a port of its name."""
    return device.kind == "tun" and is_uuid(device.alias) and device.alias[:KEY_LENGTH] == key_of(device.name)


def _made_tap_of(device: Device) -> MadeTap:
    return MadeTap(
        name=device.name,
        alias=device.alias,
        mac=device.mac,
        mtu=device.mtu,
        up=device.up,
        master=device.master,
        group=device.group,
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


def regained(before: Bridge, after: Bridge) -> dict[str, object]:
    """What a bridge has again, at the kernel's defaults, once its MTU rises to 1280: its IPv6."""
    if before.mtu == after.mtu:
        return {}
    return {name: getattr(after, name) for name in ("addr_gen_mode", "disable_ipv6") if getattr(before, name) is None}
