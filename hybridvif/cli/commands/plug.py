"""hybridvif plug, unplug and convert: one call of the engine for all ports, with one report for each."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hybridvif.cli.options import DRY_RUN, REPORTS, Command, UsageError, argument, connected, flag
from hybridvif.cli.ports import FILE, PORT_HELP, PORT_OPTIONS, PORTS, TARGET, PortRequest, found_ports, requested_ports
from hybridvif.cli.terminal import Answer, enveloped
from hybridvif.model.errors import InvalidInput
from hybridvif.spans import OWN, Span, collecting, span

if TYPE_CHECKING:
    from hybridvif.engine.any_host import FilteringHost
    from hybridvif.engine.converge import Progress
    from hybridvif.model.port import Port
    from hybridvif.model.report import Report

_DOING = {"plug": "plugging", "unplug": "unplugging", "convert": "converting"}
_CLIENT, _DAEMON = 1, 2
"""The numbers of the tracks. Their process ids may be equal, because the daemon may have its own pid namespace."""


def run(args: argparse.Namespace) -> Answer:
    """Plug, unplug or convert all ports."""
    command, requests = args.command, requested_ports(args)
    if command == "convert" and args.to is None:
        raise UsageError("give the target: --to native, or --to hybrid")
    for request in requests if command == "plug" else ():
        request.require_all()
    if args.dry_run:
        from hybridvif.cli.commands.plan import planned

        return planned(args, command, requests)
    with traced(args), connected(args) as host:
        host.begin()
        # Imported while the daemon starts.
        from hybridvif.cli.output.report import answer_of_reports

        requests = chosen_ports(args, requests, host)
        ports = [request.to_port() for request in requests] if command == "plug" else []
        port_ids = [request.port_id for request in requests]
        with args.terminal.progress(_DOING[command], len(requests)) as progress:
            reports = reports_of(command, ports, port_ids, host, args, progress)
        return answer_of_reports(command, reports, verbose=args.verbose)


def chosen_ports(
    args: argparse.Namespace, requests: Sequence[PortRequest], host: FilteringHost, *, exist: bool = False
) -> list[PortRequest]:
    """Return the requests with the port ids of all names; with --all, those of the ports that can be converted."""
    if getattr(args, "all", False):
        from hybridvif.cli.ports import observe_all
        from hybridvif.engine.convert import ports_to_convert

        return [PortRequest(fields={"id": port_id}) for port_id in ports_to_convert(observe_all(host), args.to)]
    return found_ports(requests, host, single=args.command == "plug", exist=exist, changes=True)


def reports_of(
    goal: str,
    ports: Sequence[Port],
    port_ids: Sequence[str],
    host: FilteringHost,
    args: argparse.Namespace,
    progress: Progress | None = None,
) -> list[Report]:
    """Plug these ports, or unplug or convert those of these ids, on a real or a simulated host."""
    from hybridvif.engine.converge import ignore_progress, plug_all, unplug_all

    progress = progress or ignore_progress
    if goal == "plug":
        return plug_all(ports, host, progress=progress)
    if goal == "unplug":
        return unplug_all(port_ids, host, force=args.force, progress=progress)
    from hybridvif.engine.convert import convert_all

    return convert_all(port_ids, host, args.to, unfiltered=args.unfiltered, progress=progress)


# -- --trace-file ------------------------------------------------------------------------------------------------------

# One call as trace events of Chrome, which Perfetto opens, with a track for each process. The format:
# https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU


@contextmanager
def traced(args: argparse.Namespace) -> Iterator[None]:
    """Write the trace of a command to the file of --trace-file, also if the command fails.

    Raises InvalidInput before the start if the file cannot be written. A full disk is a warning: the work is done.
    """
    path: str | None = getattr(args, "trace_file", None)
    if path is None:
        yield
        return
    try:
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115  # closed below
    except OSError as error:
        raise InvalidInput(f"--trace-file {path}: {error.strerror}; name a file that can be written") from error
    with collecting() as spans:
        try:
            with span(args.command):
                yield
        finally:
            try:
                with file:
                    json.dump(trace_document(args.command, spans), file)
            except OSError as error:
                args.terminal.write_note(f"warning: --trace-file {path}: {error.strerror}", "yellow")


def trace_document(command: str, spans: Mapping[int, Sequence[Span]]) -> Mapping[str, object]:
    """Return the trace of these spans."""
    begin = min(start for own in spans.values() for _, start, _ in own)
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": process, "tid": 0, "args": {"name": f"hybridvif {name}"}}
        for process, name in ((_CLIENT, "client"), (_DAEMON, "daemon"))
    ]
    events += [
        {
            "name": name,
            "cat": "hybridvif",
            "ph": "X",
            "ts": round((start - begin) * 1e6, 1),
            "dur": round((end - start) * 1e6, 1),
            "pid": _CLIENT if thread == OWN else _DAEMON,
            "tid": thread or os.getpid(),
        }
        for thread, own in spans.items()
        for name, start, end in own
    ]
    # Perfetto ignores all that follows an unknown key, so the events come first.
    return {"traceEvents": events, "displayTimeUnit": "ms", **enveloped({}, command)}


_TRACE = "write a trace of this call, of client and daemon, for Perfetto (chrome://tracing)"
_TRACE_FILE = argument("--trace-file", metavar="FILE", text=_TRACE)
_ONE_PORT = argument("port", nargs="?", metavar="PORT", text=PORT_HELP)
_FORCE = flag("--force", "even if a running VM uses the port")
_ALL = flag("--all", "all ports of this host with a running VM")
COMMANDS = {
    "plug": Command(run, arguments=(_ONE_PORT, *PORT_OPTIONS, FILE, _TRACE_FILE, *DRY_RUN), **REPORTS),
    "unplug": Command(run, arguments=(PORTS, FILE, _TRACE_FILE, *DRY_RUN, _FORCE), **REPORTS),
    "convert": Command(run, arguments=(PORTS, FILE, _ALL, *TARGET, *DRY_RUN), **REPORTS),
}
