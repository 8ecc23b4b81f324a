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


class Servers:
    """Threads that serve one caller; the first is the one that calls serve(), more are started as they are wanted."""

    def __init__(
        self,
        questions: Iterator[Question],
        answer: Callable[[Question], None],
        most: int,
        end: Callable[[], NoReturn],
    ) -> None:
        self._questions, self._answer, self._end = questions, answer, end
        self._turn = threading.Lock()
        self._counts = threading.Lock()
        self._waiting = 0
        """Threads that wait for their turn to read, the one that reads not counted."""
        self._free = most
        """How many more may be at work."""
        self._left = most
        """Threads that may yet be started: beside those at work, one reads."""
        self._unanswered: deque[Question] = deque()

    def serve(self) -> NoReturn:
        """Answer until nothing more can be read or answered, and end the daemon."""
        try:
            question = self._read()
            while question is not None:
                self._answer(question)
                with self._counts:
                    self._free += 1
                    question = self._next()
                question = question or self._read()
        except Exception as error:  # noqa: BLE001  # whatever it is, nobody can be answered any more
            LOG.warning("the daemon ends: %s", error)
        finally:
            self._end()

    def _next(self) -> Question | None:
        """What has been read and waits, if one more may be at work; it is then. Within the lock of the counts."""
        if not self._free or not self._unanswered:
            return None
        self._free -= 1
        return self._unanswered.popleft()

    def _read(self) -> Question | None:
        """The next question for this thread to answer; None: there are no more."""
        with self._counts:
            self._waiting += 1
        with self._turn:
            with self._counts:
                self._waiting -= 1
            for read in self._questions:
                with self._counts:
                    self._unanswered.append(read)
                    question = self._next()
                if question is not None:
                    self._have_another_read()
                    return question
                # All are at work. Read on: a caller that cannot send all of a question by its deadline must hang up.
        return None

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
