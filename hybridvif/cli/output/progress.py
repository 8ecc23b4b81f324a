"""A bar on a terminal while many ports are plugged or unplugged; nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hybridvif.postponed import found

if TYPE_CHECKING:
    from hybridvif.cli.terminal import Terminal

MANY = 20
"""Ports from which on it is worth one."""


@contextmanager
def shown(verb: str, ports: int, terminal: Terminal) -> Iterator[Callable[[int, int], None]]:
    """What is to be told how many ports are at an end, of how many."""
    if ports < MANY or terminal.quiet or not sys.stderr.isatty() or found("rich") is None:
        yield lambda _done, _total: None
        return
    # Only here: it takes 40 ms to load.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(verb, total=ports)
        yield lambda done, _total: bar.update(task, completed=done)
