"""hybridvif doctor: every precondition.

Its document:

    command     "doctor"
    ok          whether nothing failed
    findings    each: name; verdict, which is pass, fail or info (of no consequence for plugging); text; and remedy, the
                command that mends it, or ""
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybridvif.cli.finding import Finding
    from hybridvif.cli.screen import Answer, Paint

HELP = "every precondition: pass or fail, why, and the command that mends it"
FORMATS = ("text", "json", "yaml", "table", "value")
COLUMNS = ("name", "verdict", "text", "remedy")
_COLOURS = {"pass": "green", "fail": "red", "info": "dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif doctor`."""
    parser.epilog = "Exits with 0 if nothing fails, with 5 otherwise. Without root it looks at what it may."


def run(args: argparse.Namespace) -> int:
    """Look at everything; nothing is changed."""
    from hybridvif.cli.connection import config_files
    from hybridvif.cli.diagnosis import findings

    return int(args.screen.tell(answer_of(list(findings(config_files(args.config_file))))))


def answer_of(found: Sequence[Finding]) -> Answer:
    """What was found, and 5 if anything fails."""
    from dataclasses import asdict

    from hybridvif.cli.screen import Answer

    ok = all(one.verdict != "fail" for one in found)
    documents = [asdict(one) for one in found]
    return Answer(
        document={"command": "doctor", "ok": ok, "findings": documents},
        lines=lambda paint: list(_lines(found, paint)),
        columns=COLUMNS,
        rows=documents,
        exit_code=0 if ok else 5,
    )


def _lines(found: Sequence[Finding], paint: Paint) -> Iterator[str]:
    width = max(len(one.name) for one in found)
    for one in found:
        mark = one.verdict.upper() if one.verdict == "fail" else one.verdict
        yield f"  {paint(mark, _COLOURS[one.verdict])}  {paint(f'{one.name:<{width}}  {one.text}', '')}"
        if one.remedy:
            yield paint(f"          try: {one.remedy}", "")
    failed = sum(one.verdict == "fail" for one in found)
    yield f"{failed} of {len(found)} failed." if failed else "Nothing failed: ports can be plugged here."
