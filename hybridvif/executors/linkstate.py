"""What the kernel says about links (pyroute2's decoded messages) -> parts and facts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from hybridvif.facts import Facts, LinkFact, Observed
from hybridvif.names import key_of, names_of_key
from hybridvif.parts import Bridge, HostState, Link, Stray, Tap, Veth

IFF_UP, IFF_PROMISC = 0x1, 0x100
ADDR_GEN_MODES = ("eui64", "none", "stable_secret", "random")
"""By value of enum in6_addr_gen_mode (linux/if_link.h), as iproute2 spells them."""


class Device:
    """One link message, read by attribute."""

    def __init__(self, message: Any) -> None:
        self._message = message
        self.index: int = message["index"]
        self.flags: int = message["flags"]
        self.name: str = message.get_attr("IFLA_IFNAME")
        self.kind: str = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""

    def get(self, attribute: str, default: Any = None) -> Any:
        """An IFLA_ attribute."""
        value = self._message.get_attr(attribute)
        return default if value is None else value

    def of_kind(self, attribute: str) -> Any:
        """An attribute of the device's kind, IFLA_BR_... and the like."""
        return self._message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", attribute)

    def of_family(self, family: str) -> Any:
        """What the kernel keeps per address family; None where it lacks the family."""
        spec = self._message.get_attr("IFLA_AF_SPEC")
        return None if spec is None else spec.get_attr(family)

    @property
    def peer_index(self) -> int:
        """The other end of a veth pair; 0 if that is in another namespace."""
        return 0 if self.get("IFLA_LINK_NETNSID") is not None else self.get("IFLA_LINK", 0)


def observed(
    devices: Iterable[Device], wanted: Collection[str] | None, members: Mapping[str, Iterable[str]]
) -> Observed:
    """The parts and facts under the wanted names (None: all of ours).

    devices: all that the wanted ones refer to, masters, peers and members included.
    """
    by_name = {device.name: device for device in devices}
    by_index = {device.index: device for device in by_name.values()}
    ours = [name for name in by_name if (key_of(name) if wanted is None else name in wanted)]
    links: dict[str, Link] = {}
    for name in sorted(ours):
        part = _part_of(by_name[name], by_index)
        if part is not None:
            links[name] = part
    shown = set(ours) | {member for bridge in members if bridge in links for member in members[bridge]}
    return Observed(
        HostState(links),
        Facts(
            links={name: _fact_of(by_name[name], by_index) for name in sorted(shown & by_name.keys())},
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


def _part_of(device: Device, by_index: Mapping[int, Device]) -> Link | None:
    names = names_of_key(key_of(device.name) or "")
    if device.name == names.tap:
        return Tap(name=device.name, master=_master_of(device, by_index))
    if device.name == names.bridge and device.kind == "bridge":
        return _bridge_of(device)
    if device.name == names.bridge_end and device.kind == "veth":
        peer = by_index.get(device.peer_index)
        if peer is not None and peer.name == names.switch_end:
            return _veth_of(device, peer, by_index)
        other = f"a veth whose peer is {peer.name}" if peer else "a veth whose peer is in another namespace"
        return Stray(name=device.name, what=f"{other}, not {names.switch_end}", alias=device.get("IFLA_IFALIAS", ""))
    if device.name == names.switch_end and device.kind == "veth":
        peer = by_index.get(device.peer_index)
        if peer is not None and peer.name == names.bridge_end:
            return None
    return _stray_of(device, by_index)


def _stray_of(device: Device, by_index: Mapping[int, Device]) -> Stray:
    kind = device.kind or "physical"
    what = f"a{'n' if kind[0] in 'aeiou' else ''} {kind} link"
    if kind == "veth":
        peer = by_index.get(device.peer_index)
        what = f"a veth whose peer is {peer.name if peer else 'in another namespace'}"
    return Stray(name=device.name, what=what, alias=device.get("IFLA_IFALIAS", ""))


def _bridge_of(device: Device) -> Bridge:
    inet, inet6 = device.of_family("AF_INET"), device.of_family("AF_INET6")
    devconf6 = inet6.get_attr("IFLA_INET6_CONF") if inet6 is not None else None
    mode = inet6.get_attr("IFLA_INET6_ADDR_GEN_MODE") if inet6 is not None else None
    return Bridge(
        name=device.name,
        alias=device.get("IFLA_IFALIAS", ""),
        mac=device.get("IFLA_ADDRESS", ""),
        mtu=device.get("IFLA_MTU", 0),
        up=bool(device.flags & IFF_UP),
        forward_delay=device.of_kind("IFLA_BR_FORWARD_DELAY") or 0,
        ageing=device.of_kind("IFLA_BR_AGEING_TIME") or 0,
        stp=bool(device.of_kind("IFLA_BR_STP_STATE")),
        multicast_snooping=bool(device.of_kind("IFLA_BR_MCAST_SNOOPING")),
        disable_ipv6=None if devconf6 is None else bool(devconf6["disable_ipv6"]),
        addr_gen_mode=None if mode is None else _addr_gen_mode(mode),
        arp_ignore=inet["arp_ignore"] if inet else 0,
        arp_announce=inet["arp_announce"] if inet else 0,
        group=device.get("IFLA_GROUP", 0),
    )


def _addr_gen_mode(value: int) -> str:
    return ADDR_GEN_MODES[value] if value < len(ADDR_GEN_MODES) else str(value)


def _veth_of(device: Device, peer: Device, by_index: Mapping[int, Device]) -> Veth:
    return Veth(
        name=device.name,
        peer=peer.name,
        alias=device.get("IFLA_IFALIAS", ""),
        peer_alias=peer.get("IFLA_IFALIAS", ""),
        mtu=device.get("IFLA_MTU", 0),
        peer_mtu=peer.get("IFLA_MTU", 0),
        up=bool(device.flags & IFF_UP),
        peer_up=bool(peer.flags & IFF_UP),
        promisc=bool(device.flags & IFF_PROMISC),
        peer_promisc=bool(peer.flags & IFF_PROMISC),
        master=_master_of(device, by_index),
        group=device.get("IFLA_GROUP", 0),
    )


def _master_of(device: Device, by_index: Mapping[int, Device]) -> str:
    index = device.get("IFLA_MASTER", 0)
    if not index:
        return ""
    return by_index[index].name if index in by_index else f"interface {index}"


def _fact_of(device: Device, by_index: Mapping[int, Device]) -> LinkFact:
    return LinkFact(
        ifindex=device.index,
        kind=device.kind,
        up=bool(device.flags & IFF_UP),
        carrier=bool(device.get("IFLA_CARRIER", 0)),
        master=_master_of(device, by_index),
        mtu=device.get("IFLA_MTU", 0),
    )
