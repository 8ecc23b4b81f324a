"""The thread pool that serves one client: reading, serving, the number of threads, and the end."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from hybridvif.privileged.serving import MAX_PENDING, MAX_PENDING_BYTES, QueuedRequest, ThreadPool

SOON = 5.0
END = ("end", ())


class Lab:
    """A pool with requests from a queue, each of which is served until the test releases it."""

    def __init__(self, most: int) -> None:
        self.asked: queue.SimpleQueue[QueuedRequest] = queue.SimpleQueue()
        self.begun: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self.held = {name: threading.Event() for name in "abcdef"}
        self.over = threading.Event()
        self.servers = ThreadPool(self._questions(), self._answer, most, self.over.set)  # type: ignore[arg-type]  # returns

    def _questions(self) -> Iterator[QueuedRequest]:
        while (question := self.asked.get(timeout=SOON)) != END:
            yield question

    def _answer(self, question: QueuedRequest) -> None:
        name, _ = question
        self.begun.put((name, threading.get_ident()))
        if name == "broken":
            raise BrokenPipeError(32, "Broken pipe")
        assert self.held[name].wait(SOON)

    def start(self) -> threading.Thread:
        """Start the first thread."""
        thread = threading.Thread(target=self.servers.serve, name="hybridvif-server", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """End all threads."""
        for held in self.held.values():
            held.set()
        self.asked.put(END)
        for thread in threading.enumerate():
            if thread.name == "hybridvif-server":
                thread.join(SOON)
                assert not thread.is_alive()

    def ask(self, *names: str) -> None:
        """Queue these requests."""
        for name in names:
            self.asked.put((name, ()))

    def next(self) -> str:
        """Wait for the next request to be served and return its name."""
        return self.begun.get(timeout=SOON)[0]


@pytest.fixture
def lab_of() -> Iterator[Callable[[int], Lab]]:
    """A function that creates pools, which end with the test."""
    labs: list[Lab] = []

    def made(most: int) -> Lab:
        labs.append(Lab(most))
        return labs[-1]

    yield made
    for lab in labs:
        lab.close()


def test_slow_request_does_not_block_others(lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(4)
    lab.start()
    lab.ask("a")
    assert lab.next() == "a"
    lab.ask("b")
    assert lab.next() == "b"
    lab.held["b"].set()
    lab.ask("c")
    assert lab.next() == "c"
    for held in lab.held.values():
        held.set()
    lab.asked.put(END)
    assert lab.over.wait(SOON)


def test_number_of_busy_threads_is_limited(lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(2)
    lab.start()
    lab.ask("a", "b", "c")
    assert {lab.next(), lab.next()} == {"a", "b"}
    with pytest.raises(queue.Empty):
        lab.begun.get(timeout=0.1)
    lab.held["a"].set()
    assert lab.next() == "c"


def test_single_thread_serves_one_request_after_another(lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(1)
    lab.start()
    lab.ask("a", "b", "c")
    for name in "abc":
        assert lab.next() == name
        with pytest.raises(queue.Empty):
            lab.begun.get(timeout=0.02)
        lab.held[name].set()


@pytest.mark.parametrize("most", [1, 2])
def test_requests_are_read_while_all_threads_are_busy(most: int, lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(most)
    lab.start()
    lab.ask(*"abcdef")
    assert [lab.next() for _ in range(most)] == list("abcdef"[:most])
    until = time.monotonic() + SOON
    while not lab.asked.empty() and time.monotonic() < until:
        time.sleep(0.005)
    assert lab.asked.empty()
    for held in lab.held.values():
        held.set()
    assert sorted(lab.next() for _ in range(6 - most)) == list("abcdef"[most:])


@pytest.mark.parametrize("size", [0, 1, MAX_PENDING_BYTES])
def test_client_that_reads_no_responses_is_not_read_from(size: int) -> None:
    """Each response waits until the client reads. This bounds the memory of the daemon."""
    read, over = threading.Event(), threading.Event()
    taken: list[int] = []
    most = MAX_PENDING if size <= 1 else 1

    def questions() -> Iterator[QueuedRequest]:
        for number in range(most + 10):
            taken.append(number)
            yield str(number), ()

    def answer(_: QueuedRequest) -> None:
        assert read.wait(SOON)

    servers = ThreadPool(questions(), answer, 4, over.set, lambda: size)  # type: ignore[arg-type]  # returns
    threading.Thread(target=servers.serve, name="hybridvif-server", daemon=True).start()
    until = time.monotonic() + SOON
    while len(taken) < most and time.monotonic() < until:
        time.sleep(0.005)
    assert not over.wait(0.1)
    assert len(taken) == most
    read.set()
    assert over.wait(SOON)
    for thread in threading.enumerate():
        if thread.name == "hybridvif-server":
            thread.join(SOON)
    assert len(taken) == most + 10


def test_free_thread_reads_on_and_no_other_is_started(lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(32)
    lab.start()
    for held in lab.held.values():
        held.set()
    idents = set()
    for _ in range(200):
        lab.ask("a")
        idents.add(lab.begun.get(timeout=SOON)[1])
    # A thread may start another one before the first waits for its turn.
    assert len(idents) <= 4


def test_existing_threads_continue_if_none_can_be_started(
    lab_of: Callable[[int], Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_of(4)
    for held in lab.held.values():
        held.set()
    thread = lab.start()

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    lab.ask("a", "b")
    assert [lab.begun.get(timeout=SOON) for _ in range(2)] == [("a", thread.ident), ("b", thread.ident)]


@pytest.mark.parametrize("first", [(), ("a",)])
def test_pool_ends_if_the_client_is_unreachable(lab_of: Callable[[int], Lab], first: tuple[str, ...]) -> None:
    lab = lab_of(4)
    lab.start()
    lab.ask(*first, "broken")
    assert lab.over.wait(SOON)
