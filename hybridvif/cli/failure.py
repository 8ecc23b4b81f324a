"""Errors: exit code, lines for people, document for machines.

The document is `error` in the JSON of every command. It is the whole JSON if a command has no other output.

    code        the error code: usage, invalid-input, precondition, name-collision, ...
    message     one sentence
    exit_code   the exit code of the command
    report      the report of the port if a plug or unplug failed (output/document.py); the worst of several
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybridvif.model.errors import HybridVifError, InvalidInput, PreconditionError, Refused
from hybridvif.model.report import Report, Status


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
        from hybridvif.cli.output.document import report_document

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
    return Failure(
        code=error.code,
        message=str(error),
        exit_code=_exit_code_of(error),
        doctor=isinstance(error, PreconditionError) and error.code != "sandbox",
    )


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


def error_of(failures: Sequence[Failure], exit_code: int) -> Mapping[str, object]:
    """Return {"error": document of the failure with this exit code}, or {} if there is none."""
    worst = next((failure for failure in failures if failure.exit_code == exit_code), None)
    return {"error": worst.document} if worst else {}


_REMEDIES = {
    Status.INCOMPLETE: "the same command again: it goes on from what is there",
    Status.UNKNOWN: "the same command again: it looks first, and does only what is still to do",
    Status.CONFIGURED: "wait, or start ovs-vswitchd: it takes the port by itself; then hybridvif check",
}


def _exit_code_of(error: HybridVifError) -> int:
    if isinstance(error, InvalidInput):
        return 2
    if isinstance(error, PreconditionError):
        return Status.PRECONDITION.exit_code
    if isinstance(error, Refused):
        return Status.REFUSED.exit_code
    if error.code in ("no-answer", "output-lost"):
        return Status.UNKNOWN.exit_code
    return Status.ROLLED_BACK.exit_code
