"""hybridvif gc: delete orphans."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hybridvif.cli.options import add_dry_run, connected, seconds
from hybridvif.cli.output.report import answer_about, result_text
from hybridvif.cli.terminal import Answer, Paint

if TYPE_CHECKING:
    # It imports oslo.concurrency, which a command line does not need before it is parsed.
    from hybridvif.engine.any_host import NotingHost
    from hybridvif.engine.host_wide import CollectedOrphan

FORMATS = ("text", "json", "yaml", "table", "value")
COLUMNS = ("port", "parts", "seconds", "due", "status")
OLDER_THAN = 3600.0
"""A copy of the default of engine/host_wide.py."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif gc`."""
    parser.add_argument(
        "--older-than",
        metavar="SECONDS",
        type=seconds,
        default=OLDER_THAN,
        help=f"minimum time since an orphan was first seen (default: {OLDER_THAN:g})",
    )
    add_dry_run(parser, "delete nothing; exit with 3 if there are orphans")
    parser.add_argument(
        "--unmarked", action="store_true", help="also delete rows without devices that os-vif may have created"
    )


def run(args: argparse.Namespace) -> Answer:
    """Delete the orphans that are old enough."""
    with connected(args) as host:
        return answer_of(host, older_than=args.older_than, dry_run=args.dry_run, unmarked=args.unmarked)


def answer_of(
    host: NotingHost, *, older_than: float = OLDER_THAN, dry_run: bool = False, unmarked: bool = False
) -> Answer:
    """Collect the orphans and return the answer."""
    from hybridvif.engine.host_wide import gc, parts_of

    collected = gc(host, older_than=older_than, dry_run=dry_run, unmarked=unmarked)
    documents, rows = [], []
    for orphan in collected:
        parts, report = parts_of(orphan.remain), orphan.report
        document: dict[str, object] = {
            "port": orphan.remain.port_id,
            "parts": [{"kind": part.kind, "name": part.name} for part in parts],
            "is_tagged": orphan.remain.is_tagged,
            "seconds": int(orphan.seconds),
            "due": orphan.due,
            "report": report.document if report else None,
        }
        documents.append(document)
        names = ",".join(part.name for part in parts)
        rows.append({**document, "parts": names, "status": report.status.value if report else "left"})
    return answer_about(
        "gc",
        [orphan.report for orphan in collected if orphan.report],
        {"dry_run": dry_run, "older_than": older_than, "remains": documents},
        differences=dry_run and bool(collected),
        simulated=host.settings.link_executor == "recording",
        lines=lambda paint: _lines(collected, older_than, paint, dry_run=dry_run),
        columns=COLUMNS,
        rows=rows,
        silent=not dry_run,
    )


def _lines(collected: Sequence[CollectedOrphan], older_than: float, paint: Paint, *, dry_run: bool) -> Iterator[str]:
    from hybridvif.engine.host_wide import parts_of

    for orphan in collected:
        report = orphan.report
        if report is not None:
            result = ("removed", "green") if report.ok else (result_text("unplug", report), "red")
        elif orphan.due:
            result = "would be removed", "yellow"
        else:
            result = f"left, noted {int(orphan.seconds)} s ago, removed from {older_than:g} s on", "yellow"
        yield f"{orphan.remain.port_id}  {paint(*result)}: {', '.join(part.name for part in parts_of(orphan.remain))}"
    if not collected:
        yield "No remains."
    elif not dry_run and not any(orphan.report for orphan in collected):
        yield "Nothing is due; the same command later removes what is still there."
