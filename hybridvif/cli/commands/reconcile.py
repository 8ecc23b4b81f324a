"""hybridvif reconcile: plug all ports of a host, and with --prune unplug all others."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hybridvif.cli.options import UsageError, connected
from hybridvif.cli.output.changes import plan_document, plan_lines, report_document, tally_of
from hybridvif.cli.output.report import answer_about, report_lines, statuses_of
from hybridvif.cli.ports import add_file_option
from hybridvif.cli.terminal import Answer
from hybridvif.engine.converge import AnyHost
from hybridvif.model.port import Port

FORMATS = ("text", "json", "yaml", "table", "value")
COLUMNS = ("port", "goal", "status", "changed", "retries", "code")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif reconcile`."""
    add_file_option(parser)
    parser.add_argument(
        "--prune", action="store_true", help="unplug our ports that are not in the file, except ports of running VMs"
    )
    parser.add_argument("--dry-run", action="store_true", help="write nothing; print the plan")


def run(args: argparse.Namespace) -> Answer:
    """Reconcile the host."""
    if args.file is None:
        raise UsageError("reconcile needs the ports that this host should have; name a file of them with -F")
    from hybridvif.cli.portfile import read_ports

    ports = [request.to_port() for request in read_ports(args.file)]
    with connected(args) as host:
        return answer_of(ports, host, prune=args.prune, dry_run=args.dry_run, verbose=args.verbose)


def answer_of(
    ports: Sequence[Port], host: AnyHost, *, prune: bool = False, dry_run: bool = False, verbose: int = 0
) -> Answer:
    """Reconcile the host with these ports and return the answer."""
    from hybridvif.engine.host_wide import reconcile

    reconciled = reconcile(ports, host, prune=prune, dry_run=dry_run)
    reports = reconciled.reports
    goals = [("plug", report) for report in reconciled.plugged] + [("unplug", report) for report in reconciled.pruned]
    document_of = plan_document if dry_run else report_document
    documents = [{"goal": goal, **document_of(report)} for goal, report in goals]
    counted = tally_of(reports)
    refused = sum(not report.ok for report in reports)
    summary = f"Plan: {counted or 'nothing to do'}"
    summary += f"; {refused} of {len(reports)} ports would be refused." if refused else "."
    return answer_about(
        "reconcile",
        reports,
        {
            "dry_run": dry_run,
            "ports": documents,
            "summary": counted._asdict() if dry_run else statuses_of(reports),
        },
        lines=lambda paint: (
            [
                *plan_lines(
                    [(f"{goal} {report.port_id}", report) for goal, report in goals], paint, reasons=verbose > 0
                ),
                summary,
            ]
            if dry_run
            else report_lines(goals, paint, verbose, with_summary=True)
        ),
        columns=COLUMNS,
        rows=documents,
        silent=not dry_run,
    )
