"""hybridvif plug.

The document:

    command     "plug"
    simulated   true if no real host was changed
    ports       a report for each port, in the order of the command line (output/document.py)
    summary     the number of ports by status: {"done": 2, "refused": 1}
    error       only if a port failed: the worst failure (failure.py)

With --dry-run, the document is that of `hybridvif plan plug` (plan.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hybridvif.cli.ports import add_port_options, requested_ports

if TYPE_CHECKING:
    from hybridvif.cli.terminal import Answer
    from hybridvif.engine.converge import AnyHost
    from hybridvif.model.port import Port

HELP = "plug ports, and roll back each port that fails"
FORMATS = ("text", "json", "yaml", "table", "value")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif plug`."""
    add_port_options(parser, several=False)
    parser.add_argument(
        "--dry-run", action="store_true", help="write nothing; print the plan, as `hybridvif plan plug`"
    )


def run(args: argparse.Namespace) -> int:
    """Plug all ports and return the worst exit code."""
    from hybridvif.cli.connection import connected
    from hybridvif.cli.output.progress import progress_bar

    ports = [request.to_port() for request in requested_ports(args)]
    if args.dry_run:
        from hybridvif.cli.commands import plan
        from hybridvif.cli.planning import PlanRequest

        return plan.run_request(args, PlanRequest("plug", ports))
    with connected(args, begun=True) as host, progress_bar("plugging", len(ports), args.terminal) as progress:
        answer = answer_of(ports, host, verbose=args.verbose, progress=progress)
    return int(args.terminal.write_answer(answer))


def answer_of(
    ports: Sequence[Port], host: AnyHost, *, verbose: int = 0, progress: Callable[[int, int], None] | None = None
) -> Answer:
    """Plug these ports and return the answer."""
    from hybridvif.cli.output.reporting import answer_of_reports
    from hybridvif.engine.api import plug_all

    options = {"progress": progress} if progress else {}
    return answer_of_reports("plug", plug_all(ports, host, **options), verbose=verbose)
