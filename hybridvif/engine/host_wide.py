"""A whole host at once: reconcile it with the ports it should have; gather what is left of ports that are no more."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from hybridvif.engine.api import plug_all
from hybridvif.engine.converge import converge
from hybridvif.engine.goals import Goal, goal_for_unplug
from hybridvif.engine.host_protocol import AnyHost
from hybridvif.engine.simulated_host import SimulatedHost
from hybridvif.model.facts import Observed
from hybridvif.model.orphans import Orphan, OrphanInUse, find_orphans, tagged_ports
from hybridvif.model.parts import Part
from hybridvif.model.port import Port
from hybridvif.model.report import Report

OLDER_THAN = 3600.0
"""Seconds for which a remain must have been noted before gc() takes it."""


class NotingHost(AnyHost, Protocol):
    """What gc() needs of a host: Host, or a RecordingHost."""

    def seconds_since_first_seen(self, signs: Collection[str], deadline: float) -> dict[str, float]: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What reconcile() came to."""

    plugged: tuple[Report, ...]
    """A report a port that was asked for, in their order."""
    pruned: tuple[Report, ...] = ()
    """A report a port that was there, and ours, and not asked for."""
    dry_run: bool = False
    """Nothing was done; the reports say what would be."""

    @property
    def reports(self) -> tuple[Report, ...]:
        """All of them."""
        return (*self.plugged, *self.pruned)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedOrphan:
    """One remain, and what became of it."""

    remain: Orphan
    seconds: float
    """For how long it has been noted."""
    due: bool
    """Whether that is long enough."""
    report: Report | None = None
    """Of its removal; None: it was left, since it is not due or since it was a dry run."""


def reconcile(ports: Iterable[Port], host: AnyHost, *, prune: bool = False, dry_run: bool = False) -> Reconciled:
    """Bring a whole host in order: plug all of these ports, as plug_all() does.

    prune: and unplug the others that bear our mark (remains.py), none on which a VM runs: those are reported as
    PortRunning, whatever `unplug_running` says. What another tool plugged is left. dry_run: write nothing.

    Raises InvalidInput for two ports of one id. With prune or dry_run it raises PreconditionError and NoResponse before
    anything is written.
    """
    wanted = list(ports)
    stage, others = host, list[str]()
    if prune or dry_run:
        seen = host.observe(None, time.monotonic() + host.settings.deadline)
        ids = {port.id for port in wanted}
        others = [port_id for port_id in tagged_ports(seen) if prune and port_id not in ids]
        stage = SimulatedHost(host.settings, seen) if dry_run else host
    plugged = plug_all(wanted, stage)
    pruned = converge([goal_for_unplug(port_id, spare_vms=True) for port_id in others], stage)
    return Reconciled(plugged=tuple(plugged), pruned=tuple(pruned), dry_run=dry_run)


def gc(
    host: NotingHost, *, older_than: float = OLDER_THAN, dry_run: bool = False, unmarked: bool = False
) -> list[CollectedOrphan]:
    """Remove what is left of ports that are no more: ours, half there, without a VM, and noted for some time.

    older_than: seconds that must lie between a first and a later call that find the same remain; a call that finds it
    for the first time only notes it, unless this is 0. dry_run: note, and write nothing to the host. unmarked: also
    rows of which nobody can tell whether we or os-vif made them. Raises PreconditionError, NoResponse.

    A reboot leaves such rows of every port, until each is plugged again: after it all that was noted is forgotten.
    """
    deadline = time.monotonic() + host.settings.deadline
    bridges = host.settings.integration_bridges
    found = find_orphans(host.observe(None, deadline), bridges)
    seconds = host.seconds_since_first_seen([one.sign for one in found], deadline)
    chosen = [one for one in found if one.is_tagged or unmarked]
    due = [one for one in chosen if seconds[one.sign] >= older_than]
    reports = dict[str, Report]()
    if not dry_run:
        reports = {report.port_id: report for report in converge([_removal_of(one, bridges) for one in due], host)}
    return [
        CollectedOrphan(remain=one, seconds=seconds[one.sign], due=one in due, report=reports.get(one.port_id))
        for one in chosen
        if not _was_spared(reports.get(one.port_id))
    ]


def parts_of(remain: Orphan) -> list[Part]:
    """The parts of a remain, as an unplug takes them: the row, the veth pair, the Linux bridge."""
    return sorted(remain.state, key=lambda part: part.name, reverse=True)


def _removal_of(remain: Orphan, bridges: Collection[str]) -> Goal:
    def check_still_orphaned(seen: Observed) -> None:
        """Check again under the lock: the port may have been plugged, or a VM may have attached, in between."""
        if remain.sign not in {found.sign for found in find_orphans(seen, bridges)}:
            raise OrphanInUse(f"port {remain.port_id}: what was left of it is no remain any more")

    return replace(goal_for_unplug(remain.port_id, spare_vms=True), precondition=check_still_orphaned)


def _was_spared(report: Report | None) -> bool:
    return report is not None and report.code == OrphanInUse.code
