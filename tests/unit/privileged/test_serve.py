"""The threads that serve one client, the responses, and the log lines before them."""

from __future__ import annotations

import logging
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgpack
import pytest

from hybridvif.privileged import codec
from hybridvif.privileged.channel import MAX_MESSAGE, WATCH, Message, pack
from hybridvif.privileged.main import BURST, MAX_PENDING, RATE, Sender, Server
from hybridvif.privileged.requests import MAX_WATCHERS

SOON = 5.0


class Lab:
    """A server whose requests are answered when the test releases them, and its client."""

    def __init__(self, threads: int, respond: Callable[[tuple[Any, ...]], Any] | None = None) -> None:
        self.client, daemon = socket.socketpair()
        self.client.settimeout(SOON)
        self.begun: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.released = threading.Semaphore(0)
        self.daemon = daemon
        self.server = Server(daemon, Sender(daemon), respond or self._respond, threads)
        self.thread = threading.Thread(target=self.server.serve)
        self._unpacker = msgpack.Unpacker(use_list=False, max_buffer_size=4 * MAX_MESSAGE)

    def _respond(self, content: tuple[Any, ...]) -> Any:
        self.begun.put(content[1])
        assert self.released.acquire(timeout=SOON)
        return (Message.RET.value, content[1])

    def ask(self, *names: str) -> None:
        for name in names:
            self.client.sendall(pack((name, (Message.CALL.value, name))))

    def next(self) -> Any:
        """Wait for the next request to be served and return its name."""
        return self.begun.get(timeout=SOON)

    def responses(self, count: int) -> list[str]:
        names: list[str] = []
        while len(names) < count:
            self._unpacker.feed(self.client.recv(1 << 16))
            names += [name for name, _ in self._unpacker if name is not None]
        return names

    def is_idle(self) -> bool:
        try:
            self.begun.get(timeout=0.1)
        except queue.Empty:
            return True
        return False

    def close(self) -> None:
        self.released.release(5000)
        self.client.close()
        self.thread.join(SOON)
        assert not self.thread.is_alive()
        self.server._pool.shutdown()
        self.server._watchers.shutdown()
        self.daemon.close()


@pytest.fixture
def lab_of() -> Iterator[Callable[..., Lab]]:
    """A function that creates running servers, which end with the test."""
    labs: list[Lab] = []

    def started(threads: int, respond: Callable[[tuple[Any, ...]], Any] | None = None) -> Lab:
        labs.append(Lab(threads, respond))
        labs[-1].thread.start()
        return labs[-1]

    yield started
    for lab in labs:
        lab.close()


def test_slow_request_does_not_block_others(lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(4)
    lab.ask("a")
    assert lab.next() == "a"
    lab.ask("b")
    assert lab.next() == "b"
    lab.released.release(2)
    assert sorted(lab.responses(2)) == ["a", "b"]


@pytest.mark.parametrize("threads", [1, 2])
def test_number_of_busy_threads_is_limited(threads: int, lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(threads)
    lab.ask(*"abcdef")
    assert sorted(lab.next() for _ in range(threads)) == list("abcdef"[:threads])
    assert lab.is_idle()
    lab.released.release()
    assert lab.next() == "abcdef"[threads]
    lab.released.release(5)
    assert sorted(lab.responses(6)) == list("abcdef")


def test_watch_requests_that_wait_leave_all_threads_to_others(lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(1)
    for _ in range(MAX_WATCHERS + 3):
        lab.ask(WATCH)
    assert [lab.next() for _ in range(MAX_WATCHERS + 1)] == [WATCH] * (MAX_WATCHERS + 1)
    lab.ask("a", "b")
    assert lab.next() == "a"
    assert lab.is_idle()
    lab.released.release(MAX_WATCHERS + 5)
    assert sorted(lab.responses(MAX_WATCHERS + 5)) == sorted(["a", "b", *[WATCH] * (MAX_WATCHERS + 3)])


def test_requests_are_read_while_all_threads_are_busy(lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(1)
    # More than the buffers of the socket hold, which would block sendall().
    lab.ask("a", *["x" * 60_000] * 20)
    lab.released.release(21)
    assert len(lab.responses(21)) == 21


@pytest.mark.parametrize(("size", "most"), [(0, MAX_PENDING), (250_000, 26)])
def test_client_that_reads_no_responses_is_not_read_from(lab_of: Callable[[int], Lab], size: int, most: int) -> None:
    """This bounds the memory of the daemon."""
    lab = lab_of(2)
    # Long enough for a server on a loaded machine.
    lab.client.settimeout(3)
    sent = 0
    with suppress(TimeoutError):
        while sent < 10_000:
            lab.client.sendall(pack((f"{sent}", (Message.CALL.value, "x" * 200, "y" * size))))
            sent += 1
    # The server has read the permitted number; the buffers of the socket hold the rest.
    assert lab.server._number <= most
    assert most <= sent < 10_000
    lab.client.settimeout(SOON)
    lab.released.release(5000)
    assert len(lab.responses(most)) >= most


def test_free_thread_serves_again_and_no_other_is_started(lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(32)
    lab.released.release(200)
    before = threading.active_count()
    for _ in range(200):
        lab.ask("a")
        assert lab.responses(1) == ["a"]
    # A thread may start another one before the first is idle again.
    assert threading.active_count() <= before + 4


def test_existing_threads_continue_if_none_can_be_started(
    lab_of: Callable[[int], Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_of(4)
    lab.released.release()
    lab.ask("a")
    assert lab.responses(1) == ["a"]

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    lab.released.release(3)
    lab.ask("b", "c", WATCH)
    assert sorted(lab.responses(3)) == ["b", "c", WATCH]


def test_server_ends_if_the_client_is_unreachable(lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(4)
    lab.ask("a")
    assert lab.next() == "a"
    lab.client.close()
    lab.released.release()
    lab.thread.join(SOON)
    assert not lab.thread.is_alive()


def test_response_that_cannot_be_encoded_is_an_error(lab_of: Callable[..., Lab]) -> None:
    lab = lab_of(1, lambda _: (Message.RET.value, object()))
    lab.ask("a")
    name, (kind, (status, code, reason)) = msgpack.unpackb(lab.client.recv(1 << 16), use_list=False)
    assert (name, kind, status, code) == ("a", Message.RET, "failed", "error")
    assert reason.startswith("TypeError: ")


# Responses and log lines.

RESPONSE = ("id", (Message.RET.value, ["ok"]))


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A sender of the daemon, and its client."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.near, self.far = socket.socketpair()
        self.sender = Sender(self.near, self.clock)
        self.sender.setLevel(logging.INFO)

    def log(self, text: str, *values: object, level: int = logging.INFO) -> None:
        self.sender.handle(logging.LogRecord("hybridvif", level, __file__, 1, text, values, None))

    def received(self) -> list[str]:
        """Return the names of the received responses, and the texts of the received lines."""
        self.far.settimeout(0.2)
        unpacker = msgpack.Unpacker(use_list=False)
        texts: list[str] = []
        while True:
            try:
                unpacker.feed(self.far.recv(1 << 20))
            except TimeoutError:
                return texts
            texts += [message[0] or message[1][1]["msg"] for message in unpacker]


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    with client.near, client.far:
        yield client


def test_lines_are_sent_in_order_before_the_next_response(client: Client) -> None:
    client.log("first")
    client.log("second")
    assert client.received() == []
    client.sender.send(RESPONSE)
    assert client.received() == ["first", "second", "id"]
    client.sender.send(RESPONSE)
    assert client.received() == ["id"]


def test_warning_is_sent_at_once(client: Client) -> None:
    client.log("first")
    client.log("second", level=logging.WARNING)
    assert client.received() == ["first", "second"]


def test_invalid_unicode_does_not_prevent_a_response(client: Client) -> None:
    """An executor of a third party may return such a text."""
    client.sender.send(("\ud800\udcff", (Message.RET.value, ["ok"])))
    assert msgpack.unpackb(client.far.recv(1 << 16), use_list=False, unicode_errors="surrogateescape")


def test_flood_is_limited_to_the_rate(client: Client) -> None:
    assert codec.MAX_PLANS * codec.MAX_STEPS <= BURST
    for second in range(3):
        client.clock.now = float(second)
        for _ in range(BURST + 100):
            client.log("x")
    assert len(client.sender._lines) == BURST + 2 * RATE


def test_line_after_a_gap_contains_the_dropped_count(client: Client) -> None:
    for _ in range(BURST + 7):
        client.log("x")
    client.clock.now = 1.0
    client.log("refused: %s of %s", 1, "100%")
    client.log("last")
    client.sender._lines[:BURST] = []
    client.sender.send(RESPONSE)
    line = "refused: 1 of 100% (after 7 lines that were dropped, as too many at once)"
    assert client.received() == [line, "last", "id"]


def test_only_standard_attributes_of_a_line_are_sent(client: Client) -> None:
    record = logging.LogRecord("somebody.else", logging.WARNING, __file__, 1, "%s of it", ("100%",), None)
    record.theirs = object()
    client.sender.handle(record)
    name, (kind, line) = msgpack.unpackb(client.far.recv(1 << 16), use_list=False)
    assert (name, kind) == (None, Message.LOG)
    assert (line["name"], line["levelname"], line["msg"]) == ("somebody.else", "WARNING", "100% of it")
    assert "theirs" not in line
