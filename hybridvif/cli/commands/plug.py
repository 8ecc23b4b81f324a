"""hybridvif plug."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from hybridvif.cli.connection import connected
from hybridvif.cli.ports import add_port_options, requested_ports
from hybridvif.cli.terminal import Answer
from hybridvif.engine.converge import AnyHost
from hybridvif.model.port import Port

FORMATS = ("text", "json", "yaml", "table", "value")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif plug`."""
    add_port_options(parser, several=False)
    parser.add_argument(
        "--dry-run", action="store_true", help="write nothing; print the plan, as `hybridvif plan plug`"
    )


def run(args: argparse.Namespace) -> Answer:
    """Plug all ports."""
    requests = requested_ports(args)
    ports = [request.to_port() for request in requests]
    if args.dry_run:
        from hybridvif.cli.commands.plan import planned

        return planned(args, "plug", requests)
    with connected(args, begun=True) as host, args.terminal.progress("plugging", len(ports)) as progress:
        return answer_of(ports, host, verbose=args.verbose, progress=progress)


def answer_of(ports: Sequence[Port], host: AnyHost, *, verbose: int = 0, **progress: Any) -> Answer:
    """Plug these ports and return the answer. progress: as for plug_all()."""
    # While the daemon starts.
    from hybridvif.cli.output.report import answer_of_reports
    from hybridvif.engine.converge import plug_all

    return answer_of_reports("plug", plug_all(ports, host, **progress), verbose=verbose)
