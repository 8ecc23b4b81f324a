"""hybridvif gc: delete orphans.

The document:

    command     "gc"
    dry_run     true if nothing was deleted
    simulated   true for a simulated host
    older_than  the minimum age of an orphan in seconds
    remains     for each orphan:
                port        the port id
                parts       its parts: kind, name
                is_tagged   true if it has our ownership tag; else os-vif may have created it
                seconds     the time since it was first seen
                due         true if it is old enough
                report      the report of its deletion (output/document.py); null if it was kept
    error       only if a deletion failed: the worst failure (failure.py)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybridvif.cli.terminal import Answer, Paint
    from hybridvif.engine.host_wide import CollectedOrphan, NotingHost

HELP = "delete orphaned devices and rows that were first seen some time ago"
FORMATS = ("text", "json", "yaml", "table", "value")
COLUMNS = ("port", "parts", "seconds", "due", "status")
OLDER_THAN = 3600.0
"""A copy of the default of engine/host_wide.py, which is not imported to parse a command line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif gc`."""
    parser.add_argument(
        "--older-than",
        metavar="SECONDS",
        type=_seconds,
        default=OLDER_THAN,
        help=f"minimum time since an orphan was first seen (default: {OLDER_THAN:g})",
    )
    parser.add_argument("--dry-run", action="store_true", help="delete nothing; exit with 3 if there are orphans")
    parser.add_argument(
        "--unmarked", action="store_true", help="also delete rows without devices that os-vif may have created"
    )


def run(args: argparse.Namespace) -> int:
    """Delete the orphans that are old enough and return the worst exit code."""
    from hybridvif.cli.connection import connected

    with connected(args) as host:
        answer = answer_of(host, older_than=args.older_than, dry_run=args.dry_run, unmarked=args.unmarked)
    return int(args.terminal.write_answer(answer))


def answer_of(
    host: NotingHost, *, older_than: float = OLDER_THAN, dry_run: bool = False, unmarked: bool = False
) -> Answer:
    """Collect the orphans and return the answer."""
    from hybridvif.cli.failure import error_of, failure_of_report
    from hybridvif.cli.planning import DIFFERENCES
    from hybridvif.cli.terminal import Answer
    from hybridvif.engine.host_wide import gc
    from hybridvif.model.report import worst_exit_code

    collected = gc(host, older_than=older_than, dry_run=dry_run, unmarked=unmarked)
    reports = [orphan.report for orphan in collected if orphan.report]
    failures = [failure_of_report(report) for report in reports if not report.ok]
    exit_code = DIFFERENCES if dry_run and collected else worst_exit_code(reports)
    simulated = host.settings.link_executor == "recording"
    documents = [_document(orphan) for orphan in collected]
    return Answer(
        document={
            "command": "gc",
            "dry_run": dry_run,
            "simulated": simulated,
            "older_than": older_than,
            "remains": documents,
            **error_of(failures, exit_code),
        },
        lines=lambda paint: list(_lines(collected, older_than, paint, dry_run=dry_run)),
        columns=COLUMNS,
        rows=[
            {**document, "parts": ",".join(_names(orphan)), "status": _status(orphan)}
            for orphan, document in zip(collected, documents, strict=True)
        ],
        simulated=simulated,
        failures=failures,
        exit_code=exit_code,
        silent=not dry_run,
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; give 0 or more")
    return seconds


def _names(orphan: CollectedOrphan) -> list[str]:
    from hybridvif.engine.host_wide import parts_of

    return [part.name for part in parts_of(orphan.remain)]


def _status(orphan: CollectedOrphan) -> str:
    return orphan.report.status.value if orphan.report else "left"


def _document(orphan: CollectedOrphan) -> Mapping[str, object]:
    from hybridvif.cli.output.document import report_document
    from hybridvif.engine.host_wide import parts_of

    return {
        "port": orphan.remain.port_id,
        "parts": [{"kind": part.kind, "name": part.name} for part in parts_of(orphan.remain)],
        "is_tagged": orphan.remain.is_tagged,
        "seconds": int(orphan.seconds),
        "due": orphan.due,
        "report": report_document(orphan.report) if orphan.report else None,
    }


def _lines(collected: Sequence[CollectedOrphan], older_than: float, paint: Paint, *, dry_run: bool) -> Iterator[str]:
    from hybridvif.cli.output.reporting import result_text

    for orphan in collected:
        parts = ", ".join(_names(orphan))
        if orphan.report is not None:
            end = "removed" if orphan.report.ok else result_text("unplug", orphan.report)
            yield f"{orphan.remain.port_id}  {paint(end, 'green' if orphan.report.ok else 'red')}: {parts}"
        elif orphan.due:
            yield f"{orphan.remain.port_id}  {paint('would be removed', 'yellow')}: {parts}"
        else:
            text = f"left, noted {int(orphan.seconds)} s ago, removed from {older_than:g} s on"
            yield f"{orphan.remain.port_id}  {paint(text, 'yellow')}: {parts}"
    if not collected:
        yield "No remains."
    elif not dry_run and not any(orphan.report for orphan in collected):
        yield "Nothing is due; the same command later removes what is still there."
