"""hybridvif repair: bring plugged ports back to the values of their own rows, without repeating them.

The fields of a port are inferred as by check. A port is refused if its parts contradict each other about a field.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from hybridvif.cli.options import UsageError, add_dry_run, connected
from hybridvif.cli.output import report
from hybridvif.cli.output.topology import Condition, PluggedPort, fix_of, plugged_ports
from hybridvif.cli.ports import PORT_HELP, found_ids
from hybridvif.cli.terminal import Answer
from hybridvif.engine.any_host import AnyHost
from hybridvif.model.errors import Refused
from hybridvif.model.report import Report, Status

FORMATS = ("text", "json", "yaml", "table", "value")
COLUMNS = report.COLUMNS
BROKEN = (Condition.DRIFT, Condition.HALF, Condition.CONFLICT)
"""The ports of --all. Orphans are deleted by gc."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif repair`."""
    parser.add_argument("port", nargs="*", metavar="PORT", help=PORT_HELP)
    parser.add_argument("--all", action="store_true", help="all ports of this host that are not in order")
    add_dry_run(parser)


def run(args: argparse.Namespace) -> Answer:
    """Repair the ports."""
    if bool(args.port) is args.all:
        raise UsageError("name the ports to repair, or give --all")
    with connected(args) as host:
        port_ids = None if args.all else found_ids(args.port, host, exist=True, changes=True)
        options = [f"--config-file={name}" for name in args.config_file or ()]
        return answer_of(
            host,
            port_ids,
            dry_run=args.dry_run,
            detailed=args.detailed_exitcode,
            verbose=args.verbose,
            options=options,
        )


def answer_of(
    host: AnyHost,
    port_ids: Collection[str] | None = None,
    *,
    dry_run: bool = False,
    detailed: bool = False,
    verbose: int = 0,
    options: Sequence[str] = (),
) -> Answer:
    """Repair these ports, or with None all that are not in order. options: options to be repeated in a command."""
    from hybridvif.cli.commands.plan import plug_inferred

    seen = host.observe(None, time.monotonic() + host.settings.deadline)
    chosen = [
        port
        for port in plugged_ports(seen, port_ids=port_ids or ())
        if (port.condition in BROKEN if port_ids is None else port.port_id in port_ids)
    ]
    skipped = [
        {"key": port.key, "reason": port.conflict or port.inferred.unknown_text} for port in chosen if not port.port_id
    ]
    known = [port for port in chosen if port.port_id]
    refused = [_refusal(port, options) for port in known if port.inferred.unknown]
    ports = [port.inferred.port for port in known if not port.inferred.unknown]
    answer = plug_inferred(ports, host, seen, refused, dry_run=dry_run, detailed=detailed, verbose=verbose)
    return replace(
        answer,
        document={**answer.document, "command": "repair", "skipped": skipped},
        warnings=[f"not repaired: {port['key']}...: {port['reason']}" for port in skipped],
        exit_code=answer.exit_code or (Status.REFUSED.exit_code if skipped else 0),
    )


def _refusal(port: PluggedPort, options: Sequence[str]) -> Report:
    """Return the report of a port with unknown fields."""
    port_id, fix = port.inferred.port.id, fix_of(port, options)
    reason = port.conflict if fix is None else f"{port.inferred.unknown_text}; plug it by: {shlex.join(fix)}"
    prefix = f"port {port_id}: "
    reason = f"{prefix}{reason.removeprefix(prefix)}"
    return Report(port_id=port_id, status=Status.REFUSED, code=Refused.code, reason=reason)
