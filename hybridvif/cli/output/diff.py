"""A plan as a colored diff, with the marks of Terraform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hybridvif.cli.output import labels
from hybridvif.cli.output.changes import Change
from hybridvif.cli.terminal import Paint
from hybridvif.model.parts import reason_of

_MARKS = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red")}
_WIDTH = 31
"""The width of "qvb... = qvo..."."""


def diff_lines(changes: Sequence[Change], paint: Paint, *, reasons: bool = False) -> Iterator[str]:
    """Yield one line for each part and, with reasons, for each attribute."""
    for change in changes:
        mark, colour = _MARKS[change.verb]
        part = change.part
        yield paint(f"  {mark}  {part.kind:<8}  {labels.subject_of(part):<{_WIDTH}} {_text(change)}", colour)
        if reasons:
            yield from _reasons(change, paint)


def _text(change: Change) -> str:
    match change.verb:
        case "create":
            return f"absent -> {labels.summary_of(change.part)}"
        case "delete":
            return "present -> absent"
        case _:
            return ", ".join(labels.change(difference) for difference in change.differences)


def _reasons(change: Change, paint: Paint) -> Iterator[str]:
    part = change.part
    for difference in change.attributes:
        if change.verb == "create" and difference.attribute not in labels.wanted_attributes(part):
            continue
        text = (
            labels.phrase(difference.attribute, difference.after)
            if change.verb == "create"
            else labels.change(difference)
        )
        yield paint(f"       {text:<42}  {reason_of(part, difference.attribute)}", "dim")


def grouped(sections: Iterable[tuple[str, Iterable[str]]], paint: Paint) -> Iterator[str]:
    """Yield the lines of all sections. The heading is left out if there is one section only."""
    groups = [(heading, list(lines)) for heading, lines in sections]
    for heading, lines in groups:
        if len(groups) > 1 and lines:
            yield paint(heading, "bold")
        yield from lines
