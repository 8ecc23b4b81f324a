"""What the daemon sends: answers at once, lines of its log with the next of them."""

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
    """The daemon's end, and the caller's."""
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


def test_an_answer_goes_at_once(ends: tuple[Replies, socket.socket]) -> None:
    ends[0].send(ANSWER)
    assert received(ends[1]) == ["id"]


def test_lines_wait_and_go_before_the_next_answer_in_their_order(ends: tuple[Replies, socket.socket]) -> None:
    for text in ("one", "two"):
        ends[0].send(line(text=text))
    assert received(ends[1]) == []
    ends[0].send(ANSWER)
    assert received(ends[1]) == ["one", "two", "id"]
    ends[0].send(ANSWER)
    assert received(ends[1]) == ["id"]


def test_a_warning_waits_for_nothing(ends: tuple[Replies, socket.socket]) -> None:
    ends[0].send(line(text="one"))
    ends[0].send(line(logging.WARNING, "two"))
    assert received(ends[1]) == ["one", "two"]


def test_a_line_does_not_wait_long_for_another(ends: tuple[Replies, socket.socket]) -> None:
    ends[0].send(line(text="one"))
    time.sleep(MAX_DELAY)
    ends[0].send(line(text="two"))
    assert received(ends[1]) == ["one", "two"]


def test_text_that_is_no_unicode_does_not_keep_an_answer_back(ends: tuple[Replies, socket.socket]) -> None:
    """Of an executor of a third party's, say."""
    replies, theirs = ends
    replies.send(("id", (Message.RET.value, ["ok", "\ud800\udcff"])))
    unpacker = msgpack.Unpacker(use_list=False, unicode_errors="surrogateescape")
    unpacker.feed(theirs.recv(1 << 16))
    assert next(unpacker)[0] == "id"
