"""The state of a host, and the steps that change it: Create, Update, Delete and Replace.

A state holds parts, with facts observed beside them. No plan uses or writes a fact. simulate() is the specification of
every executor. An Update writes only the attributes that differ. So two tools that repair different attributes do not
undo each other. objection() returns the reason to refuse a step. Every executor calls it before a write, so that all
refuse alike: IFLA_MASTER of netlink takes a device from another bridge, and brctl does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from hybridvif.model.errors import Conflict, shown
from hybridvif.model.names import PortNames, is_uuid, key_of, names_of_key
from hybridvif.model.parts import (
    CONVERTING,
    KERNEL_DATAPATH,
    OPEN,
    Bridge,
    ForeignObject,
    Link,
    ManagedTap,
    Member,
    NativePort,
    OvsPort,
    Part,
    Role,
    SwitchPort,
    Tap,
    Veth,
    VhostUserPort,
    as_observed,
    differences,
    with_article,
)
from hybridvif.model.settings import Settings


class _Frozen:
    """Base of a frozen dataclass whose mappings are read-only. A mapping is copied, except for a MappingProxyType."""

    __slots__: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if type(value) is not MappingProxyType and isinstance(value, Mapping):
                object.__setattr__(self, name, MappingProxyType(dict(value)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mappingproxy cannot be pickled or copied.
        values = (getattr(self, name) for name in self.__slots__)
        return type(self), tuple(dict(value) if isinstance(value, MappingProxyType) else value for value in values)


@dataclass(frozen=True, slots=True)
class HostState(_Frozen):
    """A set of parts by role and name, observed or desired.

    links: by name. A veth pair has the name of its bridge end. ports: by name. qvo is a name in both.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    ports: Mapping[str, SwitchPort] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Part]:
        yield from self.links.values()
        yield from self.ports.values()

    def side(self, role: Role) -> Mapping[str, Part]:
        """Return the parts of one role by name."""
        return self.ports if role is Role.SWITCH else self.links

    def get(self, part: Part) -> Part | None:
        """Return the part with the name and role of this one; None if there is none."""
        return self.side(part.role).get(part.name)

    def of(self, names: PortNames) -> HostState:
        """Return the parts of one port."""
        # Without our own key, a switch port named tap is not ours. It is plugged directly into the switch.
        native = (names.tap,) if isinstance(self.ports.get(names.tap), NativePort) else ()
        ends = (names.switch_end, names.vhost_user, *native)
        links, ports = self.links, self.ports
        return HostState(
            MappingProxyType({name: links[name] for name in names if name in links}),
            MappingProxyType({name: ports[name] for name in ends if name in ports}),
        )

    def with_parts(self, *parts: Part) -> HostState:
        """Return this state with these parts. They replace parts of the same name and role."""
        links, ports = dict(self.links), dict(self.ports)
        for part in parts:
            (ports if part.role is Role.SWITCH else links)[part.name] = part  # type: ignore[assignment]
        return HostState(MappingProxyType(links), MappingProxyType(ports))

    def without(self, part: Part) -> HostState:
        """Return this state without the part."""
        links, ports = dict(self.links), dict(self.ports)
        (ports if part.role is Role.SWITCH else links).pop(part.name, None)
        return HostState(MappingProxyType(links), MappingProxyType(ports))

    having, lacking = with_parts, without
    """Former names of these methods."""


NOTHING = HostState()
"""The goal of an unplug."""


class LinkFact(NamedTuple):
    """State of a link device in the kernel."""

    ifindex: int
    kind: str
    """The word of `ip -d link`: bridge, veth, tun. "" for a device without a kind."""
    up: bool
    carrier: bool
    master: str = ""
    mtu: int = 0


class PortFact(NamedTuple):
    """State of a port in the switch."""

    ofport: int | None = None
    """The OpenFlow port number. None before the first attempt of ovs-vswitchd, -1 if it failed."""
    error: str = ""
    """The error of ovs-vswitchd, if it failed."""
    tag: int | None = None
    """The VLAN tag that the agent sets. 4095 is the dead VLAN."""


@dataclass(frozen=True, slots=True)
class Facts(_Frozen):
    """Observed values beside the parts."""

    links: Mapping[str, LinkFact] = field(default_factory=dict)
    """By name: the requested devices, and the members of their bridges."""
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the name of a qbr: the names of its members, sorted."""
    ports: Mapping[str, PortFact] = field(default_factory=dict)
    """By name."""
    switches: Mapping[str, str] = field(default_factory=dict)
    """Datapath types of the existing switch bridges, by name."""
    switch_version: str = ""
    bearers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rows of Open vSwitch by iface-id, if several rows share it or the name of the row is foreign.

    Only an observation of all names has them."""
    serves: frozenset[str] = frozenset()
    """The kinds of part that the configured executors can create. Empty if unknown."""
    unchecked: tuple[str, ...] = ()
    """Attributes that this host cannot report: "name: attribute"."""
    simulated: bool = False
    """True if no real host was observed."""
    altnames: Mapping[str, str] = field(default_factory=dict)
    """By a device name of a port: the other device that has it as an alternative name."""

    def vm(self, names: PortNames) -> LinkFact | None:
        """Return the tap of a running VM; None if no VM runs. A tap has carrier only while a process holds it open."""
        tap = self.links.get(names.tap)
        return tap if tap is not None and tap.carrier else None

    def port(self, row: Part | None) -> PortFact:
        """Return the facts about a port of the switch. They are empty if none are known."""
        return self.ports.get(row.name, PortFact()) if row else PortFact()


@dataclass(frozen=True, slots=True)
class Observed:
    """Result of an observation: the parts, and the facts."""

    state: HostState = HostState()
    facts: Facts = Facts()

    def __iter__(self) -> Iterator[Any]:
        """Unpack into state and facts: `state, facts = host.observe(...)`."""
        return iter((self.state, self.facts))

    def of(self, names: PortNames) -> Observed:
        """Return the observation with the parts of one port only. The facts stay complete."""
        return Observed(self.state.of(names), self.facts)


def agree(first: HostState, second: HostState) -> bool:
    """Return True if two states have the same parts without differences."""
    return first is second or all(
        old.keys() == new.keys()
        and all(type(old[name]) is type(new[name]) and not differences(old[name], new[name]) for name in old)
        for old, new in ((first.side(role), second.side(role)) for role in Role)
    )


def merge_states(states: Iterable[HostState]) -> HostState:
    """Merge several states of different names."""
    return HostState().with_parts(*(part for state in states for part in state))


def merge_observed(seen: Iterable[Observed]) -> Observed:
    """Merge the observations of several executors."""
    seen = tuple(seen)
    merged: dict[str, Any] = {}
    for name, value in ((name, getattr(observed.facts, name)) for observed in seen for name in Facts.__slots__):
        # Mappings and sets are united. Texts and tuples are joined, and a flag is set if any is.
        unite = isinstance(value, Mapping | frozenset | bool)
        merged[name] = value if name not in merged else merged[name] | value if unite else merged[name] + value
    return Observed(merge_states(observed.state for observed in seen), Facts(**merged))


def bearers_of(iface_ids: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return the rows by iface-id, if several rows share it or the name of the row is foreign.

    iface_ids: the name and the iface-id of each row.
    """
    rows: dict[str, list[str]] = {}
    for name, iface_id in iface_ids:
        if iface_id:
            rows.setdefault(iface_id, []).append(shown(name))
    return {
        iface_id: tuple(sorted(names)) for iface_id, names in rows.items() if len(names) > 1 or key_of(names[0]) is None
    }


# -- steps -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Create:
    """Create a missing part."""

    part: Part


@dataclass(frozen=True, slots=True)
class Update:
    """Change the attributes of an existing part in which the two parts differ."""

    before: Part
    after: Part

    @property
    def part(self) -> Part:
        """The part after the step."""
        return self.after


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a part. A missing part is success."""

    part: Part


@dataclass(frozen=True, slots=True)
class Replace:
    """Replace the row of a port by one of another name, in one transaction.

    The VLAN tag, the OpenFlow port number, QoS and all that others wrote into the row go on with the new one.
    """

    before: OvsPort
    after: OvsPort

    @property
    def part(self) -> OvsPort:
        """The part after the step."""
        return self.after


Step = Create | Update | Delete | Replace


def role_of(step: Step) -> Role:
    """Return the role of the executor that executes the step."""
    return step.part.role


def names_of_step(step: Step) -> tuple[str, ...]:
    """Return the names of the parts that a step changes."""
    return (step.before.name, step.after.name) if isinstance(step, Replace) else (step.part.name,)


def changes_of(step: Update) -> dict[str, object]:
    """Return the new values that an Update writes, by attribute."""
    return {change.attribute: change.after for change in differences(step.before, step.after)}


@dataclass(frozen=True, slots=True)
class Objection:
    """Reason to refuse a step."""

    reason: str
    retry: bool
    """True if the host has changed since it was observed, so that a new plan may succeed."""


def objection(state: HostState, step: Step) -> Objection | None:
    """Return the reason to refuse this step on a host in this state. None if it may run.

    The deletion of a missing part may run.
    """
    return next(_objections(state, step), None)


def simulate(state: HostState, step: Step) -> HostState:
    """Return the state after the step. Raises Conflict if there is an objection."""
    against = objection(state, step)
    if against:
        raise Conflict(against.reason)
    match step:
        case Create(OvsPort() as port):
            return state.with_parts(replace(as_observed(port), realized=_can_be_accepted(state, port)))
        case Create(part):
            return state.with_parts(_as_new_member(as_observed(part)))
        case Update(before, OvsPort() as after):
            return state.with_parts(_updated_port(state, before, after))
        case Replace(before, after):
            state = state.without(before)
            if isinstance(before, NativePort):
                state = _out_of_switch(state, before.name)
            return state.with_parts(replace(after, realized=_can_be_accepted(state, after)))
        case Update():
            changes = changes_of(step)
            updated: Part = replace(state.get(step.part), **changes)  # type: ignore[type-var, assignment]
            return state.with_parts(_as_new_member(updated) if "master" in changes else updated)
    return _without(state, step.part)


def simulate_all(state: HostState, steps: Iterable[Step]) -> HostState:
    """Return the state after all the steps, in order."""
    for step in steps:
        state = simulate(state, step)
    return state


def is_there(state: HostState, part: Part) -> bool:
    """Return True if an object has the name and role of this part."""
    return state.get(part) is not None


def owners_of(part: Part) -> set[str]:
    """Return the port ids in the ownership tags of a part. The ends of a damaged veth pair may have two."""
    return {tag for tag in ownership_tags(part) if is_uuid(tag)}


def ownership_tags(part: Part) -> tuple[str, ...]:
    """Return the values of the ownership tags of a part, valid or not."""
    match part:
        case Bridge(alias=alias) | ManagedTap(alias=alias):
            return (alias,)
        case Veth(alias=alias, peer_alias=peer_alias):
            return alias, peer_alias
        case OvsPort(port_id=port_id, iface_id=iface_id):
            return (port_id if is_uuid(port_id) else iface_id,)
    return ()


def unfiltered(part: Part, attributes: Iterable[str], settings: Settings) -> tuple[str, ...]:
    """Return the attributes that hide the packets of a bridge from iptables, if this host filters them."""
    if not isinstance(part, Bridge) or not settings.call_iptables:
        return ()
    return tuple(
        name for name in ("nf_call_iptables", "nf_call_ip6tables") if name in attributes and not getattr(part, name)
    )


_CARRIED = ("bridge", "iface_id", "iface_status", "attached_mac", "vm_uuid", "bridge_name", "type")
"""Attributes that a new row takes over from the one that it replaces."""


def _objections(state: HostState, step: Step) -> Iterator[Objection]:
    """Yield the objections to a step. Only the first is used, and each check relies on the earlier ones."""
    part, found = step.part, state.get(step.part)
    if isinstance(step, Create) and isinstance(part, Tap | ForeignObject | NativePort):
        yield Objection(f"{part.name} is not for a plan to make or delete", retry=False)
    yield from _objections_to_name(part)
    if isinstance(step, Delete) and isinstance(part, Tap):
        yield Objection(f"{part.name} is not for a plan to make or delete", retry=False)
    if isinstance(step, Update) and found is None:
        yield Objection(f"{part.name} has vanished since it was observed", retry=True)
    if isinstance(step, Replace):
        yield from _objections_to_replace(state, step)
    elif isinstance(step, Create):
        yield from _objections_to_create(state, part, found)
    elif found is not None:
        yield from _objections_to_part(step, found)
        if isinstance(step, Update):
            yield from _objections_to_update(state, step, found)


def _objections_to_create(state: HostState, part: Part, found: Part | None) -> Iterator[Objection]:
    if found is not None:
        yield Objection(f"{part.name} has appeared since the host was observed", retry=True)
    if isinstance(part, Veth) and part.peer in state.links:
        yield Objection(f"{part.peer} has appeared since the host was observed", retry=True)
    if isinstance(part, Veth | ManagedTap):
        yield from _objections_to_bridge(state, part.master)


def _objections_to_name(part: Part) -> Iterator[Objection]:
    key = key_of(part.name)
    if key is None or (isinstance(part, Veth) and part.peer != names_of_key(key).switch_end):
        yield Objection(f"{part.name[:32]!r} is not the name of {with_article(part.kind)} of ours", retry=False)


def _objections_to_bridge(state: HostState, master: str) -> Iterator[Objection]:
    if master and not isinstance(state.links.get(master), Bridge):
        yield Objection(f"bridge {master} has vanished since it was observed", retry=True)


def _objections_to_part(step: Update | Delete | Replace, found: Part) -> Iterator[Objection]:
    """Yield the objections to another kind or owner than that of the observed part."""
    part = step.before if isinstance(step, Replace) else step.part
    if isinstance(part, Tap | ManagedTap) and isinstance(found, Tap | ManagedTap) and type(found) is not type(part):
        # The alias decides which of the two it is. A new plan handles it.
        yield Objection(f"{part.name} is not the device any more that it was when it was observed", retry=True)
    if type(found) is not type(part):
        text = found.what if isinstance(found, ForeignObject) else with_article(found.kind)
        yield Objection(f"{part.name} is {text}, not {with_article(part.kind)}; remove it or rename it", retry=False)
    if isinstance(found, Veth) and isinstance(part, Veth) and found.peer != part.peer:
        yield Objection(f"the peer of {part.name} is {found.peer}, not {part.peer}; remove the pair", retry=False)
    # The observed row may have had any iface-id. Only a change of owner since then is refused.
    known = owners_of(step.part) | (set() if isinstance(step, Delete) else owners_of(step.before))
    for owner in sorted(owners_of(found) - known):
        yield Objection(f"{found.name} belongs to port {owner}; unplug that port first", retry=False)


def _objections_to_replace(state: HostState, step: Replace) -> Iterator[Objection]:
    before, after, found = step.before, step.after, state.get(step.before)
    if {type(before), type(after)} != {OvsPort, NativePort} or key_of(before.name) != key_of(after.name):
        yield Objection(f"{before.name} is not replaced by {with_article(after.kind)} {after.name[:32]}", retry=False)
    if found is None or is_there(state, after):
        changed = f"{before.name} has vanished" if found is None else f"{after.name} has appeared"
        yield Objection(f"{changed} since the host was observed", retry=True)
    else:
        yield from _objections_to_part(step, found)
        is_carried = all(getattr(found, name) == getattr(after, name) for name in _CARRIED)
        if not is_carried or {getattr(found, "converting", ""), after.converting} != {CONVERTING}:
            yield Objection(f"{before.name} has changed since it was observed", retry=True)


def _objections_to_update(state: HostState, step: Update, found: Part) -> Iterator[Objection]:
    yield from _objections_to_name(step.before)
    written = changes_of(step)
    after: Any = step.after
    if isinstance(found, Member) and "master" in written:
        if found.master not in ("", step.before.master, after.master):  # type: ignore[attr-defined]
            remedy = f"take it out: ip link set {found.name} nomaster"
            yield Objection(f"{found.name} is in {found.master}, which is not ours; {remedy}", retry=False)
        yield from _objections_to_bridge(state, after.master)
    is_marked = "converting" in written and "attached_mac" not in written
    if isinstance(found, OvsPort) and is_marked and found.attached_mac != after.attached_mac:
        # The mark holds the attached-mac, and it is written back.
        yield Objection(f"{found.name} has changed since it was observed", retry=True)


def _as_new_member(part: Part) -> Part:
    """Return the part with the bridge_port of a new member: OPEN, or None without a bridge."""
    if not isinstance(part, Veth | ManagedTap):
        return part
    return replace(part, bridge_port=OPEN if part.master else None)


def _out_of_switch(state: HostState, name: str) -> HostState:
    """Return the state in which the kernel's datapath has released a tap, whose master it was."""
    tap = state.links.get(name)
    if not isinstance(tap, Tap | ManagedTap) or tap.master != KERNEL_DATAPATH:
        return state
    return state.with_parts(replace(tap, master=""))


def _can_be_accepted(state: HostState, port: OvsPort) -> bool:
    if isinstance(port, VhostUserPort):
        # It has no device that could be missing.
        return True
    if isinstance(port, NativePort):
        return port.type == "" and isinstance(state.links.get(port.name), Tap | ManagedTap)
    return port.type == "" and any(isinstance(link, Veth) and link.peer == port.name for link in state.links.values())


def _updated_port(state: HostState, before: Part, after: OvsPort) -> OvsPort:
    found = state.ports[after.name]
    written = {name: value for name, value in changes_of(Update(before, after)).items() if name != "realized"}
    port: OvsPort = replace(found, **written)  # type: ignore[assignment, arg-type]
    if "type" in written or isinstance(port, VhostUserPort):
        return replace(port, realized=_can_be_accepted(state, port))
    return port


def _without(state: HostState, part: Part) -> HostState:
    match state.get(part):
        case Bridge(name=name):
            members = [link for link in state.links.values() if isinstance(link, Member) and link.master == name]
            state = state.with_parts(*(_as_new_member(replace(member, master="")) for member in members))
        case Veth(peer=name) | ManagedTap(name=name):
            rows = [row for row in (state.ports.get(name),) if isinstance(row, OvsPort)]
            state = state.with_parts(*(replace(row, realized=False) for row in rows))
        case NativePort(name=name):
            state = _out_of_switch(state, name)
    return state.without(part)
