"""hybridvif reconcile and hybridvif gc: calls about all ports of a host.

Reconcile plugs the ports that the host should have, and with --prune unplugs all others. Gc deletes orphans.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence

from hybridvif.cli.commands.ports import NEUTRON_OPTIONS, ports_from_neutron
from hybridvif.cli.options import (
    DETAILED_EXITCODE,
    DRY_RUN,
    ROWS,
    Command,
    UsageError,
    argument,
    connected,
    flag,
    seconds,
)
from hybridvif.cli.output.changes import plan_document, plan_lines, tally_of
from hybridvif.cli.output.report import answer_about, answer_of_reports, result_text
from hybridvif.cli.output.topology import plugged_ports
from hybridvif.cli.ports import FILE, observe_all, requested_ports
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.engine import host_wide, locks
from hybridvif.engine.any_host import AnyHost, NotingHost
from hybridvif.model.names import KEY_LENGTH
from hybridvif.model.port import Port

# -- reconcile ---------------------------------------------------------------------------------------------------------


def run_reconcile(args: argparse.Namespace) -> Answer:
    """Reconcile the host."""
    if (args.file is None) is not args.from_neutron:
        raise UsageError(
            "reconcile needs the ports that this host should have; name a file of them with -F, or give --from-neutron"
        )
    requests, keep = ports_from_neutron(args) if args.from_neutron else (requested_ports(args), None)
    ports = [request.to_port() for request in requests]
    with connected(args) as host:
        return reconcile(ports, host, args, keep)


def reconcile(
    ports: Sequence[Port], host: AnyHost, args: argparse.Namespace, keep: Collection[str] | None = None
) -> Answer:
    """Reconcile the host with these ports and return the answer.

    keep: the ids of the other ports that Neutron shows here. If given, each plugged port that is left is named.
    """
    others = [] if keep is None else [port.port_id or port.key for port in plugged_ports(observe_all(host))]
    reconciled = host_wide.reconcile(ports, host, prune=args.prune, keep=keep or (), dry_run=args.dry_run)
    reports = reconciled.reports
    if not args.dry_run and host.settings.link_executor != "recording" and all(report.ok for report in reports):
        locks.note_reconcile(host.settings.lock_path)
    keys = {report.port_id[:KEY_LENGTH] for report in reports}
    remaining = [name for name in others if name[:KEY_LENGTH] not in keys]
    warnings = [f"port {name}: left, because it is not desired here" for name in remaining]
    goals = ["plug"] * len(reconciled.plugged) + ["unplug"] * len(reconciled.pruned)
    more = {"dry_run": args.dry_run, "warnings": warnings}
    if not args.dry_run:
        return answer_of_reports(
            "reconcile", reports, verbose=args.verbose, goals=goals, warnings=warnings, document=more
        )
    counted = tally_of(reports)
    headed = [(f"{goal} {report.port_id}", report) for goal, report in zip(goals, reports, strict=True)]
    documents = [{"goal": goal, **plan_document(report)} for goal, report in zip(goals, reports, strict=True)]
    return answer_about(
        "reconcile",
        reports,
        {"ports": documents, "summary": counted._asdict(), **more},
        differences=args.detailed_exitcode and bool(counted),
        lines=lambda paint: plan_lines(headed, paint, "would be refused", reasons=args.verbose > 0),
        rows=documents,
        warnings=warnings,
    )


# -- gc ----------------------------------------------------------------------------------------------------------------


def run_gc(args: argparse.Namespace) -> Answer:
    """Delete the orphans that are old enough."""
    with connected(args) as host:
        return gc(host, args)


def gc(host: NotingHost, args: argparse.Namespace) -> Answer:
    """Collect the orphans and return the answer."""
    older_than, dry_run = args.older_than, args.dry_run
    collected = host_wide.gc(host, older_than=older_than, dry_run=dry_run, unmarked=args.unmarked)
    simulated = host.settings.link_executor == "recording"
    documents, rows = [], []
    for orphan in collected:
        parts, report = host_wide.parts_of(orphan.remain), orphan.report
        document: dict[str, object] = {
            "port": orphan.remain.port_id,
            "parts": [{"kind": part.kind, "name": part.name} for part in parts],
            "is_tagged": orphan.remain.is_tagged,
            "seconds": int(orphan.seconds),
            "due": orphan.due,
            "report": report.document if report else None,
        }
        documents.append(document)
        names = ",".join(part.name for part in parts)
        rows.append({**document, "parts": names, "status": report.status.value if report else "left"})
    return answer_about(
        "gc",
        [orphan.report for orphan in collected if orphan.report],
        {"simulated": simulated, "dry_run": dry_run, "older_than": older_than, "remains": documents},
        differences=dry_run and bool(collected),
        lines=lambda paint: _gc_lines(collected, older_than, paint, dry_run=dry_run),
        rows=rows,
        silent=not dry_run,
    )


def _gc_lines(
    collected: Sequence[host_wide.CollectedOrphan], older_than: float, paint: Paint, *, dry_run: bool
) -> Iterator[str]:
    for orphan in collected:
        report = orphan.report
        if report is not None:
            result = ("removed", "green") if report.ok else (result_text("unplug", report), "red")
        elif orphan.due:
            result = "would be removed", "yellow"
        else:
            result = f"left, noted {int(orphan.seconds)} s ago, removed from {older_than:g} s on", "yellow"
        names = ", ".join(part.name for part in host_wide.parts_of(orphan.remain))
        yield f"{orphan.remain.port_id}  {paint(*result)}: {names}"
    if not collected:
        yield "No remains."
    elif not dry_run and not any(orphan.report for orphan in collected):
        yield "Nothing is due; the same command later removes what is still there."


_AGE = f"minimum time since an orphan was first seen (default: {host_wide.OLDER_THAN:g})"
COMMANDS = {
    "reconcile": Command(
        run_reconcile,
        ROWS,
        (
            FILE,
            *NEUTRON_OPTIONS,
            flag("--prune", "unplug our ports that are not desired here, except ports of running VMs"),
            *DRY_RUN,
        ),
        columns=("port", "goal", "status", "changed", "retries", "code"),
        narrow=("port", "goal", "status", "code"),
        writes=True,
    ),
    "gc": Command(
        run_gc,
        ROWS,
        (
            argument("--older-than", metavar="SECONDS", type=seconds, default=host_wide.OLDER_THAN, text=_AGE),
            flag("--dry-run", "delete nothing; exit with 3 if there are orphans"),
            DETAILED_EXITCODE,
            flag("--unmarked", "also delete rows without devices that os-vif may have created"),
        ),
        columns=("port", "parts", "seconds", "due", "status"),
        writes=True,
    ),
}
