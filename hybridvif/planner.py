"""plan(observed, desired) -> steps: the only place that decides.

One planner serves every goal (design.md section 2): plug is the plan to the wiring, unplug the plan to NOTHING, check
the plug plan not carried out, rollback the plan back to what was observed first.

Order. To a whole port: links first, complete and up, the switch last, so that neither ovs-vswitchd nor Neutron's agent
ever sees half a port. Away from one: the switch first, so that ovs-vswitchd never holds a dead device. Where a veth
pair is made under a row that stays, the row is parked before and freed after: ovs-vswitchd would otherwise go on
holding the old device, and no packet would pass, for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hybridvif.errors import Conflict
from hybridvif.names import PortNames, key_of, names_of_key
from hybridvif.parts import (
    HOST_IP_OFF,
    OPEN,
    PARKED,
    ROOT,
    Bridge,
    HostState,
    MadeTap,
    OvsPort,
    Part,
    Stray,
    Tap,
    Veth,
    VhostUserPort,
    differences,
)
from hybridvif.port import MAX_TAP_MTU
from hybridvif.steps import Create, Delete, Step, Update, simulate


def plan(observed: HostState, desired: HostState) -> tuple[Step, ...]:
    """The steps that lead from one state of one port to another; empty if it is there already.

    Both states hold parts of one port only. Raises Conflict where something foreign has one of its names or holds one
    of its parts, naming the object and the remedy.
    """
    if _is_there(observed, desired):
        return ()
    for part in observed:
        _require_ours(part)
    course = _Course(observed)
    _clear_the_switch(course, desired)
    _clear_the_links(course, desired)
    _make_the_links(course, desired)
    _make_the_port(course, desired)
    return tuple(course.steps)


def keeping_its_tap(observed: HostState, wiring: HostState, names: PortNames) -> HostState:
    """The goal of a plug that asks for no tap, where one was made before: that stays, and is kept in order.

    A VM may hold it, and who plugs again need not know how the port was plugged first.
    """
    tap, bridge = observed.links.get(names.tap), wiring.links.get(names.bridge)
    if not isinstance(tap, MadeTap) or not isinstance(bridge, Bridge) or names.tap in wiring.links:
        return wiring
    kept = replace(tap, mtu=min(bridge.mtu, MAX_TAP_MTU), up=True, master=bridge.name, group=0)
    return wiring.having(replace(kept, host_ip=HOST_IP_OFF, bridge_port=OPEN, owner=ROOT))


def _is_there(observed: HostState, desired: HostState) -> bool:
    """Whether all that is wanted is there, and beside it at most a tap that was not made here.

    Of hundreds of ports in order, most: the way through all the steps comes to the same, and takes three times as long.
    """
    links, wanted = observed.links, desired.links
    return (
        _are_as_wanted(observed.ports, desired.ports)
        and all(_is_as_wanted(links.get(name), link) for name, link in wanted.items())
        and all(name in wanted or isinstance(link, Tap) for name, link in links.items())
    )


def _are_as_wanted(ports: Mapping[str, Part], wanted: Mapping[str, Part]) -> bool:
    return ports.keys() == wanted.keys() and all(_is_as_wanted(ports[name], port) for name, port in wanted.items())


def _is_as_wanted(found: Part | None, wanted: Part) -> bool:
    # Not to the letter: a kernel tells of options that nobody asks for (nf_call_iptables).
    return type(found) is type(wanted) and not differences(found, wanted)


class _Course:
    """The steps so far, and the host as it will be after them."""

    def __init__(self, state: HostState) -> None:
        self.state = state
        self.steps: list[Step] = []

    def take(self, step: Step) -> None:
        self.state = simulate(self.state, step)
        self.steps.append(step)

    def reach(self, found: Part | None, wanted: Part) -> None:
        if found is None:
            self.take(Create(wanted))
        elif differences(found, wanted):
            self.take(Update(found, wanted))


def _require_ours(part: Part) -> None:
    if isinstance(part, Stray):
        remedy = f"ovs-vsctl del-port {part.name}" if part.role is OvsPort.role else f"ip link delete {part.name}"
        raise Conflict(f"{part.name} exists but is {part.what}; if nothing needs it, remove it: {remedy}")
    if isinstance(part, Veth | MadeTap) and part.master not in ("", names_of_key(key_of(part.name) or "").bridge):
        raise Conflict(
            f"{part.name} is in {part.master}, which is not its bridge; "
            f"if that is a mistake, take it out: ip link set {part.name} nomaster"
        )


def _clear_the_switch(course: _Course, desired: HostState) -> None:
    for name, port in sorted(course.state.ports.items()):
        wanted = desired.ports.get(name)
        if type(wanted) is not type(port):
            course.take(Delete(port))
        elif isinstance(port, OvsPort) and isinstance(wanted, OvsPort):
            made_anew = _has_device(desired, port) and not _has_device(course.state, port)
            if _must_park(port, wanted, made_anew):
                course.take(Update(port, replace(port, type=PARKED, realized=False)))


def _must_park(port: OvsPort, wanted: OvsPort, made_anew: bool) -> bool:
    if isinstance(port, VhostUserPort) or PARKED in (port.type, wanted.type) or not wanted.realized:
        return False
    return made_anew or not port.realized


def _has_device(state: HostState, port: OvsPort) -> bool:
    return any(isinstance(link, Veth) and link.peer == port.name for link in state.links.values())


def _clear_the_links(course: _Course, desired: HostState) -> None:
    # The members before the bridge: deleting a bridge that has some takes each of them out first.
    for kind in (Veth, MadeTap, Bridge):
        for name, link in course.state.links.items():
            # Where the goal has a tap that was not made here, the one that was is in its place.
            if isinstance(link, kind) and isinstance(desired.links.get(name), Tap | None):
                course.take(Delete(link))


def _make_the_links(course: _Course, desired: HostState) -> None:
    wanted = sorted(desired.links.values(), key=lambda link: (not isinstance(link, Bridge), link.name))
    for link in wanted:
        if isinstance(link, Veth):
            _put_the_tap_back(course, link)
        found = course.state.links.get(link.name)
        if not isinstance(link, Tap) and not (isinstance(link, MadeTap) and isinstance(found, Tap)):
            # A tap that was not made here is used as it is.
            course.reach(found, link)


def _put_the_tap_back(course: _Course, veth: Veth) -> None:
    """A tap that no bridge holds goes into a qbr that is made anew.

    libvirt cannot be at work on a bridge that did not exist; without this a running VM would stay cut off after the
    repair. That qvb is not yet in qbr counts as "made anew", so that a kill between the two steps is mended as well.
    """
    found = course.state.links.get(veth.name)
    tap = course.state.links.get(names_of_key(key_of(veth.name) or "").tap)
    in_place = isinstance(found, Veth) and found.master == veth.master
    if isinstance(tap, Tap) and tap.master == "" and veth.master and not in_place:
        course.take(Update(tap, replace(tap, master=veth.master)))


def _make_the_port(course: _Course, desired: HostState) -> None:
    for name, wanted in sorted(desired.ports.items()):
        course.reach(course.state.ports.get(name), wanted)
