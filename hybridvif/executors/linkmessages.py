"""pyroute2's decoded link messages -> devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hybridvif.executors.linkstate import ADDR_GEN_MODES, BridgeOptions, Device

IFF_UP, IFF_PROMISC = 0x1, 0x100


def devices_of(messages: Iterable[Any]) -> list[Device]:
    """The devices that these messages are about; masters and peers are named where they are among them."""
    messages = list(messages)
    names = {message["index"]: message.get_attr("IFLA_IFNAME") for message in messages}
    return [_device_of(message, names) for message in messages]


def referred_to(message: Any) -> list[int]:
    """The indexes of the devices that a message refers to: its master, and its peer in this namespace."""
    indexes = [message.get_attr("IFLA_MASTER")]
    if kind_of(message) == "veth" and message.get_attr("IFLA_LINK_NETNSID") is None:
        indexes.append(message.get_attr("IFLA_LINK"))
    return [index for index in indexes if index]


def kind_of(message: Any) -> str:
    """The kind of a device; "" for one without."""
    return message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""


def _device_of(message: Any, names: Mapping[int, str]) -> Device:
    get = message.get_attr
    kind = kind_of(message)
    # A link of another namespace has an index of that one, which may be anyone's here.
    peer = get("IFLA_LINK") if kind == "veth" and get("IFLA_LINK_NETNSID") is None else None
    master = get("IFLA_MASTER")
    return Device(
        index=message["index"],
        name=get("IFLA_IFNAME"),
        kind=kind,
        up=bool(message["flags"] & IFF_UP),
        promisc=bool(message["flags"] & IFF_PROMISC),
        carrier=bool(get("IFLA_CARRIER")),
        mtu=get("IFLA_MTU") or 0,
        mac=get("IFLA_ADDRESS") or "",
        alias=get("IFLA_IFALIAS") or "",
        group=get("IFLA_GROUP") or 0,
        master=names.get(master, f"interface {master}") if master else "",
        peer=names.get(peer, f"interface {peer}") if peer else "",
        options=_options_of(message) if kind == "bridge" else None,
    )


def _options_of(message: Any) -> BridgeOptions:
    def option(name: str) -> int:
        return message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", f"IFLA_BR_{name}") or 0

    families = message.get_attr("IFLA_AF_SPEC")
    inet = families.get_attr("AF_INET") if families is not None else None
    inet6 = families.get_attr("AF_INET6") if families is not None else None
    devconf6 = inet6.get_attr("IFLA_INET6_CONF") if inet6 is not None else None
    mode = inet6.get_attr("IFLA_INET6_ADDR_GEN_MODE") if inet6 is not None else None
    return BridgeOptions(
        forward_delay=option("FORWARD_DELAY"),
        ageing=option("AGEING_TIME"),
        stp=bool(option("STP_STATE")),
        multicast_snooping=bool(option("MCAST_SNOOPING")),
        disable_ipv6=None if devconf6 is None else bool(devconf6["disable_ipv6"]),
        addr_gen_mode=None if mode is None else ADDR_GEN_MODES[mode] if mode < len(ADDR_GEN_MODES) else str(mode),
        arp_ignore=inet["arp_ignore"] if inet else 0,
        arp_announce=inet["arp_announce"] if inet else 0,
    )
