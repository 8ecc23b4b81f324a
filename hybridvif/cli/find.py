"""Find the ports that a command line names by a device name, by 11 characters, or by the id of their instance.

A name is looked up in the aliases of the links and in the ids of the rows of Open vSwitch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from hybridvif.cli.output.topology import ids_of
from hybridvif.cli.ports import PortRequest
from hybridvif.engine.any_host import AnyHost
from hybridvif.model.errors import InvalidInput, NameCollision, did_you_mean
from hybridvif.model.names import KEY_LENGTH, is_uuid, key_of, names_of_key
from hybridvif.model.orphans import states_of_ports
from hybridvif.model.parts import OvsPort
from hybridvif.model.state import HostState

States = dict[str, HostState]
"""The state of each port by the 11 characters of its names."""


def find_ports(
    requests: Sequence[PortRequest],
    host: AnyHost,
    *,
    single: bool = False,
    exist: bool = False,
    changes: bool = False,
) -> list[PortRequest]:
    """Return the requests with port ids, each port once.

    single: allow one port only. exist: allow plugged ports only. changes: allow no name with evidence of two ports;
    otherwise the strongest evidence counts. Raises InvalidInput, NameCollision.
    """
    states = states_of_ports(host.observe(None, time.monotonic() + host.settings.deadline).state)
    found: dict[str, PortRequest] = {}
    for request in requests:
        ids = _ids_for(request.port_id, states, exist=exist, changes=changes) if request.is_open else [request.port_id]
        if single and len(ids) > 1:
            raise InvalidInput(f"instance {request.port_id} has {len(ids)} ports; name one: {', '.join(ids)}")
        for port_id in ids:
            found.setdefault(port_id, replace(request, fields={**request.fields, "id": port_id}))
    return list(found.values())


def _ids_for(word: str, states: States, *, exist: bool, changes: bool) -> list[str]:
    """Return the port ids that a word names: one, or those of an instance."""
    key = key_of(word) or key_of(f"qbr{word[:KEY_LENGTH] if is_uuid(word) else word}") or ""
    keys = [key] if key in states and (not is_uuid(word) or word in ids_of(key, states[key])) else []
    instances = [key for key, state in states.items() if word in _instances(state)]
    if not keys and not instances:
        others = ids_of(key, states[key]) if key in states else []
        if is_uuid(word) and (not exist or (key in states and not others)):
            return [word]
        if is_uuid(word) and others:
            raise NameCollision(
                f"port {word} is not plugged here: its device names are those of port {others[0]}, which has the same "
                f"first {KEY_LENGTH} characters; see: hybridvif show {others[0]}"
            )
        raise InvalidInput(f"{word}: no port of this host has this name or id{_suggestion(word, states)}")
    ids = {key: [word] if is_uuid(word) and keys else ids_of(key, states[key]) for key in keys or instances}
    for key, candidates in ids.items():
        if not candidates:
            raise InvalidInput(f"{word}: no part of {names_of_key(key).switch_end} has its full port id; give this id")
    matches = [port_id for candidates in ids.values() for port_id in candidates]
    if changes and (len(matches) > len(ids) or (keys and instances)):
        matches += [port_id for key in instances for port_id in ids_of(key, states[key]) if port_id not in matches]
        raise NameCollision(f"{word}: it may name several ports ({', '.join(matches)}); give the id of one of them")
    return [candidates[0] for candidates in ids.values()]


def _instances(state: HostState) -> set[str]:
    return {row.vm_uuid for row in state.ports.values() if isinstance(row, OvsPort)}


def _suggestion(word: str, states: States) -> str:
    known = [name for key in states for name in (*names_of_key(key), key)]
    ids = {port_id for key, state in states.items() for port_id in (*ids_of(key, state), *_instances(state))}
    return did_you_mean(word, [*known, *sorted(ids)]) or "; see: hybridvif list"
