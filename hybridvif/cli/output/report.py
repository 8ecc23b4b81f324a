"""Errors and reports of ports: exit code, lines for people, document for machines (docs/cli.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hybridvif.cli import DIFFERENCES, INTERRUPTED
from hybridvif.cli.output.changes import changes_of, diff_lines, tally
from hybridvif.cli.ports import ID_SUFFIX
from hybridvif.cli.terminal import Answer, Failure, Paint
from hybridvif.model.changes import changes_of_plan
from hybridvif.model.errors import HybridVifError, InvalidInput, PreconditionError, Refused
from hybridvif.model.names import KEY_LENGTH
from hybridvif.model.report import Report, Result, Status, worst_exit_code

_EXIT_CODES: Mapping[type[HybridVifError] | str, int] = {
    InvalidInput: 2,
    PreconditionError: Status.PRECONDITION.exit_code,
    Refused: Status.REFUSED.exit_code,
    "no-answer": Status.UNKNOWN.exit_code,
    "output-lost": Status.UNKNOWN.exit_code,
    HybridVifError: Status.ROLLED_BACK.exit_code,
}
"""The exit codes by class or code of an error. The first that matches counts."""
_REMEDIES = {
    Status.INCOMPLETE: "the same command again: it goes on from what is there",
    Status.UNKNOWN: "the same command again: it looks first, and does only what is still to do",
    Status.CONFIGURED: "hybridvif wait {port}: ovs-vswitchd accepts it by itself when it runs",
}
_COLORS = {Status.DONE: "green", Status.REFUSED: "yellow", Status.CONFIGURED: "yellow"}
_ENDINGS = {
    Status.ROLLED_BACK: "failed, rolled back",
    Status.INCOMPLETE: "failed, something is left over",
    Status.REFUSED: "refused, nothing changed",
    Status.PRECONDITION: "not tried, the host lacks something",
    Status.CONFIGURED: "configured, not yet taken by ovs-vswitchd",
    Status.UNKNOWN: "unknown, an answer was lost",
}


def failure_of(error: BaseException, *, writes: bool = True) -> Failure:
    """Convert an exception. writes: the command changes the host."""
    if isinstance(error, KeyboardInterrupt):
        half_done = "what was begun may be half done, and the same command again completes it"
        message = f"interrupted; {half_done if writes else 'nothing was changed'}"
        return Failure(code="interrupted", message=message, exit_code=INTERRUPTED)
    if not isinstance(error, HybridVifError):
        message = f"internal error: {type(error).__name__}: {error}; this is a bug, and -vv shows where"
        return Failure(code="internal", message=message, exit_code=Status.UNKNOWN.exit_code)
    if error.report is not None:
        return failure_of_report(error.report)
    kinds = (error.code, *type(error).__mro__)
    exit_code = next(number for kind, number in _EXIT_CODES.items() if kind in kinds)
    doctor = isinstance(error, PreconditionError) and error.code not in ("sandbox", "cloud")
    return Failure(code=error.code, message=str(error), exit_code=exit_code, doctor=doctor)


def failure_of_report(report: Report) -> Failure:
    """Convert the report of a port."""
    reason = report.reason or f"ended as {report.status.value}"
    is_known = not report.port_id.endswith(ID_SUFFIX)
    name = report.port_id if is_known else f"{report.port_id[:KEY_LENGTH]}..."
    # A missing precondition of the host does not depend on the port.
    about = "" if name in reason or report.status is Status.PRECONDITION else f"port {name}: "
    leftovers = f"; left over: {', '.join(report.leftovers)}" if report.leftovers else ""
    return Failure(
        code=report.code or report.status.value,
        message=f"{about}{reason}{leftovers}",
        exit_code=report.status.exit_code,
        remedy=_REMEDIES.get(report.status, "").format(port=report.port_id),
        doctor=report.status is Status.PRECONDITION,
        report=report.document if is_known else None,
    )


def answer_about(
    command: str,
    reports: Sequence[Report],
    document: Mapping[str, object],
    *,
    differences: bool = False,
    **parts: Any,
) -> Answer:
    """Create an answer. Its failures, its exit code and `error` are those of the reports.

    document: the other keys. differences: exit with 3 if no port failed. parts: the other fields of the
    Answer.
    """
    failures = [failure_of_report(report) for report in reports if not report.ok]
    exit_code = worst_exit_code(list(reports)) or (DIFFERENCES if differences else 0)
    simulated = any(report.simulated for report in reports)
    error = [failure.document for failure in failures if failure.exit_code == exit_code][:1]
    return Answer(
        document={"command": command, "simulated": simulated, **document, **({"error": error[0]} if error else {})},
        failures=list({failure.message: failure for failure in failures}.values()),
        exit_code=exit_code,
        **parts,
    )


def answer_of_reports(
    command: str,
    reports: Sequence[Report],
    *,
    verbose: int = 0,
    goals: Sequence[str] | None = None,
    warnings: Sequence[str] = (),
    document: Mapping[str, object] = MappingProxyType({}),
) -> Answer:
    """Create the answer of a command that plugged, unplugged or converted.

    goals: the goal of each report, if the command has several. document: more keys of the document.
    """
    headed = list(zip(goals or [command] * len(reports), reports, strict=True))
    documents = [{**({"goal": goal} if goals else {}), **report.document} for goal, report in headed]
    summary = Counter(report.status.value for report in reports)
    return answer_about(
        command,
        reports,
        {"ports": documents, "summary": dict(summary), **document},
        lines=lambda paint: report_lines(headed, paint, verbose, with_summary=goals is not None or len(reports) > 1),
        rows=documents,
        warnings=warnings,
        silent=True,
    )


def sentences_about_skipped(verb: str, skipped: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a warning for each reason to skip ports, with their names. skipped: `key` and `reason` of each."""
    keys: dict[str, list[str]] = {}
    for port in skipped:
        keys.setdefault(port["reason"], []).append(f"{port['key']}...")
    return [f"not {verb}: {', '.join(names)}: {reason}" for reason, names in keys.items()]


def report_lines(
    goals: Sequence[tuple[str, Report]], paint: Paint, verbose: int, *, with_summary: bool
) -> Iterator[str]:
    """Yield a line for each port and, with -v, its changes with reasons. goals: (plug or unplug, report)."""
    for goal, report in goals:
        yield f"{report.port_id}  {paint(result_text(goal, report), _COLORS.get(report.status, 'red'))}"
        if verbose:
            yield from diff_lines(changes_of(report), paint, reasons=True)
            for item in report.unchecked:
                yield paint(f"  not checked: {item}", "dim")
    if with_summary:
        ends = Counter(
            report.status.value if not report.ok else "changed" if report.changed else "as wanted already"
            for _, report in goals
        )
        counts = ", ".join(f"{count} {end}" for end, count in ends.items())
        yield f"{len(goals)} ports: {counts}." if counts else "0 ports."


def result_text(goal: str, report: Report) -> str:
    """Return the result of one port in a few words."""
    if not report.ok:
        return _ENDINGS[report.status]
    if report.code:
        return "runs natively, its row repaired" if report.changed else "runs natively, nothing plugged"
    if goal == "convert":
        return "converted" if report.changed else "was plugged that way, nothing written"
    if not report.changed:
        return "was in order, nothing written" if goal == "plug" else "was not there, nothing written"
    if goal == "unplug":
        return "unplugged"
    done = tally(changes_of_plan(outcome.step for outcome in report.outcomes if outcome.result is Result.DONE))
    if done.create > 2 and not done.update:
        return "plugged"
    counts = zip(done, ("made", "changed", "removed"), strict=True)
    return f"repaired: {', '.join(f'{count} {verb}' for count, verb in counts if count)}"
