"""Which ports of a host are ours, and which of those are remains: half there, and no VM's. Judged by what was seen.

Ours is what bears our mark, and nothing that contradicts it: a full port id as the alias of a link, or our own key in
OVSDB, of a port whose first 11 characters are those of the name. What os-vif, Nova or a person plugged bears none. A
lone row is the exception that cannot be told: where the interface id is the port id it bears no key of ours, and looks
as os-vif would have made it. Such a row is `unmarked`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hybridvif.model.errors import Refused
from hybridvif.model.facts import Facts, Observed
from hybridvif.model.names import KEY_LENGTH, PortNames, is_uuid, key_of, names_of_key
from hybridvif.model.parts import NOTHING, ForeignObject, HostState, ManagedTap, OvsPort, Tap
from hybridvif.model.planner import plan
from hybridvif.model.steps import owners_of


class OrphanInUse(Refused):
    """What was to be removed as a remain is none any more: it was plugged meanwhile, or a VM came."""

    code = "no-remain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """What is left of a port."""

    port_id: str
    state: HostState
    """Its parts, a tap that was not made here apart."""
    is_tagged: bool
    """Whether it bears our mark; else it is a row that only its iface-id tells, ours or os-vif's."""
    sign: str
    """Tells it from an earlier or later remain of the same port: the devices have other numbers then."""


def states_of_ports(state: HostState) -> dict[str, HostState]:
    """What is there of each port, by the 11 characters that name it, in their order."""
    states: dict[str, HostState] = {}
    for part in state:
        key = key_of(part.name)
        if key is not None:
            states[key] = states.get(key, NOTHING).with_parts(part)
    return {key: states[key].of(names_of_key(key)) for key in sorted(states)}


def tagged_ports(seen: Observed) -> list[str]:
    """The ids of the ports that bear our mark, whatever is there of them."""
    owners = ((key, *_owner_of(state)) for key, state in states_of_ports(seen.state).items())
    return [owner for key, owner, is_tagged in owners if is_tagged and owner[:KEY_LENGTH] == key]


def find_orphans(seen: Observed, bridges: Collection[str]) -> list[Orphan]:
    """All remains on a host. bridges: the integration bridges; an unmarked row in another one is nobody's remain."""
    return list(_remains(seen, bridges))


def _remains(seen: Observed, bridges: Collection[str]) -> Iterator[Orphan]:
    for key, state in states_of_ports(seen.state).items():
        names = names_of_key(key)
        owner, is_tagged = _owner_of(state)
        if owner[:KEY_LENGTH] != key or not _is_half(state, names) or _carries_a_vm(state, names, seen.facts):
            continue
        if not is_tagged and not _is_lone_row(state, bridges):
            continue
        try:
            plan(state, NOTHING)
        except Refused:
            # Something foreign holds it, or holds one of its names.
            continue
        parts = HostState({name: one for name, one in state.links.items() if not isinstance(one, Tap)}, state.ports)
        yield Orphan(port_id=owner, state=parts, is_tagged=is_tagged, sign=_sign_of(owner, parts, seen.facts))


def _owner_of(state: HostState) -> tuple[str, bool]:
    """The id of the one port that all evidence speaks for ("" if there is no such), and whether a mark of ours does."""
    marks = {owner for link in state.links.values() for owner in owners_of(link)}
    marks |= {link.alias for link in state.links.values() if isinstance(link, ForeignObject) and is_uuid(link.alias)}
    marks |= {row.port_id for row in state.ports.values() if isinstance(row, OvsPort) and is_uuid(row.port_id)}
    owners = marks | {owner for row in state.ports.values() for owner in owners_of(row)}
    return (min(owners) if len(owners) == 1 else "", bool(marks))


def _is_half(state: HostState, names: PortNames) -> bool:
    if names.vhost_user in state.ports:
        # Nothing tells whether a VM has its socket, so nothing is taken from it.
        return False
    there = (names.bridge in state.links, names.bridge_end in state.links, names.switch_end in state.ports)
    return not all(there) and (any(there) or isinstance(state.links.get(names.tap), ManagedTap))


def _is_lone_row(state: HostState, bridges: Collection[str]) -> bool:
    return not state.links and all(isinstance(row, OvsPort) and row.bridge in bridges for row in state.ports.values())


def _carries_a_vm(state: HostState, names: PortNames, facts: Facts) -> bool:
    """A tap that is held open, wherever it is; or anything in the Linux bridge that is neither the tap nor qvb."""
    if set(facts.members.get(names.bridge, ())) - {names.tap, names.bridge_end}:
        return True
    if not isinstance(state.links.get(names.tap), Tap | ManagedTap):
        return False
    tap = facts.links.get(names.tap)
    return tap is None or tap.carrier


def _sign_of(owner: str, parts: HostState, facts: Facts) -> str:
    numbers = [f"{name}={fact.ifindex}" for name in sorted(parts.links) if (fact := facts.links.get(name))]
    return " ".join([owner, *numbers, *(f"{name}=row" for name in parts.ports)])
