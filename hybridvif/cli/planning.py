"""The answer of a dry run: the diff, or the document of commands/plan.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hybridvif.cli.failure import error_of, failure_of_report
from hybridvif.cli.infer import infer_port, is_there
from hybridvif.cli.output.besides import beside_documents, beside_lines
from hybridvif.cli.output.changes import Change, changes_of_plan, tally
from hybridvif.cli.output.diff import diff_lines, grouped
from hybridvif.cli.output.document import step_documents
from hybridvif.cli.port_request import PortRequest
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.engine.api import plug_all, unplug_all
from hybridvif.engine.simulated_host import SimulatedHost
from hybridvif.executors.command_lines import script_lines
from hybridvif.executors.side_effects import SideEffect, side_effects_of_plans
from hybridvif.model.names import names_of
from hybridvif.model.port import Port
from hybridvif.model.report import Report, worst_exit_code
from hybridvif.model.state import HostState, Observed

COLUMNS = ("port", "verb", "kind", "name", "attribute", "before", "after")
DIFFERENCES = 3
"""The exit code if there are differences."""


@dataclass(frozen=True)
class PlanRequest:
    """The ports to plan for."""

    goal: str
    ports: Sequence[Port] = ()
    port_ids: Sequence[str] = ()
    force: bool = False
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The inferred fields, by port id."""


def infer_missing(requests: Sequence[PortRequest], seen: Observed) -> PlanRequest:
    """Create a request to plug, with missing fields inferred. Raises InvalidInput if a field cannot be inferred."""
    ports, left_out = [], {}
    for request in requests:
        if not request.missing:
            ports.append(request.to_port())
            continue
        found = infer_port(request, state_of_port(request, seen))
        if found.unknown:
            raise request.missing_error(
                found.unknown, f"is plugged, but its {' and '.join(found.unknown)} cannot be inferred"
            )
        ports.append(found.port)
        left_out[request.port_id] = found.left_out
    return PlanRequest("plug", ports, left_out=left_out)


def state_of_port(request: PortRequest, seen: Observed) -> HostState:
    """Return the state of one port. Raises InvalidInput if it does not exist and a required field is missing."""
    names = names_of(request.port_id)
    state = seen.state.of(names)
    if request.missing and not is_there(state, names):
        raise request.missing_error(request.missing, "is not plugged here, so omitted fields cannot be inferred")
    return state


def answer_of(
    request: PlanRequest, stage: SimulatedHost, *, detailed: bool = False, reasons: bool = False, observed: bool = True
) -> Answer:
    """Carry out the request on a simulated host and return the answer."""
    reports = (
        plug_all(request.ports, stage)
        if request.goal == "plug"
        else unplug_all(request.port_ids, stage, force=request.force)
    )
    steps = {report.port_id: tuple(outcome.step for outcome in report.outcomes) for report in reports}
    script = script_lines(steps.values(), stage.seen.facts.switches, stage.settings)
    besides = side_effects_of_plans(steps, stage.seen.facts.switches, stage.settings)
    changes = {port_id: changes_of_plan(some) for port_id, some in steps.items()}
    counted = tally([change for some in changes.values() for change in some])
    failures = [failure_of_report(report) for report in reports if not report.ok]
    exit_code = worst_exit_code(reports)
    if not exit_code and counted and detailed:
        exit_code = DIFFERENCES
    return Answer(
        document={
            "command": "plan",
            "goal": request.goal,
            "observed": observed,
            "simulated": any(report.simulated for report in reports),
            "ports": [
                {
                    "port": report.port_id,
                    "code": report.code,
                    "reason": report.reason,
                    "left_out": list(request.left_out.get(report.port_id, ())),
                    "steps": step_documents(steps[report.port_id]),
                    "besides": beside_documents(besides[report.port_id]),
                }
                for report in reports
            ],
            "summary": {"create": counted.create, "update": counted.update, "delete": counted.delete},
            **error_of(failures, exit_code),
        },
        lines=lambda paint: list(_lines(request.goal, reports, changes, besides, paint, reasons=reasons)),
        columns=COLUMNS,
        rows=[row for port_id, some in changes.items() for row in rows_of(port_id, some)],
        drawings={"shell": lambda: "".join(f"{line}\n" for line in script)},
        simulated=any(report.simulated for report in reports),
        failures=failures,
        exit_code=exit_code,
    )


def rows_of(port_id: str, changes: Sequence[Change]) -> Iterator[Mapping[str, object]]:
    """Yield a row for each changed attribute, and for each part that is created or deleted."""
    for change in changes:
        row = {"port": port_id, "verb": change.verb, "kind": change.part.kind, "name": change.part.name}
        if change.verb == "update":
            for difference in change.differences:
                yield {**row, "attribute": difference.attribute, "before": difference.before, "after": difference.after}
        else:
            before, after = ("absent", "present") if change.verb == "create" else ("present", "absent")
            yield {**row, "before": before, "after": after}


def _lines(
    goal: str,
    reports: Sequence[Report],
    changes: Mapping[str, Sequence[Change]],
    besides: Mapping[str, Sequence[SideEffect]],
    paint: Paint,
    *,
    reasons: bool,
) -> Iterator[str]:
    sections = (
        (
            f"port {report.port_id}",
            [
                *diff_lines(changes[report.port_id], paint, reasons=reasons),
                *beside_lines(besides[report.port_id], paint, reasons=reasons),
            ],
        )
        for report in reports
    )
    yield from grouped(sections, paint)
    counted = tally([change for some in changes.values() for change in some])
    refused = sum(not report.ok for report in reports)
    if refused:
        yield f"Plan: {counted}; {refused} of {len(reports)} ports cannot be {goal}ged."
    elif counted:
        yield f"Plan: {counted}."
    else:
        yield "Plan: nothing to do."
