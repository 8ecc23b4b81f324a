"""hybridvif convert: out of the hybrid plug and back, under running VMs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

from hybridvif.cli.options import UsageError, add_dry_run, connected
from hybridvif.cli.ports import (
    PORT_HELP,
    PortRequest,
    add_file_option,
    add_target_options,
    found_ports,
    requested_ports,
)
from hybridvif.cli.terminal import Answer

FORMATS = ("text", "json", "yaml", "table", "value")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif convert`."""
    parser.add_argument("port", nargs="*", metavar="PORT", help=PORT_HELP)
    add_file_option(parser)
    parser.add_argument("--all", action="store_true", help="all ports of this host with a running VM")
    add_target_options(parser)
    add_dry_run(parser)


def run(args: argparse.Namespace) -> Answer:
    """Convert all ports."""
    if args.all and (args.port or args.file):
        raise UsageError("--all stands for all ports; leave PORT and -F out")
    if args.to is None:
        raise UsageError("give the target: --to native, or --to hybrid")
    requests = [] if args.all else requested_ports(args)
    with connected(args, begun=True) as host:
        if args.all:
            from hybridvif.engine.convert import ports_to_convert

            observed = host.observe(None, time.monotonic() + host.settings.deadline)
            requests = [PortRequest(fields={"id": port_id}) for port_id in ports_to_convert(observed, args.to)]
        port_ids = [request.port_id for request in found_ports(requests, host, changes=True)]
        if not args.dry_run:
            with args.terminal.progress("converting", len(port_ids)) as progress:
                return answer_of(port_ids, host, args.to, args.verbose, unfiltered=args.unfiltered, progress=progress)
    from hybridvif.cli.commands.plan import planned

    return planned(args, "convert", requests, detailed=args.detailed_exitcode)


def answer_of(port_ids: Sequence[str], host: Any, to: str, verbose: int = 0, **more: Any) -> Answer:
    """Convert these ports and return the answer. more: as for convert_all()."""
    from hybridvif.cli.output.report import answer_of_reports
    from hybridvif.engine.convert import convert_all

    return answer_of_reports("convert", convert_all(port_ids, host, to, **more), verbose=verbose)
