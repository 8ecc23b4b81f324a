"""hybridvif list: the plugged ports, one per line."""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection

from hybridvif.cli.options import connected
from hybridvif.cli.output.topology import Condition, plugged_ports
from hybridvif.cli.terminal import Answer
from hybridvif.engine.converge import AnyHost

FORMATS = ("table", "json", "yaml", "value")
COLUMNS = ("port", "bridge", "ofport", "mac", "mtu", "state")
STATES = tuple(condition.value for condition in Condition)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif list`."""
    parser.add_argument("--state", choices=STATES, action="append", help="only ports in this state; may be repeated")


def run(args: argparse.Namespace) -> Answer:
    """List the ports."""
    with connected(args) as host:
        return answer_of(host, args.state or STATES)


def answer_of(host: AnyHost, states: Collection[str] = STATES) -> Answer:
    """Return the answer for the ports in these states."""
    seen = host.observe(None, time.monotonic() + host.settings.deadline)
    shown = [port for port in plugged_ports(seen) if port.condition.value in states]
    ports = [port.document for port in shown]
    warnings = [warning for port in shown for warning in port.warnings]
    return Answer(
        document={"command": "list", "simulated": seen.facts.simulated, "ports": ports, "warnings": warnings},
        columns=COLUMNS,
        rows=[{**port, "port": port["port"] or f"{port['key']}..."} for port in ports],
        simulated=seen.facts.simulated,
        warnings=warnings,
    )
