"""hybridvif doctor: check every precondition.

The document:

    command     "doctor"
    ok          true if nothing failed
    findings    for each check: name, verdict (pass, fail, info), text, remedy (the command that fixes it, or "")
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybridvif.cli.check_result import CheckResult
    from hybridvif.cli.terminal import Answer, Paint

HELP = "check every precondition: result, reason, and the command that fixes it"
FORMATS = ("text", "json", "yaml", "table", "value")
COLUMNS = ("name", "verdict", "text", "remedy")
_COLOURS = {"pass": "green", "fail": "red", "info": "dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif doctor`."""
    parser.epilog = "Exits with 0 if nothing fails, else with 5. Without root, some checks are skipped."


def run(args: argparse.Namespace) -> int:
    """Run all checks. Nothing is changed."""
    from hybridvif.cli.connection import config_files
    from hybridvif.cli.diagnosis import findings

    return int(args.terminal.write_answer(answer_of(list(findings(config_files(args.config_file))))))


def answer_of(results: Sequence[CheckResult]) -> Answer:
    """Return the answer, with exit code 5 if a check failed."""
    from dataclasses import asdict

    from hybridvif.cli.terminal import Answer

    ok = all(result.verdict != "fail" for result in results)
    documents = [asdict(result) for result in results]
    return Answer(
        document={"command": "doctor", "ok": ok, "findings": documents},
        lines=lambda paint: list(_lines(results, paint)),
        columns=COLUMNS,
        rows=documents,
        exit_code=0 if ok else 5,
    )


def _lines(results: Sequence[CheckResult], paint: Paint) -> Iterator[str]:
    width = max(len(result.name) for result in results)
    for result in results:
        mark = result.verdict.upper() if result.verdict == "fail" else result.verdict
        yield f"  {paint(mark, _COLOURS[result.verdict])}  {paint(f'{result.name:<{width}}  {result.text}', '')}"
        if result.remedy:
            yield paint(f"          try: {result.remedy}", "")
    failed = sum(result.verdict == "fail" for result in results)
    yield f"{failed} of {len(results)} failed." if failed else "Nothing failed: ports can be plugged here."
