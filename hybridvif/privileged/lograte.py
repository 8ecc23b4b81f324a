"""Limit the rate of the daemon's log, so that a captured client cannot fill the log of the host.

oslo_log.rate_limit does not count the dropped lines, and lets none pass until its interval ends. It has no lock: with
several threads it may drop lines without a warning.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

BURST = 8192
"""Lines at once: one per port of sixteen requests of the largest size (codec.py)."""
RATE = 200.0
"""Lines per second after a burst."""


class LogRate(logging.Filter):
    """A filter with a token bucket. The line after a gap contains the number of dropped lines."""

    def __init__(self, burst: int = BURST, rate: float = RATE, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._burst, self._rate, self._clock = burst, rate, clock
        self._tokens, self._updated = float(burst), clock()
        self._dropped = 0
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log this line."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._tokens + (now - self._updated) * self._rate, self._burst)
            self._updated = now
            if self._tokens < 1:
                self._dropped += 1
                return False
            self._tokens -= 1
            dropped, self._dropped = self._dropped, 0
        if dropped:
            record.msg = f"{record.getMessage()} (after {dropped} lines that were dropped, as too many at once)"
            record.args = None
        return True
