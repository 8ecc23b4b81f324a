"""hybridvif list: the plugged ports, one per line.

The document:

    command     "list"
    simulated   true for a simulated host
    ports       for each port:
                port    the id; null if it is unknown
                key     the 11 characters in the device names
                bridge, ofport, mac, mtu    null if they do not exist
                state   in-order, drift, half, orphan or conflict (output/topology.py)
    warnings    sentences: another row of Open vSwitch has the iface-id of a port
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybridvif.cli.output.topology import PluggedPort
    from hybridvif.cli.terminal import Answer
    from hybridvif.engine.converge import AnyHost

HELP = "list the plugged ports, one per line"
FORMATS = ("table", "json", "yaml", "value")
COLUMNS = ("port", "bridge", "ofport", "mac", "mtu", "state")
STATES = ("in-order", "drift", "half", "orphan", "conflict")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif list`."""
    parser.add_argument("--state", choices=STATES, action="append", help="only ports in this state; may be repeated")


def run(args: argparse.Namespace) -> int:
    """Print the ports."""
    from hybridvif.cli.connection import connected

    with connected(args) as host:
        answer = answer_of(host, args.state or STATES)
    return int(args.terminal.write_answer(answer, "table"))


def answer_of(host: AnyHost, states: tuple[str, ...] | list[str] = STATES) -> Answer:
    """Return the answer for the ports in these states."""
    import time

    from hybridvif.cli.output.topology import plugged_ports
    from hybridvif.cli.terminal import Answer

    seen = host.observe(None, time.monotonic() + host.settings.deadline)
    shown = [port for port in plugged_ports(seen) if port.condition.value in states]
    ports = [port_document(port) for port in shown]
    warnings = [warning for port in shown for warning in port.warnings]
    return Answer(
        document={"command": "list", "simulated": seen.facts.simulated, "ports": ports, "warnings": warnings},
        lines=lambda _: [],
        columns=COLUMNS,
        rows=[{**port, "port": port["port"] or f"{port['key']}..."} for port in ports],
        simulated=seen.facts.simulated,
        warnings=warnings,
    )


def port_document(port: PluggedPort) -> Mapping[str, object]:
    """Convert one port to a document."""
    return {
        "port": port.port_id,
        "key": port.key,
        "bridge": port.row.bridge if port.row else None,
        "ofport": port.fact.ofport,
        "mac": (port.row.attached_mac or None) if port.row else None,
        "mtu": port.mtu,
        "state": port.condition.value,
    }
