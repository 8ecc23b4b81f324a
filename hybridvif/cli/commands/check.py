"""hybridvif check: the drift of plugged ports.

The document:

    command     "check"
    simulated   true if no real host was checked
    in_order    true if no port has drift
    ports       for each port: port, in_order, code and reason (of a refusal by plug; else ""), drift, unchecked
    warnings    sentences: another row of Open vSwitch has the iface-id of a port
    error       only if plug would refuse a port or a bridge is missing (failure.py)

`drift` is a list, empty if the port is in order:

    kind, name  the part
    attribute   null if the whole part is missing or must be deleted
    before      the observed value; "absent" for a missing part
    after       the desired value; "present" for a missing part; "?" if it is unknown
    why, bugs   the reason for an attribute (output/document.py)

`unchecked` lists the inferred fields. It also lists, as "name: attribute", the attributes that were not compared: this
kernel lacks them, or a VM holds the tap open.
"""

from __future__ import annotations

import argparse

from hybridvif.cli.ports import add_port_options, requested_ports

HELP = "print the drift of plugged ports by attribute"
FORMATS = ("text", "json", "yaml", "table", "value")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif check`."""
    add_port_options(parser, several=True)
    parser.epilog = (
        "Omitted options default to the values of the plugged port, and are not checked. "
        "Exits with 3 if there is drift."
    )


def run(args: argparse.Namespace) -> int:
    """Compare each port with its desired state."""
    requests = requested_ports(args)

    from hybridvif.cli.checking import answer_of
    from hybridvif.cli.connection import connected

    with connected(args) as host:
        answer = answer_of(requests, host, reasons=args.verbose > 0)
    return int(args.terminal.write_answer(answer))
