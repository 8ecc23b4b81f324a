"""hybridvif export: the plugged ports of this host, as a file for -F.

A port is described by its rows and devices. A port is left out if they do not show all of its fields: a file with an
assumed value would plug another port.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import replace

from hybridvif.cli.options import connected
from hybridvif.cli.output.report import DIFFERENCES
from hybridvif.cli.output.topology import PluggedPort, plugged_ports
from hybridvif.cli.ports import PORT_HELP, entry_of, found_ids
from hybridvif.cli.terminal import Answer
from hybridvif.engine.any_host import AnyHost
from hybridvif.model.names import DATAPATH_TYPES, is_trunk_bridge
from hybridvif.model.parts import DEAD_VLAN, NativePort
from hybridvif.model.port import Port
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed

FORMATS = ("text", "json", "yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif export`."""
    parser.add_argument("port", nargs="*", metavar="PORT", help=f"these ports only; {PORT_HELP}")
    parser.epilog = "Exits with 3 if a port cannot be described. It is left out, and named on stderr."


def run(args: argparse.Namespace) -> Answer:
    """Describe the ports. The text is a list in JSON, as -F takes it."""
    with connected(args) as host:
        return answer_of(host, found_ids(args.port, host, exist=True))


def answer_of(host: AnyHost, port_ids: Collection[str] = ()) -> Answer:
    """Return the answer for these ports, or for all. Ports that cannot be described are left out with a warning."""
    seen = host.observe(None, time.monotonic() + host.settings.deadline)
    entries, skipped = exported(seen, host.settings, port_ids)
    return Answer(
        document={
            "command": "export",
            "simulated": seen.facts.simulated,
            "ports": entries,
            "skipped": [{"key": key, "reason": reason} for key, reason in skipped.items()],
        },
        drawings={"text": lambda: f"{json.dumps(entries, indent=2)}\n"},
        simulated=seen.facts.simulated,
        warnings=[f"not exported: {key}...: {reason}" for key, reason in skipped.items()],
        exit_code=DIFFERENCES if skipped else 0,
    )


def exported(
    seen: Observed, settings: Settings, port_ids: Collection[str] = ()
) -> tuple[list[Mapping[str, object]], Mapping[str, str]]:
    """Return the fields of each port, and the reasons to leave others out by key. port_ids: these only; (): all."""
    entries: list[Mapping[str, object]] = []
    skipped: dict[str, str] = {}
    for port in plugged_ports(seen, port_ids=port_ids):
        if port_ids and port.port_id not in port_ids:
            continue
        if reason := port.conflict or (port.inferred.unknown_text if port.inferred.unknown else ""):
            skipped[port.key] = reason
        else:
            creates_bridge = port.row is not None and settings.creates(port.row.bridge)
            entries.append(entry_of(_port_of(port, creates_bridge=creates_bridge)))
    return entries, skipped


def _port_of(port: PluggedPort, *, creates_bridge: bool) -> Port:
    """Return the port to plug again. A bridge that plug may have to create has its datapath type."""
    row, bridge, inferred = port.row, port.bridge, port.inferred.port
    if bridge is not None and bridge.nf_call_iptables and bridge.nf_call_ip6tables:
        inferred = replace(inferred, call_iptables=True)
    if row is None:
        return inferred
    datapath = port.facts.switches.get(row.bridge, "")
    return replace(
        inferred,
        isolate=port.fact.tag == DEAD_VLAN and not is_trunk_bridge(row.bridge),
        datapath_type=datapath if creates_bridge and datapath in DATAPATH_TYPES else "",
        mtu=port.mtu if isinstance(row, NativePort) and port.mtu else inferred.mtu,
    )
