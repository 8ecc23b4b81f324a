"""What one port is to come to, and whether it may: identity, plan, integration bridge, and the VM that may run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hybridvif.errors import (
    BridgeMissing,
    BridgeNotAllowed,
    Conflict,
    NotReady,
    PortRunning,
    Refused,
)
from hybridvif.facts import Facts, Observed
from hybridvif.host import AnyHost
from hybridvif.identity import claim
from hybridvif.names import PortNames
from hybridvif.parts import NOTHING, VHOST_USER_TYPES, Bridge, HostState, MadeTap, OvsPort, VhostUserPort
from hybridvif.planner import keeping_its_tap, plan
from hybridvif.port import Port
from hybridvif.remains import NoRemain
from hybridvif.settings import Settings
from hybridvif.steps import Delete, Step, Update
from hybridvif.wiring import wiring_of


@dataclass(frozen=True, slots=True)
class Goal:
    """What one port is to come to."""

    port_id: str
    names: PortNames
    wanted: HostState
    interface_id: str = ""
    force: bool = False
    spare_vms: bool = False
    """No running VM is cut off, whatever the configuration says."""
    unless: Callable[[Observed], str] | None = None
    """Why, by what is seen under the lock, it is no goal any more; "" if it still is."""

    @property
    def is_plug(self) -> bool:
        """Whether the port is to be there afterwards."""
        return self.wanted is not NOTHING

    def made(self) -> Goal:
        """This one; a Wish has to make its own."""
        return self


@dataclass(frozen=True, slots=True)
class Wish:
    """A goal that is made when it is wanted: of a plug, while the daemon is looking at the host."""

    port_id: str
    names: PortNames
    is_plug: bool
    made: Callable[[], Goal]


def plug_goal(port: Port, settings: Settings) -> Goal:
    """What a plug comes to on a host with these settings."""
    return Goal(port.id, port.names, wiring_of(port.on(settings)), port.iface_id)


def plug_wish(port: Port, settings: Settings) -> Wish:
    """The same, to be made later."""
    return Wish(port.id, port.names, is_plug=True, made=lambda: plug_goal(port, settings))


def seen_of(observed: Observed, names: PortNames) -> Observed:
    """What was seen of one port alone; the facts whole."""
    return Observed(observed.state.of(names), observed.facts)


def planned(goal: Goal, seen: Observed, host: AnyHost) -> tuple[Step, ...]:
    """The plan for one port, if it may be carried out. Raises Refused, NotReady, BridgeMissing."""
    if goal.unless is not None and (why := goal.unless(seen)):
        raise NoRemain(why)
    claim(seen.state, goal.port_id, goal.interface_id)
    steps = _plan(goal, seen)
    if goal.is_plug:
        _require_served(goal, seen.facts)
        _require_bridges(goal, steps, seen.facts, host)
        _require_nobody_is_cut_off(goal, steps, seen.facts)
        _require_socket_can_move(goal, steps)
    elif steps and (goal.spare_vms or not (goal.force or host.settings.unplug_running == "force")):
        _require_idle(goal, seen)
    return steps


def _plan(goal: Goal, seen: Observed) -> tuple[Step, ...]:
    wanted = keeping_its_tap(seen.state, goal.wanted, goal.names)
    tap, found = (state.links.get(goal.names.tap) for state in (wanted, seen.state))
    fact = seen.facts.links.get(goal.names.tap)
    if isinstance(tap, MadeTap) and isinstance(found, MadeTap) and fact is not None and fact.carrier:
        # Its owner is set by attaching to it, which a VM that holds it prevents; facts.unchecked tells it.
        wanted = wanted.having(replace(tap, owner=found.owner))
    return plan(seen.state, wanted)


def _require_served(goal: Goal, facts: Facts) -> None:
    """A port whose kind of switch the configured executor does not serve fails before any link is made."""
    for part in goal.wanted:
        if facts.serves and part.kind not in facts.serves:
            role = part.role.value
            raise NotReady(
                f"port {goal.port_id}: the configured {role} executor does not serve {part.kind} {part.name}; "
                f"set [hybridvif] {role}_executor to one that does"
            )


def _require_bridges(goal: Goal, steps: tuple[Step, ...], facts: Facts, host: AnyHost) -> None:
    """The integration bridge must exist, and be one of this host's, before any link is made."""
    for port in goal.wanted.ports.values():
        if not isinstance(port, OvsPort) or not steps:
            continue
        settings = host.settings
        if port.bridge not in facts.switches and not settings.creates(port.bridge):
            raise BridgeMissing(
                f"port {goal.port_id}: integration bridge {port.bridge} does not exist "
                f"(there are {', '.join(sorted(facts.switches)) or 'none'}); create it: ovs-vsctl add-br {port.bridge}"
            )
        if not settings.allows(port.bridge):
            raise BridgeNotAllowed(
                f"port {goal.port_id}: refused to plug into {port.bridge}, which is not in [hybridvif] "
                f"integration_bridges ({', '.join(settings.integration_bridges)}); add it there"
            )


def _require_nobody_is_cut_off(goal: Goal, steps: tuple[Step, ...], facts: Facts) -> None:
    """A plug as a vhost-user port removes the Linux bridge, and the tap that was made for it; not from a running VM.

    That VM would have lost its network, or its device for good, also where the plug then failed and was rolled back.
    """
    gone = {type(step.part) for step in steps if isinstance(step, Delete)}
    why = _held_by_others(goal, facts) if Bridge in gone else ""
    tap = facts.links.get(goal.names.tap)
    if MadeTap in gone and tap is not None and tap.carrier:
        why = f"{goal.names.tap} has carrier, so a VM runs on it"
    if why:
        raise PortRunning(
            f"port {goal.port_id}: refused to plug it as a vhost-user port, since {why}; "
            "stop the VM first, or force its unplug"
        )


def _require_socket_can_move(goal: Goal, steps: tuple[Step, ...]) -> None:
    """Open vSwitch keeps to the socket under which it has taken a port as long as the port is there and of its type.

    It says nothing about another one that it is told of (lib/netdev-dpdk.c, netdev_dpdk_vhost_client_set_config).
    """
    connecting = VHOST_USER_TYPES["server"]
    for step in steps:
        match step:
            case Update(VhostUserPort(realized=True, socket_as_configured=False) as had, OvsPort(type=new)):
                if had.type == new == connecting:
                    raise Conflict(
                        f"port {goal.port_id}: Open vSwitch has {had.name} with a socket elsewhere than [hybridvif] "
                        "vhost_socket_dir says, and keeps to it; set that to where it is, or unplug the port and "
                        "plug it"
                    )


def _require_idle(goal: Goal, seen: Observed) -> None:
    """A VM that runs must not be cut off by mistake: a tap that is held open has carrier, one that is not has none.

    Nothing tells whether a VM has the socket of a vhost-user port, so whoever asks for that port's unplug must know.
    """
    facts = seen.facts
    if goal.spare_vms and any(isinstance(port, VhostUserPort) for port in seen.state.ports.values()):
        raise _running(goal, f"{goal.names.vhost_user} does not tell whether a VM runs on it")
    if why := _held_by_others(goal, facts):
        raise _running(goal, why)
    tap = facts.links.get(goal.names.tap)
    goes = isinstance(seen.state.links.get(goal.names.tap), MadeTap)
    if (goal.spare_vms or goes) and tap is not None and tap.carrier:
        raise _running(goal, f"{goal.names.tap} has carrier, so a VM runs on it")


def _held_by_others(goal: Goal, facts: Facts) -> str:
    """Why the Linux bridge must stay: what it has beside our own is a VM's that runs, or not ours; "" if it may go."""
    for member in facts.members.get(goal.names.bridge, ()):
        if member == goal.names.bridge_end:
            continue
        fact = facts.links.get(member)
        if member != goal.names.tap or (fact is not None and fact.carrier):
            what = "has carrier, so a VM runs on it" if member == goal.names.tap else "is not ours"
            return f"{member} in {goal.names.bridge} {what}"
    return ""


def _running(goal: Goal, what: str) -> PortRunning:
    return PortRunning(f"port {goal.port_id}: refused to unplug, since {what}; stop the VM first, or force it")


def reached(goal: Goal, seen: Observed) -> bool:
    """Whether nothing is left to do; not so where something foreign has got in the way."""
    try:
        return not _plan(goal, seen)
    except Refused:
        return False
