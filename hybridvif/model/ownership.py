"""Ownership of observed parts, and orphans: incomplete ports of ours without a VM.

Two ports can share their first 11 characters (40 bits), and so all names. Evidence, strongest first: the alias of a
link, our own key external_ids:hybridvif-port-id, iface-id. Parts without evidence come from os-vif, Nova or a person. A
plug adopts them if they fit.

A port is ours if one ownership tag names it and no evidence contradicts the tag. A tag is a full port id whose first 11
characters match the name. It is the alias of a link or our own key in OVSDB. Ports of os-vif, Nova or a person have no
tag. One case is ambiguous: a row without links whose interface id is the port id. It has no key of ours, and os-vif
creates the same row. It is an orphan with is_tagged False.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hybridvif.model.errors import NameCollision, Refused
from hybridvif.model.names import KEY_LENGTH, PortNames, is_uuid, key_of, names_of_key
from hybridvif.model.parts import ForeignObject, ManagedTap, NativePort, OvsPort, Tap, VhostUserPort
from hybridvif.model.planner import plan
from hybridvif.model.state import NOTHING, Facts, HostState, Observed
from hybridvif.model.steps import owners_of


def check_ownership(observed: HostState, port_id: str, interface_id: str = "") -> None:
    """Check that no observed part belongs to another port.

    interface_id: the iface-id that this port may have beside its own id. Raises NameCollision with both ids.
    """
    aliases = _aliases(observed)
    for alias in sorted(aliases - {port_id}):
        raise _collision(port_id, alias, "the alias of its links")
    for row in observed.ports.values():
        # The aliases cover the row of the switch end. A vhost-user port has no links.
        if not isinstance(row, OvsPort) or (aliases and not isinstance(row, VhostUserPort)):
            continue
        if is_uuid(row.port_id):
            if row.port_id != port_id:
                raise _collision(port_id, row.port_id, "external_ids:hybridvif-port-id")
        elif is_uuid(row.iface_id) and row.iface_id not in (port_id, interface_id):
            raise _collision(port_id, row.iface_id, "external_ids:iface-id")


def _aliases(state: HostState) -> set[str]:
    """Return the port ids in the aliases of the links, with those of foreign objects."""
    foreign = {link.alias for link in state.links.values() if isinstance(link, ForeignObject) and is_uuid(link.alias)}
    return foreign.union(*map(owners_of, state.links.values()))


def _collision(port_id: str, other: str, evidence: str) -> NameCollision:
    return NameCollision(
        f"port {port_id} shares its first 11 characters, and so its device names, with port {other}, "
        f"which is plugged here ({evidence}); unplug that port first, or give one of them another id"
    )


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
    return list(_orphans(seen, bridges))


def _orphans(seen: Observed, bridges: Collection[str]) -> Iterator[Orphan]:
    for key, state in states_of_ports(seen.state).items():
        names = names_of_key(key)
        owner, is_tagged = _owner_of(state)
        if owner[:KEY_LENGTH] != key or not _is_incomplete(state, names) or _has_vm(state, names, seen.facts):
            continue
        if not is_tagged and not _is_lone_row(state, bridges):
            continue
        try:
            plan(state, NOTHING)
        except Refused:
            # A foreign object holds it, or has one of its names.
            continue
        parts = HostState({name: link for name, link in state.links.items() if not isinstance(link, Tap)}, state.ports)
        yield Orphan(port_id=owner, state=parts, is_tagged=is_tagged, sign=_fingerprint(owner, parts, seen.facts))


def _owner_of(state: HostState) -> tuple[str, bool]:
    """Return the port id that all evidence agrees on, or "", and if it comes from an ownership tag."""
    tags = _aliases(state)
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


def _is_lone_row(state: HostState, bridges: Collection[str]) -> bool:
    return not state.links and all(isinstance(row, OvsPort) and row.bridge in bridges for row in state.ports.values())


def _has_vm(state: HostState, names: PortNames, facts: Facts) -> bool:
    """Return True for a tap with carrier, or a foreign member of the Linux bridge."""
    if set(facts.members.get(names.bridge, ())) - {names.tap, names.bridge_end}:
        return True
    if not isinstance(state.links.get(names.tap), Tap | ManagedTap):
        return False
    tap = facts.links.get(names.tap)
    return tap is None or tap.carrier


def _fingerprint(owner: str, parts: HostState, facts: Facts) -> str:
    indexes = [f"{name}={fact.ifindex}" for name in sorted(parts.links) if (fact := facts.links.get(name))]
    return " ".join([owner, *indexes, *(f"{name}=row" for name in parts.ports)])
