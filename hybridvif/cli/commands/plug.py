"""hybridvif plug and hybridvif unplug."""

from __future__ import annotations

import argparse

from hybridvif.cli.options import add_dry_run, connected
from hybridvif.cli.output.trace import traced
from hybridvif.cli.ports import PORT_HELP, add_file_option, add_port_options, found_ports, requested_ports
from hybridvif.cli.terminal import Answer

FORMATS = ("text", "json", "yaml", "table", "value")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command that the parser names last in prog."""
    command = parser.prog.split()[-1]
    if command == "plug":
        add_port_options(parser, several=False)
    else:
        parser.add_argument("port", nargs="*", metavar="PORT", help=PORT_HELP)
        add_file_option(parser)
    text = "write a trace of this call, of client and daemon, for Perfetto (chrome://tracing)"
    parser.add_argument("--trace-file", metavar="FILE", help=text)
    add_dry_run(parser, f"write nothing; print the plan, as `hybridvif plan {command}`")
    if command == "unplug":
        parser.add_argument("--force", action="store_true", help="even if a running VM uses the port")


def run(args: argparse.Namespace) -> Answer:
    """Plug or unplug all ports."""
    requests, plugs = requested_ports(args), args.command == "plug"
    for request in requests if plugs else ():
        request.require_all()
    if args.dry_run:
        from hybridvif.cli.commands.plan import planned

        return planned(args, args.command, requests, detailed=args.detailed_exitcode)
    with (
        traced(args),
        connected(args, begun=True) as host,
        args.terminal.progress(f"{args.command}ging", len(requests)) as progress,
    ):
        # While the daemon starts.
        from hybridvif.cli.output.report import answer_of_reports
        from hybridvif.engine.converge import plug_all, unplug_all

        requests = found_ports(requests, host, single=plugs, changes=True)
        if plugs:
            ports = [request.to_port() for request in requests]
            reports = plug_all(ports, host, progress=progress)
        else:
            port_ids = [request.port_id for request in requests]
            reports = unplug_all(port_ids, host, force=args.force, progress=progress)
        return answer_of_reports(args.command, reports, verbose=args.verbose)
