"""The leader/followers thread pool that serves the client of the daemon.

Each thread serves the request that it has read, while another thread reads on. A request is queued only if all threads
are busy. oslo.privsep hands every request from a reader to a worker, which takes a fifth of the time of an observation.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

LOG = logging.getLogger(__name__)
QueuedRequest = tuple[str, tuple[Any, ...]]
MAX_PENDING = 1024
"""Largest number of requests without a response. Beyond, nothing is read."""
MAX_PENDING_BYTES = 4 * 1024 * 1024
"""Largest size of these requests in bytes, that of one frame. Beyond, nothing is read."""


class ThreadPool:
    """Threads that serve one client. The first one calls serve(), which starts others as needed.

    size: returns the size in bytes of the last request.
    """

    def __init__(
        self,
        requests: Iterator[QueuedRequest],
        serve_request: Callable[[QueuedRequest], None],
        max_threads: int,
        end: Callable[[], NoReturn],
        size: Callable[[], int] = lambda: 0,
    ) -> None:
        self._requests, self._serve_request, self._end, self._size = requests, serve_request, end, size
        self._turn = threading.Lock()
        self._counts = threading.Condition()
        self._waiting = 0
        """The threads that wait to read."""
        self._free = max_threads
        """The number of further threads that may serve requests."""
        self._startable = max_threads
        """The number of threads that may still be started. One more than max_threads exist, because one reads."""
        self._queue: deque[tuple[QueuedRequest, int]] = deque()
        self._pending = self._pending_bytes = 0

    def serve(self) -> NoReturn:
        """Serve requests until EOF or an error of the channel, then end the daemon."""
        try:
            taken = self._read()
            while taken is not None:
                request, size = taken
                self._serve_request(request)
                del request
                with self._counts:
                    self._free += 1
                    self._pending, self._pending_bytes = self._pending - 1, self._pending_bytes - size
                    self._counts.notify()
                    taken = self._next()
                taken = taken or self._read()
        except Exception as error:  # noqa: BLE001  # the client cannot be reached any more
            LOG.warning("the daemon ends: %s", error)
        finally:
            self._end()

    def _next(self) -> tuple[QueuedRequest, int] | None:
        """Take a request from the queue if a thread is free. The caller holds the lock of the counts."""
        if not self._free or not self._queue:
            return None
        self._free -= 1
        return self._queue.popleft()

    def _read(self) -> tuple[QueuedRequest, int] | None:
        """Return the next request for this thread; None at EOF."""
        with self._counts:
            self._waiting += 1
        with self._turn:
            with self._counts:
                self._waiting -= 1
            while True:
                with self._counts:
                    self._counts.wait_for(self._has_room)
                read = next(self._requests, None)
                if read is None:
                    return None
                with self._counts:
                    size = self._size()
                    self._pending, self._pending_bytes = self._pending + 1, self._pending_bytes + size
                    self._queue.append((read, size))
                    del read
                    taken = self._next()
                if taken is not None:
                    self._start_reader()
                    return taken
                # All threads are busy. Read on: a client disconnects if it cannot send a whole request by its deadline.

    def _has_room(self) -> bool:
        # This bounds the memory of the daemon if the client reads no responses.
        return self._pending < MAX_PENDING and self._pending_bytes < MAX_PENDING_BYTES

    def _start_reader(self) -> None:
        with self._counts:
            is_needed = not self._waiting and self._startable > 0
            self._startable -= is_needed
        if not is_needed:
            return
        # Not before the first request: a thread keeps the capabilities that it started with.
        thread = threading.Thread(target=self.serve, name="hybridvif-server", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # A limit on processes. The existing threads continue.
            LOG.warning("the daemon goes on with the threads that it has: %s", error)
            with self._counts:
                self._startable += 1
