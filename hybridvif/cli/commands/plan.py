"""hybridvif plan: a dry run of plug, unplug or convert."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType

from hybridvif.cli.infer import infer_port, state_of_port
from hybridvif.cli.options import DETAILED_EXITCODE, ROWS, Command, UsageError, argument, connected, flag
from hybridvif.cli.output.changes import changes_of, plan_document, plan_lines, tally_of
from hybridvif.cli.output.report import answer_about
from hybridvif.cli.ports import FILE, PORT_OPTIONS, PORTS, TARGET, PortRequest, requested_ports
from hybridvif.cli.terminal import Answer
from hybridvif.engine.any_host import SimulatedHost, look, nothing_seen
from hybridvif.executors.command_lines import script_lines
from hybridvif.executors.side_effects import side_effects_of_plans
from hybridvif.model.errors import ConfigurationError, PreconditionError
from hybridvif.model.port import Port
from hybridvif.model.report import Report
from hybridvif.model.state import Observed

_DONE = {"plug": "plugged", "unplug": "unplugged", "convert": "converted"}
LeftOut = Mapping[str, Sequence[str]]
"""The inferred fields, by port id."""


def run(args: argparse.Namespace) -> Answer:
    """Plan for the requested ports."""
    requests = requested_ports(args)
    if args.goal != "plug" and not args.file and any(len(request.fields) > 1 for request in requests):
        raise UsageError(f"{args.goal} needs no more of a port than its id; leave the other options out")
    if args.goal != "unplug" and args.force:
        raise UsageError("--force is for unplug; leave it out")
    if (args.goal == "convert") is not bool(args.to) or (args.unfiltered and args.goal != "convert"):
        raise UsageError("--to and --unfiltered are for convert, which needs --to; give or leave them out")
    return planned(args, args.goal, requests)


def planned(args: argparse.Namespace, goal: str, requests: Sequence[PortRequest]) -> Answer:
    """Observe the host, and plan. Without root, a plug is planned for a host without these ports."""
    from hybridvif.cli.commands.plug import chosen_ports, reports_of

    detailed = args.detailed_exitcode
    with connected(args) as host:
        try:
            requests = chosen_ports(args, requests, host, exist=goal == "plug")
            seen, observed = look(host, [request.port_id for request in requests]), True
        except PreconditionError as error:
            needs_host = detailed or goal != "plug" or any(request.is_open or request.missing for request in requests)
            if os.geteuid() == 0 or needs_host or isinstance(error, ConfigurationError):
                raise
            args.terminal.write_note(f"this host could not be observed: {str(error).partition('; ')[0]}", "yellow")
            args.terminal.write_note("so this is the plan for a host that has nothing of the port yet", "yellow")
            seen, observed = nothing_seen({request.to_port().bridge for request in requests}), False
    stage = SimulatedHost(host.settings, seen, host)
    ports, left_out = infer_missing(requests, seen) if goal == "plug" else ([], {})
    reports = reports_of(goal, ports, [request.port_id for request in requests], stage, args)
    return answer_of(goal, reports, stage, left_out, detailed=detailed, reasons=args.verbose > 0, observed=observed)


def infer_missing(requests: Sequence[PortRequest], seen: Observed) -> tuple[list[Port], LeftOut]:
    """Create the ports, with missing fields inferred. Raises InvalidInput if a field cannot be inferred."""
    ports: list[Port] = []
    left_out: dict[str, Sequence[str]] = {}
    for request in requests:
        if not request.missing:
            ports.append(request.to_port())
            continue
        inferred = infer_port(request, state_of_port(request, seen))
        if inferred.unknown:
            raise request.missing_error(inferred.unknown, f"is plugged, but {inferred.unknown_text}")
        ports.append(inferred.port)
        left_out[request.port_id] = inferred.left_out
    return ports, left_out


def answer_of(
    goal: str,
    reports: Sequence[Report],
    stage: SimulatedHost,
    left_out: LeftOut = MappingProxyType({}),
    *,
    detailed: bool = False,
    reasons: bool = False,
    observed: bool = True,
) -> Answer:
    """Return the answer for the reports of a simulated host."""
    steps = {report.port_id: tuple(outcome.step for outcome in report.outcomes) for report in reports}
    switches = stage.seen.facts.switches
    effects = side_effects_of_plans(steps, switches, stage.settings)
    counted = tally_of(reports)
    documents = [
        {
            **plan_document(report, left_out=list(left_out.get(report.port_id, ()))),
            "besides": [asdict(effect) for effect in effects[report.port_id]],
        }
        for report in reports
    ]
    return answer_about(
        "plan",
        reports,
        {"goal": goal, "observed": observed, "ports": documents, "summary": counted._asdict()},
        differences=detailed and bool(counted),
        lines=lambda paint: plan_lines(
            [(f"port {report.port_id}", report) for report in reports],
            paint,
            f"cannot be {_DONE[goal]}",
            reasons=reasons,
            effects=effects,
        ),
        rows=[
            {"port": report.port_id, "verb": verb, "kind": part.kind, "name": part.name, **asdict(difference)}
            for report in reports
            for part, verb, differences in [(item.part, item.verb, item.differences) for item in changes_of(report)]
            for difference in differences
        ],
        drawings={"shell": lambda: "\n".join([*script_lines(steps.values(), switches, stage.settings), ""])},
    )


_GOAL = argument("goal", choices=tuple(_DONE), text="the command of which this is a dry run")
_FORCE = flag("--force", "for unplug: even if a running VM uses the port")
COMMANDS = {
    "plan": Command(
        run,
        (*ROWS, "shell"),
        (_GOAL, PORTS, *PORT_OPTIONS, FILE, _FORCE, *TARGET, DETAILED_EXITCODE),
        "If --mac or --instance is omitted for a plugged port, all omitted options default to its current values.",
        columns=("port", "verb", "kind", "name", "attribute", "before", "after"),
        narrow=("verb", "name", "attribute", "before", "after"),
    )
}
