"""hybridvif check: what plug would change of ports that are there.

Its document:

    command     "check"
    simulated   true: it is no real host that was checked
    in_order    whether all ports are in order, as far as checked
    ports       each: port, in_order, code and reason (why plug would refuse it; else ""), drift, unchecked
    warnings    sentences: another row of Open vSwitch bears the iface-id of a port
    error       only if plug would refuse a port, or a bridge is missing (failure.py)

`drift` is a list, empty if the port is in order:

    kind, name  of the part
    attribute   null where the part as a whole is missing (or should be)
    before      its value; "absent" of a missing part
    after       its value to be; "present" of a missing part; "?" if it ought to have one and nobody knows which
    why, bugs   of an attribute, as in documents.py

`unchecked` names the fields that were left out, and so taken from the plugged port itself; and, as "name: attribute",
what this kernel lacks.
"""

from __future__ import annotations

import argparse

from hybridvif.cli.ports import add_port_options, requested_ports

HELP = "the drift of plugged ports, attribute by attribute"
FORMATS = ("text", "json", "yaml", "table", "value")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif check`."""
    add_port_options(parser, several=True)
    parser.epilog = (
        "Whatever is left out is taken from the plugged port itself, and not checked. Exits with 3 if there is drift."
    )


def run(args: argparse.Namespace) -> int:
    """Compare each port with what plug would make of it."""
    requests = requested_ports(args)

    from hybridvif.cli.checking import answer_of
    from hybridvif.cli.connection import connected

    with connected(args) as host:
        answer = answer_of(requests, host, reasons=args.verbose > 0)
    return int(args.terminal.write_answer(answer))
