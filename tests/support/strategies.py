"""Hypothesis strategies: ports, states of a host under one port's names, hosts with many ports.

They draw any state of a kernel and an OVSDB: incomplete, drifted in any attribute, the row on another bridge or a
placeholder, a tap with or without a master. Shrinking leads to the plugged port or to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import settings, strategies as st

from hybridvif.model.names import (
    DATAPATH_TYPES,
    KEY_LENGTH,
    MAX_MTU,
    MAX_TAP_MTU,
    MIN_MTU,
    NONE,
    QOS_TYPES,
    VHOSTUSER_MODES,
    is_mac,
)
from hybridvif.model.parts import (
    DECLARATIONS,
    PLACEHOLDER_TYPE,
    VHOST_USER_TYPES,
    Bridge,
    IvsPort,
    ManagedTap,
    NativePort,
    OvsPort,
    Part,
    Tap,
    Veth,
    VhostUserPort,
    as_observed,
    differences,
)
from hybridvif.model.planner import as_native
from hybridvif.model.port import Port, VifType, desired_state
from hybridvif.model.state import HostState, Step, simulate

settings.register_profile("moderate", max_examples=60, deadline=None, derandomize=False)
settings.register_profile("full", max_examples=2_000, deadline=None, derandomize=False)
settings.load_profile("full" if os.environ.get("HYBRIDVIF_FULL") else "moderate")

P = TypeVar("P", bound=Part)


def the(kind: type[P], state: HostState) -> P:
    """Return the only part of this kind in a state."""
    [part] = [part for part in state if isinstance(part, kind)]
    return part


PORT = Port(
    id="5f2c0e1a-7b00-4c00-8000-000000000001",
    mac="fa:16:3e:aa:bb:cc",
    instance_id="0b1c2d3e-0000-4000-8000-000000000002",
)
"""The port of the examples, followed by its parts."""
NAMES = PORT.names
WIRING = desired_state(PORT)
BRIDGE, VETH, ROW = the(Bridge, WIRING), the(Veth, WIRING), the(OvsPort, WIRING)
VHOST_USER = the(VhostUserPort, desired_state(replace(PORT, vhostuser_mode="server")))
"""The row of the same port as a vhost-user port."""
TAP = Tap(name=NAMES.tap, master=NAMES.bridge)
NATIVE = the(NativePort, as_native(WIRING, PORT.id, WIRING))
"""The row of the same port as a native port."""
TAPPED = replace(PORT, create_tap=True)
"""The same port with a tap of ours."""
MADE_TAP = the(ManagedTap, desired_state(TAPPED))

FOREIGN_BRIDGE = "br-foreign"

REASONS = {(kind, name): of.reason for kind, declared in DECLARATIONS.items() for name, of in declared.items()}
"""The reasons of all attributes."""

HYBRID = ("",)
"""The only mode of a port with links."""
NO_LINKS: dict[str, Any] = {"call_iptables": False, "create_tap": False, "multiqueue": False, "qos_type": ""}
"""Fields that a vhost-user port does not have."""

uuids = st.uuids().map(str)
macs = st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":")).filter(is_mac)
switch_bridges = st.sampled_from(["br-int", "br-ex", "tbr-5f2c0e1a-7", "a.b_c-d"])
words = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=8)
marks = st.one_of(st.just(""), words, uuids, uuids.map(str.upper))
"""Values of an alias or an external id. Only a UUID in canonical form is evidence of an owner."""
host_ips = st.sampled_from(["off", "forwarding 1", "rp_filter 0, ARP on, IPv6 on, addr_gen_mode eui64", None])
bridge_ports = st.sampled_from(["open", "isolated on", "state disabled, flood off, locked on"])
numbers = st.one_of(st.integers(0, 10), st.integers(0, 2**32 - 1))


@st.composite
def ports(
    draw: st.DrawFn,
    vif_types: st.SearchStrategy[VifType] | None = None,
    modes: tuple[str, ...] = ("", *VHOSTUSER_MODES),
) -> Port:
    """Draw any legal Port. modes: of vhost-user; half of all ports have "", so are hybrid."""
    vif_type = draw(st.sampled_from(VifType) if vif_types is None else vif_types)
    of_a_row = {"isolate": st.booleans(), "qos_type": st.sampled_from(["", NONE, *QOS_TYPES])}
    mode = draw(st.sampled_from(["", *modes])) if vif_type is VifType.OVS else ""
    create_tap = not mode and draw(st.booleans())
    if mode:
        of_a_row |= {"vhostuser_mode": st.just(mode), "qos_type": st.sampled_from(["", NONE])}
    of_a_row |= {"datapath_type": st.sampled_from(["", *DATAPATH_TYPES])}
    plain = st.builds(
        Port,
        id=uuids,
        mac=macs,
        instance_id=uuids,
        interface_id=st.just("") | uuids,
        mtu=st.integers(MIN_MTU, MAX_TAP_MTU if create_tap else MAX_MTU),
        create_tap=st.just(create_tap),
        multiqueue=st.booleans() if create_tap else st.just(False),
        call_iptables=st.just(False) if mode else st.booleans(),
        bridge=switch_bridges,
        vif_type=st.just(vif_type),
        **(of_a_row if vif_type is VifType.OVS else {}),
    )
    return draw(plain)


@st.composite
def colliding_ids(draw: st.DrawFn) -> tuple[str, str]:
    """Draw two port ids with the same first 11 characters."""
    first, other = draw(uuids), draw(uuids)
    other = first[:KEY_LENGTH] + other[KEY_LENGTH:]
    return (first, other) if first != other else (first, first[:-1] + ("0" if first[-1] != "0" else "1"))


_DRIFT: dict[type[Part], dict[str, st.SearchStrategy[object]]] = {
    Bridge: {
        "alias": marks,
        "mtu": numbers,
        "up": st.booleans(),
        "forward_delay": st.sampled_from([0, 199, 200, 1500, 3000, 3001, 2**32 - 1]),
        "ageing": numbers,
        "stp": st.booleans(),
        "multicast_snooping": st.booleans(),
        "disable_ipv6": st.sampled_from([True, False, None]),
        "addr_gen_mode": st.sampled_from(["none", "eui64", "stable_secret", "random", None]),
        "arp_ignore": st.integers(-1, 10),
        "arp_announce": st.integers(-1, 10),
        "nf_call_iptables": st.sampled_from([True, False, None]),
        "nf_call_ip6tables": st.sampled_from([True, False, None]),
        "group": numbers,
        "host_ip": host_ips,
    },
    Veth: {
        "alias": marks,
        "peer_alias": marks,
        "mtu": numbers,
        "peer_mtu": numbers,
        "up": st.booleans(),
        "peer_up": st.booleans(),
        "promisc": st.booleans(),
        "peer_promisc": st.booleans(),
        "group": numbers,
        "host_ip": host_ips,
        "peer_host_ip": host_ips,
        "bridge_port": bridge_ports,
    },
    # Its alias identifies it as ours.
    ManagedTap: {
        "mac": macs,
        "mtu": numbers,
        "up": st.booleans(),
        "group": numbers,
        "host_ip": host_ips,
        "bridge_port": bridge_ports,
        "owner": st.sampled_from([0, -1, 1000, None]),
    },
    OvsPort: {
        "bridge": switch_bridges,
        "iface_id": marks,
        "iface_status": words,
        "attached_mac": macs | words,
        "vm_uuid": marks,
        "port_id": marks,
        "bridge_name": words | switch_bridges,
        "converting": st.sampled_from(["", "yes"]) | words,
        "type": st.sampled_from(["", PLACEHOLDER_TYPE]),
        "mtu_request": st.sampled_from([None, 0]) | numbers,
    },
    IvsPort: {},
}
_DRIFT[VhostUserPort] = _DRIFT[OvsPort] | {
    "type": st.sampled_from(sorted(VHOST_USER_TYPES.values())),
    "socket_as_configured": st.booleans(),
}


@st.composite
def drifted(draw: st.DrawFn, part: Part) -> Part:
    """Draw this part with any of its attributes changed, except those that tie it to other parts."""
    changes: dict[str, Any] = draw(st.fixed_dictionaries({}, optional=_DRIFT[type(part)]))
    return replace(part, **changes)


@st.composite
def states_of(draw: st.DrawFn, port: Port, stale: bool = False) -> HostState:
    """Draw any state of a host under this port's names, without foreign objects.

    stale: ovs-vswitchd missed a change, so a row may count as accepted without its device.
    """
    names, wiring = port.names, desired_state(port)
    wanted = [part for part in wiring if draw(st.booleans().map(lambda absent: not absent))]
    state = HostState().with_parts(*(draw(drifted(as_observed(part))) for part in wanted))
    if port.vhostuser_mode and draw(st.integers(0, 9)) == 9:
        # It was a hybrid port before, with a tap of ours if it can have one.
        hybrid = replace(port, vhostuser_mode="", create_tap=port.mtu <= MAX_TAP_MTU)
        state = state.with_parts(*(as_observed(part) for part in desired_state(hybrid)))
    masters = ["", names.bridge] if names.bridge in state.links else [""]
    veth, row = state.links.get(names.bridge_end), state.ports.get(names.switch_end)
    if isinstance(veth, Veth):
        state = state.with_parts(_in(draw(st.sampled_from(masters[::-1])), veth))
    if isinstance(row, OvsPort):
        can_realize = stale or (isinstance(veth, Veth) and row.type == "")
        state = state.with_parts(replace(row, realized=can_realize and not draw(st.booleans())))
    plugged_so = state.ports.get(names.vhost_user)
    if isinstance(plugged_so, VhostUserPort):
        state = state.with_parts(replace(plugged_so, realized=draw(st.booleans())))
    elif draw(st.integers(0, 9)) == 9 and port.vif_type is VifType.OVS and isinstance(row, OvsPort):
        # It was a vhost-user port before, or another tool has added one.
        other = desired_state(replace(port, vhostuser_mode="client", **NO_LINKS))
        state = state.with_parts(as_observed(other.ports[names.vhost_user]))
    tap = state.links.get(names.tap)
    if isinstance(tap, ManagedTap):
        state = state.with_parts(_in(draw(st.sampled_from(masters[::-1])), tap))
    elif draw(st.booleans()):
        state = state.with_parts(Tap(name=names.tap, master=draw(st.sampled_from([*masters, FOREIGN_BRIDGE]))))
    is_alone = names.vhost_user not in state.ports
    if type(row) is OvsPort and is_alone and not row.type and draw(st.integers(0, 9)) == 9:
        state = _converted(state, row, port, can_realize=draw(st.booleans()))
    return state


def _converted(state: HostState, row: OvsPort, port: Port, *, can_realize: bool) -> HostState:
    """Return the state after a conversion: the tap, if there is one, is outside of qbr."""
    native = as_native(HostState({}, {row.name: row}), port.id, HostState()).ports[port.names.tap]
    assert isinstance(native, NativePort)
    tap = state.links.get(port.names.tap)
    if isinstance(tap, Tap):
        state = state.with_parts(replace(tap, master=""))
    elif isinstance(tap, ManagedTap):
        state = state.with_parts(_in("", tap))
    return state.without(row).with_parts(replace(native, realized=can_realize and tap is not None))


def _in(master: str, member: Veth | ManagedTap) -> Part:
    """Return the device in this bridge. Without a master it is not a bridge port."""
    return replace(member, master=master, bridge_port=member.bridge_port if master else None)


@st.composite
def hosts_with(draw: st.DrawFn, port: Port, others: int = 3) -> HostState:
    """Draw a host with any state of this port, and other ports in any state."""
    host = draw(states_of(port))
    for other in draw(st.lists(ports(st.just(port.vif_type)), max_size=others)):
        if other.id[:KEY_LENGTH] != port.id[:KEY_LENGTH]:
            host = host.with_parts(*draw(states_of(other)))
    return host


def history(state: HostState, steps: tuple[Step, ...]) -> Iterator[HostState]:
    """Yield the host before the first step and after each step: every state after a kill."""
    yield state
    for step in steps:
        state = simulate(state, step)
        yield state


def without_taps(state: HostState) -> HostState:
    """Return the parts that a plan may create or delete: without taps of others."""
    for part in state:
        if isinstance(part, Tap):
            state = state.without(part)
    return state


def disagreements(reached: HostState, goal: HostState) -> list[str]:
    """Return the differences of two states, as sentences. Taps that are in no goal are ignored."""
    found = []
    taps = {part.name for part in reached if isinstance(part, Tap)}
    for side in ("links", "ports"):
        ones, others = getattr(without_taps(reached), side), getattr(without_taps(goal), side)
        found += [f"{name} is left over" for name in ones.keys() - others.keys()]
        found += [f"{name} is missing" for name in others.keys() - ones.keys() - (taps if side == "links" else set())]
        for name in ones.keys() & others.keys():
            if type(ones[name]) is not type(others[name]):
                found.append(f"{name} is a {ones[name].kind}, not a {others[name].kind}")
            else:
                found += [f"{name}: {change}" for change in differences(ones[name], others[name])]
    return found
