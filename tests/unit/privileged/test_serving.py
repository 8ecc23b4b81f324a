"""The threads that serve one caller: who reads, who answers, how many they are, and how it ends."""

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
    """Questions that are asked one by one, and answers that are held up until they are let go."""

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
        """Serve, in a thread of its own."""
        thread = threading.Thread(target=self.servers.serve, name="hybridvif-server", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Have all threads end."""
        for held in self.held.values():
            held.set()
        self.asked.put(END)
        for thread in threading.enumerate():
            if thread.name == "hybridvif-server":
                thread.join(SOON)
                assert not thread.is_alive()

    def ask(self, *names: str) -> None:
        """Ask these questions."""
        for name in names:
            self.asked.put((name, ()))

    def next(self) -> str:
        """The question that is begun to be answered next."""
        return self.begun.get(timeout=SOON)[0]


@pytest.fixture
def lab_of() -> Iterator[Callable[[int], Lab]]:
    """Makes labs, and has their threads end."""
    labs: list[Lab] = []

    def made(most: int) -> Lab:
        labs.append(Lab(most))
        return labs[-1]

    yield made
    for lab in labs:
        lab.close()


def test_a_question_that_takes_long_holds_up_no_other(lab_of: Callable[[int], Lab]) -> None:
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


def test_there_are_never_more_at_work_than_may_be(lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(2)
    lab.start()
    lab.ask("a", "b", "c")
    assert {lab.next(), lab.next()} == {"a", "b"}
    with pytest.raises(queue.Empty):
        lab.begun.get(timeout=0.1)
    lab.held["a"].set()
    assert lab.next() == "c"


def test_one_alone_answers_one_after_another(lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(1)
    lab.start()
    lab.ask("a", "b", "c")
    for name in "abc":
        assert lab.next() == name
        with pytest.raises(queue.Empty):
            lab.begun.get(timeout=0.02)
        lab.held[name].set()


@pytest.mark.parametrize("most", [1, 2])
def test_it_is_read_on_while_all_are_at_work(most: int, lab_of: Callable[[int], Lab]) -> None:
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
def test_caller_that_reads_no_answers_is_read_from_no_more(size: int) -> None:
    """Each answer waits until the caller has read; memory is bounded by what is in hand."""
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


def test_who_is_through_reads_on_and_no_more_are_started(lab_of: Callable[[int], Lab]) -> None:
    lab = lab_of(32)
    lab.start()
    for held in lab.held.values():
        held.set()
    idents = set()
    for _ in range(200):
        lab.ask("a")
        idents.add(lab.begun.get(timeout=SOON)[1])
    # One may start another in the instant in which nobody waits yet.
    assert len(idents) <= 4


def test_where_no_thread_can_be_started_those_that_there_are_go_on(
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
def test_it_ends_when_the_caller_cannot_be_answered_any_more(
    lab_of: Callable[[int], Lab], first: tuple[str, ...]
) -> None:
    lab = lab_of(4)
    lab.start()
    lab.ask(*first, "broken")
    assert lab.over.wait(SOON)
