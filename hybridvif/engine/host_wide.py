"""Functions for a whole host: reconcile it with the ports it should have, and remove orphans."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from hybridvif.engine.any_host import AnyHost, NotingHost, SimulatedHost
from hybridvif.engine.converge import converge, plug_all
from hybridvif.engine.goals import Goal, goal_for_unplug
from hybridvif.model.names import names_of
from hybridvif.model.orphans import Orphan, OrphanInUse, find_orphans, tagged_ports
from hybridvif.model.parts import Part
from hybridvif.model.port import Port
from hybridvif.model.report import Report
from hybridvif.model.state import Observed

OLDER_THAN = 3600.0
"""Seconds since an orphan was first seen, after which gc() removes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """Result of reconcile()."""

    plugged: tuple[Report, ...]
    """One report per requested port, in order."""
    pruned: tuple[Report, ...] = ()
    """One report per port that has our ownership tag and was not requested."""
    dry_run: bool = False
    """Nothing was changed. The reports are those of a dry run."""

    @property
    def reports(self) -> tuple[Report, ...]:
        """Return all reports."""
        return (*self.plugged, *self.pruned)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedOrphan:
    """One orphan, with the result of its removal."""

    remain: Orphan
    seconds: float
    """Seconds since it was first seen."""
    due: bool
    """It was first seen long enough ago to be removed."""
    report: Report | None = None
    """The report of its removal. None: it was not removed, because it is not due or this was a dry run."""


def reconcile(
    ports: Iterable[Port],
    host: AnyHost,
    *,
    prune: bool = False,
    keep: Collection[str] = (),
    dry_run: bool = False,
) -> Reconciled:
    """Bring all ports of a host to their desired state: plug these ports, as plug_all() does.

    prune: also unplug the other ports with our ownership tag. A port with a running VM is never unplugged. It is
    reported as PortRunning, even with `unplug_running = force`. Ports that another tool plugged stay. keep: ids of
    ports that stay too. dry_run: write nothing.

    Raises InvalidInput for a duplicate port id, and for an id of keep that is not a canonical UUID. With prune or
    dry_run also PreconditionError and NoResponse, before the first write.
    """
    ports = list(ports)
    for port_id in keep:
        # An id in upper case would match no port, and its port would be unplugged.
        names_of(port_id)
    target, others = host, list[str]()
    if prune or dry_run:
        observed = host.observe(None, time.monotonic() + host.settings.deadline)
        ids = {*keep, *(port.id for port in ports)}
        others = [port_id for port_id in tagged_ports(observed) if prune and port_id not in ids]
        target = SimulatedHost(host.settings, observed) if dry_run else host
    plugged = plug_all(ports, target)
    pruned = converge([goal_for_unplug(port_id, spare_vms=True) for port_id in others], target)
    return Reconciled(plugged=tuple(plugged), pruned=tuple(pruned), dry_run=dry_run)


def gc(
    host: NotingHost, *, older_than: float = OLDER_THAN, dry_run: bool = False, unmarked: bool = False
) -> list[CollectedOrphan]:
    """Remove orphans: incomplete ports of ours without a VM, first seen some time ago.

    older_than: seconds since an earlier call found the same orphan. The first call that finds it only stores the time,
    unless older_than is 0. dry_run: store the time, and write nothing to the host. unmarked: include rows without an
    ownership tag, which os-vif may have created. Raises PreconditionError, NoResponse.

    After a reboot, each port has such a row until it is plugged again. A reboot therefore resets all stored times.
    """
    deadline = time.monotonic() + host.settings.deadline
    bridges = host.settings.integration_bridges
    orphans = find_orphans(host.observe(None, deadline), bridges)
    seconds = host.seconds_since_first_seen([orphan.sign for orphan in orphans], deadline)
    orphans = [orphan for orphan in orphans if orphan.is_tagged or unmarked]
    due = [] if dry_run else [orphan for orphan in orphans if seconds[orphan.sign] >= older_than]
    reports = {report.port_id: report for report in converge([_removal_of(orphan, bridges) for orphan in due], host)}
    collected = [
        CollectedOrphan(
            remain=orphan,
            seconds=seconds[orphan.sign],
            due=seconds[orphan.sign] >= older_than,
            report=reports.get(orphan.port_id),
        )
        for orphan in orphans
    ]
    return [orphan for orphan in collected if orphan.report is None or orphan.report.code != OrphanInUse.code]


def parts_of(orphan: Orphan) -> list[Part]:
    """Return the parts of an orphan in the order of an unplug: row, veth pair, Linux bridge."""
    return sorted(orphan.state, key=lambda part: part.name, reverse=True)


def _removal_of(orphan: Orphan, bridges: Collection[str]) -> Goal:
    def check_still_orphaned(observed: Observed) -> None:
        """Check again under the lock: the port may have been plugged, or a VM may have attached, in between."""
        if orphan.sign not in {current.sign for current in find_orphans(observed, bridges)}:
            raise OrphanInUse(f"port {orphan.port_id}: it is not an orphan any more")

    return replace(goal_for_unplug(orphan.port_id, spare_vms=True), precondition=check_still_orphaned)
