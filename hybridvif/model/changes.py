"""Changes of parts: the steps of a plan, merged by part, and their documents in JSON (docs/cli.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hybridvif.model.parts import Difference, Part, attributes_of, differences, reason_of
from hybridvif.model.state import Create, Delete, Replace, Step, Update, names_of_step

Document = Mapping[str, object]
WHOLE = ""
"""The attribute of a difference that is a whole part, which is absent or present."""


class Change(NamedTuple):
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
        if self.before is not None and self.after is not None:
            renamed = [Difference(WHOLE, self.before.name, self.after.name)] if self.verb == "replace" else []
            return (*renamed, *differences(self.before, self.after))
        before, after = ("absent", "present") if self.before is None else ("present", "absent")
        return (Difference(WHOLE, before, after),)

    @property
    def written(self) -> tuple[Difference, ...]:
        """The written attributes: the differences of an update, or all attributes of a created part."""
        part = self.part
        if self.before is None:
            return tuple(Difference(name, None, getattr(part, name)) for name in attributes_of(type(part)))
        return self.differences if self.after is not None else ()

    @property
    def document(self) -> Document:
        """The change as a step for machines."""
        part = self.part
        changes = [difference_document(part, difference) for difference in self.written]
        return {"verb": self.verb, "role": part.role.value, "kind": part.kind, "name": part.name, "changes": changes}


def change_of(step: Step) -> Change:
    """Convert one step."""
    before = step.before if isinstance(step, Update | Replace) else step.part
    return Change(None if isinstance(step, Create) else before, None if isinstance(step, Delete) else step.part)


def changes_of_plan(steps: Iterable[Step]) -> tuple[Change, ...]:
    """Merge all steps of one part into one change, in the order of the first step of each part.

    A veth pair that is recreated under its row takes two more steps, because the row becomes a placeholder meanwhile.
    A rollback deletes what was created and reverts what was updated: that is no change.
    """
    merged: dict[tuple[str, str], Change] = {}
    for step in steps:
        # A part of another kind under the same name is another part: a row of Open vSwitch for one of an IVS.
        change = change_of(step)
        earlier = merged.pop(((change.before or step.part).kind, names_of_step(step)[0]), change)
        merged[step.part.kind, step.part.name] = Change(earlier.before, change.after)
    return tuple(change for change in merged.values() if any(change) and change.differences)


def difference_document(part: Part, difference: Difference) -> Document:
    """Convert a difference. A whole part has no attribute and no reason."""
    values = {"before": difference.before, "after": difference.after}
    if difference.attribute == WHOLE:
        return {"attribute": None, **values}
    reason = reason_of(part, difference.attribute)
    return {"attribute": difference.attribute, **values, "why": reason.text, "bugs": list(reason.bugs)}
