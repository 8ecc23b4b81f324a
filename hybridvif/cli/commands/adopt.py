"""hybridvif adopt: take over running ports that os-vif, Nova or a script has plugged.

A port is adopted by a plug with the fields inferred from its row and links. A wrong value stays wrong. Ports with
our ownership tags are skipped. Ports with unknown fields are skipped too, and reported on stderr.

The document is that of `hybridvif plug`, with --dry-run that of `hybridvif plan plug`, with one more key:

    skipped     for each port: key (the 11 characters in the device names) and reason
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hybridvif.cli.infer import INFERABLE_FIELDS
from hybridvif.model.parts import Bridge, Veth
from hybridvif.model.state import HostState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hybridvif.cli.output.topology import PluggedPort
    from hybridvif.cli.terminal import Answer
    from hybridvif.engine.converge import AnyHost
    from hybridvif.model.port import Port
    from hybridvif.model.state import Observed

MARKS = 3
"""The number of ownership tags of a port: qbr, qvb, qvo."""
HELP = "take over running ports plugged by another tool"
FORMATS = ("text", "json", "yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif adopt`."""
    parser.add_argument("--dry-run", action="store_true", help="write nothing; print the plan")


def run(args: argparse.Namespace) -> int:
    """Adopt all ports and return the worst exit code."""
    from hybridvif.cli.connection import connected

    with connected(args) as host:
        answer, skipped = answer_of(host, dry_run=args.dry_run, verbose=args.verbose)
    for port in skipped:
        args.terminal.write_note(f"not adopted: {port['key']}...: {port['reason']}", "yellow")
    return int(args.terminal.write_answer(answer))


def answer_of(host: AnyHost, *, dry_run: bool, verbose: int = 0) -> tuple[Answer, list[Mapping[str, str]]]:
    """Adopt the ports. Return the answer and the skipped ports."""
    import time

    from hybridvif.cli import planning
    from hybridvif.cli.commands import plug
    from hybridvif.engine.simulated_host import SimulatedHost

    seen = host.observe(None, time.monotonic() + host.settings.deadline)
    found = candidates(seen)
    if dry_run:
        request = planning.PlanRequest(
            "plug", found.ports, left_out={port.id: INFERABLE_FIELDS for port in found.ports}
        )
        answer = planning.answer_of(request, SimulatedHost(host.settings, seen), reasons=verbose > 0)
    else:
        answer = plug.answer_of(found.ports, host, verbose=verbose)
    return replace(answer, document={**answer.document, "command": "adopt", "skipped": found.skipped}), found.skipped


@dataclass(frozen=True)
class Candidates:
    """The ports to adopt, and the skipped ports with their reasons."""

    ports: Sequence[Port]
    skipped: list[Mapping[str, str]]


def candidates(seen: Observed) -> Candidates:
    """Return the plugged ports without our ownership tags."""
    from hybridvif.cli.output.topology import plugged_ports

    ports: list[Port] = []
    skipped: list[Mapping[str, str]] = []
    for port in plugged_ports(seen):
        if is_tagged(port.state, port.inferred.port.id):
            continue
        reason = "; ".join(_skip_reasons(port))
        if reason:
            skipped.append({"key": port.key, "reason": reason})
        else:
            ports.append(port.inferred.port)
    return Candidates(ports, skipped)


def is_tagged(state: HostState, port_id: str) -> bool:
    """Return True if every link has our ownership tag. An interrupted adoption has only some of them."""
    marks: list[str] = []
    for link in state.links.values():
        match link:
            case Bridge(alias=alias):
                marks.append(alias)
            case Veth(alias=alias, peer_alias=peer_alias):
                marks += [alias, peer_alias]
    return len(marks) == MARKS and set(marks) == {port_id}


def _skip_reasons(port: PluggedPort) -> Iterator[str]:
    from hybridvif.cli.output.topology import Condition

    if port.condition is Condition.CONFLICT:
        yield port.conflict
    elif port.is_vhost_user:
        yield "it is a vhost-user port, without links for ownership tags; plug it instead"
    elif port.row is None or port.veth is None:
        yield "it is incomplete; plug or unplug it"
    elif port.inferred.unknown:
        yield f"its {' and '.join(port.inferred.unknown)} cannot be inferred; plug it with all its options"
