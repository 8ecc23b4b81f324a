"""Who answers the daemon's caller: threads that take turns at reading, each of which answers what it has read.

oslo.privsep has one thread that reads and a pool that answers. To hand a question over from one to the other takes a
fifth of the time in which a port in order is looked at; here whoever has read a question leaves it to another thread to
read on, and answers it. Only while as many are at work as may be is a question handed over.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

LOG = logging.getLogger(__name__)
Question = tuple[str, tuple[Any, ...]]
MOST_IN_HAND = 1024
"""Requests that were read and are not answered yet."""
MOST_BYTES_IN_HAND = 4 * 1024 * 1024
"""Bytes of those, as they were received: as many as one message may have. Beyond, nothing is read."""


class Servers:
    """Threads that serve one caller; the first is the one that calls serve(), more are started as they are wanted.

    size: the bytes of the question that was read last.
    """

    def __init__(
        self,
        questions: Iterator[Question],
        answer: Callable[[Question], None],
        most: int,
        end: Callable[[], NoReturn],
        size: Callable[[], int] = lambda: 0,
    ) -> None:
        self._questions, self._answer, self._end, self._size = questions, answer, end, size
        self._turn = threading.Lock()
        self._counts = threading.Condition()
        self._waiting = 0
        """Threads that wait for their turn to read, the one that reads not counted."""
        self._free = most
        """How many more may be at work."""
        self._left = most
        """Threads that may yet be started: beside those at work, one reads."""
        self._unanswered: deque[tuple[Question, int]] = deque()
        self._in_hand = self._bytes_in_hand = 0

    def serve(self) -> NoReturn:
        """Answer until nothing more can be read or answered, and end the daemon."""
        try:
            taken = self._read()
            while taken is not None:
                question, size = taken
                self._answer(question)
                del question
                with self._counts:
                    self._free += 1
                    self._in_hand, self._bytes_in_hand = self._in_hand - 1, self._bytes_in_hand - size
                    self._counts.notify()
                    taken = self._next()
                taken = taken or self._read()
        except Exception as error:  # noqa: BLE001  # whatever it is, nobody can be answered any more
            LOG.warning("the daemon ends: %s", error)
        finally:
            self._end()

    def _next(self) -> tuple[Question, int] | None:
        """What has been read and waits, if one more may be at work; it is then. Within the lock of the counts."""
        if not self._free or not self._unanswered:
            return None
        self._free -= 1
        return self._unanswered.popleft()

    def _read(self) -> tuple[Question, int] | None:
        """The next question for this thread to answer; None: there are no more."""
        with self._counts:
            self._waiting += 1
        with self._turn:
            with self._counts:
                self._waiting -= 1
            while True:
                with self._counts:
                    self._counts.wait_for(self._has_room)
                read = next(self._questions, None)
                if read is None:
                    return None
                with self._counts:
                    size = self._size()
                    self._in_hand, self._bytes_in_hand = self._in_hand + 1, self._bytes_in_hand + size
                    self._unanswered.append((read, size))
                    del read
                    taken = self._next()
                if taken is not None:
                    self._have_another_read()
                    return taken
                # All are at work. Read on: a caller that cannot send all of a question by its deadline must hang up.

    def _has_room(self) -> bool:
        # A caller that reads no answers is read from no more, so that the daemon's memory is bounded.
        return self._in_hand < MOST_IN_HAND and self._bytes_in_hand < MOST_BYTES_IN_HAND

    def _have_another_read(self) -> None:
        with self._counts:
            wanted = not self._waiting and self._left > 0
            self._left -= wanted
        if not wanted:
            return
        # Not ahead of the first question: a thread keeps the capabilities that it began with.
        thread = threading.Thread(target=self.serve, name="hybridvif-server", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # A limit on processes: those that there are go on.
            LOG.warning("the daemon goes on with the threads that it has: %s", error)
            with self._counts:
                self._left += 1
