"""What plug would change of ports that are there, as an answer: the drift, or the document that check.py describes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hybridvif.cli.failure import error_of, failure_of_report
from hybridvif.cli.gaps import Filled, filled
from hybridvif.cli.output import labels
from hybridvif.cli.output.changes import Change, changes_of_plan
from hybridvif.cli.output.document import attribute_document
from hybridvif.cli.output.topology import warnings_of
from hybridvif.cli.planning import DIFFERENCES, part_of
from hybridvif.cli.ports import Asked, sentence_of_unknown
from hybridvif.cli.screen import Answer, Paint
from hybridvif.engine.api import plug_all
from hybridvif.engine.host_protocol import AnyHost
from hybridvif.engine.simulated_host import SimulatedHost, look
from hybridvif.model.parts import Difference, OvsPort, Part, reason_of
from hybridvif.model.report import Report, worst_exit_code

COLUMNS = ("port", "kind", "name", "attribute", "before", "after")


@dataclass(frozen=True, slots=True)
class Drift:
    """One thing that is not as it should be."""

    part: Part
    difference: Difference
    """Its attribute is "" where the part as a whole is missing, or should be."""

    @property
    def document(self) -> Mapping[str, object]:
        """For machines."""
        about = {"kind": self.part.kind, "name": self.part.name}
        if self.difference.attribute:
            return {**about, **attribute_document(self.part, self.difference)}
        return {**about, "attribute": None, "before": self.difference.before, "after": self.difference.after}

    def __str__(self) -> str:
        if self.difference.attribute:
            return f"{self.part.name}: {labels.change(self.difference)}"
        missing = self.difference.before == "absent"
        return f"{labels.link_kind(self.part)} {self.part.name} is {'missing' if missing else 'not wanted'}"


def drift_of(changes: Sequence[Change], filled: Filled) -> Iterator[Drift]:
    """What plug would change, as drift, missing parts first; "?" for a value that the port could not tell."""
    unknown = filled.unknown_attributes
    for change in sorted(changes, key=lambda change: change.verb == "update"):
        if change.verb == "update":
            for one in change.differences:
                is_unknown = not unknown.isdisjoint((one.attribute, f"{change.part.kind} {one.attribute}"))
                yield Drift(change.part, replace(one, after=labels.UNKNOWN) if is_unknown else one)
            yield from _doubts(change, filled.doubtful)
        else:
            values = ("absent", "present") if change.verb == "create" else ("present", "absent")
            yield Drift(change.part, Difference("", *values))


def _doubts(change: Change, doubtful: Sequence[str]) -> Iterator[Drift]:
    """The attributes of a row that may be wrong, though the plan for the placeholder leaves them."""
    changed = {one.attribute for one in change.differences}
    for name in doubtful if isinstance(change.before, OvsPort) else ():
        if name not in changed:
            yield Drift(change.part, Difference(name, getattr(change.before, name), labels.UNKNOWN))


@dataclass(frozen=True, slots=True)
class Checked:
    """One port after a check."""

    filled: Filled
    report: Report
    """Of a plug that was rehearsed."""
    drift: tuple[Drift, ...]
    warnings: tuple[str, ...] = ()

    @property
    def unchecked(self) -> tuple[str, ...]:
        """What was not judged."""
        return (*self.filled.left_out, *self.filled.unjudged, *self.report.unchecked)

    @property
    def in_order(self) -> bool:
        """Whether nothing was found."""
        return self.report.ok and not self.drift

    @property
    def document(self) -> Mapping[str, object]:
        """For machines."""
        return {
            "port": self.filled.port.id,
            "in_order": self.in_order,
            "code": self.report.code,
            "reason": self.report.reason,
            "drift": [one.document for one in self.drift],
            "unchecked": list(self.unchecked),
        }


def answer_of(asked: Sequence[Asked], host: AnyHost, *, reasons: bool = False) -> Answer:
    """Check these ports. Raises InvalidInput for one that is not there and not wholly described."""
    checked = _checked(asked, host)
    failures = [failure_of_report(one.report) for one in checked if not one.report.ok]
    in_order = all(one.in_order for one in checked)
    warnings = [warning for one in checked for warning in one.warnings]
    exit_code = worst_exit_code([one.report for one in checked]) or (0 if in_order else DIFFERENCES)
    return Answer(
        document={
            "command": "check",
            "simulated": any(one.report.simulated for one in checked),
            "in_order": in_order,
            "ports": [one.document for one in checked],
            "warnings": warnings,
            **error_of(failures, exit_code),
        },
        lines=lambda paint: [line for one in checked for line in _lines(one, paint, reasons=reasons)],
        columns=COLUMNS,
        rows=[{"port": one.filled.port.id, **drift.document} for one in checked for drift in one.drift],
        simulated=any(one.report.simulated for one in checked),
        warnings=warnings,
        failures=failures,
        exit_code=exit_code,
    )


def _checked(asked: Sequence[Asked], host: AnyHost) -> list[Checked]:
    seen = look(host, [one.port_id for one in asked])
    configured = ("call_iptables",) if host.settings.call_iptables else ()
    bridges = sorted(filter(host.settings.allows, seen.facts.switches))
    known = [filled(one, part_of(one, seen), configured, bridges) for one in asked]
    reports = plug_all([one.port for one in known], SimulatedHost(host.settings, seen))
    # Which other rows bear an iface-id is told of an observation of all names only.
    facts = host.observe(None, time.monotonic() + host.settings.deadline).facts
    return [
        Checked(one, report, tuple(drift_of(_changes(report), one)), warnings_of(one.port, facts))
        for one, report in zip(known, reports, strict=True)
    ]


def _changes(report: Report) -> tuple[Change, ...]:
    return changes_of_plan(outcome.step for outcome in report.outcomes)


def _lines(one: Checked, paint: Paint, *, reasons: bool) -> Iterator[str]:
    port_id, left_out = one.filled.port.id, ", ".join(one.unchecked)
    if not one.report.ok:
        yield f"{port_id}  {paint('not judged, since plug would refuse it', 'red')}"
        return
    if one.in_order:
        yield f"{port_id}  {paint('in order as far as checked' if left_out else 'in order', 'green')}"
    else:
        yield f"{port_id}  {paint('DRIFT', 'red')}"
    for drift in one.drift:
        yield paint(f"  {drift}", "yellow")
        if reasons and drift.difference.attribute:
            yield paint(f"      {reason_of(drift.part, drift.difference.attribute)}", "dim")
    if one.filled.unknown:
        yield paint(f"  {sentence_of_unknown(one.filled.unknown)}", "dim")
    if left_out:
        yield paint(f"  not checked: {left_out}", "dim")
