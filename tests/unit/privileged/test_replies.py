"""The daemon sends responses at once, and log lines with the next response."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator

import msgpack
import pytest

from hybridvif.privileged.messages import Message
from hybridvif.privileged.replies import MAX_DELAY, Replies

ANSWER = ("id", (Message.RET.value, ["ok"]))


def line(level: int = logging.INFO, text: str = "create bridge qbr") -> tuple[None, tuple[int, dict[str, object]]]:
    return None, (Message.LOG, {"levelno": level, "msg": text})


@pytest.fixture
def ends() -> Iterator[tuple[Replies, socket.socket]]:
    """The ends of the daemon and of the client."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        yield Replies(ours), theirs


def received(end: socket.socket) -> list[object]:
    unpacker = msgpack.Unpacker(use_list=False)
    try:
        unpacker.feed(end.recv(1 << 16))
    except BlockingIOError:
        return []
    return [message[0] or message[1][1]["msg"] for message in unpacker]


def test_response_is_sent_at_once(ends: tuple[Replies, socket.socket]) -> None:
    ends[0].send(ANSWER)
    assert received(ends[1]) == ["id"]


def test_lines_are_sent_in_order_before_the_next_response(ends: tuple[Replies, socket.socket]) -> None:
    for text in ("one", "two"):
        ends[0].send(line(text=text))
    assert received(ends[1]) == []
    ends[0].send(ANSWER)
    assert received(ends[1]) == ["one", "two", "id"]
    ends[0].send(ANSWER)
    assert received(ends[1]) == ["id"]


def test_warning_is_sent_at_once(ends: tuple[Replies, socket.socket]) -> None:
    ends[0].send(line(text="one"))
    ends[0].send(line(logging.WARNING, "two"))
    assert received(ends[1]) == ["one", "two"]


def test_line_waits_only_a_short_time(ends: tuple[Replies, socket.socket]) -> None:
    ends[0].send(line(text="one"))
    time.sleep(MAX_DELAY)
    ends[0].send(line(text="two"))
    assert received(ends[1]) == ["one", "two"]


def test_invalid_unicode_does_not_prevent_a_response(ends: tuple[Replies, socket.socket]) -> None:
    """An executor of a third party may return such a text."""
    replies, theirs = ends
    replies.send(("id", (Message.RET.value, ["ok", "\ud800\udcff"])))
    unpacker = msgpack.Unpacker(use_list=False, unicode_errors="surrogateescape")
    unpacker.feed(theirs.recv(1 << 16))
    assert next(unpacker)[0] == "id"
