"""hybridvif repair and adopt: plug plugged ports again, with the fields inferred from their rows and devices.

Repair brings drifted ports back to the values of their own rows. Adopt takes over the ports that os-vif, Nova or a
script has plugged: those without our ownership tags. A wrong value stays wrong. A port with unknown fields is left.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from hybridvif.cli.infer import INFERABLE_FIELDS
from hybridvif.cli.options import DOCUMENT, DRY_RUN, REPORTS, Command, connected, flag, repeated_options
from hybridvif.cli.output.report import answer_of_reports, sentences_about_skipped
from hybridvif.cli.output.topology import Condition, PluggedPort, fix_of, plugged_ports
from hybridvif.cli.ports import FILE, PORTS, found_ids, observe_all, requested_ports
from hybridvif.cli.terminal import Answer
from hybridvif.engine.any_host import AnyHost, SimulatedHost
from hybridvif.engine.converge import plug_all
from hybridvif.model.errors import Refused
from hybridvif.model.parts import Bridge, Veth, VhostUserPort
from hybridvif.model.planner import native_row
from hybridvif.model.port import Port
from hybridvif.model.report import Report, Status
from hybridvif.model.state import HostState, Observed, ownership_tags

TAGS = 3
"""The number of ownership tags of a port: qbr, qvb, qvo."""
BROKEN = (Condition.DRIFT, Condition.HALF, Condition.CONFLICT)
"""The ports of --all. Orphans are deleted by gc."""
Skipped = list[Mapping[str, str]]
"""The skipped ports: the 11 characters of their names, and the reason."""


def run_adopt(args: argparse.Namespace) -> Answer:
    """Adopt all ports."""
    with connected(args) as host:
        return adopt(host, args)


def run_repair(args: argparse.Namespace) -> Answer:
    """Repair the ports."""
    requests = requested_ports(args)
    with connected(args) as host:
        port_ids = None if args.all else found_ids(requests, host, exist=True, changes=True)
        return repair(host, args, port_ids)


def adopt(host: AnyHost, args: argparse.Namespace) -> Answer:
    """Adopt the ports and return the answer."""
    seen = observe_all(host)
    ports, skipped = candidates(seen)
    return _with_skipped(_plug(ports, host, seen, args), "adopt", "adopted", skipped)


def candidates(seen: Observed) -> tuple[list[Port], Skipped]:
    """Return the plugged ports without our ownership tags: the ports to adopt, and the others with their reasons."""
    untagged = [port for port in plugged_ports(seen) if not is_tagged(port.state, port.inferred.port.id)]
    reasons = {port.key: _reason_to_skip(port) for port in untagged}
    ports = [port.inferred.port for port in untagged if not reasons[port.key]]
    return ports, [{"key": key, "reason": reason} for key, reason in reasons.items() if reason]


def is_tagged(state: HostState, port_id: str) -> bool:
    """Return True if every link has our ownership tag. An interrupted adoption has only some of them.

    A converted port has no links, and its row is tagged.
    """
    if native_row(state) is not None:
        return True
    links = [link for link in state.links.values() if isinstance(link, Bridge | Veth)]
    tags = [tag for link in links for tag in ownership_tags(link)]
    return len(tags) == TAGS and set(tags) == {port_id}


def _reason_to_skip(port: PluggedPort) -> str:
    """Return the reason not to adopt a port; "" if there is none."""
    if port.condition is Condition.CONFLICT:
        return port.conflict
    if isinstance(port.row, VhostUserPort):
        return "it is a vhost-user port, without links for ownership tags; plug it instead"
    if port.row is None or port.veth is None:
        return "it is incomplete; plug or unplug it"
    return f"{port.inferred.unknown_text}; plug it with all its options" if port.inferred.unknown else ""


def repair(host: AnyHost, args: argparse.Namespace, port_ids: Collection[str] | None = None) -> Answer:
    """Repair these ports, or with None all that are not in order."""
    seen = observe_all(host)
    chosen = [
        port
        for port in plugged_ports(seen, port_ids=port_ids or ())
        if (port.condition in BROKEN if port_ids is None else port.port_id in port_ids)
    ]
    skipped: Skipped = [
        {"key": port.key, "reason": port.conflict or port.inferred.unknown_text} for port in chosen if not port.port_id
    ]
    known = [port for port in chosen if port.port_id]
    refused = [_refusal(port, repeated_options(args)) for port in known if port.inferred.unknown]
    absent = [port_id for port_id in port_ids or () if port_id not in {port.port_id for port in known}]
    refused += [_refused(port_id, "it is not plugged on this host; see: hybridvif list") for port_id in absent]
    ports = [port.inferred.port for port in known if not port.inferred.unknown]
    answer = _plug(ports, host, seen, args, refused)
    exit_code = answer.exit_code or (Status.REFUSED.exit_code if skipped else 0)
    return replace(_with_skipped(answer, "repair", "repaired", skipped), exit_code=exit_code)


def _refusal(port: PluggedPort, options: Sequence[str]) -> Report:
    """Return the report of a port with unknown fields."""
    port_id, fix = port.inferred.port.id, fix_of(port, options)
    reason = port.conflict if fix is None else f"{port.inferred.unknown_text}; plug it by: {shlex.join(fix)}"
    return _refused(port_id, reason)


def _refused(port_id: str, reason: str) -> Report:
    prefix = f"port {port_id}: "
    reason = f"{prefix}{reason.removeprefix(prefix)}"
    return Report(port_id=port_id, status=Status.REFUSED, code=Refused.code, reason=reason)


def _plug(
    ports: Sequence[Port], host: AnyHost, seen: Observed, args: argparse.Namespace, refused: Sequence[Report] = ()
) -> Answer:
    """Plug ports with inferred fields, or plan it. refused: the reports of other ports of the same command."""
    if not args.dry_run:
        return answer_of_reports("plug", [*plug_all(ports, host), *refused], verbose=args.verbose)
    from hybridvif.cli.commands.plan import answer_of

    left_out = {port.id: INFERABLE_FIELDS for port in ports}
    stage = SimulatedHost(host.settings, seen)
    reports = [*plug_all(ports, stage), *refused]
    return answer_of("plug", reports, stage, left_out, detailed=args.detailed_exitcode, reasons=args.verbose > 0)


def _with_skipped(answer: Answer, command: str, done: str, skipped: Skipped) -> Answer:
    document = {**answer.document, "command": command, "skipped": skipped}
    return replace(answer, document=document, warnings=sentences_about_skipped(done, skipped))


_ALL = flag("--all", "all ports of this host that are not in order")
COMMANDS = {
    "adopt": Command(run_adopt, DOCUMENT, DRY_RUN, writes=True),
    "repair": Command(run_repair, arguments=(PORTS, FILE, _ALL, *DRY_RUN), **REPORTS),
}
