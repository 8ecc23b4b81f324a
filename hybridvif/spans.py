"""Spans of a call: named intervals of time.monotonic(), recorded only while somebody collects them (--trace-file)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

Span = tuple[str, float, float]
"""The name, the start and the end."""
OWN = 0
"""The key of the spans of this process. Others are those of the daemon, by the id of its thread."""
MAX_SPANS = 10_000
"""Largest number of collected spans of a process; later ones are dropped. A watch may observe for an hour."""
_collected: ContextVar[dict[int, list[Span]] | None] = ContextVar("spans", default=None)

_NOT_RECORDED = nullcontext()


@contextmanager
def collecting() -> Iterator[dict[int, list[Span]]]:
    """Collect the spans of this thread. Yields them by process."""
    token = _collected.set({OWN: []})
    try:
        yield _collected.get() or {}
    finally:
        _collected.reset(token)


def is_collecting() -> bool:
    """Return whether the spans of this thread are collected."""
    return _collected.get() is not None


def add(key: int, spans: Sequence[Span]) -> None:
    """Add spans of a process, as far as there is room."""
    if (collected := _collected.get()) is not None:
        own = collected.setdefault(key, [])
        own.extend(spans[: MAX_SPANS - len(own)])


def span(name: str) -> AbstractContextManager[None]:
    """Record a span, if spans are collected."""
    return _recorded(name) if is_collecting() else _NOT_RECORDED


@contextmanager
def _recorded(name: str) -> Iterator[None]:
    start = time.monotonic()
    try:
        yield
    finally:
        add(OWN, [(name, start, time.monotonic())])
