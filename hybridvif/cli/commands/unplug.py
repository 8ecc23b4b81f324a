"""hybridvif unplug."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from hybridvif.cli.connection import connected
from hybridvif.cli.ports import add_file_option, requested_ports
from hybridvif.cli.terminal import Answer
from hybridvif.engine.converge import AnyHost

FORMATS = ("text", "json", "yaml", "table", "value")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif unplug`."""
    parser.add_argument("port", nargs="*", metavar="PORT", help="the ports' ids, UUIDs")
    add_file_option(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="write nothing; print the plan, as `hybridvif plan unplug`"
    )
    parser.add_argument("--force", action="store_true", help="even if a running VM uses the port")


def run(args: argparse.Namespace) -> Answer:
    """Unplug all ports."""
    requests = requested_ports(args)
    if args.dry_run:
        from hybridvif.cli.commands.plan import planned

        return planned(args, "unplug", requests)
    port_ids = [request.port_id for request in requests]
    with connected(args, begun=True) as host, args.terminal.progress("unplugging", len(port_ids)) as progress:
        return answer_of(port_ids, host, force=args.force, verbose=args.verbose, progress=progress)


def answer_of(
    port_ids: Sequence[str], host: AnyHost, *, force: bool = False, verbose: int = 0, **progress: Any
) -> Answer:
    """Unplug these ports and return the answer. progress: as for unplug_all()."""
    # While the daemon starts.
    from hybridvif.cli.output.report import answer_of_reports
    from hybridvif.engine.converge import unplug_all

    return answer_of_reports("unplug", unplug_all(port_ids, host, force=force, **progress), verbose=verbose)
