"""Changes of parts; changes, steps and reports as documents, as in docs/cli.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from hybridvif.model.parts import Difference, Part, attributes_of, differences, reason_of
from hybridvif.model.report import Report
from hybridvif.model.steps import Create, Delete, Replace, Step, Update, names_of_step

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
        """create, update, delete, or replace for a part that goes on under another name."""
        if self.before is None or self.after is None:
            return "delete" if self.before else "create"
        return "update" if self.before.name == self.after.name else "replace"

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The differences of an update, or one of the whole part."""
        if self.before is None:
            return (Difference(WHOLE, "absent", "present"),)
        if self.after is None:
            return (Difference(WHOLE, "present", "absent"),)
        renamed = [Difference(WHOLE, self.before.name, self.after.name)] if self.verb == "replace" else []
        return (*renamed, *differences(self.before, self.after))

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
    before = step.before if isinstance(step, Update | Replace) else step.part
    return Change(None if isinstance(step, Create) else before, None if isinstance(step, Delete) else step.part)


def changes_of_plan(steps: Iterable[Step]) -> tuple[Change, ...]:
    """Merge all steps of one part into one change, in the order of the first step of each part.

    A veth pair that is recreated under its row takes two more steps, because the row becomes a placeholder meanwhile.
    A rollback deletes what was created and reverts what was updated: that is no change.
    """
    merged: dict[tuple[object, str], Change] = {}
    for step in steps:
        key, change = (step.part.role, step.part.name), change_of(step)
        earlier = merged.pop((step.part.role, names_of_step(step)[0]), change)
        merged[key] = Change(earlier.before, change.after)
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
    created, updated, deleted, replaced = map(verbs.count, ("create", "update", "delete", "replace"))
    return Tally(created, updated + replaced, deleted)


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
