"""The rate limit of the daemon's log."""

from __future__ import annotations

import logging
import socket

import msgpack
import pytest

from hybridvif.privileged import codec
from hybridvif.privileged.lograte import BURST, LogRate
from hybridvif.privileged.main import _log_to_client_only
from hybridvif.privileged.messages import Message
from hybridvif.privileged.replies import LogHandler, Replies


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def line(text: str = "refused: %s", *values: object) -> logging.LogRecord:
    return logging.LogRecord("hybridvif", logging.WARNING, __file__, 1, text, values or ("x",), None)


def test_largest_request_is_logged_completely() -> None:
    rate = LogRate(clock=Clock())
    assert codec.MAX_PLANS * codec.MAX_STEPS <= BURST
    assert all(rate.filter(line()) for _ in range(codec.MAX_PLANS * codec.MAX_STEPS))
    assert not rate.filter(line())


def test_flood_is_limited_to_the_rate() -> None:
    clock = Clock()
    rate = LogRate(burst=10, rate=5, clock=clock)
    passed = 0
    for tick in range(10_000):
        clock.now = tick / 1000
        passed += rate.filter(line())
    assert 10 + 5 * 9 <= passed <= 10 + 5 * 10


def test_line_after_a_gap_contains_the_dropped_count() -> None:
    clock = Clock()
    rate = LogRate(burst=1, rate=1, clock=clock)
    assert [rate.filter(line()) for _ in range(8)] == [True, *[False] * 7]
    clock.now = 1.0
    first = line("refused: %s of %s", 1, 2)
    assert rate.filter(first)
    assert first.getMessage() == "refused: 1 of 2 (after 7 lines that were dropped, as too many at once)"
    clock.now = 2.0
    second = line()
    assert rate.filter(second)
    assert second.getMessage() == "refused: x"


def test_percent_sign_in_a_line_is_kept() -> None:
    rate = LogRate(burst=1, rate=1, clock=(clock := Clock()))
    rate.filter(line())
    rate.filter(line())
    clock.now = 1.0
    record = line("%s", "100% of it")
    assert rate.filter(record)
    assert record.getMessage().startswith("100% of it (after 1 lines")


def test_daemon_logs_through_the_limit_to_its_client_only(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [logging.NullHandler()])
    monkeypatch.setattr(root, "level", root.level)
    near, far = socket.socketpair()
    with near, far:
        _log_to_client_only(Replies(near))
        assert [type(handler) for handler in root.handlers] == [LogHandler]
        assert [type(rate) for rate in root.handlers[0].filters] == [LogRate]
        logging.getLogger("somebody.else").debug("not this")
        logging.getLogger("somebody.else").warning("%s of it", "100%", extra={"theirs": object()})
        name, (kind, line) = msgpack.unpackb(far.recv(1 << 16), use_list=False)
    assert (name, kind) == (None, Message.LOG)
    assert (line["name"], line["levelname"], line["msg"]) == ("somebody.else", "WARNING", "100% of it")
    assert "theirs" not in line
