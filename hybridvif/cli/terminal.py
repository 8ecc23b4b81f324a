"""The output of a command: text for people, or one document for machines.

With -f json or yaml, stdout holds exactly one document, and all text for people goes to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from hybridvif.cli.stdio import uninterrupted, write
from hybridvif.model.errors import HybridVifError, InvalidInput, escaped

if TYPE_CHECKING:
    from hybridvif.cli.failure import Failure

Document = Mapping[str, object]
SIMULATED = "simulated: nothing was done on any real host (the recording executors are configured)"
_COLOURS = {"green": "32", "yellow": "33", "red": "31", "bold": "1", "dim": "2"}


class OutputLost(HybridVifError):
    """The output could not be written."""

    code = "output-lost"


class Paint:
    """A function that colors text, if colors are on."""

    def __init__(self, on: bool) -> None:
        self._on = on

    def __call__(self, text: str, colour: str) -> str:
        """Return the text in a color ("" for none), with control characters escaped."""
        plain = escaped(text)
        return f"\x1b[{_COLOURS[colour]}m{plain}\x1b[0m" if self._on and colour and plain else plain


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The result of a command, for every output format."""

    document: Document
    """The document for -f json and yaml."""
    lines: Callable[[Paint], Sequence[str]]
    """The function that returns the lines for people."""
    columns: Sequence[str] = ()
    rows: Sequence[Mapping[str, object]] = ()
    """The rows of -f table and value."""
    drawings: Mapping[str, Callable[[], str]] | None = None
    """Functions for the formats of this command alone, by format."""
    simulated: bool = False
    warnings: Sequence[str] = ()
    """Sentences for stderr. They do not change the exit code."""
    failures: Sequence[Failure] = ()
    exit_code: int = 0
    silent: bool = False
    """True if -q omits the lines."""


class Terminal:
    """The writer of stdout and stderr, in the format of the command line."""

    def __init__(self, form: str | None = None) -> None:
        self.form = form
        self.verbose = 0
        self.quiet = False
        self._columns: Sequence[str] = ()
        self._color = "auto"
        self._answered = False

    def configure(self, args: argparse.Namespace) -> None:
        """Apply the options of a parsed command line."""
        self.form, self._columns = getattr(args, "format", None), getattr(args, "column", None) or ()
        self.verbose, self.quiet, self._color = args.verbose, args.quiet, args.color

    @property
    def is_machine(self) -> bool:
        """True if stdout gets a document."""
        return self.form in ("json", "yaml")

    def write_answer(self, answer: Answer, default: str = "text") -> int:
        """Write the answer and return its exit code. default: the format if there is no -f."""
        form = self.form or default
        text = self._in_form(form, answer)
        if answer.simulated:
            self.write_note(SIMULATED, "yellow")
        if text and not (self.quiet and answer.silent and not self.is_machine):
            self._write(text)
        for warning in answer.warnings:
            self.write_note(f"warning: {warning}", "yellow")
        for failure in answer.failures:
            self._explain(failure)
        return answer.exit_code

    def write_failure(self, failure: Failure) -> int:
        """Write the failure and return its exit code."""
        self._explain(failure)
        if self.is_machine and not self._answered:
            self._write(self._dump({"error": failure.document}))
        return failure.exit_code

    def write_note(self, text: str, colour: str = "") -> None:
        """Write one line to stderr."""
        write(sys.stderr, f"{self._paint(sys.stderr)(text, colour)}\n")

    def _in_form(self, form: str, answer: Answer) -> str:
        if self.is_machine:
            return self._dump(answer.document)
        if form in ("table", "value"):
            return _table(answer, self._columns, heads=form == "table", paint=self._paint(sys.stdout))
        if answer.drawings and form in answer.drawings:
            return answer.drawings[form]()
        return "".join(f"{line}\n" for line in answer.lines(self._paint(sys.stdout)))

    def _dump(self, document: Document) -> str:
        if self.form == "yaml":
            import yaml

            return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=False))
        import json

        return json.dumps(document, indent=2) + "\n"

    def _explain(self, failure: Failure) -> None:
        paint = self._paint(sys.stderr)
        lines = "\n".join(paint(line, "") for line in failure.lines())
        write(sys.stderr, f"{paint('error: ', 'red')}{lines}\n")

    def _write(self, text: str) -> None:
        with uninterrupted():
            error = write(sys.stdout, text)
            self._answered = True
        if error is not None:
            raise OutputLost(f"the answer could not be written to stdout: {error.strerror}; what was done is done")

    def _paint(self, stream: IO[str]) -> Paint:
        wanted = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return Paint(self._color == "always" or (self._color == "auto" and wanted))


def cell(value: object) -> str:
    """Format a value for a table."""
    if value is None or value == "":
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(answer: Answer, wanted: Sequence[str], *, heads: bool, paint: Paint) -> str:
    unknown = [name for name in wanted if name not in answer.columns]
    if unknown:
        raise InvalidInput(f"there is no column {unknown[0]!r}; there are {', '.join(answer.columns)}")
    columns = wanted or answer.columns
    rows = [[cell(row.get(name)) for name in columns] for row in answer.rows]
    if heads:
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        cells = [list(columns), *rows]
        return "".join(
            paint("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip(), "") + "\n"
            for row in cells
        )
    return "".join(paint(" ".join(row), "") + "\n" for row in rows)
