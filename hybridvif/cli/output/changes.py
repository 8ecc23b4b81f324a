"""The changes of a plan: all steps of one part are merged into one change.

A veth pair that is recreated under its row takes two more steps, because the row becomes a placeholder meanwhile.
Users want to see only the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybridvif.model.parts import Difference, Part, attributes_of, differences
from hybridvif.model.steps import Create, Delete, Step, Update


@dataclass(frozen=True, slots=True)
class Change:
    """A part before and after the plan; None if it does not exist."""

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
        """The differences of an update; empty for other changes."""
        return () if self.before is None or self.after is None else differences(self.before, self.after)

    @property
    def attributes(self) -> tuple[Difference, ...]:
        """The written attributes: the differences, or all attributes of a created part."""
        if self.before is None and self.after is not None:
            return tuple(Difference(name, None, getattr(self.after, name)) for name in attributes_of(type(self.after)))
        return self.differences


def change_of(step: Step) -> Change:
    """Convert one step."""
    match step:
        case Create(part):
            return Change(None, part)
        case Update(before, after):
            return Change(before, after)
        case Delete(part):
            return Change(part, None)


def changes_of_plan(steps: Iterable[Step]) -> tuple[Change, ...]:
    """Merge the steps of a plan, in the order of the first step of each part."""
    folded: dict[tuple[object, str], Change] = {}
    for step in steps:
        key, change = (step.part.role, step.part.name), change_of(step)
        folded[key] = Change(folded[key].before, change.after) if key in folded else change
    # A rollback deletes what was created and reverts what was updated. That is no change.
    return tuple(
        change for change in folded.values() if change.differences or (change.before is None) != (change.after is None)
    )


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


def tally(changes: Sequence[Change]) -> Tally:
    """Count the changes."""
    verbs = [change.verb for change in changes]
    return Tally(verbs.count("create"), verbs.count("update"), verbs.count("delete"))
