"""The goal of one port in one call, and the plan that leads to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hybridvif.engine import preconditions
from hybridvif.engine.host_protocol import AnyHost
from hybridvif.model.desired import desired_state
from hybridvif.model.errors import Refused
from hybridvif.model.facts import Observed
from hybridvif.model.names import PortNames, names_of
from hybridvif.model.ownership import check_ownership
from hybridvif.model.parts import NOTHING, HostState, ManagedTap
from hybridvif.model.planner import goal_for, plan
from hybridvif.model.port import Port
from hybridvif.model.settings import Settings
from hybridvif.model.steps import Step


@dataclass(frozen=True, slots=True)
class Goal:
    """The target state of one port, and the conditions under which it may be reached."""

    port_id: str
    names: PortNames
    wanted: HostState
    interface_id: str = ""
    force: bool = False
    spare_vms: bool = False
    """Never cut off a running VM, whatever the configuration allows."""
    precondition: Callable[[Observed], None] | None = None
    """Checked under the lock, before the first write. Raises Refused if the goal does not hold any more."""

    @property
    def is_plug(self) -> bool:
        """Whether the port shall exist afterwards."""
        return self.wanted is not NOTHING


def goal_for_plug(port: Port, settings: Settings) -> Goal:
    """Return the goal of a plug on a host with these settings."""
    return Goal(port.id, port.names, desired_state(port.on(settings)), port.iface_id)


def goal_for_unplug(port_id: str, *, force: bool = False, spare_vms: bool = False) -> Goal:
    """Return the goal of an unplug. Raises InvalidInput for an id that is no UUID."""
    return Goal(port_id, names_of(port_id), NOTHING, force=force, spare_vms=spare_vms)


def for_port(observed: Observed, names: PortNames) -> Observed:
    """Restrict an observation to the parts of one port. The facts stay whole."""
    return Observed(observed.state.of(names), observed.facts)


def make_plan(goal: Goal, seen: Observed, host: AnyHost) -> tuple[Step, ...]:
    """Plan one port and check every precondition. Raises Refused, NotReady, BridgeMissing."""
    if goal.precondition is not None:
        goal.precondition(seen)
    check_ownership(seen.state, goal.port_id, goal.interface_id)
    steps = _plan(goal, seen)
    if goal.is_plug:
        preconditions.check_tap_is_not_in_switch(goal.port_id, goal.names, seen.facts)
        preconditions.check_kinds_are_served(goal.port_id, goal.wanted, seen.facts)
        preconditions.check_bridges(goal.port_id, goal.wanted, steps, seen.facts, host.settings)
        preconditions.check_no_vm_is_cut_off(goal.port_id, goal.names, steps, seen.facts)
        preconditions.check_socket_stays(goal.port_id, steps)
    elif steps and (goal.spare_vms or not (goal.force or host.settings.unplug_running == "force")):
        preconditions.check_port_is_idle(goal.port_id, goal.names, seen, spare_vms=goal.spare_vms)
    return steps


def is_reached(goal: Goal, seen: Observed) -> bool:
    """Whether no step is left. False if a foreign object blocks the plan."""
    try:
        return not _plan(goal, seen)
    except Refused:
        return False


def _plan(goal: Goal, seen: Observed) -> tuple[Step, ...]:
    wanted = goal_for(seen.state, goal.wanted, goal.names)
    tap, found = (state.links.get(goal.names.tap) for state in (wanted, seen.state))
    fact = seen.facts.links.get(goal.names.tap)
    if isinstance(tap, ManagedTap) and isinstance(found, ManagedTap) and fact is not None and fact.carrier:
        # The owner is set by attaching to the tap, which a VM that holds it prevents. facts.unchecked reports it.
        wanted = wanted.with_parts(replace(tap, owner=found.owner))
    return plan(seen.state, wanted)
