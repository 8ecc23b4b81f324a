"""Steps -> operations on devices: one recipe, which every link executor carries out in its own way.

The order keeps four rules. IPv6 is off before a device is first up. No MTU rises to 1280 after that, because the device
would get IPv6 back with the kernel's defaults. STP comes before the forward delay, because the kernel raises the delay
with it and rejects a small one while it runs (ERANGE). All that one message can set goes into one, because each takes
the lock of all links.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybridvif.executors.netlink.devices import (
    ADDR_GEN_MODES,
    BRIDGE,
    HOST_IPV4_OFF,
    HOST_IPV6_OFF,
    IPV6,
    opening_of,
)
from hybridvif.model.parts import Bridge, ManagedTap, Tap, Veth
from hybridvif.model.state import Create, Delete, Step, Update, changes_of

MIN_IPV6_MTU = 1280
"""Bytes (RFC 8200, section 5). A device with a smaller MTU has no IPv6."""


@dataclass(frozen=True, slots=True)
class Add:
    """Create a bridge or a veth pair, exclusively."""

    kind: str
    device: str
    values: Mapping[str, object]
    peer: str = ""
    peer_values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AddTap:
    """Create a tap that belongs to root. It is kept only if all other operations of the step succeed."""

    device: str
    multi_queue: bool


@dataclass(frozen=True, slots=True)
class Set:
    """Set attributes of a device.

    Also `master`, the name of its bridge or "", and `bridge_port`, its flags as a port of that bridge.
    """

    device: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Sysctl:
    """Write a setting of a device under /proc/sys/net. A device without IPv6 has no such file and needs none."""

    device: str
    attribute: str
    value: int


@dataclass(frozen=True, slots=True)
class Own:
    """Make root the owner of a tap that no process holds."""

    device: str


@dataclass(frozen=True, slots=True)
class RemoveAddresses:
    """Delete the IPv4 addresses of a device."""

    device: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a device; an absent one is success."""

    device: str


@dataclass(frozen=True, slots=True)
class Get:
    """Read a device, by name or index. No recipe contains it."""

    device: str | int


Operation = Add | AddTap | Set | Sysctl | Own | RemoveAddresses | Remove | Get


def operations_of(step: Step, mac: str) -> list[Operation]:
    """Return the operations of a step, in order. mac: the address of a new bridge."""
    match step:
        case Create(Bridge() as bridge):
            return _create_bridge(bridge, mac)
        case Create(Veth() as veth):
            return _create_veth(veth)
        case Create(ManagedTap() as tap):
            rest = {name: getattr(tap, name) for name in ("mac", "mtu", "host_ip", "up")}
            joined = {"master": tap.master} if tap.master else {}
            # The alias first: without it the tap has no ownership tag.
            return [
                AddTap(tap.name, tap.multi_queue),
                Set(tap.name, {"alias": tap.alias}),
                *_set_end(tap.name, rest | joined),
            ]
        case Update(Bridge(), Bridge() as bridge):
            changes = changes_of(step)
            first: list[Operation] = [Set(bridge.name, {"stp": changes.pop("stp")})] if "stp" in changes else []
            gone = [RemoveAddresses(bridge.name)] if "host_ip" in changes else []
            return [*first, *gone, *_set(bridge.name, {**changes, **(HOST_IPV6_OFF if "mtu" in changes else {})})]
        case Update(Veth() | ManagedTap() as before, Veth() | ManagedTap() as after):
            return _update_member(before, after, changes_of(step))
        case Update(Tap(), Tap() as tap):
            # Outside of its bridge, until Open vSwitch has it, the packets of the VM would reach the host's IP stack.
            return [*([] if tap.master else _set_end(tap.name, {"host_ip": ""})), Set(tap.name, {"master": tap.master})]
        case Delete(Bridge() | Veth() | ManagedTap() as part):
            return [Remove(part.name)]
    raise ValueError(f"no recipe for {type(step).__name__} {step.part.kind} {step.part.name}")


def _create_bridge(bridge: Bridge, mac: str) -> list[Operation]:
    """Create a bridge. Its MAC is explicit, so that neither members nor udev change it.

    Only a change marks the MTU as set by the user, so it is first another one, on the same side of 1280. The kernel
    resets any other MTU when members come and go (net/bridge/br_if.c, BROPT_MTU_SET_BY_USER).
    """
    options = {name: value for name in BRIDGE if (value := getattr(bridge, name)) is not None}
    values = {name: getattr(bridge, name) for name in ("mtu", "group", "alias", "arp_announce", "arp_ignore", "up")}
    return [
        Add("bridge", bridge.name, options | {"mtu": bridge.mtu ^ 1, "mac": mac}),
        *([] if bridge.disable_ipv6 is None else [Sysctl(bridge.name, "disable_ipv6", int(bridge.disable_ipv6))]),
        # No device has joined it yet, so it receives no packet.
        Set(bridge.name, {**values, **HOST_IPV4_OFF, **_address_generation(bridge.addr_gen_mode, bridge.mtu)}),
    ]


def _create_veth(veth: Veth) -> list[Operation]:
    """Create a veth pair. Until the near end is up neither has carrier, so neither receives a packet.

    The far end has all its settings by then. It sends only after the message that sets the near end up: its queue is
    started under the lock of all links (net/core/link_watch.c). Executors without such messages set an end up last.
    """
    joined = {"master": veth.master} if veth.master else {}
    near: dict[str, object] = {"promisc": veth.promisc, "mtu": veth.mtu, "noarp": True}
    far: dict[str, object] = {"promisc": veth.peer_promisc, "mtu": veth.peer_mtu, "noarp": True}
    ends = ((veth.peer, veth.peer_alias, veth.peer_mtu, veth.peer_up), (veth.name, veth.alias, veth.mtu, veth.up))
    return [
        Add("veth", veth.name, near | joined, veth.peer, far),
        *(Sysctl(end, "disable_ipv6", 1) for end, *_ in ends),
        *(
            Set(end, {"alias": alias, "up": up, **HOST_IPV4_OFF, **_address_generation("none", mtu)})
            for end, alias, mtu, up in ends
        ),
    ]


def _address_generation(mode: str | None, mtu: int) -> dict[str, object]:
    """Return addr_gen_mode for the message to a new device. A write of its file would wait for the lock of all links.

    A device with a smaller MTU has no IPv6, and the kernel would reject the whole message (EAFNOSUPPORT).
    """
    return {"addr_gen_mode": ADDR_GEN_MODES.index(mode)} if mode is not None and mtu >= MIN_IPV6_MTU else {}


def _update_member(
    before: Veth | ManagedTap, after: Veth | ManagedTap, changes: Mapping[str, object]
) -> list[Operation]:
    near = {name: value for name, value in changes.items() if not name.startswith("peer_")}
    far = {name.removeprefix("peer_"): value for name, value in changes.items() if name.startswith("peer_")}
    opens, owned = near.pop("bridge_port", None), near.pop("owner", None)
    operations: list[Operation] = [RemoveAddresses(after.name)] if "host_ip" in near else []
    operations += _set_end(after.name, near)
    if isinstance(after, Veth):
        operations += [RemoveAddresses(after.peer)] if "host_ip" in far else []
        operations += _set_end(after.peer, far)
    # A device that has just joined its bridge is open.
    if opens is not None and "master" not in changes:
        operations.append(Set(after.name, {"bridge_port": opening_of(before)}))
    return [*operations, Own(after.name)] if owned is not None else operations


def _set_end(device: str, changes: Mapping[str, object]) -> list[Operation]:
    """Set one end of a veth pair or a tap. Each change of its MTU ends with the host's IP off."""
    if {"host_ip", "mtu"} & changes.keys():
        changes = {**changes, "host_ip": "", **HOST_IPV6_OFF}
    return _set(device, changes)


def _set(device: str, changes: Mapping[str, object]) -> list[Operation]:
    """Set attributes of a device, up last. host_ip: its IPv4 is switched off, whatever the value."""
    values = {name: value for name, value in changes.items() if name not in ("host_ip", "up", *IPV6)}
    values |= HOST_IPV4_OFF if "host_ip" in changes else {}
    operations: list[Operation] = [Set(device, values)] if values else []
    for name in IPV6:
        value = changes.get(name)
        if value is not None:
            number = ADDR_GEN_MODES.index(value) if isinstance(value, str) else int(bool(value))
            operations.append(Sysctl(device, name, number))
    return [*operations, Set(device, {"up": changes["up"]})] if "up" in changes else operations
