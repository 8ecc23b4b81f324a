"""The plugged ports of a host, each compared with its desired state.

The fields of a port are inferred from its row (ids, MAC, instance, bridge) and its devices (MTU), as by
`hybridvif check PORT`. A value that is wrong everywhere is found only by `check` with all options.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from hybridvif.cli.infer import InferredPort, infer_port, is_there, row_of
from hybridvif.cli.output.changes import UNKNOWN, change_text, noun_of
from hybridvif.cli.ports import ID_SUFFIX, PortRequest, observe_all, options_of
from hybridvif.engine import locks
from hybridvif.engine.any_host import AnyHost
from hybridvif.engine.goals import check_single_path
from hybridvif.model.changes import WHOLE, Change, changes_of_plan, difference_document
from hybridvif.model.errors import InvalidInput, NameCollision, NotReady, Refused, did_you_mean
from hybridvif.model.names import KEY_LENGTH, PortNames, is_trunk_bridge, is_uuid, key_of, names_of_key
from hybridvif.model.orphans import find_orphans, states_of_ports
from hybridvif.model.parts import (
    Bridge,
    Difference,
    ForeignObject,
    NativePort,
    OvsPort,
    Part,
    SwitchPort,
    Veth,
    VhostUserPort,
)
from hybridvif.model.planner import check_ownership, goal_for, plan
from hybridvif.model.port import desired_state
from hybridvif.model.settings import Settings
from hybridvif.model.state import Facts, HostState, Observed, PortFact, owners_of
from hybridvif.model.warnings import Dropped, PortWarning, dropped_ofports, port_warnings

FLOWS_TIMEOUT = 3.0
"""Seconds for the flows of one bridge, after which ovs-vswitchd counts as hung."""


class Condition(enum.Enum):
    """The state of a plugged port."""

    IN_ORDER = "in-order"
    DRIFT = "drift"
    """Complete, but some attributes differ from the desired state."""
    HALF = "half"
    """The bridge, the veth pair or the row is missing."""
    ORPHAN = "orphan"
    """Incomplete, with our ownership tag and without a VM. gc deletes it after some time."""
    BUSY = "busy"
    """Drift, half or orphan at this instant, because another caller holds the lock of the port."""
    CONFLICT = "conflict"
    """plug refuses: there is a foreign object, or two ports share the device names."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference between the observed and the desired state."""

    part: Part
    difference: Difference

    @property
    def document(self) -> Mapping[str, object]:
        """For machines."""
        return {"kind": self.part.kind, "name": self.part.name, **difference_document(self.part, self.difference)}

    def __str__(self) -> str:
        if self.difference.attribute != WHOLE:
            return f"{self.part.name}: {change_text(self.difference)}"
        verdict = "missing" if self.difference.before == "absent" else "not wanted"
        return f"{noun_of(self.part)} {self.part.name} is {verdict}"


@dataclass(frozen=True, kw_only=True)
class PluggedPort:
    """A port as observed on the host."""

    key: str
    """The 11 characters of the port id in its device names."""
    port_id: str | None
    """None: unknown."""
    names: PortNames
    state: HostState
    facts: Facts
    bridge: Bridge | None
    veth: Veth | None
    row: OvsPort | None
    fact: PortFact
    """The facts about the port in the switch."""
    members: tuple[str, ...]
    """The members of the Linux bridge, except qvb."""
    mtu: int | None
    inferred: InferredPort
    condition: Condition
    drift: tuple[Drift, ...]
    conflict: str
    """The reason of a refusal; "" if plug would not refuse."""
    warnings: tuple[PortWarning, ...]

    @property
    def document(self) -> Mapping[str, object]:
        """The port for machines, as in `hybridvif list`."""
        row = self.row
        return {
            "port": self.port_id,
            "key": self.key,
            "bridge": row.bridge if row else None,
            "ofport": self.fact.ofport,
            "mac": (row.attached_mac or None) if row else None,
            "mtu": self.mtu,
            "state": self.condition.value,
            "warnings": [warning._asdict() for warning in self.warnings],
        }


def drift_of(changes: Sequence[Change], inferred: InferredPort) -> Iterator[Drift]:
    """Yield the changes of plug as drift, missing parts first. The desired value is "?" if it is unknown."""
    unknown = inferred.unknown_attributes
    for change in sorted(changes, key=lambda change: change.verb == "update"):
        part, changed = change.part, change.differences
        for difference in changed:
            name = difference.attribute
            is_unknown = name in unknown or f"{part.kind} {name}" in unknown
            yield Drift(part, replace(difference, after=UNKNOWN) if is_unknown else difference)
        if isinstance(change.before, OvsPort) and change.verb == "update":
            # The plan does not change these attributes of the row, which contradict each other.
            names = [difference.attribute for difference in changed]
            for name in (name for name in inferred.doubtful if name not in names):
                yield Drift(part, Difference(name, getattr(change.before, name), UNKNOWN))


BUSY = "busy: another caller is at work on it"
_PASSING = (Condition.DRIFT, Condition.HALF, Condition.ORPHAN)
"""States that a call passes through while it works on a port."""


class Look(NamedTuple):
    """The ports of a host at one instant."""

    seen: Observed
    ports: list[PluggedPort]
    warnings: list[str]
    """Sentences about the switch."""


def look_at_ports(host: AnyHost, names: Collection[str] | None = None) -> Look:
    """Observe the host, and read its flows and its locks as the caller. Raises HybridVifError.

    A call may end between the observation and the look at its locks, so a port is looked at twice before it counts as
    drift. A busy port has no warnings: their remedies would disturb the other caller.
    """
    is_second = False
    while True:
        seen = host.observe(names, time.monotonic() + host.settings.deadline)
        ports = plugged_ports(seen)
        keys = {port.key for port in ports if port.condition in _PASSING}
        # A simulated host has no locks of this host.
        busy = set() if seen.facts.simulated else locks.busy(keys, host.settings.lock_path)
        if is_second or keys == busy:
            break
        is_second = True
    dropped, warnings = flows_that_drop(host.settings, seen)
    if any(dropped.values()):
        ports = plugged_ports(seen, dropped)
    ports = [replace(port, condition=Condition.BUSY, warnings=()) if port.key in busy else port for port in ports]
    return Look(seen, ports, warnings)


def flows_that_drop(settings: Settings, seen: Observed) -> tuple[Dropped, list[str]]:
    """Read, as the caller, from which ports of a bridge every packet is dropped. Return that, with warnings.

    Without permission to read the flows, nothing is known and nothing is dropped.
    """
    from hybridvif.client import filters

    dropped: dict[str, Collection[int]] = {}
    rows = [row for row in seen.state.ports.values() if isinstance(row, OvsPort)]
    bridges = {row.bridge for row in rows if not is_trunk_bridge(row.bridge)} & seen.facts.switches.keys()
    for bridge in sorted(bridges) if seen.facts.switch_version.startswith("ovs") else ():
        numbers = {seen.facts.ports[row.name].ofport for row in rows if row.bridge == bridge}
        deadline = time.monotonic() + min(FLOWS_TIMEOUT, settings.deadline)
        try:
            flows = filters.flows_of(settings, bridge, 0, deadline)
        except filters.SwitchSilent as error:
            return dropped, [str(error)]
        except NotReady:
            continue
        dropped[bridge] = dropped_ofports(flows, [number for number in numbers if number is not None])
    return dropped, []


def plugged_ports(
    seen: Observed, dropped: Dropped = MappingProxyType({}), port_ids: Collection[str] = ()
) -> list[PluggedPort]:
    """Return the ports that have at least one part, ordered by name. port_ids: given ids, which the parts may lack."""
    given = {port_id[:KEY_LENGTH]: port_id for port_id in port_ids}
    orphans = {orphan.port_id[:KEY_LENGTH] for orphan in find_orphans(seen, ()) if orphan.is_tagged}
    return [
        _plugged_port(key, given.get(key), state, seen.facts, dropped, key in orphans)
        for key, state in states_of_ports(seen.state).items()
        if is_there(state, names_of_key(key))
    ]


def _plugged_port(
    key: str, given: str | None, state: HostState, facts: Facts, dropped: Dropped, is_orphan: bool
) -> PluggedPort:
    names, port_id = names_of_key(key), given or next(iter(ids_of(key, state)), None)
    inferred = infer_port(PortRequest(fields={"id": port_id or key + ID_SUFFIX}), state)
    if port_id is None:
        inferred = replace(inferred, unknown=("id", *inferred.unknown))
    conflict = ""
    changes: tuple[Change, ...] = ()
    try:
        check_ownership(state, inferred.port.id, inferred.port.iface_id)
        check_single_path(inferred.port.id, names, Observed(state, facts))
        changes = changes_of_plan(plan(state, goal_for(state, desired_state(inferred.port), names, stays_native=True)))
    except Refused as error:
        # No command may contain the id that stands for an unknown one.
        text = str(error).replace(inferred.port.id, port_id or "PORT").removeprefix("port PORT: ")
        conflict = text if port_id is not None else _unknown_id_reason(state) or text
    bridge, veth, row = state.links.get(names.bridge), state.links.get(names.bridge_end), row_of(state, names)
    veth = veth if isinstance(veth, Veth) else None
    is_whole = bridge and names.bridge_end in state.links and names.switch_end in state.ports
    if conflict:
        condition = Condition.CONFLICT
    elif is_orphan:
        condition = Condition.ORPHAN
    elif not is_whole and not isinstance(row, NativePort | VhostUserPort):
        condition = Condition.HALF
    else:
        condition = Condition.DRIFT if changes else Condition.IN_ORDER
    return PluggedPort(
        key=key,
        port_id=port_id,
        names=names,
        state=state,
        facts=facts,
        bridge=bridge if isinstance(bridge, Bridge) else None,
        veth=veth,
        row=row if isinstance(row, OvsPort) else None,
        fact=facts.port(row),
        members=tuple(name for name in facts.members.get(names.bridge, ()) if name != names.bridge_end),
        mtu=_mtu_of(row, veth, facts),
        inferred=inferred,
        condition=condition,
        drift=tuple(drift_of(changes, inferred)),
        conflict=conflict,
        warnings=port_warnings(inferred.port, state, facts, dropped) if port_id else (),
    )


def _mtu_of(row: SwitchPort | None, veth: Veth | None, facts: Facts) -> int | None:
    if isinstance(row, VhostUserPort):
        return row.mtu_request or None
    if isinstance(row, NativePort):
        tap = facts.links.get(row.name)
        return tap.mtu if tap else None
    return veth.peer_mtu if veth else None


def _unknown_id_reason(state: HostState) -> str:
    """Return an explanation if the port id is unknown because the row has an own iface-id; else ""."""
    rows = [row for row in state.ports.values() if isinstance(row, OvsPort) and not is_uuid(row.port_id)]
    if any(owners_of(link) for link in state.links.values()) or not any(is_uuid(row.iface_id) for row in rows):
        return ""
    return (
        f"its row has the iface-id {rows[0].iface_id}, which does not match its device names, so its port id is "
        "unknown; plug it with all its options, including --interface-id"
    )


def fix_of(port: PluggedPort, options: Sequence[str] = ()) -> list[str] | None:
    """Return the command that fixes a port; None if it is in order, busy or in conflict."""
    if port.condition in (Condition.IN_ORDER, Condition.BUSY, Condition.CONFLICT):
        return None
    words = options_of(port.inferred.port, port.inferred.unknown)
    return ["hybridvif", *options, "plug", *(["PORT"] if port.port_id is None else words[:1]), *words[1:]]


# -- the port of a name: of a device, its 11 characters or an instance -------------------------------------------------

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
    states = states_of_ports(observe_all(host).state)
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


def ids_of(key: str, state: HostState) -> list[str]:
    """Return the port ids that the parts of a port name, the strongest evidence first."""
    marks = [mark for link in state.links.values() for mark in sorted(owners_of(link))]
    marks += [link.alias for link in state.links.values() if isinstance(link, ForeignObject)]
    for row in state.ports.values():
        if isinstance(row, OvsPort):
            marks += [row.port_id, row.iface_id]
    return list(dict.fromkeys(mark for mark in marks if is_uuid(mark) and mark[:KEY_LENGTH] == key))
