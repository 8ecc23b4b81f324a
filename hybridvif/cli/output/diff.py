"""A plan as a coloured diff, terraform's marks before the parts of a port."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hybridvif.cli.output import labels
from hybridvif.cli.output.changes import Change
from hybridvif.cli.screen import Paint
from hybridvif.model.parts import reason_of

_MARKS = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red")}
_WIDTH = 31
"""Of a veth pair's two names and what is between them."""


def diff_lines(changes: Sequence[Change], paint: Paint, *, reasons: bool = False) -> Iterator[str]:
    """One line a part; with reasons, one more for each attribute."""
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
            return ", ".join(labels.change(one) for one in change.differences)


def _reasons(change: Change, paint: Paint) -> Iterator[str]:
    part = change.part
    for one in change.attributes:
        if change.verb == "create" and one.attribute not in labels.wanted_attributes(part):
            continue
        said = labels.phrase(one.attribute, one.after) if change.verb == "create" else labels.change(one)
        yield paint(f"       {said:<42}  {reason_of(part, one.attribute)}", "dim")


def grouped(sections: Iterable[tuple[str, Iterable[str]]], paint: Paint) -> Iterator[str]:
    """The lines of several ports, each under its heading; of one port without."""
    told = [(heading, list(lines)) for heading, lines in sections]
    for heading, lines in told:
        if len(told) > 1 and lines:
            yield paint(heading, "bold")
        yield from lines
