"""hybridvif unplug.

The document is that of plug (plug.py), with the command "unplug". With --dry-run it is that of `plan unplug` (plan.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hybridvif.cli.ports import add_file_option, requested_ports

if TYPE_CHECKING:
    from hybridvif.cli.terminal import Answer
    from hybridvif.engine.converge import AnyHost

HELP = "unplug ports, and delete all of their devices and rows"
FORMATS = ("text", "json", "yaml", "table", "value")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif unplug`."""
    parser.add_argument("port", nargs="*", metavar="PORT", help="the ports' ids, UUIDs")
    add_file_option(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="write nothing; print the plan, as `hybridvif plan unplug`"
    )
    parser.add_argument("--force", action="store_true", help="even if a running VM uses the port")


def run(args: argparse.Namespace) -> int:
    """Unplug all ports and return the worst exit code."""
    from hybridvif.cli.connection import connected
    from hybridvif.cli.output.progress import progress_bar

    port_ids = [request.port_id for request in requested_ports(args)]
    if args.dry_run:
        from hybridvif.cli.commands import plan
        from hybridvif.cli.planning import PlanRequest

        return plan.run_request(args, PlanRequest("unplug", port_ids=port_ids, force=args.force))
    with connected(args, begun=True) as host, progress_bar("unplugging", len(port_ids), args.terminal) as progress:
        answer = answer_of(port_ids, host, force=args.force, verbose=args.verbose, progress=progress)
    return int(args.terminal.write_answer(answer))


def answer_of(
    port_ids: Sequence[str],
    host: AnyHost,
    *,
    force: bool = False,
    verbose: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Answer:
    """Unplug these ports and return the answer."""
    from hybridvif.cli.output.reporting import answer_of_reports
    from hybridvif.engine.api import unplug_all

    options = {"progress": progress} if progress else {}
    return answer_of_reports("unplug", unplug_all(port_ids, host, force=force, **options), verbose=verbose)
