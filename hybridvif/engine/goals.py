"""The goal of one port in one call, and its plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hybridvif.engine import preconditions
from hybridvif.engine.host_protocol import AnyHost
from hybridvif.model.desired import desired_state
from hybridvif.model.errors import Refused
from hybridvif.model.names import PortNames, names_of
from hybridvif.model.ownership import check_ownership
from hybridvif.model.parts import ManagedTap
from hybridvif.model.planner import goal_for, plan
from hybridvif.model.port import Port
from hybridvif.model.settings import Settings
from hybridvif.model.state import NOTHING, HostState, Observed
from hybridvif.model.steps import Step


@dataclass(frozen=True, slots=True)
class Goal:
    """The desired state of one port in one call, with its precondition."""

    port_id: str
    names: PortNames
    desired: HostState
    interface_id: str = ""
    force: bool = False
    """Unplug the port of a running VM, even if the configuration refuses that."""
    spare_vms: bool = False
    """Never unplug the port of a running VM, even if the configuration allows that."""
    precondition: Callable[[Observed], None] | None = None
    """Check under the lock, before the first write. Raises Refused if the goal is out of date."""

    @property
    def is_plug(self) -> bool:
        """Return whether the port should exist afterwards."""
        return self.desired is not NOTHING


def goal_for_plug(port: Port, settings: Settings) -> Goal:
    """Return the goal of a plug on a host with these settings."""
    return Goal(port.id, port.names, desired_state(port.on(settings)), port.iface_id)


def goal_for_unplug(port_id: str, *, force: bool = False, spare_vms: bool = False) -> Goal:
    """Return the goal of an unplug. Raises InvalidInput for an id that is no UUID."""
    return Goal(port_id, names_of(port_id), NOTHING, force=force, spare_vms=spare_vms)


def for_port(observed: Observed, names: PortNames) -> Observed:
    """Return an observation with the parts of one port only. The facts stay complete."""
    return Observed(observed.state.of(names), observed.facts)


def make_plan(goal: Goal, observed: Observed, host: AnyHost) -> tuple[Step, ...]:
    """Return the plan of one port, and check each precondition. Raises Refused, NotReady, BridgeMissing."""
    if goal.precondition is not None:
        goal.precondition(observed)
    check_ownership(observed.state, goal.port_id, goal.interface_id)
    steps = _plan(goal, observed)
    if goal.is_plug:
        preconditions.check_tap_is_not_in_switch(goal.port_id, goal.names, observed.facts)
        preconditions.check_kinds_are_served(goal.port_id, goal.desired, observed.facts)
        preconditions.check_bridges(goal.port_id, goal.desired, steps, observed.facts, host.settings)
        preconditions.check_no_vm_is_cut_off(goal.port_id, goal.names, steps, observed.facts)
        preconditions.check_socket_stays(goal.port_id, steps)
    elif steps and (goal.spare_vms or not (goal.force or host.settings.unplug_running == "force")):
        preconditions.check_port_is_idle(goal.port_id, goal.names, observed, spare_vms=goal.spare_vms)
    return steps


def is_reached(goal: Goal, observed: Observed) -> bool:
    """Return whether the plan is empty. False if a foreign object blocks it."""
    try:
        return not _plan(goal, observed)
    except Refused:
        return False


def _plan(goal: Goal, observed: Observed) -> tuple[Step, ...]:
    desired = goal_for(observed.state, goal.desired, goal.names)
    tap, observed_tap = (state.links.get(goal.names.tap) for state in (desired, observed.state))
    fact = observed.facts.links.get(goal.names.tap)
    if isinstance(tap, ManagedTap) and isinstance(observed_tap, ManagedTap) and fact is not None and fact.carrier:
        # The owner of a tap is set by attaching to it, and a running VM prevents that. facts.unchecked reports it.
        desired = desired.with_parts(replace(tap, owner=observed_tap.owner))
    return plan(observed.state, desired)
