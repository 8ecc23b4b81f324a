"""Errors: exit code, lines for people, document for machines (`error` in docs/cli.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybridvif.cli.output.document import report_document
from hybridvif.model.errors import HybridVifError, InvalidInput, PreconditionError, Refused
from hybridvif.model.report import Report, Status

DIFFERENCES = 3
"""The exit code if there are differences."""
BROKEN_PIPE = 141
"""The exit code after the reader of the output has gone: that of a shell for SIGPIPE."""
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
    Status.CONFIGURED: "wait, or start ovs-vswitchd: it takes the port by itself; then hybridvif check",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error of a command."""

    code: str
    message: str
    exit_code: int
    remedy: str = ""
    """The remedy, if the message has none."""
    doctor: bool = False
    """True if `hybridvif doctor` can help."""
    report: Report | None = None

    @property
    def document(self) -> Mapping[str, object]:
        """The failure as a document."""
        document = {"code": self.code, "message": self.message, "exit_code": self.exit_code}
        return {**document, "report": report_document(self.report)} if self.report else document

    def lines(self) -> Sequence[str]:
        """Return the lines for people: the message, then `try:` and `see:` if they help."""
        sentence, remedy = self.message, self.remedy
        if self.doctor and not remedy:
            # The messages of PreconditionError are "fact; remedy".
            sentence, _, remedy = self.message.partition("; ")
        tried = [f"  try: {remedy}"] if remedy else []
        return [sentence, *tried, *(["  see: hybridvif doctor"] if self.doctor else [])]


def failure_of(error: BaseException) -> Failure:
    """Convert an exception."""
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted; what was begun may be half done, and the same command again completes it"
        return Failure(code="interrupted", message=message, exit_code=130)
    if not isinstance(error, HybridVifError):
        message = f"internal error: {type(error).__name__}: {error}; this is a bug, and -vv shows where"
        return Failure(code="internal", message=message, exit_code=Status.UNKNOWN.exit_code)
    if error.report is not None:
        return failure_of_report(error.report)
    exit_code = next(
        number
        for kind, number in _EXIT_CODES.items()
        if (error.code == kind if isinstance(kind, str) else isinstance(error, kind))
    )
    doctor = isinstance(error, PreconditionError) and error.code not in ("sandbox", "cloud")
    return Failure(code=error.code, message=str(error), exit_code=exit_code, doctor=doctor)


def failure_of_report(report: Report) -> Failure:
    """Convert the report of a port."""
    reason = report.reason or f"ended as {report.status.value}"
    # A missing precondition of the host does not depend on the port.
    about = "" if report.port_id in reason or report.status is Status.PRECONDITION else f"port {report.port_id}: "
    leftovers = f"; left over: {', '.join(report.leftovers)}" if report.leftovers else ""
    return Failure(
        code=report.code or report.status.value,
        message=f"{about}{reason}{leftovers}",
        exit_code=report.status.exit_code,
        remedy=_REMEDIES.get(report.status, ""),
        doctor=report.status is Status.PRECONDITION,
        report=report,
    )
