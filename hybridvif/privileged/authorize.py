"""The rules by which the daemon refuses a request. This file is the security boundary.

A request is authorized in two passes. The first pass reads only the request and the daemon's own settings: a violation
refuses the whole request. The second pass compares each plan with the host: a violation refuses that plan alone.

The client is not trusted. A name that fits proves no ownership. An id that the plan states proves none either. The
evidence is on the host: the aliases of the links, and the ids in the rows.

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

from hybridvif.model.errors import Refused
from hybridvif.model.names import KEY_LENGTH, PortNames, is_trunk_bridge, key_of, names_of_key
from hybridvif.model.parts import (
    KERNEL_DATAPATH,
    Bridge,
    IvsPort,
    ManagedTap,
    Member,
    NativePort,
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
from hybridvif.model.planner import check_ownership, plan as steps_between
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import (
    NOTHING,
    Create,
    Delete,
    HostState,
    Replace,
    Step,
    Update,
    changes_of,
    names_of_step,
    owners_of,
    unfiltered,
)

LOG = logging.getLogger(__name__)
Plan = Sequence[Step]
Rule = Callable[[Step, "Case"], str | None]
"""A rule returns the reason for which it refuses a step of a plan; None: it permits the step."""


@dataclass(frozen=True)
class Case:
    """A plan to authorize. found: the observed state of all ports; empty in the first pass."""

    plan: Plan
    settings: Settings
    found: HostState = NOTHING

    @cached_property
    def key(self) -> str:
        """The part of the port id that the device names contain."""
        return key_of(self.plan[0].part.name) or ""

    @cached_property
    def names(self) -> PortNames:
        """The device names of the port."""
        return names_of_key(self.key)

    @cached_property
    def own(self) -> HostState:
        """The observed parts of the port."""
        return self.found.of(self.names)

    @cached_property
    def stated_owner(self) -> str:
        """The port id that the plan states. Raises Refused for two."""
        return stated_owner(self.plan)

    @cached_property
    def link_owners(self) -> set[str]:
        """The port ids in the aliases of the links."""
        return {owner for link in self.own.links.values() for owner in owners_of(link)}

    @cached_property
    def owner(self) -> str:
        """The port id of the plan: stated, or found on the host if the plan states none.

        A rollback may consist of one part without an ownership tag. An id that is found cannot harm a part with another
        id, because an executor changes no part whose owner differs from the one in the step.
        """
        tags = self.link_owners or {owner for row in self.own.ports.values() for owner in owners_of(row)}
        found = min(tags, default="")
        return self.stated_owner or (found if len(tags) == 1 and found[:KEY_LENGTH] == self.key else "")

    @cached_property
    def touched(self) -> list[Part]:
        """The parts of the plan that exist on the host, as they were found."""
        return [part for step in self.plan if (part := self.found_by(step)) is not None]

    @cached_property
    def takes_tap_out(self) -> bool:
        """True if the plan takes the tap of a converted port out of the switch."""
        row = self.own.ports.get(self.names.tap)
        removals = [step for step in self.plan if isinstance(step, Replace | Delete)]
        return isinstance(row, NativePort) and any(self.found_by(step) is row for step in removals)

    def found_by(self, step: Step) -> Part | None:
        """Return the part of a step as it was found."""
        return (self.own.ports if step.part.role is Role.SWITCH else self.own.links).get(names_of_step(step)[0])


# -- the two passes ----------------------------------------------------------------------------------------------------


def permit_names(names: Iterable[str] | None) -> None:
    """Refuse to observe a device whose name is not one of ours. Raises Refused."""
    for name in names or ():
        if key_of(name) is None:
            raise Refused(f"refused: {name[:32]!r} is not the name of a device of ours")


def permit_plans(plans: Sequence[Plan], settings: Settings) -> None:
    """Refuse a request with a plan that breaks a rule by itself. Raises Refused."""
    rules = (
        *(foreign_name, vm_tap, foreign_master, tap_out_of_bridge, invalid_values),
        *(unfiltered_bridge, other_bridge, missing_isolation),
    )
    seen: set[str] = set()
    for plan in filter(None, plans):
        case = Case(plan, settings)
        if {key_of(step.part.name) for step in plan} != {case.key}:
            raise Refused("refused: a plan holds parts that are not one port's")
        _refuse_by(rules, case)
        stated_owner(plan)
        if case.key in seen:
            raise Refused("refused: two plans of one call are for the same port")
        seen.add(case.key)


def permit_found(plan: Plan, found: HostState, settings: Settings) -> None:
    """Refuse a plan that the host forbids. found: the parts of all ports. Raises Refused."""
    if plan:
        case = Case(plan, settings, found)
        _refuse_by(_RULES_OF_HOST, case)
        refuse_other_owner(case)


def refusals(plans: Sequence[Plan], found: HostState, settings: Settings) -> dict[int, tuple[Outcome, ...]]:
    """Return the outcomes of the plans that the host forbids, by the index of the plan.

    found: the observed parts under the names of all ports. Rows of the switch are observed under each of these names.
    """
    refused = {}
    for index, plan in enumerate(plans):
        try:
            permit_found(plan, found, settings)
        except Refused as error:
            reason = str(error) if str(error).startswith("refused: ") else f"refused: {error}"
            LOG.warning("%s", reason)
            refused[index] = tuple(Outcome(step, Result.REFUSED, reason, code=error.code) for step in plan)
    return refused


def _refuse_by(rules: Sequence[Rule], case: Case) -> None:
    for rule in rules:
        for step in case.plan:
            if reason := rule(step, case):
                raise Refused(f"refused: {reason}")


# -- rules of the first pass: the request by itself --------------------------------------------------------------------


_NAME_OF: Mapping[type[Part], Callable[[PortNames], str]] = {
    Bridge: attrgetter("bridge"),
    Veth: attrgetter("bridge_end"),
    Tap: attrgetter("tap"),
    ManagedTap: attrgetter("tap"),
    OvsPort: attrgetter("switch_end"),
    NativePort: attrgetter("tap"),
    VhostUserPort: attrgetter("vhost_user"),
    IvsPort: attrgetter("switch_end"),
}


def foreign_name(step: Step, case: Case) -> str | None:
    """Refuse a part whose name does not fit its kind, and a veth pair with another peer."""
    for part in (step.before, step.after) if isinstance(step, Update | Replace) else (step.part,):
        name_of = _NAME_OF.get(type(part))
        if name_of is None or part.name != name_of(case.names):
            return f"{with_article(part.kind)} cannot be named {part.name}"
        if isinstance(part, Veth) and part.peer != case.names.switch_end:
            return f"the peer of {part.name} cannot be named {part.peer[:32]!r}"
    return None


def vm_tap(step: Step, _: Case) -> str | None:
    """Refuse to create or delete the VM's own tap, and to plug it into the switch but by a conversion."""
    if isinstance(step.part, Tap) and not isinstance(step, Update):
        return f"{step.part.name} is the VM's device, which is neither made nor deleted here"
    if isinstance(step, Create) and isinstance(step.part, NativePort):
        return f"{step.part.name} is not plugged into the switch; only a hybrid port is converted"
    return None


def foreign_master(step: Step, case: Case) -> str | None:
    """Refuse to take a device out of a bridge that is not its port's."""
    before = step.before if isinstance(step, Update) else None
    if isinstance(before, Member) and before.master not in ("", case.names.bridge):
        return f"{before.name} is not taken out of {before.master[:32]!r}, which is not its bridge"
    return None


def tap_out_of_bridge(step: Step, case: Case) -> str | None:
    """Refuse to take the VM's own tap out of its bridge, unless the same plan converts the port."""
    leaves = isinstance(step, Update) and isinstance(step.after, Tap) and not step.after.master
    if leaves and not any(isinstance(other, Replace) for other in case.plan):
        return f"{step.part.name} is the VM's device, which leaves its bridge in a conversion only"
    return None


def invalid_values(step: Step, _: Case) -> str | None:
    """Refuse to write a value that its attribute does not allow. An existing value may be anything."""
    invalid: Sequence[str] = ()
    if isinstance(step, Create):
        invalid = invalid_attributes(step.part)
    elif isinstance(step, Update):
        after, written = step.after, dict(changes_of(step))
        if isinstance(after, VhostUserPort) and {"realized", "socket_as_configured"} & written.keys():
            # The executor writes the type again, so that the switch sees a change.
            written["type"] = after.type
        if "bridge" in written:
            # The bridge may have to be created.
            written |= create_only_values(after)
        # The kernel gives a device that grows its IPv6 settings back, so the executor writes them again.
        regained = [name for name in attributes_of(type(after)) if getattr(step.before, name) is None]
        invalid = invalid_attributes(after, written | {name: getattr(after, name) for name in regained})
    elif isinstance(step, Replace):
        # All else is carried over, as it was found.
        invalid = invalid_attributes(
            step.after, {name: getattr(step.after, name) for name in ("port_id", "converting")}
        )
    return f"{step.part.name} may not be given that {', '.join(invalid)}" if invalid else None


def unfiltered_bridge(step: Step, case: Case) -> str | None:
    """Refuse to hide the packets of a bridge from iptables if [hybridvif] call_iptables is set on this host."""
    disabled = unfiltered(step.part, _written_attributes(step), case.settings)
    if disabled:
        return (
            f"{step.part.name} may not be without {', '.join(disabled)}, since [hybridvif] call_iptables of this host "
            "asks for them; set it in the caller's configuration, too"
        )
    return None


def other_bridge(step: Step, case: Case) -> str | None:
    """Refuse to plug into a bridge that is not in [hybridvif] integration_bridges of this host."""
    part = step.part
    if isinstance(part, OvsPort) and "bridge" in _written_attributes(step) and not case.settings.allows(part.bridge):
        return (
            f"{part.bridge} is not in [hybridvif] integration_bridges of this host "
            f"({', '.join(case.settings.integration_bridges)}); add it there"
        )
    return None


def missing_isolation(step: Step, case: Case) -> str | None:
    """Refuse to create a row outside of the dead VLAN if [hybridvif] require_isolate is set on this host."""
    part = step.part
    # The tag of a port of a trunk bridge is the trunk's.
    is_exempt = not isinstance(part, OvsPort) or part.isolated or is_trunk_bridge(part.bridge)
    if case.settings.require_isolate and isinstance(step, Create) and not is_exempt:
        return (
            f"{part.name} may not be made outside of the dead VLAN, since [hybridvif] require_isolate of this host "
            "asks for it; set it in the caller's configuration, too"
        )
    return None


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
        before = step.before if isinstance(step, Update | Replace) else step.part
        if not isinstance(step.part, OvsPort):
            stated |= owners_of(before) | owners_of(step.part)
            continue
        if not isinstance(step, Create):
            found |= owners_of(before)
        if isinstance(step, Create | Replace) or (
            isinstance(step, Update) and {"iface_id", "port_id"} & changes_of(step).keys()
        ):
            # A foreign iface-id therefore requires our key, which states the owner.
            stated |= owners_of(step.part)
    owners = stated or {owner for owner in found if owner[:KEY_LENGTH] == key_of(plan[0].part.name)}
    if len(owners) > 1:
        raise Refused(f"refused: a plan is of two ports, {' and '.join(sorted(owners)[:2])}")
    for owner in owners:
        if owner[:KEY_LENGTH] != key_of(plan[0].part.name):
            raise Refused(f"refused: {plan[0].part.name} is not named for port {owner}")
    return "".join(owners)


# -- rules of the second pass: the host as it is -----------------------------------------------------------------------


def device_with_row(step: Step, case: Case) -> str | None:
    """Refuse to create a device that Open vSwitch would add to a bridge that is not its port's."""
    if not isinstance(step, Create) or step.part.role is not Role.LINK:
        return None
    for name in filter(None, (step.part.name, getattr(step.part, "peer", ""))):
        row = case.found.ports.get(name)
        if row is None or isinstance(row, IvsPort) or (name == case.names.tap and case.takes_tap_out):
            continue
        if name != case.names.switch_end or not isinstance(row, OvsPort):
            return (
                f"{name} has a row of its own in Open vSwitch, which would take the device; "
                f"if nothing needs the row, remove it: ovs-vsctl del-port {name}"
            )
        if reason := _foreign_row(row, case.stated_owner, case.settings):
            return reason
    return None


def link_in_switch(step: Step, case: Case) -> str | None:
    """Refuse to plug a port whose tap, qbr or qvb is a port of the switch itself. The last two would be a loop."""
    for name in (case.names.bridge, case.names.bridge_end):
        if name in case.found.ports and not isinstance(step, Delete):
            return (
                f"{name} is a port of the switch itself, so packets pass twice or for ever; "
                f"remove it: ovs-vsctl del-port {name}"
            )
    tap = case.names.tap
    joins = isinstance(step, Update) and isinstance(step.part, Member) and changes_of(step).get("master")
    if tap in case.found.ports and not case.takes_tap_out and (isinstance(step, Create) or joins):
        return (
            f"{tap} is a port of the switch itself, so its VM is plugged without a Linux bridge; "
            f"if that is a mistake, remove it: ovs-vsctl del-port {tap}"
        )
    return None


def row_without_tag(step: Step, case: Case) -> str | None:
    """Refuse to change a row on a bridge that is not allowed, unless the row has the port's own id."""
    row = case.found_by(step)
    return _foreign_row(row, case.owner, case.settings) if isinstance(row, OvsPort) else None


def _foreign_row(row: OvsPort, owner: str, settings: Settings) -> str | None:
    if settings.allows(row.bridge) or owners_of(row) == {owner}:
        return None
    return (
        f"{row.name} is on {row.bridge}, which is not in [hybridvif] integration_bridges, and its row does not bear "
        f"the port's id; remove it with what made it: ovs-vsctl del-port {row.name}"
    )


def row_out_of_trunk(step: Step, case: Case) -> str | None:
    """Refuse to move a row from a trunk bridge to another if [hybridvif] require_isolate is set on this host.

    On a trunk bridge a row may be created outside of the dead VLAN. The claim of the client does not count alone.
    """
    if not case.settings.require_isolate or not isinstance(step, Update) or not isinstance(step.after, OvsPort):
        return None
    rows = [row for row in (case.found_by(step), step.before) if isinstance(row, OvsPort)]
    if is_trunk_bridge(step.after.bridge) or not any(is_trunk_bridge(row.bridge) for row in rows):
        return None
    return (
        f"{step.after.name} may not be moved from a trunk bridge to {step.after.bridge}, since [hybridvif] "
        "require_isolate of this host asks for the dead VLAN; unplug the port and plug it again"
    )


def tap_without_tag(step: Step, case: Case) -> str | None:
    """Refuse to change the VM's own tap in place of a managed one."""
    if isinstance(step.part, ManagedTap) and not isinstance(step, Create) and isinstance(case.found_by(step), Tap):
        return f"{step.part.name} bears no mark of the port's, so it is the VM's, and left alone"
    return None


def foreign_conversion(step: Step, case: Case) -> str | None:
    """Refuse to convert a port unless its row bears its id, on an allowed bridge, and no other bridge has its tap."""
    if not isinstance(step, Replace):
        return None
    row, tap = case.found_by(step), case.own.links.get(case.names.tap)
    if not isinstance(row, OvsPort) or type(row) is not type(step.before) or owners_of(row) != {case.owner}:
        return f"{step.before.name} is no row with the id of port {case.owner or 'of the plan'}, so it is not converted"
    if not case.settings.allows(row.bridge):
        return f"{row.name} is on {row.bridge}, which is not in [hybridvif] integration_bridges, so it is not converted"
    if tap is None and isinstance(row, NativePort):
        # The VM is gone, and another plugs the port.
        return None
    if not isinstance(tap, Tap | ManagedTap) or tap.master not in ("", case.names.bridge, KERNEL_DATAPATH):
        return f"{case.names.tap} is not a tap of this port, or in a foreign bridge, so the port is not converted"
    return None


def refuse_other_owner(case: Case) -> None:
    """Refuse to change parts of another port, foreign objects, and devices in a foreign bridge. Raises Refused."""
    if _has_tag_on_every_part(case):
        # Foreign parts beside them are not in the plan: a rollback removes its own parts only.
        steps_between(HostState().with_parts(*case.touched), NOTHING)
        return
    if case.owner:
        rows = [step.part for step in case.plan if isinstance(step.part, OvsPort)]
        iface_id = next((row.iface_id for row in reversed(rows) if row.port_id == case.owner), "")
        check_ownership(case.own, case.owner, iface_id)
    elif owners := {owner for part in case.own for owner in owners_of(part)}:
        raise Refused(
            f"refused: {case.plan[0].part.name} belongs to port {min(owners)}, of which the plan says nothing"
        )
    # The planner refuses foreign objects, and devices that a foreign bridge holds.
    steps_between(case.own, NOTHING)


_RULES_OF_HOST: Sequence[Rule] = (
    *(device_with_row, link_in_switch, row_without_tag, row_out_of_trunk, tap_without_tag),
    foreign_conversion,
)


def _has_tag_on_every_part(case: Case) -> bool:
    """Return whether every changed part has this port's ownership tag, and the plan uses no other part."""
    return (
        bool(case.owner and case.touched)
        and not any(isinstance(step, Create) for step in case.plan)
        and (not case.link_owners or case.owner in case.link_owners)
        and all(owners_of(part) == {case.owner} for part in case.touched)
    )
