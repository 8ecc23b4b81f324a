"""A progress bar for many ports, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hybridvif.optional import found

if TYPE_CHECKING:
    from hybridvif.cli.terminal import Terminal

MANY = 20
"""The smallest number of ports with a progress bar."""


@contextmanager
def progress_bar(verb: str, ports: int, terminal: Terminal) -> Iterator[Callable[[int, int], None]]:
    """Show the bar; yields the callback (finished, total)."""
    if ports < MANY or terminal.quiet or not sys.stderr.isatty() or found("rich") is None:
        yield lambda _done, _total: None
        return
    # Imported late: the import takes 40 ms.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(verb, total=ports)
        yield lambda done, _total: bar.update(task, completed=done)
