"""The goal of one port in one call, its plan, and the preconditions of the plan.

The checks prevent mistakes and give precise errors. They are not the authorization, which the daemon does itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hybridvif.model.errors import BridgeMissing, BridgeNotAllowed, Conflict, NotReady, PortRunning, Refused
from hybridvif.model.names import PortNames, names_of
from hybridvif.model.parts import (
    KERNEL_DATAPATH,
    VHOST_USER_TYPES,
    Bridge,
    ManagedTap,
    NativePort,
    OvsPort,
    Role,
    VhostUserPort,
)
from hybridvif.model.planner import check_ownership, goal_for, native_row, plan
from hybridvif.model.port import Port, desired_state
from hybridvif.model.settings import Settings
from hybridvif.model.state import NOTHING, Create, Delete, Facts, HostState, Observed, Step, Update


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
    spare_native: bool = False
    """Never unplug a converted port of a running VM, even if forced: the caller may take it for a hybrid port."""
    is_conversion: bool = False
    """Convert the port under its running VM."""
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


def checked_plan(goal: Goal, observed: Observed, settings: Settings) -> tuple[Step, ...]:
    """Return the plan of one port, and check each precondition. Raises Refused, NotReady, BridgeMissing."""
    if goal.precondition is not None:
        goal.precondition(observed)
    check_ownership(observed.state, goal.port_id, goal.interface_id)
    steps = _plan(goal, observed)
    if goal.is_plug:
        check_single_path(goal.port_id, goal.names, observed)
        _check_names_are_free(goal, steps, observed.facts)
        _check_kinds_are_served(goal, observed.facts)
        _check_bridges(goal, steps, observed.facts, settings)
        _check_no_vm_is_cut_off(goal, steps, observed.facts)
        _check_socket_stays(goal, steps)
    elif (
        goal.spare_vms
        or not (goal.force or settings.unplug_running == "force")
        or (goal.spare_native and native_row(observed.state) is not None)
    ):
        _check_no_vm_is_cut_off(goal, steps, observed.facts)
    return steps


def is_reached(goal: Goal, observed: Observed) -> bool:
    """Return whether the plan is empty. False if a foreign object blocks it."""
    try:
        return not _plan(goal, observed)
    except Refused:
        return False


def runs_natively(goal: Goal, observed: Observed) -> bool:
    """Return whether a VM runs on the converted port, so that a plug as a hybrid port leaves it as it is."""
    is_hybrid = goal.names.switch_end in goal.desired.ports and not goal.is_conversion
    return is_hybrid and native_row(observed.state) is not None and observed.facts.vm(goal.names) is not None


def desired_on(goal: Goal, observed: Observed) -> HostState:
    """Return the desired state of a goal on this host."""
    stays_native = runs_natively(goal, observed)
    return goal_for(observed.state, goal.desired, goal.names, stays_native=stays_native)


def _plan(goal: Goal, observed: Observed) -> tuple[Step, ...]:
    desired = desired_on(goal, observed)
    tap, observed_tap = (state.links.get(goal.names.tap) for state in (desired, observed.state))
    if isinstance(tap, ManagedTap) and isinstance(observed_tap, ManagedTap) and observed.facts.vm(goal.names):
        # The owner of a tap is set by attaching to it, and a running VM prevents that. facts.unchecked reports it.
        desired = desired.with_parts(replace(tap, owner=observed_tap.owner))
    return plan(observed.state, desired)


def check_single_path(port_id: str, names: PortNames, observed: Observed) -> None:
    """Refuse a port with a second path between its devices and a switch. Raises Conflict.

    A qbr or qvb in the switch makes a loop beside qvo, and so does a qvo in a Linux bridge. A tap in the switch has no
    master in the kernel on the userspace datapath. If qbr had it too, each packet would pass twice. A converted port
    is plugged that way.
    """
    facts = observed.facts
    remove = "ivs-ctl" if facts.switch_version == "ivs" else "ovs-vsctl"
    for name in (names.bridge, names.bridge_end):
        if name in facts.ports:
            raise Conflict(
                f"port {port_id}: {name} is a port of the switch itself, so packets pass twice or for ever; "
                f"remove it: {remove} del-port {name}"
            )
    if names.tap in facts.ports and native_row(observed.state) is None:
        raise Conflict(
            f"port {port_id}: {names.tap} is a port of the switch itself, so its VM is plugged without a Linux bridge; "
            f"if that is a mistake, remove it: {remove} del-port {names.tap}; if not, and the port has qbr or qvo as "
            f"well, remove those: hybridvif unplug {port_id}"
        )
    qvo = facts.links.get(names.switch_end)
    if qvo is not None and qvo.master not in ("", KERNEL_DATAPATH) and facts.switch_version.startswith("ovs"):
        raise Conflict(
            f"port {port_id}: {names.switch_end} is in {qvo.master}, which is not Open vSwitch, so packets pass beside "
            f"the switch or not at all; take it out: ip link set {names.switch_end} nomaster"
        )


def _check_names_are_free(goal: Goal, steps: tuple[Step, ...], facts: Facts) -> None:
    """Refuse to create a device under an alternative name of another. The kernel would report EEXIST only."""
    new = [step.part for step in steps if isinstance(step, Create) and step.part.role is Role.LINK]
    for name in (name for part in new for name in (part.name, getattr(part, "peer", ""))):
        if name in facts.altnames:
            holder = facts.altnames[name]
            raise Conflict(
                f"port {goal.port_id}: {name} is an alternative name of the device {holder}; "
                f"remove it: ip link property del dev {holder} altname {name}"
            )


def _check_kinds_are_served(goal: Goal, facts: Facts) -> None:
    """Require an executor for every part before the first link is created. Raises NotReady."""
    for part in goal.desired:
        if facts.serves and part.kind not in facts.serves:
            role = part.role.value
            raise NotReady(
                f"port {goal.port_id}: the configured {role} executor does not serve {part.kind} {part.name}; "
                f"set [hybridvif] {role}_executor to one that does"
            )


def _check_bridges(goal: Goal, steps: tuple[Step, ...], facts: Facts, settings: Settings) -> None:
    """Require the integration bridge to exist and to be allowed. Raises BridgeMissing, BridgeNotAllowed."""
    bridges = [port.bridge for port in goal.desired.ports.values() if steps and isinstance(port, OvsPort)]
    for bridge in bridges:
        if bridge not in facts.switches and not settings.creates(bridge):
            raise BridgeMissing(
                f"port {goal.port_id}: integration bridge {bridge} does not exist "
                f"(there are {', '.join(sorted(facts.switches)) or 'none'}); create it: ovs-vsctl add-br {bridge}"
            )
        if not settings.allows(bridge):
            raise BridgeNotAllowed(
                f"port {goal.port_id}: refused to plug into {bridge}, which is not in [hybridvif] "
                f"integration_bridges ({', '.join(settings.integration_bridges)}); add it there"
            )


def _check_no_vm_is_cut_off(goal: Goal, steps: tuple[Step, ...], facts: Facts) -> None:
    """Refuse a plan that removes the Linux bridge or the tap of a running VM. Raises PortRunning.

    A plug as a vhost-user port removes both. The VM would lose its device even if the plug were rolled back. The socket
    of a vhost-user port shows no use, so with spare_vms such a port counts as in use.
    """
    deleted = {type(step.part) for step in steps if isinstance(step, Delete)}
    is_unplug = bool(steps) and not goal.is_plug
    if goal.is_conversion:
        # Its tap goes on in the switch. Nothing else may be in its Linux bridge.
        others = {*facts.members.get(goal.names.bridge, ())} - {goal.names.bridge_end, goal.names.tap}
        if Bridge in deleted and others:
            raise Conflict(f"port {goal.port_id}: {min(others)} in {goal.names.bridge} is not ours; take it out first")
        return
    converted = [step.part for step in steps if isinstance(step, Delete) and isinstance(step.part, OvsPort)]
    # Outside of qbr, the tap may be in the switch, or in a conversion that was interrupted.
    is_cut_off = ManagedTap in deleted or any(isinstance(row, NativePort) or row.converting for row in converted)
    reason, remedy = _other_member(goal, facts) if is_unplug or Bridge in deleted else ("", "")
    if goal.spare_vms and VhostUserPort in deleted:
        reason, remedy = f"{goal.names.vhost_user} does not show whether a VM runs on it", _STOP_VM
    elif not reason and facts.vm(goal.names) and (is_cut_off or (is_unplug and goal.spare_vms)):
        reason, remedy = f"{goal.names.tap} has carrier, so a VM runs on it", _STOP_VM
    if reason:
        refused, forced = ("unplug", "force it") if is_unplug else ("plug it as a vhost-user port", "force its unplug")
        if goal.spare_vms:
            # The call has no force.
            forced = f"force its unplug: hybridvif unplug {goal.port_id} --force"
        raise PortRunning(f"port {goal.port_id}: refused to {refused}, since {reason}; {remedy}, or {forced}")


_STOP_VM = "stop the VM first"


def _other_member(goal: Goal, facts: Facts) -> tuple[str, str]:
    """Return the reason to keep the Linux bridge, a running VM or a foreign member, and the remedy. Empty if none."""
    names = goal.names
    for member in facts.members.get(names.bridge, ()):
        if member not in (names.bridge_end, names.tap):
            return f"{member} in {names.bridge} is not ours", f"take it out first: ip link set {member} nomaster"
        if member == names.tap and facts.vm(goal.names):
            return f"{member} in {names.bridge} has carrier, so a VM runs on it", _STOP_VM
    return "", ""


def _check_socket_stays(goal: Goal, steps: tuple[Step, ...]) -> None:
    """Refuse to move the socket of a vhost-user port that Open vSwitch has accepted. Raises Conflict.

    Open vSwitch ignores a changed path (lib/netdev-dpdk.c, netdev_dpdk_vhost_client_set_config).
    """
    connecting = VHOST_USER_TYPES["server"]
    for step in steps:
        match step:
            case Update(VhostUserPort(realized=True, socket_as_configured=False) as before, OvsPort(type=new)):
                if before.type == new == connecting:
                    raise Conflict(
                        f"port {goal.port_id}: in Open vSwitch, the socket of {before.name} is not in [hybridvif] "
                        "vhost_socket_dir, and a change would be ignored; set the option to its directory, or unplug "
                        "the port and plug it again"
                    )
