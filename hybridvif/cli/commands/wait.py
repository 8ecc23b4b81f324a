"""hybridvif wait: wait until ovs-vswitchd has accepted ports that are committed in OVSDB."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hybridvif.cli.infer import row_of
from hybridvif.cli.options import ROWS, Command, argument, connected, seconds
from hybridvif.cli.output.report import answer_about
from hybridvif.cli.ports import PORTS, found_ids, requested_ports
from hybridvif.cli.terminal import Answer
from hybridvif.engine.any_host import AnyHost
from hybridvif.model.errors import InvalidInput
from hybridvif.model.names import names_of
from hybridvif.model.parts import OvsPort
from hybridvif.model.report import Report, Result, Status
from hybridvif.model.settings import MAX_NAMES
from hybridvif.model.state import Observed, PortFact

TIMEOUT = 30.0
PAUSE = 0.1
"""Seconds between two observations."""
REMEDY = "hybridvif trace {port}: it shows why ovs-vswitchd has not accepted it"
LAST = 10.0
"""Seconds for the last observation, beyond the timeout."""


def run(args: argparse.Namespace) -> Answer:
    """Wait for the ports."""
    requests = requested_ports(args)
    with connected(args) as host:
        return answer_of(found_ids(requests, host, exist=True), host, args.timeout)


def answer_of(port_ids: Sequence[str], host: AnyHost, timeout: float = TIMEOUT) -> Answer:
    """Wait at most timeout seconds. Raises InvalidInput if a port is not in the switch."""
    names = {name for port_id in port_ids for name in names_of(port_id)}
    end = time.monotonic() + timeout
    while True:
        now = time.monotonic()
        deadline = min(now + host.settings.deadline, max(end, now + LAST))
        observed = host.observe(names if len(names) <= MAX_NAMES else None, deadline)
        documents = [_document(port_id, observed) for port_id in port_ids]
        if all(document["accepted"] for document in documents) or time.monotonic() >= end:
            break
        time.sleep(max(0, min(PAUSE, end - time.monotonic())))
    answer = answer_about(
        "wait",
        [_report(document, timeout) for document in documents],
        {"timeout": timeout, "ports": documents},
        lines=lambda paint: (
            f"{document['port']}  "
            + (paint("accepted", "green") if document["accepted"] else paint("not yet accepted", "yellow"))
            for document in documents
        ),
        simulated=observed.facts.simulated,
        rows=documents,
        silent=True,
    )
    # The remedy of a plug is to wait.
    failures = [
        replace(failure, remedy=REMEDY.format(port=failure.report["port"]))
        for failure in answer.failures
        if failure.report
    ]
    return replace(answer, failures=failures)


def _document(port_id: str, observed: Observed) -> Mapping[str, object]:
    names = names_of(port_id)
    row = row_of(observed.state.of(names), names)
    if row is None:
        raise InvalidInput(f"port {port_id} is in no switch here, so nothing can accept it; plug it")
    fact = observed.facts.ports.get(row.name, PortFact())
    accepted = not isinstance(row, OvsPort) or row.realized
    return {"port": port_id, "accepted": accepted, "ofport": fact.ofport, "error": fact.error}


def _report(document: Mapping[str, object], timeout: float) -> Report:
    port_id, error = str(document["port"]), document["error"]
    if document["accepted"]:
        return Report(port_id=port_id, status=Status.DONE)
    reason = f"ovs-vswitchd has not accepted it within {timeout:g} s" + (f" ({error})" if error else "")
    return Report(port_id=port_id, status=Status.CONFIGURED, code=Result.CONFIGURED.value, reason=reason)


_TEXT = f"the longest time to wait (default: {TIMEOUT:g})"
COMMANDS = {
    "wait": Command(
        run,
        ROWS,
        (PORTS, argument("--timeout", metavar="SECONDS", type=seconds, default=TIMEOUT, text=_TEXT)),
        "Exits with 0 when all ports are accepted, and with 65 after the timeout.",
        columns=("port", "accepted", "ofport", "error"),
    )
}
