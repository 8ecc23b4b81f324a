"""The output of a command: text for people, or one document for machines.

With -f json or yaml, stdout holds exactly one document, and all text for people goes to stderr.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import IO, TypeVar

from hybridvif import __version__
from hybridvif.cli.stdio import OutputLost, print_text, uninterrupted, write
from hybridvif.model.errors import escaped, escaped_lines

MANY = 20
"""The smallest number of ports with a progress bar."""
SIMULATED = "simulated: nothing was done on any real host (the recording executors are configured)"
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_COLOURS = {"green": "32", "yellow": "33", "red": "31", "bold": "1", "dim": "2"}


def enveloped(document: Mapping[str, object], command: str = "") -> Mapping[str, object]:
    """Return a document with the command, the version of hybridvif, the host and the current time in front.

    Every JSON document is one of these, and has a schema in hybridvif/schemas.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = {"command": command, "version": __version__, "host": os.uname().nodename, "time": now}
    return {**head, **document}


class Paint:
    """A function that colors text, if colors are on."""

    def __init__(self, on: bool) -> None:
        self._on = on

    def __call__(self, text: str, colour: str) -> str:
        """Return the text in a color ("" for none), with control characters escaped."""
        plain = escaped(text)
        return f"\x1b[{_COLOURS[colour]}m{plain}\x1b[0m" if self._on and colour and plain else plain


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error of a command."""

    code: str
    message: str
    exit_code: int
    remedy: str = ""
    """The remedy, if the message has none."""
    doctor: bool = False
    """True if `hybridvif doctor` can help."""
    report: Mapping[str, object] | None = None
    """The document of the port's report."""

    @property
    def document(self) -> Mapping[str, object]:
        """The failure as a document."""
        document = {"code": self.code, "message": self.message, "exit_code": self.exit_code}
        return {**document, "report": self.report} if self.report else document

    def lines(self) -> Sequence[str]:
        """Return the lines for people: the message, then `try:` and `see:` if they help."""
        sentence, remedy = self.message, self.remedy
        if self.doctor and not remedy:
            # The messages of PreconditionError are "fact; remedy".
            sentence, _, remedy = self.message.partition("; ")
        tried = [f"  try: {remedy}"] if remedy else []
        return [sentence, *tried, *(["  see: hybridvif doctor"] if self.doctor else [])]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The result of a command, for every output format."""

    document: Mapping[str, object]
    """The document for -f json and yaml."""
    lines: Callable[[Paint], Iterable[str]] = lambda _: ()
    """The function that returns the lines for people."""
    rows: Sequence[Mapping[str, object]] = ()
    """The rows of -f table and value."""
    drawings: Mapping[str | None, Callable[[], str]] = field(default_factory=dict)
    """Functions for the formats of this command alone, by format."""
    warnings: Sequence[str] = ()
    """Sentences for stderr. They do not change the exit code."""
    failures: Sequence[Failure] = ()
    exit_code: int = 0
    silent: bool = False
    """True if -q omits the lines."""


class Terminal:
    """The writer of stdout and stderr, in the format of the command line."""

    def __init__(self, form: str | None = None, args: argparse.Namespace | None = None) -> None:
        self.form = form
        self.quiet: bool = args is not None and args.quiet
        self._columns: Sequence[str] = args.columns if args else ()
        self._command: str = args.command if args else ""
        self._color: str = args.color if args else "auto"
        self._answered = False

    @property
    def is_machine(self) -> bool:
        """True if stdout gets a document."""
        return self.form in ("json", "yaml")

    def write_answer(self, answer: Answer) -> int:
        """Write the answer and return its exit code. Raises OutputLost only if the exit code would be 0.

        The failures of ports are written even if stdout is full.
        """
        text = self._in_form(answer)
        if answer.document.get("simulated"):
            self.write_note(SIMULATED, "yellow")
        lost: OutputLost | None = None
        if text and not (self.quiet and answer.silent and not self.is_machine):
            try:
                self._write(text)
            except OutputLost as error:
                lost = error
        for warning, count in _grouped(answer.warnings, str):
            self.write_note(f"warning: {warning}{_more(count)}", "yellow")
        for failure, count in _grouped(answer.failures, lambda failure: "\n".join(failure.lines())):
            self._explain(failure, _more(count))
        if lost and answer.exit_code:
            self.write_note(f"error: {lost}", "red")
        elif lost:
            raise lost
        return answer.exit_code

    def write_event(self, answer: Answer, *, clear: bool = False) -> None:
        """Write an answer that others follow; as JSON in one line. Raises BrokenPipeError, OutputLost.

        clear: it takes the place of what is on the terminal, if there is one.
        """
        self._answered = True
        if self.form == "json":
            print_text(json.dumps(enveloped(answer.document, self._command)) + "\n")
        else:
            before = "---\n" if self.form == "yaml" else "\x1b[H\x1b[2J" if clear and sys.stdout.isatty() else ""
            print_text(before + self._in_form(answer))

    def write_failure(self, failure: Failure) -> int:
        """Write the failure and return its exit code."""
        self._explain(failure)
        if self.is_machine and not self._answered:
            with suppress(OutputLost):
                self._write(self._dump({"error": failure.document}))
        return failure.exit_code

    def write_note(self, text: str, colour: str = "") -> None:
        """Write one line to stderr."""
        write(sys.stderr, f"{self._paint(sys.stderr)(text, colour)}\n")

    @contextmanager
    def progress(self, verb: str, ports: int) -> Iterator[Callable[[int, int], None]]:
        """Show a bar for many ports, on a terminal only. Yields the callback (finished, total)."""
        if ports < MANY or self.quiet or not sys.stderr.isatty() or find_spec("rich") is None:
            yield lambda _done, _total: None
            return
        # Imported late: the import takes 40 ms.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(verb, total=ports)
            yield lambda done, _total: bar.update(task, completed=done)

    def _in_form(self, answer: Answer) -> str:
        if self.is_machine:
            return self._dump(answer.document)
        paint = self._paint(sys.stdout)
        if self.form in ("table", "value"):
            return _table(answer, self._columns, heads=self.form == "table", paint=paint)
        if self.form in answer.drawings:
            return answer.drawings[self.form]()
        width = 0
        if sys.stdout.isatty():
            from shutil import get_terminal_size

            width = get_terminal_size().columns
        return "".join(f"{_wrapped(line, width)}\n" for line in answer.lines(paint))

    def _dump(self, document: Mapping[str, object]) -> str:
        document = enveloped(document, self._command)
        if self.form == "yaml":
            import yaml

            return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=False))
        return json.dumps(document, indent=2) + "\n"

    def _explain(self, failure: Failure, more: str = "") -> None:
        paint = self._paint(sys.stderr)
        sentence, *others = failure.lines()
        lines = "\n".join(paint(line, "") for line in (f"{sentence}{more}", *others))
        write(sys.stderr, f"{paint('error: ', 'red')}{lines}\n")

    def _write(self, text: str) -> None:
        self._answered = True
        # The work is done, and its exit code counts, even if nobody reads the answer.
        with uninterrupted(), suppress(BrokenPipeError):
            print_text(text)

    def _paint(self, stream: IO[str]) -> Paint:
        wanted = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return Paint(self._color == "always" or (self._color == "auto" and wanted))


def _wrapped(line: str, width: int) -> str:
    """Return the line in several lines of at most width columns, indented; a longer word stays whole. 0: as it is.

    A line with a command stays whole, because it is to be copied.
    """
    if len(line) <= width or not width or "hybridvif " in line:
        return line
    plain = _ESCAPE.sub("", line)
    indent = " " * (len(plain) - len(plain.lstrip()) + 4)
    first, *words = line.split(" ")
    lines = [first]
    for word in words:
        longer = f"{lines[-1]} {word}"
        if word and _visible(longer) > width and _visible(lines[-1]) > len(indent):
            lines.append(f"{indent}{word}")
        else:
            lines[-1] = longer
    return "\n".join(map(str.rstrip, lines))


def _visible(text: str) -> int:
    """Return the number of columns of a text, without its colors."""
    return len(_ESCAPE.sub("", text))


_Item = TypeVar("_Item", str, Failure)
_VARYING = re.compile("[0-9a-f]{2}(:[0-9a-f]{2}){5}|[0-9a-f]{8}-[0-9a-f]{2}[0-9a-f-]*|[0-9]+")
"""The words in which the sentences about two ports differ: ids, device names, numbers and MAC addresses."""


def _grouped(items: Iterable[_Item], text_of: Callable[[_Item], str]) -> list[tuple[_Item, int]]:
    """Group the items whose texts differ in no more than the port. Return the first of each group, and their number."""
    groups: dict[str, list[_Item]] = {}
    for item in items:
        groups.setdefault(_VARYING.sub("", text_of(item)), []).append(item)
    return [(group[0], len(group)) for group in groups.values()]


def _more(count: int) -> str:
    return f" (and {count - 1} more like this)" if count > 1 else ""


def _cell(value: object) -> str:
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if value is None or value == "":
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(answer: Answer, columns: Sequence[str], *, heads: bool, paint: Paint) -> str:
    rows = [[_cell(row.get(name)) for name in columns] for row in answer.rows]
    if not heads:
        return "".join(paint(" ".join(row), "") + "\n" for row in rows)
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in [list(columns), *rows])
    return "".join(paint(line, "") + "\n" for line in lines)


class _Formatter(logging.Formatter):
    """A formatter that escapes control characters: records as lines with tracebacks, or as one line without."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Format a record. exc_text is a traceback formatted by the daemon."""
        if self._tracebacks:
            return escaped_lines(super().format(record))
        # Other handlers format the same record.
        plain = copy.copy(record)
        plain.exc_info = plain.exc_text = plain.stack_info = None
        return escaped(super().format(plain))


def set_up_logs(verbose: int, *, quiet: bool = False) -> None:
    """Log to stderr: errors only by default, our own records with -v, all records with -vv.

    Repeated calls are harmless.
    """
    root, own = logging.getLogger(), logging.getLogger("hybridvif")
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler.formatter, _Formatter)]
    level = logging.CRITICAL if quiet else {0: logging.ERROR, 1: logging.INFO}.get(verbose, logging.DEBUG)
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(tracebacks=verbose > 1))
    root.addHandler(handler)
    own.setLevel(level)
    if verbose > 1:
        root.setLevel(logging.DEBUG)
    else:
        # Records of the daemon come through our logger, those of oslo.privsep too.
        handler.addFilter(logging.Filter("hybridvif"))
    if not sys.warnoptions:
        # oslo.privsep before 3.11 imports eventlet. The user cannot prevent that.
        warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
