"""A plan as a colored diff, with the marks of Terraform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hybridvif.cli.output import labels
from hybridvif.cli.output.document import Change
from hybridvif.cli.terminal import Paint
from hybridvif.executors.side_effects import IF_THERE, OVS_BRIDGE, SideEffect
from hybridvif.model.parts import reason_of

_MARKS = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red")}
_WIDTH = 31
"""The width of "qvb... = qvo..."."""


def diff_lines(changes: Sequence[Change], paint: Paint, *, reasons: bool = False) -> Iterator[str]:
    """Yield one line for each part and, with reasons, for each attribute."""
    for change in changes:
        mark, colour = _MARKS[change.verb]
        part, is_new = change.part, change.verb == "create"
        text = f"absent -> {labels.summary_of(part)}" if is_new else ", ".join(map(labels.change, change.differences))
        yield paint(f"  {mark}  {part.kind:<8}  {labels.subject_of(part):<{_WIDTH}} {text}", colour)
        for difference in change.written if reasons else ():
            name = difference.attribute
            if not is_new or name in labels.wanted_attributes(part):
                text = labels.phrase(name, difference.after) if is_new else labels.change(difference)
                yield paint(f"       {text:<42}  {reason_of(part, name)}", "dim")


def side_effect_lines(effects: Sequence[SideEffect], paint: Paint, *, reasons: bool = False) -> Iterator[str]:
    """Yield one line for each bridge or QoS row that comes or goes with the port.

    A QoS row that may not exist is shown only with reasons.
    """
    for effect in effects:
        if not reasons and effect.only_if == IF_THERE:
            continue
        verb, colour = ("comes", "green") if effect.verb == "create" else ("goes", "red")
        subject = f"the bridge {effect.name}" if effect.kind == OVS_BRIDGE else f"the QoS row of {effect.name}"
        kind = f" ({effect.type})" if effect.type else ""
        condition = f", if {effect.only_if}" if effect.only_if else ""
        yield paint(f"       {subject}{kind} {verb} with the port{condition}", colour)


def grouped(sections: Iterable[tuple[str, Iterable[str]]], paint: Paint) -> Iterator[str]:
    """Yield the lines of all sections. The heading is left out if there is one section only."""
    groups = [(heading, list(lines)) for heading, lines in sections]
    for heading, lines in groups:
        if len(groups) > 1 and lines:
            yield paint(heading, "bold")
        yield from lines
