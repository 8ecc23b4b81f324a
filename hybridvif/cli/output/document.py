"""Changes of parts; changes, steps, reports and errors as documents, as in docs/cli.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from hybridvif.model.errors import HybridVifError, InvalidInput, PreconditionError, Refused
from hybridvif.model.parts import Difference, Part, attributes_of, differences, reason_of
from hybridvif.model.report import Report, Status
from hybridvif.model.state import Create, Delete, Step, Update

Document = Mapping[str, object]
WHOLE = ""
"""The attribute of a difference that is a whole part, which is absent or present."""


@dataclass(frozen=True, slots=True)
class Change:
    """A part before and after a plan; None if it does not exist."""

    before: Part | None
    after: Part | None

    @property
    def part(self) -> Part:
        """The changed part."""
        return next(part for part in (self.after, self.before) if part is not None)

    @property
    def verb(self) -> str:
        """create, update or delete."""
        return "create" if self.before is None else "delete" if self.after is None else "update"

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The differences of an update, or one of the whole part."""
        if self.before is None:
            return (Difference(WHOLE, "absent", "present"),)
        if self.after is None:
            return (Difference(WHOLE, "present", "absent"),)
        return differences(self.before, self.after)

    @property
    def written(self) -> tuple[Difference, ...]:
        """The written attributes: the differences of an update, or all attributes of a created part."""
        if self.before is None:
            names = attributes_of(type(self.part))
            return tuple(Difference(name, None, getattr(self.part, name)) for name in names)
        return self.differences if self.after is not None else ()

    @property
    def document(self) -> Document:
        """The change as a step for machines."""
        part = self.part
        return {
            "verb": self.verb,
            "role": part.role.value,
            "kind": part.kind,
            "name": part.name,
            "changes": [difference_document(part, difference) for difference in self.written],
        }


def change_of(step: Step) -> Change:
    """Convert one step."""
    before = step.before if isinstance(step, Update) else step.part
    return Change(None if isinstance(step, Create) else before, None if isinstance(step, Delete) else step.part)


def changes_of_plan(steps: Iterable[Step]) -> tuple[Change, ...]:
    """Merge all steps of one part into one change, in the order of the first step of each part.

    A veth pair that is recreated under its row takes two more steps, because the row becomes a placeholder meanwhile.
    A rollback deletes what was created and reverts what was updated: that is no change.
    """
    merged: dict[tuple[object, str], Change] = {}
    for step in steps:
        key, change = (step.part.role, step.part.name), change_of(step)
        merged[key] = Change(merged[key].before, change.after) if key in merged else change
    return tuple(change for change in merged.values() if (change.before or change.after) and change.differences)


def changes_of(report: Report) -> tuple[Change, ...]:
    """Merge the steps of a report."""
    return changes_of_plan(outcome.step for outcome in report.outcomes)


@dataclass(frozen=True, slots=True)
class Tally:
    """The number of parts that a plan creates, updates and deletes."""

    create: int
    update: int
    delete: int

    def __str__(self) -> str:
        return f"{self.create} to create, {self.update} to change, {self.delete} to delete"

    def __bool__(self) -> bool:
        return bool(self.create or self.update or self.delete)

    @property
    def document(self) -> Document:
        """For machines."""
        return asdict(self)


def tally(changes: Iterable[Change]) -> Tally:
    """Count the changes."""
    verbs = [change.verb for change in changes]
    return Tally(*(verbs.count(verb) for verb in ("create", "update", "delete")))


def difference_document(part: Part, difference: Difference) -> Document:
    """Convert a difference. A whole part has no attribute and no reason."""
    values = {"before": difference.before, "after": difference.after}
    if difference.attribute == WHOLE:
        return {"attribute": None, **values}
    reason = reason_of(part, difference.attribute)
    return {"attribute": difference.attribute, **values, "why": reason.text, "bugs": list(reason.bugs)}


def step_documents(steps: Iterable[Step]) -> list[Document]:
    """Convert the steps of a plan."""
    return [change_of(step).document for step in steps]


def report_document(report: Report) -> Document:
    """Convert the report of one port."""
    return {
        "port": report.port_id,
        "status": report.status.value,
        "ok": report.ok,
        "changed": report.changed,
        "simulated": report.simulated,
        "retries": report.retries,
        "code": report.code,
        "reason": report.reason,
        "leftovers": list(report.leftovers),
        "unchecked": list(report.unchecked),
        "steps": [
            {**change_of(outcome.step).document, "result": outcome.result.value, "reason": outcome.reason}
            for outcome in report.outcomes
        ],
    }


# -- errors ------------------------------------------------------------------------------------------------------------


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
    doctor = isinstance(error, PreconditionError) and error.code != "sandbox"
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
