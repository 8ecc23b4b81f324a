"""hybridvif check: the drift of plugged ports. hybridvif wait: their acceptance by ovs-vswitchd."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from hybridvif.cli.infer import InferredPort, infer_port, row_of, state_of_port
from hybridvif.cli.options import ROWS, Command, argument, connected, flag, seconds
from hybridvif.cli.output.changes import changes_of
from hybridvif.cli.output.report import answer_about
from hybridvif.cli.output.topology import BUSY, Condition, Drift, drift_of, look_at_ports
from hybridvif.cli.ports import FILE, PORT_OPTIONS, PORTS, PortRequest, found_ids, found_ports, requested_ports
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.engine.any_host import AnyHost, SimulatedHost, look
from hybridvif.engine.converge import plug_all
from hybridvif.model.errors import InvalidInput
from hybridvif.model.names import KEY_LENGTH, names_of
from hybridvif.model.parts import OvsPort, reason_of
from hybridvif.model.report import Report, Result, Status
from hybridvif.model.settings import MAX_NAMES
from hybridvif.model.state import Observed
from hybridvif.model.warnings import PortWarning

TIMEOUT = 30.0
PAUSE = 0.1
"""Seconds between two observations."""
PENDING = ("not yet accepted", "yellow")
REMEDY = "hybridvif trace {port}: it shows why ovs-vswitchd has not accepted it"
LAST = 10.0
"""Seconds for the last observation, beyond the timeout."""


def run_check(args: argparse.Namespace) -> Answer:
    """Compare each port with its desired state."""
    requests = requested_ports(args)
    with connected(args) as host:
        found = None if args.all else found_ports(requests, host, exist=True)
        return answer_of(found, host, reasons=args.verbose > 0)


class Checked(NamedTuple):
    """A port compared with its desired state."""

    port_id: str | None
    """None: unknown."""
    inferred: InferredPort
    report: Report
    """The report of a dry run of plug."""
    drift: Sequence[Drift]
    warnings: Sequence[PortWarning]

    @property
    def is_in_order(self) -> bool:
        """True if plug would write nothing."""
        return self.report.ok and not self.drift

    @property
    def unchecked(self) -> list[str]:
        """The fields and parts that were not compared."""
        return [*self.inferred.left_out, *self.inferred.not_inferable, *self.report.unchecked]

    @property
    def document(self) -> dict[str, Any]:
        """The port for machines."""
        return {
            "port": self.port_id,
            "key": self.report.port_id[:KEY_LENGTH],
            "in_order": self.is_in_order,
            "code": self.report.code,
            "reason": self.report.reason,
            "drift": [item.document for item in self.drift],
            "unchecked": self.unchecked,
            "warnings": [warning._asdict() for warning in self.warnings],
        }

    def lines(self, paint: Paint, *, reasons: bool) -> Iterator[str]:
        """Yield the lines for people."""
        name = self.port_id or f"{self.report.port_id[:KEY_LENGTH]}..."
        if not self.report.ok:
            yield f"{name}  {paint('not checked, because plug would refuse it', 'red')}"
            return
        color, verdict = "red", "DRIFT"
        if not self.drift:
            color, verdict = "green", "in order as far as checked" if self.unchecked else "in order"
        if codes := ", ".join(warning.code for warning in self.warnings):
            color, verdict = ("red", f"DRIFT, and {codes}") if self.drift else ("yellow", f"{verdict}, but {codes}")
        yield f"{name}  {paint(verdict, color)}"
        for item in self.drift:
            yield paint(f"  {item}", "yellow")
            if reasons and item.difference.attribute:
                yield paint(f"      {reason_of(item.part, item.difference.attribute)}", "dim")
        if self.inferred.unknown:
            yield paint(f"  {self.inferred.hint}", "dim")
        if self.unchecked:
            yield paint(f"  not checked: {', '.join(self.unchecked)}", "dim")


def answer_of(requests: Sequence[PortRequest] | None, host: AnyHost, *, reasons: bool = False) -> Answer:
    """Check these ports; None: all of the host.

    Raises InvalidInput if a port does not exist and a required field is missing.
    """
    # Only an observation of all names includes the other rows with an iface-id.
    whole, plugged, warnings = look_at_ports(host)
    if requests is None:
        observed, busy = whole, [port for port in plugged if port.condition is Condition.BUSY]
        nameless = {port.inferred.port.id: port.conflict for port in plugged if port.port_id is None}
        requests = [PortRequest(fields={"id": port.inferred.port.id}) for port in plugged if port not in busy]
    else:
        observed, busy, nameless = look(host, [request.port_id for request in requests]), [], {}
    checked, warnings_of = [], {port.key: port.warnings for port in plugged}
    for inferred, report in _dry_run(requests, host, observed, nameless):
        port_id = None if inferred.port.id in nameless else inferred.port.id
        own = warnings_of.get(inferred.port.id[:KEY_LENGTH], ())
        checked.append(Checked(port_id, inferred, report, [*drift_of(changes_of(report), inferred)], own))
    warnings += [warning.text for port in checked for warning in port.warnings]
    reports, documents = [port.report for port in checked], [port.document for port in checked]
    in_order = sum(port.is_in_order for port in checked)
    refused = sum(not report.ok for report in reports)
    total = len(checked) + len(busy)
    summary = {
        "in_order": in_order,
        "drift": len(checked) - in_order - refused,
        "refused": refused,
        "busy": len(busy),
        "warnings": len(warnings),
    }
    words = ", ".join(f"{number} {word.replace('_', ' ')}" for word, number in summary.items())
    return answer_about(
        "check",
        reports,
        {"in_order": in_order == len(checked), "ports": documents, "summary": summary, "warnings": warnings},
        differences=in_order < len(checked),
        lines=lambda paint: [
            *(line for port in checked for line in port.lines(paint, reasons=reasons)),
            *(f"{port.port_id or port.key}  {paint(BUSY, 'yellow')}" for port in busy),
            *([] if total == 1 else [f"{total} ports: {words}."]),
        ],
        rows=[{"port": document["port"], **drift} for document in documents for drift in document["drift"]],
        warnings=warnings,
    )


def _dry_run(
    requests: Sequence[PortRequest], host: AnyHost, observed: Observed, nameless: Mapping[str, str]
) -> Iterator[tuple[InferredPort, Report]]:
    """Yield each port, with missing fields inferred, and the report of a dry run of plug.

    nameless: the reason of a refusal for each id that stands for an unknown one.
    """
    configured = ("call_iptables",) if host.settings.call_iptables else ()
    bridges = sorted(filter(host.settings.allows, observed.facts.switches))
    inferred = [infer_port(request, state_of_port(request, observed), configured, bridges) for request in requests]
    reports = plug_all([port.port for port in inferred], SimulatedHost(host.settings, observed))
    for port, report in zip(inferred, reports, strict=True):
        port_id = port.port.id
        if port_id not in nameless:
            yield port, report
            continue
        reason = nameless[port_id] or report.reason.replace(port_id, f"{port_id[:KEY_LENGTH]}...")
        yield replace(port, unknown=("id", *port.unknown)), report if report.ok else replace(report, reason=reason)


# -- wait --------------------------------------------------------------------------------------------------------------


def run_wait(args: argparse.Namespace) -> Answer:
    """Wait for the ports."""
    requests = requested_ports(args)
    with connected(args) as host:
        return wait(found_ids(requests, host, exist=True), host, args.timeout)


def wait(port_ids: Sequence[str], host: AnyHost, timeout: float = TIMEOUT) -> Answer:
    """Wait at most timeout seconds. Raises InvalidInput if a port is not in the switch."""
    names = {name for port_id in port_ids for name in names_of(port_id)}
    end = time.monotonic() + timeout
    while True:
        now = time.monotonic()
        deadline = min(now + host.settings.deadline, max(end, now + LAST))
        observed = host.observe(names if len(names) <= MAX_NAMES else None, deadline)
        documents = [_accepted(port_id, observed) for port_id in port_ids]
        if all(document["accepted"] for document in documents) or time.monotonic() >= end:
            break
        time.sleep(max(0, min(PAUSE, end - time.monotonic())))
    answer = answer_about(
        "wait",
        [_report_of(document, timeout) for document in documents],
        {"simulated": observed.facts.simulated, "timeout": timeout, "ports": documents},
        lines=lambda paint: (
            f"{document['port']}  {paint(*('accepted', 'green') if document['accepted'] else PENDING)}"
            for document in documents
        ),
        rows=documents,
        silent=True,
    )
    # The remedy of a plug is to wait.
    failures = [
        replace(failure, remedy=REMEDY.format(port=(failure.report or {})["port"])) for failure in answer.failures
    ]
    return replace(answer, failures=failures)


def _accepted(port_id: str, observed: Observed) -> Mapping[str, object]:
    names = names_of(port_id)
    row = row_of(observed.state.of(names), names)
    if row is None:
        raise InvalidInput(f"port {port_id} is in no switch here, so nothing can accept it; plug it")
    fact = observed.facts.port(row)
    accepted = not isinstance(row, OvsPort) or row.realized
    return {"port": port_id, "accepted": accepted, "ofport": fact.ofport, "error": fact.error}


def _report_of(document: Mapping[str, object], timeout: float) -> Report:
    port_id, error = str(document["port"]), document["error"]
    if document["accepted"]:
        return Report(port_id=port_id, status=Status.DONE)
    reason = f"ovs-vswitchd has not accepted it within {timeout:g} s" + (f" ({error})" if error else "")
    return Report(port_id=port_id, status=Status.CONFIGURED, code=Result.CONFIGURED.value, reason=reason)


_TIMEOUT = f"the longest time to wait (default: {TIMEOUT:g})"
COMMANDS = {
    "check": Command(
        run_check,
        ROWS,
        (PORTS, *PORT_OPTIONS, FILE, flag("--all", "all ports of this host, with a summary")),
        "Omitted options default to the values of the plugged port, and are not checked. In a file, they have their "
        "defaults. Exits with 3 if there is drift.",
        columns=("port", "kind", "name", "attribute", "before", "after"),
        narrow=("name", "attribute", "before", "after"),
    ),
    "wait": Command(
        run_wait,
        ROWS,
        (PORTS, FILE, argument("--timeout", metavar="SECONDS", type=seconds, default=TIMEOUT, text=_TIMEOUT)),
        "Exits with 0 when all ports are accepted, and with 65 after the timeout.",
        columns=("port", "accepted", "ofport", "error"),
    ),
}
