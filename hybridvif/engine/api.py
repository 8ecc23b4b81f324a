"""plug, unplug and check, for one port or for many. A call for one port is a bulk call with one port."""

from __future__ import annotations

import time
from collections.abc import Iterable

from hybridvif.engine.converge import AnyHost, Progress, converge, ignore_progress
from hybridvif.engine.goals import for_port, goal_for_plug, goal_for_unplug, make_plan
from hybridvif.model.errors import PlugFailed, UnplugFailed
from hybridvif.model.port import Port
from hybridvif.model.report import Report, error_of
from hybridvif.model.steps import Step


def plug(port: Port, host: AnyHost) -> Report:
    """Plug one port. Afterwards it has its desired state, or the state from before the call.

    A port in sync costs one observation and no write. Raises PlugFailed with the report. Its subclasses: Refused if
    the plug is not permitted, NotReady or BridgeMissing if the host lacks something.
    """
    (report,) = plug_all([port], host)
    if not report.ok:
        raise error_of(report, PlugFailed)
    return report


def unplug(port_id: str, host: AnyHost, *, force: bool = False) -> Report:
    """Unplug one port. Afterwards only the tap of the VM remains.

    The unplug of an absent port succeeds and costs no write. force: unplug even if a VM uses the port. Raises
    UnplugFailed with the report. Its subclasses: PortRunning or another Refused if the unplug is not permitted,
    NotReady if the host lacks something.
    """
    (report,) = unplug_all([port_id], host, force=force)
    if not report.ok:
        raise error_of(report, UnplugFailed)
    return report


def check(port: Port, host: AnyHost) -> tuple[Step, ...]:
    """Return the plan of a plug, without a write. It is empty if the port is in sync.

    Raises Refused if a plug is not permitted, PreconditionError if the host lacks something, NoResponse.
    """
    deadline = time.monotonic() + host.settings.deadline
    goal = goal_for_plug(port, host.settings)
    return make_plan(goal, for_port(host.observe(set(port.names), deadline), goal.names), host.settings)


def plug_all(ports: Iterable[Port], host: AnyHost, *, progress: Progress = ignore_progress) -> list[Report]:
    """Plug many ports. Return one report per port, in order. A failed port does not stop the others.

    progress: called with (finished, total), before the first batch and after each batch. Raises InvalidInput for a
    duplicate port id, and nothing else.
    """
    return converge([goal_for_plug(port, host.settings) for port in ports], host, progress)


def unplug_all(
    port_ids: Iterable[str], host: AnyHost, *, force: bool = False, progress: Progress = ignore_progress
) -> list[Report]:
    """Unplug many ports. Return one report per port, in order. A failed port does not stop the others.

    progress: as in plug_all(). Raises InvalidInput for an id that is not a UUID or that is there twice, and nothing
    else.
    """
    return converge([goal_for_unplug(port_id, force=force) for port_id in port_ids], host, progress)
