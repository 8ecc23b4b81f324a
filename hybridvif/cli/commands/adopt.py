"""hybridvif adopt: take over running ports that os-vif, Nova or a script has plugged.

A port is adopted by a plug with the fields inferred from its row and links. A wrong value stays wrong. Ports with
our ownership tags are skipped. Ports with unknown fields are skipped too, and reported on stderr.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace

from hybridvif.cli.options import add_dry_run, connected
from hybridvif.cli.output.topology import Condition, PluggedPort, plugged_ports
from hybridvif.cli.terminal import Answer
from hybridvif.engine.any_host import AnyHost
from hybridvif.model.parts import Bridge, Veth, VhostUserPort
from hybridvif.model.planner import native_row
from hybridvif.model.port import Port
from hybridvif.model.state import HostState, Observed, ownership_tags

TAGS = 3
"""The number of ownership tags of a port: qbr, qvb, qvo."""
FORMATS = ("text", "json", "yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif adopt`."""
    add_dry_run(parser)


def run(args: argparse.Namespace) -> Answer:
    """Adopt all ports."""
    with connected(args) as host:
        answer, skipped = answer_of(host, dry_run=args.dry_run, detailed=args.detailed_exitcode, verbose=args.verbose)
    for port in skipped:
        args.terminal.write_note(f"not adopted: {port['key']}...: {port['reason']}", "yellow")
    return answer


def answer_of(
    host: AnyHost, *, dry_run: bool, detailed: bool = False, verbose: int = 0
) -> tuple[Answer, list[Mapping[str, str]]]:
    """Adopt the ports. Return the answer and the skipped ports."""
    seen = host.observe(None, time.monotonic() + host.settings.deadline)
    ports, skipped = candidates(seen)
    from hybridvif.cli.commands.plan import plug_inferred

    answer = plug_inferred(ports, host, seen, dry_run=dry_run, detailed=detailed, verbose=verbose)
    return replace(answer, document={**answer.document, "command": "adopt", "skipped": skipped}), skipped


def candidates(seen: Observed) -> tuple[list[Port], list[Mapping[str, str]]]:
    """Return the plugged ports without our ownership tags: the ports to adopt, and the others with their reasons."""
    ports: list[Port] = []
    skipped: list[Mapping[str, str]] = []
    for port in plugged_ports(seen):
        if is_tagged(port.state, port.inferred.port.id):
            continue
        if reason := _skip_reason(port):
            skipped.append({"key": port.key, "reason": reason})
        else:
            ports.append(port.inferred.port)
    return ports, skipped


def is_tagged(state: HostState, port_id: str) -> bool:
    """Return True if every link has our ownership tag. An interrupted adoption has only some of them.

    A converted port has no links, and its row is tagged.
    """
    if native_row(state) is not None:
        return True
    links = [link for link in state.links.values() if isinstance(link, Bridge | Veth)]
    tags = [tag for link in links for tag in ownership_tags(link)]
    return len(tags) == TAGS and set(tags) == {port_id}


def _skip_reason(port: PluggedPort) -> str:
    """Return the reason not to adopt a port; "" if there is none."""
    if port.condition is Condition.CONFLICT:
        return port.conflict
    if isinstance(port.row, VhostUserPort):
        return "it is a vhost-user port, without links for ownership tags; plug it instead"
    if port.row is None or port.veth is None:
        return "it is incomplete; plug or unplug it"
    return f"{port.inferred.unknown_text}; plug it with all its options" if port.inferred.unknown else ""
