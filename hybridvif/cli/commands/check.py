"""hybridvif check: the drift of plugged ports."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

from hybridvif.cli.infer import InferredPort, infer_port, state_of_port
from hybridvif.cli.options import connected
from hybridvif.cli.output.changes import changes_of
from hybridvif.cli.output.report import answer_about
from hybridvif.cli.output.topology import Drift, drift_of, warnings_of
from hybridvif.cli.ports import PortRequest, add_port_options, found_ports, requested_ports
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
        return answer_of(found_ports(requests, host, exist=True), host, reasons=args.verbose > 0)


def answer_of(requests: Sequence[PortRequest], host: AnyHost, *, reasons: bool = False) -> Answer:
    """Check these ports. Raises InvalidInput if a port does not exist and a required field is missing."""
    from hybridvif.engine.converge import plug_all

    observed = look(host, [request.port_id for request in requests])
    configured = ("call_iptables",) if host.settings.call_iptables else ()
    bridges = sorted(filter(host.settings.allows, observed.facts.switches))
    inferred = [infer_port(request, state_of_port(request, observed), configured, bridges) for request in requests]
    reports = plug_all([port.port for port in inferred], SimulatedHost(host.settings, observed))
    checked = [
        (port, report, [*drift_of(changes_of(report), port)]) for port, report in zip(inferred, reports, strict=True)
    ]
    documents: list[dict[str, Any]] = [
        {
            "port": report.port_id,
            "in_order": report.ok and not drift,
            "code": report.code,
            "reason": report.reason,
            "drift": [item.document for item in drift],
            "unchecked": [*port.left_out, *port.not_inferable, *report.unchecked],
        }
        for port, report, drift in checked
    ]
    # Only an observation of all names includes the other rows with this iface-id.
    facts = host.observe(None, time.monotonic() + host.settings.deadline).facts
    warnings = [warning for port in inferred for warning in warnings_of(port.port, facts)]
    in_order = all(document["in_order"] for document in documents)
    return answer_about(
        "check",
        reports,
        {"in_order": in_order, "ports": documents, "warnings": warnings},
        differences=not in_order,
        lines=lambda paint: [
            line
            for (port, report, drift), document in zip(checked, documents, strict=True)
            for line in _lines(port, report, drift, document["unchecked"], paint, reasons=reasons)
        ],
        columns=COLUMNS,
        narrow=("name", "attribute", "before", "after"),
        rows=[{"port": document["port"], **drift} for document in documents for drift in document["drift"]],
        warnings=warnings,
    )


def _lines(
    port: InferredPort,
    report: Report,
    drift: Sequence[Drift],
    unchecked: Sequence[str],
    paint: Paint,
    *,
    reasons: bool,
) -> Iterator[str]:
    if not report.ok:
        yield f"{report.port_id}  {paint('not checked, because plug would refuse it', 'red')}"
        return
    in_order = "in order as far as checked" if unchecked else "in order"
    yield f"{report.port_id}  {paint('DRIFT', 'red') if drift else paint(in_order, 'green')}"
    for item in drift:
        yield paint(f"  {item}", "yellow")
        if reasons and item.difference.attribute:
            yield paint(f"      {reason_of(item.part, item.difference.attribute)}", "dim")
    if port.unknown:
        yield paint(f"  {port.hint}", "dim")
    if unchecked:
        yield paint(f"  not checked: {', '.join(unchecked)}", "dim")
