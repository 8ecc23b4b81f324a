"""Target of a rollback: the first observed state, as far as it may be written again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hybridvif.model.parts import (
    ISOLATING,
    NOTHING,
    Bridge,
    HostState,
    OvsPort,
    Part,
    attributes_of,
    create_only_values,
    invalid_attributes,
)
from hybridvif.model.settings import Settings
from hybridvif.model.steps import owners_of


def rollback_target(
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
            goal = goal.with_parts(*(_born_as(row, part) for row in wiring.ports.values() if isinstance(row, OvsPort)))
        if type(wired) is type(part):
            lost = _lost(part, settings)
        elif type(part) in ISOLATING:
            # Nothing is wired in place of the links of a hybrid port that becomes a vhost-user port.
            wired, lost = replace(part, **_isolation_of(part)), _weak(part)
        else:
            continue
        goal = goal.with_parts(_born_as(wired, part))
        lost += _misleading(replace(part, **{name: getattr(wired, name) for name in lost}), wired)
        touched = [name for name in lost if _differ(part, found, name)]
        if touched:
            goal = goal.with_parts(_born_as(wired, replace(part, **{name: getattr(wired, name) for name in touched})))
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
    births = {
        name: value for name, value in create_only_values(wired).items() if not invalid_attributes(part, {name: value})
    }
    return replace(part, **births) if births else part


def _lost(part: Part, settings: Settings | None) -> list[str]:
    """The attributes of a part that could not be written back, once they were overwritten."""
    lost = list(invalid_attributes(part))
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
