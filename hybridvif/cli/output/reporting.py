"""The answer of plug and unplug: one line for each port, and a summary of several ports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from hybridvif.cli.failure import error_of, failure_of_report
from hybridvif.cli.output.changes import changes_of_plan, tally
from hybridvif.cli.output.diff import diff_lines
from hybridvif.cli.output.document import report_document
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


def answer_of_reports(command: str, reports: Sequence[Report], *, verbose: int = 0) -> Answer:
    """Create the answer of plug or unplug."""
    documents = [report_document(report) for report in reports]
    failures = [failure_of_report(report) for report in reports if not report.ok]
    exit_code = worst_exit_code(list(reports))
    return Answer(
        document={
            "command": command,
            "simulated": any(report.simulated for report in reports),
            "ports": documents,
            "summary": dict(Counter(report.status.value for report in reports)),
            **error_of(failures, exit_code),
        },
        lines=lambda paint: list(_lines(command, reports, paint, verbose)),
        columns=COLUMNS,
        rows=documents,
        simulated=any(report.simulated for report in reports),
        failures=list({failure.message: failure for failure in failures}.values()),
        exit_code=exit_code,
        silent=True,
    )


def result_text(command: str, report: Report) -> str:
    """Return the result of one port in a few words."""
    if not report.ok:
        return _ENDINGS[report.status]
    changes = changes_of_plan(outcome.step for outcome in report.outcomes if outcome.result is Result.DONE)
    if not report.changed:
        return "was in order, nothing written" if command == "plug" else "was not there, nothing written"
    if command == "unplug":
        return "unplugged"
    counted = tally(changes)
    if counted.create > 2 and not counted.update:
        return "plugged"
    counts = ((counted.create, "made"), (counted.update, "changed"), (counted.delete, "removed"))
    return f"repaired: {', '.join(f'{count} {verb}' for count, verb in counts if count)}"


def report_lines(command: str, report: Report, paint: Paint, verbose: int) -> Iterator[str]:
    """Yield a line for one port and, with -v, its changes with reasons."""
    yield f"{report.port_id}  {paint(result_text(command, report), _COLOURS.get(report.status, 'red'))}"
    if verbose:
        yield from diff_lines(changes_of_plan(outcome.step for outcome in report.outcomes), paint, reasons=True)
        for item in report.unchecked:
            yield paint(f"  not checked: {item}", "dim")


def summary_line(reports: Sequence[Report]) -> str:
    """Return the number of ports by result."""
    ends = Counter("changed" if report.ok and report.changed else _status_word(report) for report in reports)
    return f"{len(reports)} ports: {', '.join(f'{count} {end}' for end, count in ends.items())}."


def _lines(command: str, reports: Sequence[Report], paint: Paint, verbose: int) -> Iterator[str]:
    for report in reports:
        yield from report_lines(command, report, paint, verbose)
    if len(reports) > 1:
        yield summary_line(reports)


def _status_word(report: Report) -> str:
    return "as wanted already" if report.ok else report.status.value
