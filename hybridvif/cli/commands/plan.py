"""hybridvif plan: a dry run of plug or unplug.

The document:

    command     "plan"
    goal        "plug" or "unplug"
    observed    false if the host could not be observed, and the plan is for a host without these ports
    simulated   true if no real host was observed
    ports       for each port:
                port
                code        "", or the error code of a refusal
                reason      "", or the reason of the refusal
                steps       output/document.py; empty if there is nothing to do
                besides     the side effects (output/besides.py)
                left_out    the fields that were inferred from the plugged port
    summary     the number of parts: {"create": 2, "update": 1, "delete": 0}
    error       only if a port would be refused or a bridge is missing (failure.py)

-f shell prints the plan as a script of brctl, ip, sysctl and ovs-vsctl commands, for `sh -e` as root.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from hybridvif.cli.ports import add_port_options, requested_ports

if TYPE_CHECKING:
    from hybridvif.cli.planning import PlanRequest
    from hybridvif.model.settings import Settings
    from hybridvif.model.state import Observed

HELP = "print what plug or unplug would do, as a diff; nothing is written"
FORMATS = ("text", "json", "yaml", "table", "value", "shell")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif plan`."""
    parser.add_argument("goal", choices=("plug", "unplug"))
    add_port_options(parser, several=True)
    parser.add_argument("--force", action="store_true", help="for unplug: even if a running VM uses the port")
    parser.add_argument(
        "--detailed-exitcode", action="store_true", help="exit with 3 if there are changes, else with 0"
    )
    parser.epilog = (
        "If --mac or --instance is omitted for a plugged port, all omitted options default to its current values."
    )


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    from hybridvif.cli.connection import connected
    from hybridvif.cli.options import UsageError

    requests = requested_ports(args)
    if args.goal == "unplug" and not args.file and any(len(request.fields) > 1 for request in requests):
        raise UsageError("unplug needs no more of a port than its id; leave the other options out")
    if args.goal == "plug" and args.force:
        raise UsageError("--force is for unplug; leave it out")

    from hybridvif.cli.planning import PlanRequest, infer_missing
    from hybridvif.engine.simulated_host import look

    if args.goal == "unplug":
        return run_request(
            args, PlanRequest("unplug", port_ids=[request.port_id for request in requests], force=args.force)
        )
    if not any(request.missing for request in requests):
        return run_request(args, PlanRequest("plug", [request.to_port() for request in requests]))
    with connected(args) as host:
        observed = look(host, [request.port_id for request in requests])
        return _write_plan(args, infer_missing(requests, observed), host.settings, observed)


def run_request(args: argparse.Namespace, request: PlanRequest) -> int:
    """Print the plan for the request. Without root, a plug is planned for a host without these ports."""
    from hybridvif.cli.connection import connected
    from hybridvif.engine.simulated_host import look, nothing_seen
    from hybridvif.model.errors import ConfigurationError, PreconditionError

    with connected(args) as host:
        try:
            seen, observed = look(host, [*request.port_ids, *(port.id for port in request.ports)]), True
        except PreconditionError as error:
            detailed = getattr(args, "detailed_exitcode", False)
            if os.geteuid() == 0 or detailed or request.goal == "unplug" or isinstance(error, ConfigurationError):
                raise
            args.terminal.write_note(f"this host could not be observed: {str(error).partition('; ')[0]}", "yellow")
            args.terminal.write_note("so this is the plan for a host that has nothing of the port yet", "yellow")
            seen, observed = nothing_seen({port.bridge for port in request.ports}), False
    return _write_plan(args, request, host.settings, seen, observed=observed)


def _write_plan(
    args: argparse.Namespace, request: PlanRequest, settings: Settings, seen: Observed, *, observed: bool = True
) -> int:
    from hybridvif.cli.planning import answer_of
    from hybridvif.engine.simulated_host import SimulatedHost

    detailed = getattr(args, "detailed_exitcode", False)
    stage = SimulatedHost(settings, seen)
    return int(
        args.terminal.write_answer(
            answer_of(request, stage, detailed=detailed, reasons=args.verbose > 0, observed=observed)
        )
    )
