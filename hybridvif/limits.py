"""Which values may be written at all, part by part: the daemon's policy refuses the rest, a rollback leaves them.

What was observed is not limited: a kernel or a database can hold values that nobody would plug.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from hybridvif.names import KEY_LENGTH, is_trunk_bridge, is_uuid, key_of, names_of_key
from hybridvif.parts import (
    HOST_IP_OFF,
    NOTHING,
    OPEN,
    PARKED,
    ROOT,
    VHOST_USER_TYPES,
    Bridge,
    HostState,
    IvsPort,
    MadeTap,
    OvsPort,
    Part,
    Tap,
    Veth,
    VhostUserPort,
    attributes_of,
    births_of,
)
from hybridvif.port import DATAPATH_TYPES, MAX_MTU, MAX_TAP_MTU, MIN_MTU, QOS_TYPES, is_bridge_name, is_mac
from hybridvif.settings import Settings
from hybridvif.steps import owners_of

Rule = Callable[[Part, object], bool]

ISOLATING: Mapping[type[Part], Mapping[str, object]] = {
    Bridge: {
        "stp": False,
        "multicast_snooping": False,
        "disable_ipv6": True,
        "addr_gen_mode": "none",
        "arp_ignore": 1,
        "arp_announce": 2,
        "host_ip": HOST_IP_OFF,
    },
    Veth: {"host_ip": HOST_IP_OFF, "peer_host_ip": HOST_IP_OFF, "bridge_port": OPEN},
    MadeTap: {"host_ip": HOST_IP_OFF, "bridge_port": OPEN, "owner": ROOT},
}
"""Attributes that keep a VM and its host apart, and its packets on their way: each has one value that is written."""
MAX_AGEING = 360_000_000
"""In hundredths of a second: what the kernel's clock arithmetic takes without overflow, and far beyond any use."""
MAX_FORWARD_DELAY = 3_000
"""30 s, the largest that IEEE 802.1D and the kernel allow."""


def _is_flag(_: Part, value: object) -> bool:
    return type(value) is bool


def _is_own_alias(part: Part, value: object) -> bool:
    return value == "" or (type(value) is str and is_uuid(value) and value[:KEY_LENGTH] == key_of(part.name))


def _is_own_mark(part: Part, value: object) -> bool:
    return value != "" and _is_own_alias(part, value)


def _is_unicast(_: Part, value: object) -> bool:
    return type(value) is str and is_mac(value)


def _is_unicast_or_absent(part: Part, value: object) -> bool:
    return value == "" or _is_unicast(part, value)


def _is_uuid_or_absent(_: Part, value: object) -> bool:
    return value == "" or (type(value) is str and is_uuid(value))


def _is_own_bridge(part: Part, value: object) -> bool:
    return value == "" or value == names_of_key(key_of(part.name) or "").bridge


def _is_own_peer(part: Part, value: object) -> bool:
    return value == names_of_key(key_of(part.name) or "").switch_end


def _in_range(low: int, high: int) -> Rule:
    return lambda _, value: type(value) is int and low <= value <= high


def _one_of(*values: object) -> Rule:
    # True is no 1, though they are equal.
    legal = frozenset((type(value), value) for value in values)
    return lambda _, value: isinstance(value, Hashable) and (type(value), value) in legal


def _may_be_isolated(part: Part, value: object) -> bool:
    # On a trunk bridge the tag is the trunk's, and nobody would take the port out of the dead VLAN again (LP 2069543).
    return value is False or (value is True and not (isinstance(part, OvsPort) and is_trunk_bridge(part.bridge)))


def _is_trunk_bridge_or_absent(_: Part, value: object) -> bool:
    return value == "" or (type(value) is str and is_trunk_bridge(value) and is_bridge_name(value))


def _is_switch_bridge(_: Part, value: object) -> bool:
    return type(value) is str and is_bridge_name(value)


def _is_mtu_or_absent(_: Part, value: object) -> bool:
    return value is None or (type(value) is int and (value == 0 or MIN_MTU <= value <= MAX_MTU))


def _isolating(kind: type[Part]) -> dict[str, Rule]:
    return {name: _one_of(value) for name, value in ISOLATING[kind].items()}


_ROW: Mapping[str, Rule] = {
    "bridge": _is_switch_bridge,
    "iface_id": _is_uuid_or_absent,
    "iface_status": _one_of("active", ""),
    "attached_mac": _is_unicast_or_absent,
    "vm_uuid": _is_uuid_or_absent,
    "port_id": _is_own_alias,
    "bridge_name": _is_trunk_bridge_or_absent,
    "type": _one_of("", PARKED),
    "realized": _is_flag,
    "isolated": _may_be_isolated,
    "qos_type": _one_of("", *QOS_TYPES),
    "datapath_type": _one_of("", *DATAPATH_TYPES),
}
_RULES: Mapping[type[Part], Mapping[str, Rule]] = {
    Bridge: {
        "alias": _is_own_alias,
        "mtu": _in_range(MIN_MTU, MAX_MTU),
        "up": _is_flag,
        "forward_delay": _in_range(0, MAX_FORWARD_DELAY),
        "ageing": _in_range(0, MAX_AGEING),
        **_isolating(Bridge),
        "nf_call_iptables": _one_of(True, False, None),
        "nf_call_ip6tables": _one_of(True, False, None),
        # A group other than 0 is how a bulk delete marks what is to go.
        "group": _one_of(0),
    },
    Veth: {
        "peer": _is_own_peer,
        "alias": _is_own_alias,
        "peer_alias": _is_own_alias,
        "mtu": _in_range(MIN_MTU, MAX_MTU),
        "peer_mtu": _in_range(MIN_MTU, MAX_MTU),
        "up": _is_flag,
        "peer_up": _is_flag,
        "promisc": _is_flag,
        "peer_promisc": _is_flag,
        "master": _is_own_bridge,
        "group": _one_of(0),
        **_isolating(Veth),
    },
    Tap: {"master": _is_own_bridge},
    MadeTap: {
        # Without one it would be libvirt's from then on.
        "alias": _is_own_mark,
        "mac": _is_unicast,
        "mtu": _in_range(MIN_MTU, MAX_TAP_MTU),
        "up": _is_flag,
        "master": _is_own_bridge,
        "group": _one_of(0),
        **_isolating(MadeTap),
        "multi_queue": _is_flag,
    },
    OvsPort: _ROW,
    VhostUserPort: {
        **_ROW,
        "type": _one_of(*VHOST_USER_TYPES.values()),
        "qos_type": _one_of(""),
        "mtu": _is_mtu_or_absent,
        # Where else a socket may be nobody can say: the executor writes the one place that is configured.
        "socket_as_configured": _one_of(True),
    },
    IvsPort: {},
}


def unwritable(part: Part, attributes: Mapping[str, object] | None = None) -> tuple[str, ...]:
    """The attributes of a part whose values may not be written; those given, or all of them.

    A part of a kind that no plan makes, a Stray, is unwritable as a whole: its kind is returned.
    """
    rules = _RULES.get(type(part))
    if rules is None:
        return (part.kind,)
    values = {name: getattr(part, name) for name in rules} if attributes is None else attributes
    return tuple(name for name, value in values.items() if not rules[name](part, value))


def restorable(
    first: HostState, wiring: HostState, now: HostState = NOTHING, settings: Settings | None = None
) -> tuple[HostState, tuple[str, ...]]:
    """What a rollback may go back to, and the attributes ("qbr...: stp") that it must leave as the wiring has them.

    now: the host as it is; what was never touched is left as it is, and not named. settings: this host's, if any are
    known: what policy refuses by them cannot be gone back to.
    """
    goal, left = first, []
    for part in map(_with_isolation_where_absent, first):
        side = "ports" if part.role is OvsPort.role else "links"
        wired, found = (getattr(state, side).get(part.name) for state in (wiring, now))
        if wired is None and isinstance(part, OvsPort):
            # A hybrid port and a vhost-user port make room for each other.
            goal = goal.having(*(_born_as(row, part) for row in wiring.ports.values() if isinstance(row, OvsPort)))
        if type(wired) is type(part):
            lost = _lost(part, settings)
        elif type(part) in ISOLATING:
            # Nothing is wired in place of the links of a hybrid port that becomes a vhost-user port.
            wired, lost = replace(part, **_isolation_of(part)), _weak(part)
        else:
            continue
        goal = goal.having(_born_as(wired, part))
        lost += _misleading(replace(part, **{name: getattr(wired, name) for name in lost}), wired)
        touched = [name for name in lost if _differ(part, found, name)]
        if touched:
            goal = goal.having(_born_as(wired, replace(part, **{name: getattr(wired, name) for name in touched})))
            left += [f"{part.name}: {name}" for name in touched]
    return goal, tuple(left)


def _with_isolation_where_absent(part: Part) -> Part:
    """The part, to be made anew with what could not be read of it: a small MTU hides the IPv6 settings."""
    absent = {name: value for name, value in _isolation_of(part).items() if getattr(part, name) is None}
    return replace(part, **absent) if absent else part


def _weak(part: Part) -> list[str]:
    """The attributes of a part that isolate less than what may be written."""
    return [name for name, value in _isolation_of(part).items() if getattr(part, name) != value]


def _isolation_of(part: Part) -> dict[str, Any]:
    return dict(ISOLATING.get(type(part), {}))


def _born_as(wired: Part, part: Part) -> Part:
    """The part, to be born as the wiring's where it must be made anew: its own birth nobody knows.

    A row that somebody deletes under a plug that is then rolled back must not come back outside of the dead VLAN.
    """
    births = {name: value for name, value in births_of(wired).items() if not unwritable(part, {name: value})}
    return replace(part, **births) if births else part


def _lost(part: Part, settings: Settings | None) -> list[str]:
    """The attributes of a part that could not be written back, once they were overwritten."""
    lost = list(unwritable(part))
    if settings is None:
        return lost
    if isinstance(part, OvsPort) and not settings.allows(part.bridge) and "bridge" not in lost:
        lost.append("bridge")
    return [*lost, *unfiltered(part, attributes_of(type(part)), settings)]


def unfiltered(part: Part, attributes: Iterable[str], settings: Settings) -> tuple[str, ...]:
    """Those of these attributes of a part by which iptables would not see its packets, where this host wants it to."""
    if not isinstance(part, Bridge) or not settings.call_iptables:
        return ()
    return tuple(
        name for name in ("nf_call_iptables", "nf_call_ip6tables") if name in attributes and not getattr(part, name)
    )


def _misleading(part: Part, wired: Part) -> list[str]:
    """The ids of a row that tell of another port than its own: nobody may write them."""
    if isinstance(part, OvsPort) and owners_of(part) - owners_of(wired):
        return [name for name in ("iface_id", "port_id") if _differ(part, wired, name)]
    return []


def _differ(part: Part, found: Part | None, name: str) -> bool:
    return type(found) is not type(part) or getattr(found, name) != getattr(part, name)
