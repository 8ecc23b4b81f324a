"""hybridvif check: the drift of plugged ports."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hybridvif.cli.connection import connected
from hybridvif.cli.infer import InferredPort, infer_port, state_of_port
from hybridvif.cli.output.document import changes_of
from hybridvif.cli.output.report import answer_about
from hybridvif.cli.output.topology import Drift, drift_of, warnings_of
from hybridvif.cli.ports import PortRequest, add_port_options, requested_ports
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.engine.converge import AnyHost
from hybridvif.engine.simulated_host import SimulatedHost, look
from hybridvif.model.parts import reason_of
from hybridvif.model.report import Report

FORMATS = ("text", "json", "yaml", "table", "value")
COLUMNS = ("port", "kind", "name", "attribute", "before", "after")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif check`."""
    add_port_options(parser, several=True)
    parser.epilog = (
        "Omitted options default to the values of the plugged port, and are not checked. "
        "Exits with 3 if there is drift."
    )


def run(args: argparse.Namespace) -> Answer:
    """Compare each port with its desired state."""
    requests = requested_ports(args)
    with connected(args) as host:
        return answer_of(requests, host, reasons=args.verbose > 0)


@dataclass(frozen=True, slots=True)
class CheckedPort:
    """The result of the check of one port."""

    inferred: InferredPort
    report: Report
    """The report of a simulated plug."""
    drift: tuple[Drift, ...]

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
            "port": self.report.port_id,
            "in_order": self.in_order,
            "code": self.report.code,
            "reason": self.report.reason,
            "drift": [drift.document for drift in self.drift],
            "unchecked": list(self.unchecked),
        }


def answer_of(requests: Sequence[PortRequest], host: AnyHost, *, reasons: bool = False) -> Answer:
    """Check these ports. Raises InvalidInput if a port does not exist and a required field is missing."""
    from hybridvif.engine.converge import plug_all

    observed = look(host, [request.port_id for request in requests])
    configured = ("call_iptables",) if host.settings.call_iptables else ()
    bridges = sorted(filter(host.settings.allows, observed.facts.switches))
    inferred = [infer_port(request, state_of_port(request, observed), configured, bridges) for request in requests]
    reports = plug_all([port.port for port in inferred], SimulatedHost(host.settings, observed))
    checked = [
        CheckedPort(port, report, tuple(drift_of(changes_of(report), port)))
        for port, report in zip(inferred, reports, strict=True)
    ]
    # Only an observation of all names includes the other rows with this iface-id.
    facts = host.observe(None, time.monotonic() + host.settings.deadline).facts
    warnings = [warning for port in inferred for warning in warnings_of(port.port, facts)]
    in_order = all(port.in_order for port in checked)
    return answer_about(
        "check",
        reports,
        {"in_order": in_order, "ports": [port.document for port in checked], "warnings": warnings},
        differences=not in_order,
        lines=lambda paint: [line for port in checked for line in _lines(port, paint, reasons=reasons)],
        columns=COLUMNS,
        rows=[{"port": port.report.port_id, **drift.document} for port in checked for drift in port.drift],
        warnings=warnings,
    )


def _lines(port: CheckedPort, paint: Paint, *, reasons: bool) -> Iterator[str]:
    unchecked = ", ".join(port.unchecked)
    if not port.report.ok:
        verdict, colour = "not checked, because plug would refuse it", "red"
    elif not port.in_order:
        verdict, colour = "DRIFT", "red"
    else:
        verdict, colour = "in order as far as checked" if unchecked else "in order", "green"
    yield f"{port.report.port_id}  {paint(verdict, colour)}"
    if not port.report.ok:
        return
    for drift in port.drift:
        yield paint(f"  {drift}", "yellow")
        if reasons and drift.difference.attribute:
            yield paint(f"      {reason_of(drift.part, drift.difference.attribute)}", "dim")
    if port.inferred.unknown:
        yield paint(f"  {port.inferred.hint}", "dim")
    if unchecked:
        yield paint(f"  not checked: {unchecked}", "dim")
