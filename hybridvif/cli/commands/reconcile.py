"""hybridvif reconcile: plug all ports of a host, and with --prune unplug all others.

The document:

    command     "reconcile"
    dry_run     true if nothing was changed, and `steps` is the plan
    simulated   true if no real host was changed
    ports       for each port of the file, then for each port that --prune unplugs:
                goal        "plug" or "unplug"
                and a report (output/document.py); for a dry run only port, code, reason, steps (without result)
    summary     the number of ports by status; for a dry run the number of parts to create, update and delete
    error       only if a port failed: the worst failure (failure.py)
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hybridvif.cli.options import UsageError
from hybridvif.cli.ports import add_file_option

if TYPE_CHECKING:
    from hybridvif.cli.output.changes import Change
    from hybridvif.cli.terminal import Answer, Paint
    from hybridvif.engine.converge import AnyHost
    from hybridvif.engine.host_wide import Reconciled
    from hybridvif.model.port import Port
    from hybridvif.model.report import Report

HELP = "plug all ports of a host at once: after a reboot, or in a cron job"
FORMATS = ("text", "json", "yaml", "table", "value")
COLUMNS = ("port", "goal", "status", "changed", "retries", "code")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif reconcile`."""
    add_file_option(parser)
    parser.add_argument(
        "--prune", action="store_true", help="unplug our ports that are not in the file, except ports of running VMs"
    )
    parser.add_argument("--dry-run", action="store_true", help="write nothing; print the plan")


def run(args: argparse.Namespace) -> int:
    """Reconcile the host and return the worst exit code."""
    from hybridvif.cli.connection import connected

    if args.file is None:
        raise UsageError("reconcile needs the ports that this host should have; name a file of them with -F")

    from hybridvif.cli.portfile import read_ports

    ports = [request.to_port() for request in read_ports(args.file)]
    with connected(args) as host:
        answer = answer_of(ports, host, prune=args.prune, dry_run=args.dry_run, verbose=args.verbose)
    return int(args.terminal.write_answer(answer))


def answer_of(
    ports: Sequence[Port], host: AnyHost, *, prune: bool = False, dry_run: bool = False, verbose: int = 0
) -> Answer:
    """Reconcile the host with these ports and return the answer."""
    from hybridvif.cli.failure import error_of, failure_of_report
    from hybridvif.cli.terminal import Answer
    from hybridvif.engine.host_wide import reconcile
    from hybridvif.model.report import worst_exit_code

    reconciled = reconcile(ports, host, prune=prune, dry_run=dry_run)
    failures = [failure_of_report(report) for report in reconciled.reports if not report.ok]
    exit_code = worst_exit_code(list(reconciled.reports))
    documents = [_document(goal, report, dry_run=dry_run) for goal, report in _with_goals(reconciled)]
    return Answer(
        document={
            "command": "reconcile",
            "dry_run": dry_run,
            "simulated": any(report.simulated for report in reconciled.reports),
            "ports": documents,
            "summary": _summary(reconciled),
            **error_of(failures, exit_code),
        },
        lines=lambda paint: list(
            _plan_lines(reconciled, paint, verbose) if dry_run else _report_lines(reconciled, paint, verbose)
        ),
        columns=COLUMNS,
        rows=documents,
        simulated=any(report.simulated for report in reconciled.reports),
        failures=list({failure.message: failure for failure in failures}.values()),
        exit_code=exit_code,
        silent=not dry_run,
    )


def _with_goals(reconciled: Reconciled) -> list[tuple[str, Report]]:
    return [*(("plug", report) for report in reconciled.plugged), *(("unplug", report) for report in reconciled.pruned)]


def _document(goal: str, report: Report, *, dry_run: bool) -> Mapping[str, object]:
    from hybridvif.cli.output.document import report_document, step_documents

    if not dry_run:
        return {"goal": goal, **report_document(report)}
    steps = step_documents([outcome.step for outcome in report.outcomes])
    return {"goal": goal, "port": report.port_id, "code": report.code, "reason": report.reason, "steps": steps}


def _summary(reconciled: Reconciled) -> Mapping[str, int]:
    from dataclasses import asdict

    from hybridvif.cli.output.changes import tally

    if not reconciled.dry_run:
        return dict(Counter(report.status.value for report in reconciled.reports))
    return asdict(tally([change for report in reconciled.reports for change in _changes(report)]))


def _changes(report: Report) -> Sequence[Change]:
    from hybridvif.cli.output.changes import changes_of_plan

    return changes_of_plan(outcome.step for outcome in report.outcomes)


def _report_lines(reconciled: Reconciled, paint: Paint, verbose: int) -> Iterator[str]:
    from hybridvif.cli.output.reporting import report_lines, summary_line

    for goal, report in _with_goals(reconciled):
        yield from report_lines(goal, report, paint, verbose)
    yield summary_line(reconciled.reports)


def _plan_lines(reconciled: Reconciled, paint: Paint, verbose: int) -> Iterator[str]:
    from hybridvif.cli.output.changes import tally
    from hybridvif.cli.output.diff import diff_lines, grouped

    changes = {report.port_id: _changes(report) for report in reconciled.reports}
    groups = (
        (f"{goal} {report.port_id}", diff_lines(changes[report.port_id], paint, reasons=verbose > 0))
        for goal, report in _with_goals(reconciled)
    )
    yield from grouped(groups, paint)
    counted = tally([change for some in changes.values() for change in some])
    refused = sum(not report.ok for report in reconciled.reports)
    summary = f"Plan: {counted or 'nothing to do'}"
    yield f"{summary}; {refused} of {len(reconciled.reports)} ports would be refused." if refused else f"{summary}."
