"""The rules by which the daemon refuses a request. This file is the security boundary.

A request is authorized in two passes. The first pass reads only the request and the daemon's own settings: a violation
refuses the whole request. The second pass compares each plan with the host: a violation refuses that plan alone.

The client is not trusted. A name that fits proves no ownership. An id that the plan states proves none either. The
evidence is on the host: the aliases of the links, and the ids in the rows. A plan that only creates objects, beside a
veth pair of its own, needs no evidence. An existing object of the same name makes its steps fail.

Open vSwitch adds a device to the bridge of a row with the name of the device, as soon as the device appears. So the
rows under the names of all created links are read too. A row on a bridge that is not allowed is proven by its own ids
only, because the client may have written the aliases of the links.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

from hybridvif.executors.base import Executor, ExecutorError
from hybridvif.model.errors import Refused
from hybridvif.model.names import KEY_LENGTH, PortNames, is_trunk_bridge, key_of, names_of_key
from hybridvif.model.ownership import check_ownership
from hybridvif.model.parts import (
    Bridge,
    IvsPort,
    ManagedTap,
    Member,
    OvsPort,
    Part,
    Role,
    Tap,
    Veth,
    VhostUserPort,
    attributes_of,
    create_only_values,
    invalid_attributes,
    with_article,
)
from hybridvif.model.planner import plan as make_plan
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import NOTHING, HostState, merge_observed
from hybridvif.model.steps import Create, Step, Update, changes_of, owners_of, unfiltered

LOG = logging.getLogger(__name__)
Plan = Sequence[Step]


@dataclass(frozen=True)
class Case:
    """A plan to authorize. found: the observed state; empty in the first pass."""

    plan: Plan
    settings: Settings
    found: HostState = NOTHING

    @cached_property
    def key(self) -> str:
        """The part of the port id that the device names contain; "" for an empty plan."""
        return key_of(self.plan[0].part.name) or "" if self.plan else ""

    @cached_property
    def names(self) -> PortNames:
        """The device names of the port."""
        return names_of_key(self.key)

    @cached_property
    def stated_owner(self) -> str:
        """The port id that the plan states. Raises Refused for two."""
        return stated_owner(self.plan)

    @cached_property
    def link_owners(self) -> set[str]:
        """The port ids in the aliases of the links."""
        return {owner for link in self.found.links.values() for owner in owners_of(link)}

    @cached_property
    def owner(self) -> str:
        """The port id of the plan: stated, or found on the host if the plan states none.

        A rollback may consist of one part without an ownership tag. An id that is found cannot harm a part with another
        id, because an executor changes no part whose owner differs from the one in the step.
        """
        tags = self.link_owners or {owner for row in self.found.ports.values() for owner in owners_of(row)}
        found = min(tags, default="")
        return self.stated_owner or (found if len(tags) == 1 and found[:KEY_LENGTH] == self.key else "")

    @cached_property
    def touched(self) -> list[Part]:
        """The parts of the plan that exist on the host, as they were found."""
        return [part for step in self.plan if (part := self.found_by(step)) is not None]

    def found_by(self, step: Step) -> Part | None:
        """Return the part of a step as it was found."""
        return (self.found.ports if step.part.role is Role.SWITCH else self.found.links).get(step.part.name)


# -- the rules --------------------------------------------------------------------------------------------------------


def permit_names(names: Iterable[str] | None) -> None:
    """Refuse to observe a device whose name is not one of ours. Raises Refused."""
    for name in names or ():
        if key_of(name) is None:
            raise Refused(f"refused: {name[:32]!r} is not the name of a device of ours")


def permit_plans(plans: Sequence[Plan], settings: Settings) -> None:
    """Refuse a request with a plan that breaks a rule by itself. Raises Refused."""
    rules = (
        refuse_two_ports,
        refuse_foreign_names,
        refuse_vm_tap,
        refuse_foreign_master,
        refuse_invalid_values,
        refuse_unfiltered_bridge,
        refuse_other_switch_bridge,
        refuse_missing_isolation,
        refuse_two_owners,
    )
    keys: set[str] = set()
    for plan in filter(None, plans):
        case = Case(plan, settings)
        for rule in rules:
            rule(case)
        if case.key in keys:
            raise Refused("refused: two plans of one call are for the same port")
        keys.add(case.key)


def permit_devices(plan: Plan, found: HostState, settings: Settings) -> None:
    """Refuse a plan whose new devices would end up in a bridge of the switch that is not theirs. Raises Refused."""
    case = Case(plan, settings, found)
    for rule in (refuse_device_with_row, refuse_tap_in_switch):
        rule(case)


def permit_found(plan: Plan, found: HostState, settings: Settings) -> None:
    """Refuse a plan that changes a part of another owner. found: the parts of this port. Raises Refused."""
    case = Case(plan, settings, found)
    for rule in (refuse_row_without_tag, refuse_tap_without_tag, refuse_other_owner):
        rule(case)


def refusals(
    plans: Sequence[Plan], executors: Mapping[Role, Executor], settings: Settings, deadline: float
) -> dict[int, tuple[Outcome, ...]]:
    """Return the outcomes of the plans that the host as it is now forbids, by the index of the plan.

    deadline: of the observation, which is one for all plans.
    """
    unproven = {index for index, plan in enumerate(plans) if needs_proof(plan)}
    judged = {index: plan for index, plan in enumerate(plans) if index in unproven or created_devices(plan)}
    if not judged:
        return {}
    names = {index: Case(plan, settings).names for index, plan in judged.items()}
    needed = {name for index in unproven for name in names[index]}
    rows = needed.union((own.tap for own in names.values()), *map(created_devices, judged.values()))
    observed_names = {Role.LINK: needed, Role.SWITCH: rows}
    try:
        state = merge_observed(
            executor.observe(observed_names[role], deadline)
            for role, executor in executors.items()
            if observed_names[role]
        ).state
    except ExecutorError as error:
        return {index: tuple(error.outcome_of(step) for step in plan) for index, plan in judged.items()}
    refused = {}
    for index, plan in judged.items():
        try:
            permit_devices(plan, state, settings)
            if index in unproven:
                permit_found(plan, state.of(names[index]), settings)
        except Refused as error:
            reason = str(error) if str(error).startswith("refused: ") else f"refused: {error}"
            LOG.warning("%s", reason)
            refused[index] = tuple(Outcome(step, Result.REFUSED, reason, code=error.code) for step in plan)
    return refused


# -- first pass: the request by itself --------------------------------------------------------------------------------


def refuse_two_ports(case: Case) -> None:
    """Refuse a plan with device names of two ports, or with a name that is not one of ours."""
    keys = {key_of(step.part.name) for step in case.plan}
    if len(keys) > 1 or None in keys:
        raise Refused("refused: a plan holds parts that are not one port's")


_NAME_OF: Mapping[type[Part], Callable[[PortNames], str]] = {
    Bridge: attrgetter("bridge"),
    Veth: attrgetter("bridge_end"),
    Tap: attrgetter("tap"),
    ManagedTap: attrgetter("tap"),
    OvsPort: attrgetter("switch_end"),
    VhostUserPort: attrgetter("vhost_user"),
    IvsPort: attrgetter("switch_end"),
}


def refuse_foreign_names(case: Case) -> None:
    """Refuse a part whose name does not fit its kind, and a veth pair with another peer."""
    for step in case.plan:
        for part in (step.before, step.after) if isinstance(step, Update) else (step.part,):
            name_of = _NAME_OF.get(type(part))
            if name_of is None or part.name != name_of(case.names):
                raise Refused(f"refused: {with_article(part.kind)} cannot be named {part.name}")
            if isinstance(part, Veth) and part.peer != case.names.switch_end:
                raise Refused(f"refused: the peer of {part.name} cannot be named {part.peer[:32]!r}")


def refuse_vm_tap(case: Case) -> None:
    """Refuse to create or delete the VM's own tap."""
    for step in case.plan:
        if isinstance(step.part, Tap) and not isinstance(step, Update):
            raise Refused(f"refused: {step.part.name} is the VM's device, which is neither made nor deleted here")


def refuse_foreign_master(case: Case) -> None:
    """Refuse to take a device out of a bridge that is not its port's."""
    for step in case.plan:
        before = step.before if isinstance(step, Update) else None
        if isinstance(before, Member) and before.master not in ("", case.names.bridge):
            raise Refused(f"refused: {before.name} is not taken out of {before.master[:32]!r}, which is not its bridge")


def refuse_invalid_values(case: Case) -> None:
    """Refuse to write a value that its attribute does not allow. An existing value may be anything."""
    for step in case.plan:
        match step:
            case Create(part):
                invalid = invalid_attributes(part)
            case Update(before, after):
                changes = changes_of(step)
                # The kernel gives a device that grows its IPv6 settings back, so the executor writes them again.
                regained = [name for name in attributes_of(type(before)) if getattr(before, name) is None]
                written = changes | {name: getattr(after, name) for name in regained}
                if isinstance(after, VhostUserPort) and {"realized", "socket_as_configured"} & changes.keys():
                    # The executor writes the type again, so that the switch sees a change.
                    written["type"] = after.type
                if "bridge" in changes:
                    # The bridge may have to be created.
                    written |= create_only_values(after)
                invalid = invalid_attributes(after, written)
            case _:
                continue
        if invalid:
            raise Refused(f"refused: {step.part.name} may not be given that {', '.join(invalid)}")


def refuse_unfiltered_bridge(case: Case) -> None:
    """Refuse to hide the packets of a bridge from iptables if [hybridvif] call_iptables is set on this host."""
    for step in case.plan:
        disabled = unfiltered(step.part, _written_attributes(step), case.settings)
        if disabled:
            raise Refused(
                f"refused: {step.part.name} may not be without {', '.join(disabled)}, since [hybridvif] call_iptables "
                "of this host asks for them; set it in the caller's configuration, too"
            )


def refuse_other_switch_bridge(case: Case) -> None:
    """Refuse to plug into a bridge that is not in [hybridvif] integration_bridges of this host."""
    for step in case.plan:
        part = step.part
        if (
            isinstance(part, OvsPort)
            and "bridge" in _written_attributes(step)
            and not case.settings.allows(part.bridge)
        ):
            raise Refused(
                f"refused: {part.bridge} is not in [hybridvif] integration_bridges of this host "
                f"({', '.join(case.settings.integration_bridges)}); add it there"
            )


def refuse_missing_isolation(case: Case) -> None:
    """Refuse to create a row outside of the dead VLAN if [hybridvif] require_isolate is set on this host."""
    for step in case.plan if case.settings.require_isolate else ():
        part = step.part
        # The tag of a port of a trunk bridge is the trunk's.
        is_exempt = not isinstance(part, OvsPort) or part.isolated or is_trunk_bridge(part.bridge)
        if isinstance(step, Create) and not is_exempt:
            raise Refused(
                f"refused: {part.name} may not be made outside of the dead VLAN, since [hybridvif] require_isolate of "
                "this host asks for it; set it in the caller's configuration, too"
            )


def refuse_two_owners(case: Case) -> None:
    """Refuse a plan that states two port ids, or an id that does not fit its names."""
    stated_owner(case.plan)


def _written_attributes(step: Step) -> Iterable[str]:
    if isinstance(step, Update):
        return changes_of(step)
    return attributes_of(type(step.part)) if isinstance(step, Create) else ()


def stated_owner(plan: Plan) -> str:
    """Return the port id that the parts of a plan state; "" if none. Raises Refused for two.

    Values that are written and the aliases of links state an owner. The ids of an existing row may be the ones to
    repair. They count only if nothing else states an owner, and only if the id fits the names.
    """
    stated: set[str] = set()
    found: set[str] = set()
    for step in plan:
        before = step.before if isinstance(step, Update) else step.part
        if not isinstance(step.part, OvsPort):
            stated |= owners_of(before) | owners_of(step.part)
            continue
        if not isinstance(step, Create):
            found |= owners_of(before)
        if isinstance(step, Create) or (isinstance(step, Update) and {"iface_id", "port_id"} & changes_of(step).keys()):
            # A foreign iface-id therefore requires our key, which states the owner.
            stated |= owners_of(step.part)
    owners = stated or {owner for owner in found if owner[:KEY_LENGTH] == key_of(plan[0].part.name)}
    if len(owners) > 1:
        raise Refused(f"refused: a plan is of two ports, {' and '.join(sorted(owners)[:2])}")
    for owner in owners:
        if owner[:KEY_LENGTH] != key_of(plan[0].part.name):
            raise Refused(f"refused: {plan[0].part.name} is not named for port {owner}")
    return "".join(owners)


# -- second pass: the host as it is -----------------------------------------------------------------------------------


def needs_proof(plan: Plan) -> bool:
    """Return whether a plan changes, deletes or uses a part that it has not created itself."""
    created: set[type[Part]] = set()
    for step in plan:
        match step:
            case Create(Veth(master=master) | ManagedTap(master=master)) if master and Bridge not in created:
                return True
            case Create(Bridge() | Veth() as part):
                created.add(type(part))
            case Create() if Veth in created:
                pass
            case _:
                return True
    return False


def created_devices(plan: Plan) -> list[str]:
    """Return the names of the devices that a plan creates."""
    links = [step.part for step in plan if isinstance(step, Create) and step.part.role is Role.LINK]
    return [name for link in links for name in (link.name, getattr(link, "peer", "")) if name]


def refuse_device_with_row(case: Case) -> None:
    """Refuse to create a device that Open vSwitch would add to a bridge that is not its port's."""
    for name in created_devices(case.plan):
        row = case.found.ports.get(name)
        if row is None or isinstance(row, IvsPort):
            continue
        if name != case.names.switch_end or not isinstance(row, OvsPort):
            raise Refused(
                f"refused: {name} has a row of its own in Open vSwitch, which would take the device; "
                f"if nothing needs the row, remove it: ovs-vsctl del-port {name}"
            )
        _refuse_other_bridge(row, case.stated_owner, case.settings)


def refuse_tap_in_switch(case: Case) -> None:
    """Refuse to plug a port whose tap is a port of the switch itself."""
    tap = case.names.tap
    for step in case.plan if tap in case.found.ports else ():
        joins = isinstance(step, Update) and isinstance(step.part, Member) and bool(changes_of(step).get("master"))
        if isinstance(step, Create) or joins:
            raise Refused(
                f"refused: {tap} is a port of the switch itself, so its VM is plugged without a Linux bridge; "
                f"if that is a mistake, remove it: ovs-vsctl del-port {tap}"
            )


def refuse_row_without_tag(case: Case) -> None:
    """Refuse to change a row on a bridge that is not allowed, unless the row has the port's own id."""
    for part in case.touched:
        if isinstance(part, OvsPort):
            _refuse_other_bridge(part, case.owner, case.settings)


def _refuse_other_bridge(row: OvsPort, owner: str, settings: Settings) -> None:
    if not settings.allows(row.bridge) and owners_of(row) != {owner}:
        raise Refused(
            f"refused: {row.name} is on {row.bridge}, which is not in [hybridvif] integration_bridges, and its row "
            f"does not bear the port's id; remove it with what made it: ovs-vsctl del-port {row.name}"
        )


def refuse_tap_without_tag(case: Case) -> None:
    """Refuse to change the VM's own tap in place of a managed one."""
    for step in case.plan:
        if isinstance(step.part, ManagedTap) and not isinstance(step, Create) and isinstance(case.found_by(step), Tap):
            raise Refused(f"refused: {step.part.name} bears no mark of the port's, so it is the VM's, and left alone")


def refuse_other_owner(case: Case) -> None:
    """Refuse to change parts of another port, foreign objects, and devices in a foreign bridge."""
    if _has_tag_on_every_part(case):
        # Foreign parts beside them are not in the plan: a rollback removes its own parts only.
        make_plan(HostState().with_parts(*case.touched), NOTHING)
        return
    if case.owner:
        rows = [step.part for step in case.plan if isinstance(step.part, OvsPort)]
        iface_id = next((row.iface_id for row in reversed(rows) if row.port_id == case.owner), "")
        check_ownership(case.found, case.owner, iface_id)
    elif any(owners := [owners_of(part) for part in case.found]):
        owner = min(set().union(*owners))
        raise Refused(f"refused: {case.plan[0].part.name} belongs to port {owner}, of which the plan says nothing")
    # The planner refuses foreign objects, and devices that a foreign bridge holds.
    make_plan(case.found, NOTHING)


def _has_tag_on_every_part(case: Case) -> bool:
    """Return whether every changed part has this port's ownership tag, and the plan uses no other part."""
    return (
        bool(case.owner and case.touched)
        and not any(isinstance(step, Create) for step in case.plan)
        and (not case.link_owners or case.owner in case.link_owners)
        and all(owners_of(part) == {case.owner} for part in case.touched)
    )
