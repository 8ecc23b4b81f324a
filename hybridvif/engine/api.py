"""plug, unplug, check: one port or many. One port is the one-port case of many."""

from __future__ import annotations

import time
from collections.abc import Iterable

from hybridvif.engine.converge import Progress, converge
from hybridvif.engine.goals import for_port, goal_for_plug, goal_for_unplug, make_plan
from hybridvif.engine.host_protocol import AnyHost
from hybridvif.model.port import Port
from hybridvif.model.report import Report, plug_error_of, unplug_error_of
from hybridvif.model.steps import Step


def _nobody(_done: int, _total: int) -> None:
    """Hears of no progress."""


def plug(port: Port, host: AnyHost) -> Report:
    """Plug one port: afterwards the host is as desired_state(port) says, or as it was before.

    A port that is in order already costs one observation and no write. Raises PlugFailed, carrying the report: a
    Refused if nothing was changed on purpose, a NotReady or BridgeMissing if the host lacks something.
    """
    (report,) = plug_all([port], host)
    if not report.ok:
        raise plug_error_of(report)
    return report


def unplug(port_id: str, host: AnyHost, *, force: bool = False) -> Report:
    """Unplug one port: afterwards nothing of it is left but the VM's own tap.

    A port that is not there is success and costs no write. force: even if a VM runs on it. Raises UnplugFailed,
    carrying the report: PortRunning or another Refused if nothing was changed on purpose, NotReady if the host lacks
    something.
    """
    (report,) = unplug_all([port_id], host, force=force)
    if not report.ok:
        raise unplug_error_of(report)
    return report


def check(port: Port, host: AnyHost) -> tuple[Step, ...]:
    """What plug would do now; empty if the port is in order. Nothing is written.

    Raises Refused where plug would refuse, and PreconditionError where the host lacks something.
    """
    deadline = time.monotonic() + host.settings.deadline
    goal = goal_for_plug(port, host.settings)
    return make_plan(goal, for_port(host.observe(set(port.names), deadline), goal.names), host)


def plug_all(ports: Iterable[Port], host: AnyHost, *, progress: Progress = _nobody) -> list[Report]:
    """Plug many ports; one report a port, in their order, whatever happens to any of them.

    progress: called with the number of ports that are at an end, and of all, before the first batch and after each.
    Raises nothing but InvalidInput, for two ports of one id.
    """
    return converge([goal_for_plug(port, host.settings) for port in ports], host, progress)


def unplug_all(
    port_ids: Iterable[str], host: AnyHost, *, force: bool = False, progress: Progress = _nobody
) -> list[Report]:
    """Unplug many ports; one report a port, in their order, whatever happens to any of them.

    progress: as of plug_all().
    Raises nothing but InvalidInput, for an id that is no UUID or is there twice.
    """
    return converge([goal_for_unplug(port_id, force=force) for port_id in port_ids], host, progress)
