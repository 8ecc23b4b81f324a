"""The start of the daemon before the first request: waiting, failure and stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from hybridvif.model.errors import PreconditionError
from hybridvif.privileged.channel import Channel, TimedOut
from hybridvif.privileged.context import Context, daemon_context


class _Channel(Channel):
    running = True

    def __init__(self) -> None:  # no daemon is behind it
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Context:
    """Return the context without a daemon, and restore it."""
    monkeypatch.setattr(daemon_context, "channel", None)
    monkeypatch.setattr(daemon_context, "_starting", threading.Lock())
    monkeypatch.setattr(daemon_context, "_failed", None)
    monkeypatch.setattr(daemon_context, "_wanted", True)
    return daemon_context


def starting_by(monkeypatch: pytest.MonkeyPatch, start: Callable[[], Any]) -> list[float]:
    """Replace the start of a daemon. Return the list of its deadlines."""
    given: list[float] = []

    def started(deadline: float) -> Any:
        given.append(deadline)
        return start()

    monkeypatch.setattr(daemon_context, "_connect", started)
    return given


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def test_first_request_waits_for_daemon_being_started(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    go, channel = threading.Event(), _Channel()
    given = starting_by(monkeypatch, lambda: go.wait(5) and channel)
    context.begin(soon())
    with pytest.raises(TimedOut, match="still starting"):
        context.reach(soon(0.02))
    go.set()
    assert context.reach(soon()) is channel
    assert len(given) == 1


def test_failed_start_is_raised_once_and_then_retried(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    channel, why = _Channel(), [PreconditionError("no sudo")]

    def start() -> _Channel:
        if why:
            raise why.pop()
        return channel

    given = starting_by(monkeypatch, start)
    context.begin(soon())
    with pytest.raises(PreconditionError, match="no sudo"):
        context.reach(soon())
    assert len(given) == 1
    assert context.reach(soon()) is channel


def test_daemon_started_after_stop_is_closed(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    go, channel = threading.Event(), _Channel()
    starting_by(monkeypatch, lambda: go.wait(5) and channel)
    context.begin(soon())
    began = time.monotonic()
    context.stop()
    assert time.monotonic() - began < 1
    assert not channel.closed.is_set()
    go.set()
    assert channel.closed.wait(5)


def test_running_daemon_is_not_started_again(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    given = starting_by(monkeypatch, _Channel)
    channel = context.reach(soon())
    context.begin(soon())
    assert context.reach(soon()) is channel
    assert len(given) == 1
