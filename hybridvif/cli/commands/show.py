"""hybridvif show: the topology of the plugged ports.

The document:

    command     "show"
    simulated   true for a simulated host
    switch      the version of the switch
    bridges     the integration bridges: name and datapath_type (null if the bridge does not exist)
    ports       for each port the keys of `hybridvif list` (list.py), and
                names       the device names: bridge, bridge_end, switch_end, tap, vhost_user
                tag         the VLAN tag, or null
                iface_id    the iface-id, or null
                error       the error of ovs-vswitchd, or ""
                members     the members of the Linux bridge except qvb: name, kind, up, carrier
                drift       as in check.py
                conflict    the reason if plug would refuse the port; else ""
                fix         the command that fixes the port, as a list of arguments; null if it is in order
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybridvif.cli.output.topology import PluggedPort
    from hybridvif.cli.terminal import Answer
    from hybridvif.engine.converge import AnyHost

HELP = "draw the plugged ports of this host"
FORMATS = ("tree", "json", "yaml", "dot")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif show`."""
    parser.add_argument("port", nargs="?", metavar="PORT", help="this port only, by its id")


def run(args: argparse.Namespace) -> int:
    """Print the topology."""
    from hybridvif.cli.connection import connected
    from hybridvif.model.names import names_of

    if args.port is not None:
        names_of(args.port)
    with connected(args) as host:
        answer = answer_of(host, args.port, options=[f"--config-file={name}" for name in args.config_file or ()])
    return int(args.terminal.write_answer(answer, "tree"))


def answer_of(host: AnyHost, port_id: str | None = None, *, options: Sequence[str] = ()) -> Answer:
    """Return the answer for all ports, or for one. options: options to be repeated in a fix."""
    import time

    from hybridvif.cli.output import graphs
    from hybridvif.cli.output.draw import tree
    from hybridvif.cli.output.topology import plugged_ports
    from hybridvif.cli.terminal import Answer
    from hybridvif.model.errors import InvalidInput
    from hybridvif.model.names import names_of

    deadline = time.monotonic() + host.settings.deadline
    seen = host.observe(None if port_id is None else set(names_of(port_id)), deadline)
    ports = plugged_ports(seen)
    if port_id is not None and not ports:
        raise InvalidInput(f"port {port_id} is not plugged here, nothing has its names; see hybridvif list")
    bridges = {name: seen.facts.switches.get(name) for name in host.settings.named_bridges}
    if port_id is not None:
        bridges = {}
    bridges |= {port.row.bridge: seen.facts.switches.get(port.row.bridge) for port in ports if port.row}
    return Answer(
        document={
            "command": "show",
            "simulated": seen.facts.simulated,
            "switch": seen.facts.switch_version,
            "bridges": [{"name": name, "datapath_type": kind} for name, kind in bridges.items()],
            "ports": [shown_document(port, options) for port in ports],
        },
        lines=lambda paint: list(tree(ports, bridges, seen.facts.switch_version, paint, options)),
        drawings={"dot": lambda: graphs.dot(ports)},
        simulated=seen.facts.simulated,
        warnings=[warning for port in ports for warning in port.warnings],
    )


def shown_document(port: PluggedPort, options: Sequence[str]) -> Mapping[str, object]:
    """Convert one port to a document."""
    from hybridvif.cli.checking import drift_of
    from hybridvif.cli.commands.list import port_document
    from hybridvif.cli.output.topology import fix_of

    members = [(name, port.link(name)) for name in port.members]
    return {
        **port_document(port),
        "names": port.names._asdict(),
        "tag": port.fact.tag,
        "iface_id": (port.row.iface_id or None) if port.row else None,
        "error": port.fact.error,
        "members": [
            {"name": name, "kind": fact.kind, "up": fact.up, "carrier": fact.carrier} if fact else {"name": name}
            for name, fact in members
        ],
        "drift": [drift.document for drift in drift_of(port.changes, port.inferred)],
        "conflict": port.conflict,
        "fix": fix_of(port, options),
    }
