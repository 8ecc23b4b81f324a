"""The answer of a check: the drift, or the document of commands/check.py."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hybridvif.cli.failure import error_of, failure_of_report
from hybridvif.cli.infer import InferredPort, infer_port
from hybridvif.cli.output import labels
from hybridvif.cli.output.changes import Change, changes_of_plan
from hybridvif.cli.output.document import attribute_document
from hybridvif.cli.output.topology import warnings_of
from hybridvif.cli.planning import DIFFERENCES, state_of_port
from hybridvif.cli.port_request import PortRequest, unknown_fields_hint
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.engine.api import plug_all
from hybridvif.engine.converge import AnyHost
from hybridvif.engine.simulated_host import SimulatedHost, look
from hybridvif.model.parts import Difference, OvsPort, Part, reason_of
from hybridvif.model.report import Report, worst_exit_code

COLUMNS = ("port", "kind", "name", "attribute", "before", "after")


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference between the observed and the desired state."""

    part: Part
    difference: Difference
    """The attribute is "" if the whole part is missing or must be deleted."""

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


def drift_of(changes: Sequence[Change], inferred: InferredPort) -> Iterator[Drift]:
    """Yield the changes of plug as drift, missing parts first. The desired value is "?" if it is unknown."""
    unknown = inferred.unknown_attributes
    for change in sorted(changes, key=lambda change: change.verb == "update"):
        if change.verb == "update":
            for difference in change.differences:
                is_unknown = not unknown.isdisjoint(
                    (difference.attribute, f"{change.part.kind} {difference.attribute}")
                )
                yield Drift(change.part, replace(difference, after=labels.UNKNOWN) if is_unknown else difference)
            yield from _doubtful_attributes(change, inferred.doubtful)
        else:
            values = ("absent", "present") if change.verb == "create" else ("present", "absent")
            yield Drift(change.part, Difference("", *values))


def _doubtful_attributes(change: Change, doubtful: Sequence[str]) -> Iterator[Drift]:
    """Yield the doubtful attributes of a row that the plan does not change."""
    changed = {difference.attribute for difference in change.differences}
    for name in doubtful if isinstance(change.before, OvsPort) else ():
        if name not in changed:
            yield Drift(change.part, Difference(name, getattr(change.before, name), labels.UNKNOWN))


@dataclass(frozen=True, slots=True)
class CheckedPort:
    """The result of the check of one port."""

    inferred: InferredPort
    report: Report
    """The report of a simulated plug."""
    drift: tuple[Drift, ...]
    warnings: tuple[str, ...] = ()

    @property
    def unchecked(self) -> tuple[str, ...]:
        """The fields and attributes that were not checked."""
        return (*self.inferred.left_out, *self.inferred.not_inferable, *self.report.unchecked)

    @property
    def in_order(self) -> bool:
        """True if there is no drift."""
        return self.report.ok and not self.drift

    @property
    def document(self) -> Mapping[str, object]:
        """For machines."""
        return {
            "port": self.inferred.port.id,
            "in_order": self.in_order,
            "code": self.report.code,
            "reason": self.report.reason,
            "drift": [drift.document for drift in self.drift],
            "unchecked": list(self.unchecked),
        }


def answer_of(requests: Sequence[PortRequest], host: AnyHost, *, reasons: bool = False) -> Answer:
    """Check these ports. Raises InvalidInput if a port does not exist and a required field is missing."""
    checked = _check_ports(requests, host)
    failures = [failure_of_report(port.report) for port in checked if not port.report.ok]
    in_order = all(port.in_order for port in checked)
    warnings = [warning for port in checked for warning in port.warnings]
    exit_code = worst_exit_code([port.report for port in checked]) or (0 if in_order else DIFFERENCES)
    return Answer(
        document={
            "command": "check",
            "simulated": any(port.report.simulated for port in checked),
            "in_order": in_order,
            "ports": [port.document for port in checked],
            "warnings": warnings,
            **error_of(failures, exit_code),
        },
        lines=lambda paint: [line for port in checked for line in _lines(port, paint, reasons=reasons)],
        columns=COLUMNS,
        rows=[{"port": port.inferred.port.id, **drift.document} for port in checked for drift in port.drift],
        simulated=any(port.report.simulated for port in checked),
        warnings=warnings,
        failures=failures,
        exit_code=exit_code,
    )


def _check_ports(requests: Sequence[PortRequest], host: AnyHost) -> list[CheckedPort]:
    observed = look(host, [request.port_id for request in requests])
    configured = ("call_iptables",) if host.settings.call_iptables else ()
    bridges = sorted(filter(host.settings.allows, observed.facts.switches))
    inferred = [infer_port(request, state_of_port(request, observed), configured, bridges) for request in requests]
    reports = plug_all([port.port for port in inferred], SimulatedHost(host.settings, observed))
    # Only an observation of all names includes the other rows with this iface-id.
    facts = host.observe(None, time.monotonic() + host.settings.deadline).facts
    return [
        CheckedPort(port, report, tuple(drift_of(_changes(report), port)), warnings_of(port.port, facts))
        for port, report in zip(inferred, reports, strict=True)
    ]


def _changes(report: Report) -> tuple[Change, ...]:
    return changes_of_plan(outcome.step for outcome in report.outcomes)


def _lines(port: CheckedPort, paint: Paint, *, reasons: bool) -> Iterator[str]:
    port_id, unchecked = port.inferred.port.id, ", ".join(port.unchecked)
    if not port.report.ok:
        yield f"{port_id}  {paint('not checked, because plug would refuse it', 'red')}"
        return
    if port.in_order:
        yield f"{port_id}  {paint('in order as far as checked' if unchecked else 'in order', 'green')}"
    else:
        yield f"{port_id}  {paint('DRIFT', 'red')}"
    for drift in port.drift:
        yield paint(f"  {drift}", "yellow")
        if reasons and drift.difference.attribute:
            yield paint(f"      {reason_of(drift.part, drift.difference.attribute)}", "dim")
    if port.inferred.unknown:
        yield paint(f"  {unknown_fields_hint(port.inferred.unknown)}", "dim")
    if unchecked:
        yield paint(f"  not checked: {unchecked}", "dim")
