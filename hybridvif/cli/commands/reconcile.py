"""hybridvif reconcile: plug all ports of a host, and with --prune unplug all others."""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Sequence

from hybridvif.cli.commands import ports as ports_command
from hybridvif.cli.options import UsageError, add_dry_run, connected
from hybridvif.cli.output.changes import plan_document, plan_lines, tally_of
from hybridvif.cli.output.report import answer_about, report_lines, statuses_of
from hybridvif.cli.ports import add_file_option
from hybridvif.cli.terminal import Answer
from hybridvif.engine.any_host import AnyHost
from hybridvif.model.names import KEY_LENGTH
from hybridvif.model.port import Port

FORMATS = ("text", "json", "yaml", "table", "value")
COLUMNS = ("port", "goal", "status", "changed", "retries", "code")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif reconcile`."""
    add_file_option(parser)
    ports_command.add_arguments(parser)
    parser.add_argument(
        "--prune",
        action="store_true",
        help="unplug our ports that are not desired here, except ports of running VMs",
    )
    add_dry_run(parser)


def run(args: argparse.Namespace) -> Answer:
    """Reconcile the host."""
    if (args.file is None) is not args.from_neutron:
        raise UsageError(
            "reconcile needs the ports that this host should have; name a file of them with -F, or give --from-neutron"
        )
    from hybridvif.cli.portfile import read_ports

    requests, keep = ports_command.ports_from_neutron(args) if args.from_neutron else (read_ports(args.file), None)
    ports = [request.to_port() for request in requests]
    with connected(args) as host:
        return answer_of(
            ports,
            host,
            prune=args.prune,
            keep=keep,
            dry_run=args.dry_run,
            detailed=args.detailed_exitcode,
            verbose=args.verbose,
        )


def answer_of(
    ports: Sequence[Port],
    host: AnyHost,
    *,
    prune: bool = False,
    keep: Collection[str] | None = None,
    dry_run: bool = False,
    detailed: bool = False,
    verbose: int = 0,
) -> Answer:
    """Reconcile the host with these ports and return the answer.

    keep: the ids of the other ports that Neutron shows here. If given, each plugged port that is left is named.
    """
    from hybridvif.engine import locks
    from hybridvif.engine.host_wide import reconcile

    others = () if keep is None else _plugged_ports(host)
    reconciled = reconcile(ports, host, prune=prune, keep=keep or (), dry_run=dry_run)
    reports = reconciled.reports
    if not dry_run and host.settings.link_executor != "recording" and all(report.ok for report in reports):
        locks.note_reconcile(host.settings.lock_path)
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
        differences=dry_run and detailed and bool(counted),
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
