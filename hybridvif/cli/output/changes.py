"""Changes of parts: as documents, as in docs/cli.md, and as a colored diff with the marks of Terraform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from hybridvif.cli.terminal import Paint
from hybridvif.executors.side_effects import IF_THERE, OVS_BRIDGE, SideEffect
from hybridvif.model.changes import (
    WHOLE,
    Change,
    Document,
    change_of,
    changes_of_plan,
)
from hybridvif.model.parts import (
    ANYBODY,
    DECLARATIONS,
    PLACEHOLDER_TYPE,
    Bridge,
    Difference,
    ManagedTap,
    NativePort,
    OvsPort,
    Part,
    Veth,
    VhostUserPort,
    create_only_values,
    reason_of,
)
from hybridvif.model.report import Report

UNKNOWN = "?"
"""The unknown value of an attribute."""
_DECLARED = {name: declared for of_kind in DECLARATIONS.values() for name, declared in of_kind.items()}
_KINDS: Mapping[type[Part], tuple[str, tuple[str, ...]]] = {
    Bridge: ("Linux bridge", ("mtu", "up", "ageing", "stp", "multicast_snooping", "disable_ipv6")),
    Veth: ("veth pair", ("mtu", "up", "promisc", "master")),
    ManagedTap: ("tap", ("mtu", "up", "master")),
    OvsPort: ("OVS port", ("iface_id", "attached_mac", "vm_uuid")),
    NativePort: ("native OVS port", ("iface_id", "attached_mac", "vm_uuid")),
    VhostUserPort: ("vhost-user port", ("type", "iface_id", "attached_mac", "vm_uuid")),
}
"""The noun of a kind of part, and the attributes of a created one that are always shown. Others need -v."""
_MARKS = {"create": ("+", "green"), "update": ("~", "yellow"), "replace": ("~", "yellow"), "delete": ("-", "red")}
_WIDTH = 31
"""The width of "qvb... = qvo..."."""


def changes_of(report: Report) -> tuple[Change, ...]:
    """Merge the steps of a report."""
    return changes_of_plan(outcome.step for outcome in report.outcomes)


class Tally(NamedTuple):
    """The number of parts that a plan creates, updates and deletes."""

    create: int
    update: int
    delete: int

    def __str__(self) -> str:
        return f"{self.create} to create, {self.update} to change, {self.delete} to delete"

    def __bool__(self) -> bool:
        return any(tuple(self))


def tally(changes: Iterable[Change]) -> Tally:
    """Count the changes."""
    verbs = [change.verb for change in changes]
    created, updated, deleted, replaced = map(verbs.count, (*Tally._fields, "replace"))
    return Tally(created, updated + replaced, deleted)


def tally_of(reports: Iterable[Report]) -> Tally:
    """Count the changes of several ports."""
    return tally(change for report in reports for change in changes_of(report))


def plan_document(report: Report, **more: object) -> Document:
    """Convert the report of a dry run. more: keys before the steps."""
    steps = [change_of(outcome.step).document for outcome in report.outcomes]
    return {"port": report.port_id, "code": report.code, "reason": report.reason, **more, "steps": steps}


def noun_of(part: Part) -> str:
    """Return the noun for a part in a sentence."""
    return _KINDS[type(part)][0] if type(part) in _KINDS else part.kind


def phrase(attribute: str, value: object) -> str:
    """Format an attribute with its value.

    >>> phrase("ageing", 0), phrase("peer_promisc", True), phrase("up", False), phrase("master", "qbr5f2c0e1a-7b")
    ('ageing 0', 'qvo promisc on', 'down', 'in qbr5f2c0e1a-7b')
    """
    if attribute == "master":
        return f"in {value or 'no bridge'}"
    return " ".join(filter(None, (_label(attribute), value_of(attribute, value))))


def change_text(difference: Difference) -> str:
    """Format the change of an attribute.

    >>> change_text(Difference("mtu", 1500, 1450)), change_text(Difference("up", False, True))
    ('mtu 1500 -> 1450', 'down -> up')
    """
    before, after = (value_of(difference.attribute, value) for value in (difference.before, difference.after))
    return " ".join(filter(None, (_label(difference.attribute), before, "->", after)))


def value_of(attribute: str, value: object) -> str:
    """Format the value of an attribute."""
    if isinstance(value, bool):
        return _DECLARED[attribute].words[value]
    if attribute == "type":
        return {"": "system", PLACEHOLDER_TYPE: f"{PLACEHOLDER_TYPE} (parked)"}.get(str(value), str(value))
    if attribute == "owner" and value == ANYBODY:
        return "anybody"
    return "none" if value in ("", None) or (attribute == "mtu_request" and value == 0) else str(value)


def _label(attribute: str) -> str:
    own = attribute.removeprefix("peer_")
    declared = _DECLARED.get(attribute)
    label = declared.label if declared and declared.label is not None else own.replace("_", "-")
    return label if own == attribute else f"qvo {label}".rstrip()


def diff_lines(changes: Iterable[Change], paint: Paint, *, reasons: bool = False) -> Iterator[str]:
    """Yield one line for each part and, with reasons, for each written attribute."""
    for change in changes:
        mark, color = _MARKS[change.verb]
        part, is_new = change.part, change.verb == "create"
        text = f"absent -> {_summary_of(part)}" if is_new else ", ".join(map(change_text, change.differences))
        yield paint(f"  {mark}  {part.kind:<8}  {_subject_of(part):<{_WIDTH}} {text}", color)
        for difference in change.written if reasons else ():
            name = difference.attribute
            if name != WHOLE and (not is_new or _is_wanted(part, name)):
                text = phrase(name, difference.after) if is_new else change_text(difference)
                yield paint(f"       {text:<42}  {reason_of(part, name)}", "dim")


def _subject_of(part: Part) -> str:
    """Return the name of a part and its location."""
    if isinstance(part, Veth):
        return f"{part.name} = {part.peer}"
    return f"{part.name} on {part.bridge}" if isinstance(part, OvsPort) else part.name


def _summary_of(part: Part) -> str:
    """Return the main attributes of a part that is to be created."""
    values = {name: getattr(part, name) for name in _KINDS.get(type(part), ("", ()))[1]}
    return ", ".join(phrase(name, value) for name, value in values.items() if value is not None) or "present"


def _is_wanted(part: Part, name: str) -> bool:
    """Return True if -v shows the attribute of a created part: it has a value, or is create-only and requested."""
    value = getattr(part, name)
    return bool(value) if name in create_only_values(part) else value not in ("", None) or name == "type"


def plan_lines(
    headed: Sequence[tuple[str, Report]],
    paint: Paint,
    failure: str,
    *,
    reasons: bool,
    effects: Mapping[str, Sequence[SideEffect]] = MappingProxyType({}),
) -> Iterator[str]:
    """Yield the diff of each dry run, under its heading if there are several, and a summary.

    failure: the words of the summary for refused ports. effects: side effects by port id.
    """
    for heading, report in headed:
        lines = [*diff_lines(changes_of(report), paint, reasons=reasons)]
        lines += _side_effect_lines(effects.get(report.port_id, ()), paint, reasons=reasons)
        if lines and len(headed) > 1:
            yield paint(heading, "bold")
        yield from lines
    counted, refused = tally_of(report for _, report in headed), sum(not report.ok for _, report in headed)
    summary = f"Plan: {counted if counted or refused else 'nothing to do'}"
    yield f"{summary}; {refused} of {len(headed)} ports {failure}." if refused else f"{summary}."


def _side_effect_lines(effects: Sequence[SideEffect], paint: Paint, *, reasons: bool) -> Iterator[str]:
    """Yield one line for each bridge or QoS row that comes or goes with the port.

    A QoS row that may not exist is shown only with reasons.
    """
    for effect in effects:
        if not reasons and effect.only_if == IF_THERE:
            continue
        verb, color = ("comes", "green") if effect.verb == "create" else ("goes", "red")
        subject = f"the bridge {effect.name}" if effect.kind == OVS_BRIDGE else f"the QoS row of {effect.name}"
        kind = f" ({effect.type})" if effect.type else ""
        condition = f", if {effect.only_if}" if effect.only_if else ""
        yield paint(f"       {subject}{kind} {verb} with the port{condition}", color)
