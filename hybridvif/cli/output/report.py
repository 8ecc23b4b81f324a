"""The answer of a command about ports, from their reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hybridvif.cli.failure import DIFFERENCES, failure_of_report
from hybridvif.cli.output.diff import diff_lines
from hybridvif.cli.output.document import changes_of, changes_of_plan, report_document, tally
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.model.report import Report, Result, Status, worst_exit_code

_COLOURS = {Status.DONE: "green", Status.REFUSED: "yellow", Status.CONFIGURED: "yellow"}
_ENDINGS = {
    Status.ROLLED_BACK: "failed, rolled back",
    Status.INCOMPLETE: "failed, something is left over",
    Status.REFUSED: "refused, nothing changed",
    Status.PRECONDITION: "not tried, the host lacks something",
    Status.CONFIGURED: "configured, not yet taken by ovs-vswitchd",
    Status.UNKNOWN: "unknown, an answer was lost",
}
COLUMNS = ("port", "status", "changed", "retries", "code")


def answer_about(
    command: str,
    reports: Sequence[Report],
    document: Mapping[str, object],
    *,
    differences: bool = False,
    simulated: bool = False,
    **parts: Any,
) -> Answer:
    """Create an answer. Its failures, its exit code and `error` are those of the reports.

    document: the other keys. differences: exit with 3 if no port failed. simulated: also without a report. parts: the
    other fields of the Answer.
    """
    failures = [failure_of_report(report) for report in reports if not report.ok]
    exit_code = worst_exit_code(list(reports)) or (DIFFERENCES if differences else 0)
    simulated = simulated or any(report.simulated for report in reports)
    error = [failure.document for failure in failures if failure.exit_code == exit_code][:1]
    return Answer(
        document={"command": command, "simulated": simulated, **document, **({"error": error[0]} if error else {})},
        simulated=simulated,
        failures=list({failure.message: failure for failure in failures}.values()),
        exit_code=exit_code,
        **parts,
    )


def answer_of_reports(command: str, reports: Sequence[Report], *, verbose: int = 0) -> Answer:
    """Create the answer of plug or unplug."""
    documents = [report_document(report) for report in reports]
    goals = [(command, report) for report in reports]
    return answer_about(
        command,
        reports,
        {"ports": documents, "summary": statuses_of(reports)},
        lines=lambda paint: report_lines(goals, paint, verbose, with_summary=len(reports) > 1),
        columns=COLUMNS,
        rows=documents,
        silent=True,
    )


def statuses_of(reports: Sequence[Report]) -> Mapping[str, int]:
    """Return the number of ports by status."""
    return dict(Counter(report.status.value for report in reports))


def report_lines(
    goals: Sequence[tuple[str, Report]], paint: Paint, verbose: int, *, with_summary: bool
) -> Iterator[str]:
    """Yield a line for each port and, with -v, its changes with reasons. goals: (plug or unplug, report)."""
    for goal, report in goals:
        yield f"{report.port_id}  {paint(result_text(goal, report), _COLOURS.get(report.status, 'red'))}"
        if verbose:
            yield from diff_lines(changes_of(report), paint, reasons=True)
            for item in report.unchecked:
                yield paint(f"  not checked: {item}", "dim")
    if with_summary:
        ends = Counter(_summary_word(report) for _, report in goals)
        yield f"{len(goals)} ports: {', '.join(f'{count} {end}' for end, count in ends.items())}."


def result_text(goal: str, report: Report) -> str:
    """Return the result of one port in a few words."""
    if not report.ok:
        return _ENDINGS[report.status]
    if report.code:
        return "runs natively, nothing plugged"
    if goal == "convert":
        return "converted" if report.changed else "was plugged that way, nothing written"
    if not report.changed:
        return "was in order, nothing written" if goal == "plug" else "was not there, nothing written"
    if goal == "unplug":
        return "unplugged"
    done = tally(changes_of_plan(outcome.step for outcome in report.outcomes if outcome.result is Result.DONE))
    if done.create > 2 and not done.update:
        return "plugged"
    counts = ((done.create, "made"), (done.update, "changed"), (done.delete, "removed"))
    return f"repaired: {', '.join(f'{count} {verb}' for count, verb in counts if count)}"


def _summary_word(report: Report) -> str:
    if not report.ok:
        return report.status.value
    return "changed" if report.changed else "as wanted already"
