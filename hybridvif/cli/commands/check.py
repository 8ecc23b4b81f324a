"""hybridvif check: the drift of plugged ports."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hybridvif.cli.infer import InferredPort, infer_port, state_of_port
from hybridvif.cli.options import ROWS, Command, connected, flag
from hybridvif.cli.output.changes import changes_of
from hybridvif.cli.output.report import answer_about
from hybridvif.cli.output.topology import BUSY, Condition, Drift, PluggedPort, drift_of, look_at_ports
from hybridvif.cli.ports import FILE, PORT_OPTIONS, PORTS, PortRequest, found_ports, requested_ports
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.engine.any_host import AnyHost
from hybridvif.engine.simulated_host import SimulatedHost, look
from hybridvif.model.names import KEY_LENGTH
from hybridvif.model.parts import reason_of
from hybridvif.model.report import Report
from hybridvif.model.warnings import port_warnings


def run(args: argparse.Namespace) -> Answer:
    """Compare each port with its desired state."""
    requests = requested_ports(args)
    with connected(args) as host:
        found = None if args.all else found_ports(requests, host, exist=True)
        return answer_of(found, host, reasons=args.verbose > 0)


def answer_of(requests: Sequence[PortRequest] | None, host: AnyHost, *, reasons: bool = False) -> Answer:
    """Check these ports; None: all of the host.

    Raises InvalidInput if a port does not exist and a required field is missing.
    """
    from hybridvif.engine.converge import plug_all

    # Only an observation of all names includes the other rows with an iface-id.
    whole, plugged, dropped, warnings = look_at_ports(host)
    nameless: dict[str, PluggedPort] = {}
    busy: list[PluggedPort] = []
    if requests is None:
        busy = [port for port in plugged if port.condition is Condition.BUSY]
        nameless = {port.inferred.port.id: port for port in plugged if port.port_id is None}
        requests = [PortRequest(fields={"id": port.inferred.port.id}) for port in plugged if port not in busy]
        observed = whole
    else:
        observed = look(host, [request.port_id for request in requests])
    configured = ("call_iptables",) if host.settings.call_iptables else ()
    bridges = sorted(filter(host.settings.allows, observed.facts.switches))
    inferred = [infer_port(request, state_of_port(request, observed), configured, bridges) for request in requests]
    inferred = [replace(port, unknown=("id", *port.unknown)) if port.port.id in nameless else port for port in inferred]
    reports = [
        report
        if report.ok or report.port_id not in nameless
        else replace(report, reason=nameless[report.port_id].conflict)
        for report in plug_all([port.port for port in inferred], SimulatedHost(host.settings, observed))
    ]
    checked = [
        (port, report, [*drift_of(changes_of(report), port)]) for port, report in zip(inferred, reports, strict=True)
    ]
    working = {port.key for port in plugged if port.condition is Condition.BUSY}
    found = [
        ()
        if port.port.id[:KEY_LENGTH] in working
        else port_warnings(port.port, whole.state.of(port.port.names), whole.facts, dropped)
        for port in inferred
    ]
    warnings += [warning.text for own in found for warning in own]
    documents: list[dict[str, Any]] = [
        {
            "port": None if report.port_id in nameless else report.port_id,
            "key": report.port_id[:KEY_LENGTH],
            "in_order": report.ok and not drift,
            "code": report.code,
            "reason": report.reason,
            "drift": [item.document for item in drift],
            "unchecked": [*port.left_out, *port.not_inferable, *report.unchecked],
            "warnings": [warning._asdict() for warning in own],
        }
        for (port, report, drift), own in zip(checked, found, strict=True)
    ]
    refused = sum(not report.ok for report in reports)
    count = sum(document["in_order"] for document in documents)
    summary = {
        "in_order": count,
        "drift": len(documents) - count - refused,
        "refused": refused,
        "busy": len(busy),
        "warnings": len(warnings),
    }
    words = f"{len(documents) + len(busy)} ports: {', '.join(f'{number} {word}' for word, number in summary.items())}."
    return answer_about(
        "check",
        reports,
        {"in_order": count == len(documents), "ports": documents, "summary": summary, "warnings": warnings},
        differences=count < len(documents),
        lines=lambda paint: [
            *(
                line
                for (port, report, drift), document in zip(checked, documents, strict=True)
                for line in _lines(port, report, drift, document, paint, reasons=reasons)
            ),
            *(f"{port.port_id or port.key}  {paint(BUSY, 'yellow')}" for port in busy),
            *([] if len(documents) + len(busy) == 1 else [words.replace("_", " ")]),
        ],
        rows=[{"port": document["port"], **drift} for document in documents for drift in document["drift"]],
        warnings=warnings,
    )


def _lines(
    port: InferredPort,
    report: Report,
    drift: Sequence[Drift],
    document: Mapping[str, Any],
    paint: Paint,
    *,
    reasons: bool,
) -> Iterator[str]:
    name = document["port"] or f"{document['key']}..."
    if not report.ok:
        yield f"{name}  {paint('not checked, because plug would refuse it', 'red')}"
        return
    unchecked = document["unchecked"]
    verdict, color = ("DRIFT", "red") if drift else ("in order as far as checked" if unchecked else "in order", "green")
    if codes := ", ".join(warning["code"] for warning in document["warnings"]):
        verdict, color = f"{verdict}, {'and' if drift else 'but'} {codes}", "red" if drift else "yellow"
    yield f"{name}  {paint(verdict, color)}"
    for item in drift:
        yield paint(f"  {item}", "yellow")
        if reasons and item.difference.attribute:
            yield paint(f"      {reason_of(item.part, item.difference.attribute)}", "dim")
    if port.unknown:
        yield paint(f"  {port.hint}", "dim")
    if unchecked:
        yield paint(f"  not checked: {', '.join(unchecked)}", "dim")


COMMANDS = {
    "check": Command(
        run,
        ROWS,
        (PORTS, *PORT_OPTIONS, FILE, flag("--all", "all ports of this host, with a summary")),
        "Omitted options default to the values of the plugged port, and are not checked. In a file, they have their "
        "defaults. Exits with 3 if there is drift.",
        columns=("port", "kind", "name", "attribute", "before", "after"),
        narrow=("name", "attribute", "before", "after"),
    )
}
