"""hybridvif reconcile: plug all ports of a host, and with --prune unplug all others."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from hybridvif.cli.commands import ports as ports_command
from hybridvif.cli.options import UsageError, connected
from hybridvif.cli.output.changes import plan_document, plan_lines, tally_of
from hybridvif.cli.output.report import answer_about, report_lines, statuses_of
from hybridvif.cli.ports import add_file_option
from hybridvif.cli.terminal import Answer
from hybridvif.engine.converge import AnyHost
from hybridvif.model.names import KEY_LENGTH
from hybridvif.model.port import Port

FORMATS = ("text", "json", "yaml", "table", "value")
COLUMNS = ("port", "goal", "status", "changed", "retries", "code")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif reconcile`."""
    add_file_option(parser)
    ports_command.add_arguments(parser)
    parser.add_argument(
        "--prune", action="store_true", help="unplug our ports that are not desired, except ports of running VMs"
    )
    parser.add_argument("--dry-run", action="store_true", help="write nothing; print the plan")


def run(args: argparse.Namespace) -> Answer:
    """Reconcile the host."""
    if (args.file is None) is not args.from_neutron:
        raise UsageError(
            "reconcile needs the ports that this host should have; name a file of them with -F, or give --from-neutron"
        )
    from hybridvif.cli.portfile import read_ports

    requests = ports_command.ports_from_neutron(args) if args.from_neutron else read_ports(args.file)
    ports = [request.to_port() for request in requests]
    with connected(args) as host:
        others = _plugged_ports(host) if args.from_neutron else ()
        return answer_of(ports, host, prune=args.prune, dry_run=args.dry_run, verbose=args.verbose, others=others)


def answer_of(
    ports: Sequence[Port],
    host: AnyHost,
    *,
    prune: bool = False,
    dry_run: bool = False,
    verbose: int = 0,
    others: Sequence[str] = (),
) -> Answer:
    """Reconcile the host with these ports and return the answer. others: plugged ports to name if they are left."""
    from hybridvif.engine.host_wide import reconcile

    reconciled = reconcile(ports, host, prune=prune, dry_run=dry_run)
    reports = reconciled.reports
    keys = {report.port_id[:KEY_LENGTH] for report in reports}
    remaining = [name for name in others if name[:KEY_LENGTH] not in keys]
    warnings = [f"port {name}: left, because it is not desired here" for name in remaining]
    goals = [("plug", report) for report in reconciled.plugged] + [("unplug", report) for report in reconciled.pruned]
    documents = [{"goal": goal, **(plan_document(report) if dry_run else report.document)} for goal, report in goals]
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
            "warnings": warnings,
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
        narrow=("port", "goal", "status", "code"),
        rows=documents,
        warnings=warnings,
        silent=not dry_run,
    )


def _plugged_ports(host: AnyHost) -> Sequence[str]:
    """Return the ids of the plugged ports, or the 11 characters of their device names."""
    from hybridvif.cli.output.topology import plugged_ports

    observed = host.observe(None, time.monotonic() + host.settings.deadline)
    return [port.port_id or port.key for port in plugged_ports(observed)]
