"""The rate limit of the daemon's log: a captured caller that is refused in a loop must not fill the host's log.

oslo_log.rate_limit does not do the same. It does not count the dropped lines, passes none until its interval ends, and
has no lock: with eight threads some intervals drop lines without its one warning.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

BURST = 8192
"""Lines at once: one a port of sixteen of the largest calls there can be (wire.py): no honest trail has a gap."""
RATE = 200.0
"""Lines a second after that."""


class LogRate(logging.Filter):
    """Lets so many lines pass at once and a second, and says in the next one that passes how many did not."""

    def __init__(self, burst: int = BURST, rate: float = RATE, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._burst, self._rate, self._clock = burst, rate, clock
        self._left, self._since = float(burst), clock()
        self._dropped = 0
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line is logged."""
        with self._lock:
            now = self._clock()
            self._left = min(self._left + (now - self._since) * self._rate, self._burst)
            self._since = now
            if self._left < 1:
                self._dropped += 1
                return False
            self._left -= 1
            dropped, self._dropped = self._dropped, 0
        if dropped:
            record.msg = f"{record.getMessage()} (after {dropped} lines that were dropped, as too many at once)"
            record.args = None
        return True
