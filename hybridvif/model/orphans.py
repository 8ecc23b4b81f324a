"""Orphans: incomplete ports of ours without a VM.

A port is ours if one ownership tag names it and no evidence contradicts the tag. A tag is a full port id whose first 11
characters match the name. It is the alias of a link or our own key in OVSDB. Ports of os-vif, Nova or a person have no
tag. One case is ambiguous: a row without links whose interface id is the port id. It has no key of ours, and os-vif
creates the same row. It is an orphan with is_tagged False.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hybridvif.model.errors import Refused
from hybridvif.model.names import KEY_LENGTH, PortNames, is_uuid, key_of, names_of_key
from hybridvif.model.parts import ManagedTap, NativePort, OvsPort, Tap
from hybridvif.model.planner import aliases_in, plan
from hybridvif.model.state import NOTHING, Facts, HostState, Observed, owners_of


class OrphanInUse(Refused):
    """The orphan is in use again: it was plugged, or a VM attached."""

    code = "no-remain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """Leftover parts of a port."""

    port_id: str
    state: HostState
    """Its parts, without a tap of libvirt."""
    is_tagged: bool
    """True if it has an ownership tag. False: a row that os-vif may have created."""
    sign: str
    """Fingerprint of its devices. A later orphan of the same port has other interface indexes."""


def states_of_ports(state: HostState) -> dict[str, HostState]:
    """Return the state of each port by the 11 characters of its names, sorted."""
    states: dict[str, HostState] = {}
    for part in state:
        key = key_of(part.name)
        if key is not None:
            states[key] = states.get(key, NOTHING).with_parts(part)
    return {key: states[key].of(names_of_key(key)) for key in sorted(states)}


def tagged_ports(seen: Observed) -> list[str]:
    """Return the ids of the ports with an ownership tag, complete or not."""
    owners = ((key, *_owner_of(state)) for key, state in states_of_ports(seen.state).items())
    return [owner for key, owner, is_tagged in owners if is_tagged and owner[:KEY_LENGTH] == key]


def find_orphans(seen: Observed, bridges: Collection[str]) -> list[Orphan]:
    """Return all orphans. bridges: the integration bridges; an untagged row in another bridge is ignored."""
    orphans = []
    for key, state in states_of_ports(seen.state).items():
        names = names_of_key(key)
        owner, is_tagged = _owner_of(state)
        if owner[:KEY_LENGTH] != key or not _is_incomplete(state, names) or _has_vm(state, names, seen.facts):
            continue
        rows = state.ports.values()
        if not is_tagged and (
            state.links or any(not isinstance(row, OvsPort) or row.bridge not in bridges for row in rows)
        ):
            continue
        try:
            plan(state, NOTHING)
        except Refused:
            # A foreign object holds it, or has one of its names.
            continue
        parts = HostState({name: link for name, link in state.links.items() if not isinstance(link, Tap)}, state.ports)
        links = seen.facts.links
        indexes = [f"{name}={links[name].ifindex}" for name in sorted(parts.links) if name in links]
        sign = " ".join([owner, *indexes, *(f"{name}=row" for name in parts.ports)])
        orphans.append(Orphan(port_id=owner, state=parts, is_tagged=is_tagged, sign=sign))
    return orphans


def _owner_of(state: HostState) -> tuple[str, bool]:
    """Return the port id that all evidence agrees on, or "", and if it comes from an ownership tag."""
    tags = aliases_in(state)
    tags |= {row.port_id for row in state.ports.values() if isinstance(row, OvsPort) and is_uuid(row.port_id)}
    owners = tags | {owner for row in state.ports.values() for owner in owners_of(row)}
    return (min(owners) if len(owners) == 1 else "", bool(tags))


def _is_incomplete(state: HostState, names: PortNames) -> bool:
    if names.vhost_user in state.ports:
        # No fact shows if a VM uses the socket.
        return False
    if isinstance(state.ports.get(names.tap), NativePort):
        # The tap of libvirt goes with its VM. libvirt does not delete the row of a port that it plugged as hybrid.
        return names.tap not in state.links
    exists = (names.bridge in state.links, names.bridge_end in state.links, names.switch_end in state.ports)
    return not all(exists) and (any(exists) or isinstance(state.links.get(names.tap), ManagedTap))


def _has_vm(state: HostState, names: PortNames, facts: Facts) -> bool:
    """Return True for a tap with carrier, or a foreign member of the Linux bridge."""
    if set(facts.members.get(names.bridge, ())) - {names.tap, names.bridge_end}:
        return True
    if not isinstance(state.links.get(names.tap), Tap | ManagedTap):
        return False
    tap = facts.links.get(names.tap)
    return tap is None or tap.carrier
