"""The three verbs, and what each does to a host: simulate() is the specification of every executor.

An Update writes only the attributes in which its two parts differ, so two tools that mend different attributes do not
undo each other. objection() says why a step must not run on a host as it is; every executor asks it before it writes,
so that all refuse alike (netlink's IFLA_MASTER silently steals a device that brctl would refuse to take).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from hybridvif.errors import Conflict
from hybridvif.names import is_uuid, key_of, names_of_key
from hybridvif.parts import (
    OPEN,
    Bridge,
    HostState,
    MadeTap,
    Member,
    OvsPort,
    Part,
    Role,
    Stray,
    Tap,
    Veth,
    VhostUserPort,
    as_seen,
    differences,
    with_article,
)


@dataclass(frozen=True, slots=True)
class Create:
    """Make a part that is not there."""

    part: Part


@dataclass(frozen=True, slots=True)
class Update:
    """Change a part that is there, in the attributes in which the two differ."""

    before: Part
    after: Part

    @property
    def part(self) -> Part:
        """What the step is about."""
        return self.after


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a part; that it is gone already is success."""

    part: Part


Step = Create | Update | Delete


def role_of(step: Step) -> Role:
    """Which executor carries the step out."""
    return step.part.role


def changes_of(step: Update) -> dict[str, object]:
    """What an Update writes: the new value by attribute."""
    return {change.attribute: change.after for change in differences(step.before, step.after)}


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a step must not run on a host as it is."""

    reason: str
    retry: bool
    """Whether the host has merely moved on since it was observed, so that a new plan will do."""


def objection(state: HostState, step: Step) -> Objection | None:
    """Why this step must not run on a host in this state; None if it may.

    That a part to delete is gone is no objection: absence is success.
    """
    if isinstance(step, Create) and isinstance(step.part, Tap | Stray):
        return Objection(f"{step.part.name} is not for a plan to make or delete", retry=False)
    against = _objection_to_name(step.part)
    if against:
        return against
    if isinstance(step, Delete) and isinstance(step.part, Tap):
        return Objection(f"{step.part.name} is not for a plan to make or delete", retry=False)
    found = _found(state, step.part)
    if isinstance(step, Create):
        return _objection_to_create(state, step.part, found)
    if found is None:
        gone = Objection(f"{step.part.name} has vanished since it was observed", retry=True)
        return gone if isinstance(step, Update) else None
    return (
        _objection_to_kind(step.part, found)
        or _objection_to_owner(step, found)
        or (_objection_to_name(step.before) if isinstance(step, Update) else None)
        or (_objection_to_master(state, step, found) if isinstance(step, Update) else None)
    )


def simulate(state: HostState, step: Step) -> HostState:
    """The host after the step. Raises Conflict where objection() has one."""
    against = objection(state, step)
    if against:
        raise Conflict(against.reason)
    match step:
        case Create(OvsPort() as port):
            return state.having(_if_realized(as_seen(port), _can_realize(state, port)))
        case Create(part):
            return state.having(_as_new_member(as_seen(part)))
        case Update(before, OvsPort() as after):
            return state.having(_updated_port(state, before, after))
        case Update():
            changes = changes_of(step)
            updated: Part = replace(_found(state, step.part), **changes)  # type: ignore[type-var, assignment]
            return state.having(_as_new_member(updated) if "master" in changes else updated)
    return _without(state, step.part)


def simulate_all(state: HostState, steps: Iterable[Step]) -> HostState:
    """The host after all the steps, one after another."""
    for step in steps:
        state = simulate(state, step)
    return state


def is_there(state: HostState, part: Part) -> bool:
    """Whether something has the name of this part, in its role."""
    return _found(state, part) is not None


def owners_of(part: Part) -> set[str]:
    """The port ids that a part itself names as its owner: none, one, or (a veth pair gone wrong) two."""
    return {mark for mark in marks_of(part) if is_uuid(mark)}


def marks_of(part: Part) -> tuple[str, ...]:
    """What stands where a part names its owner, whatever it is."""
    match part:
        case Bridge(alias=alias) | MadeTap(alias=alias):
            return (alias,)
        case Veth(alias=alias, peer_alias=peer_alias):
            return alias, peer_alias
        case OvsPort(port_id=port_id, iface_id=iface_id):
            return (port_id if is_uuid(port_id) else iface_id,)
    return ()


def _found(state: HostState, part: Part) -> Part | None:
    return (state.ports if part.role is Role.SWITCH else state.links).get(part.name)


def _objection_to_name(part: Part) -> Objection | None:
    key = key_of(part.name)
    if key is None or (isinstance(part, Veth) and part.peer != names_of_key(key).switch_end):
        return Objection(f"{part.name[:32]!r} is not the name of {with_article(part.kind)} of ours", retry=False)
    return None


def _objection_to_create(state: HostState, part: Part, found: Part | None) -> Objection | None:
    if found is not None:
        return Objection(f"{part.name} has appeared since the host was observed", retry=True)
    if isinstance(part, Veth) and part.peer in state.links:
        return Objection(f"{part.peer} has appeared since the host was observed", retry=True)
    return _objection_to_bridge(state, part.master) if isinstance(part, Veth | MadeTap) else None


def _objection_to_kind(part: Part, found: Part) -> Objection | None:
    if isinstance(part, Tap | MadeTap) and isinstance(found, Tap | MadeTap) and type(found) is not type(part):
        # Whose it is, it says itself: it is left alone, and a new plan knows it for what it is.
        return Objection(f"{part.name} is not the device any more that it was when it was observed", retry=True)
    if type(found) is not type(part):
        what = getattr(found, "what", f"{with_article(found.kind)}")
        return Objection(f"{part.name} is {what}, not {with_article(part.kind)}; remove it or rename it", retry=False)
    if isinstance(found, Veth) and isinstance(part, Veth) and found.peer != part.peer:
        return Objection(f"the peer of {part.name} is {found.peer}, not {part.peer}; remove the pair", retry=False)
    return None


def _objection_to_owner(step: Update | Delete, found: Part) -> Objection | None:
    known = owners_of(step.part) | (owners_of(step.before) if isinstance(step, Update) else set())
    foreign = sorted(owners_of(found) - known)
    # A row's iface-id may have been anything when it was observed; only a change of owner since then is foreign.
    if foreign:
        return Objection(f"{found.name} belongs to port {foreign[0]}; unplug that port first", retry=False)
    return None


def _objection_to_master(state: HostState, step: Update, found: Part) -> Objection | None:
    if not isinstance(found, Member) or "master" not in changes_of(step):
        return None
    before, after = step.before.master, step.after.master  # type: ignore[attr-defined]
    if found.master not in ("", before, after):
        return Objection(
            f"{found.name} is in {found.master}, which is not ours; take it out: ip link set {found.name} nomaster",
            retry=False,
        )
    return _objection_to_bridge(state, after)


def _objection_to_bridge(state: HostState, master: str) -> Objection | None:
    if not master or isinstance(state.links.get(master), Bridge):
        return None
    return Objection(f"bridge {master} has vanished since it was observed", retry=True)


def _as_new_member(part: Part) -> Part:
    """The part as a port of the bridge that it has just joined, which is open, or of none."""
    if not isinstance(part, Veth | MadeTap):
        return part
    return replace(part, bridge_port=OPEN if part.master else None)


def _can_realize(state: HostState, port: OvsPort) -> bool:
    if isinstance(port, VhostUserPort):
        # It has no device that could be missing: whether ovs-vswitchd can do it, and does, is told when it is asked.
        return True
    return port.type == "" and any(isinstance(link, Veth) and link.peer == port.name for link in state.links.values())


def _if_realized(port: OvsPort, realized: bool) -> OvsPort:
    return port if port.realized is realized else replace(port, realized=realized)


def _updated_port(state: HostState, before: Part, after: OvsPort) -> OvsPort:
    found = state.ports[after.name]
    written = {name: value for name, value in changes_of(Update(before, after)).items() if name != "realized"}
    port: OvsPort = replace(found, **written)  # type: ignore[assignment, arg-type]
    if "type" in written or isinstance(port, VhostUserPort):
        return _if_realized(port, _can_realize(state, port))
    return port


def _without(state: HostState, part: Part) -> HostState:
    match _found(state, part):
        case Bridge(name=name):
            members = [link for link in state.links.values() if isinstance(link, Member) and link.master == name]
            state = state.having(*(_as_new_member(replace(member, master="")) for member in members))
        case Veth(peer=peer):
            row = state.ports.get(peer)
            if isinstance(row, OvsPort):
                state = state.having(replace(row, realized=False))
    return state.lacking(part)
