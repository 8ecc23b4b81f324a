"""hybridvif plan: a dry run of plug, unplug or convert."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType

from hybridvif.cli.infer import INFERABLE_FIELDS, infer_port, state_of_port
from hybridvif.cli.options import UsageError, add_detailed_exitcode, connected
from hybridvif.cli.output.changes import changes_of, plan_document, plan_lines, tally_of
from hybridvif.cli.output.report import answer_about, answer_of_reports
from hybridvif.cli.ports import PortRequest, add_port_options, add_target_options, found_ports, requested_ports
from hybridvif.cli.terminal import Answer
from hybridvif.engine.any_host import AnyHost, SimulatedHost, look, nothing_seen
from hybridvif.executors.command_lines import script_lines
from hybridvif.executors.side_effects import side_effects_of_plans
from hybridvif.model.errors import ConfigurationError, PreconditionError
from hybridvif.model.port import Port
from hybridvif.model.report import Report
from hybridvif.model.state import Observed

FORMATS = ("text", "json", "yaml", "table", "value", "shell")
_DONE = {"plug": "plugged", "unplug": "unplugged", "convert": "converted"}
LeftOut = Mapping[str, Sequence[str]]
"""The inferred fields, by port id."""
COLUMNS = ("port", "verb", "kind", "name", "attribute", "before", "after")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif plan`."""
    parser.add_argument("goal", choices=("plug", "unplug", "convert"))
    add_port_options(parser, several=True)
    parser.add_argument("--force", action="store_true", help="for unplug: even if a running VM uses the port")
    add_target_options(parser)
    add_detailed_exitcode(parser)
    parser.epilog = (
        "If --mac or --instance is omitted for a plugged port, all omitted options default to its current values."
    )


def run(args: argparse.Namespace) -> Answer:
    """Plan for the requested ports."""
    requests = requested_ports(args)
    if args.goal != "plug" and not args.file and any(len(request.fields) > 1 for request in requests):
        raise UsageError(f"{args.goal} needs no more of a port than its id; leave the other options out")
    if args.goal != "unplug" and args.force:
        raise UsageError("--force is for unplug; leave it out")
    if (args.goal == "convert") is not bool(args.to) or (args.unfiltered and args.goal != "convert"):
        raise UsageError("--to and --unfiltered are for convert, which needs --to; give or leave them out")
    return planned(args, args.goal, requests, detailed=args.detailed_exitcode)


def planned(args: argparse.Namespace, goal: str, requests: Sequence[PortRequest], *, detailed: bool = False) -> Answer:
    """Observe the host, and plan. Without root, a plug is planned for a host without these ports."""
    with connected(args) as host:
        try:
            requests = found_ports(requests, host, exist=goal == "plug", changes=True)
            seen, observed = look(host, [request.port_id for request in requests]), True
        except PreconditionError as error:
            needs_host = detailed or goal != "plug" or any(request.is_open or request.missing for request in requests)
            if os.geteuid() == 0 or needs_host or isinstance(error, ConfigurationError):
                raise
            args.terminal.write_note(f"this host could not be observed: {str(error).partition('; ')[0]}", "yellow")
            args.terminal.write_note("so this is the plan for a host that has nothing of the port yet", "yellow")
            seen, observed = nothing_seen({request.to_port().bridge for request in requests}), False
    from hybridvif.engine.converge import plug_all, unplug_all
    from hybridvif.engine.convert import convert_all

    stage = SimulatedHost(host.settings, seen, host)
    left_out: LeftOut = {}
    port_ids = [request.port_id for request in requests]
    if goal == "plug":
        ports, left_out = infer_missing(requests, seen)
        reports = plug_all(ports, stage)
    elif goal == "convert":
        reports = convert_all(port_ids, stage, args.to, unfiltered=args.unfiltered)
    else:
        reports = unplug_all(port_ids, stage, force=args.force)
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


def plug_inferred(
    ports: Sequence[Port],
    host: AnyHost,
    seen: Observed,
    refused: Sequence[Report] = (),
    *,
    dry_run: bool,
    detailed: bool = False,
    verbose: int,
) -> Answer:
    """Plug ports with inferred fields, or plan it. refused: the reports of other ports of the same command."""
    from hybridvif.engine.converge import plug_all

    if dry_run:
        left_out = {port.id: INFERABLE_FIELDS for port in ports}
        stage = SimulatedHost(host.settings, seen)
        reports = [*plug_all(ports, stage), *refused]
        return answer_of("plug", reports, stage, left_out, detailed=detailed, reasons=verbose > 0)
    return answer_of_reports("plug", [*plug_all(ports, host), *refused], verbose=verbose)


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
    refused = sum(not report.ok for report in reports)
    summary = f"Plan: {counted if counted or refused else 'nothing to do'}"
    summary += f"; {refused} of {len(reports)} ports cannot be {_DONE[goal]}." if refused else "."
    return answer_about(
        "plan",
        reports,
        {"goal": goal, "observed": observed, "ports": documents, "summary": counted._asdict()},
        differences=detailed and bool(counted),
        lines=lambda paint: [
            *plan_lines(
                [(f"port {report.port_id}", report) for report in reports], paint, reasons=reasons, effects=effects
            ),
            summary,
        ],
        columns=COLUMNS,
        narrow=("verb", "name", "attribute", "before", "after"),
        rows=[
            {"port": report.port_id, "verb": verb, "kind": part.kind, "name": part.name, **asdict(difference)}
            for report in reports
            for part, verb, differences in [(item.part, item.verb, item.differences) for item in changes_of(report)]
            for difference in differences
        ],
        drawings={"shell": lambda: "\n".join([*script_lines(steps.values(), switches, stage.settings), ""])},
    )
