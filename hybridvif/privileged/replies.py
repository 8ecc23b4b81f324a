"""What the daemon sends its caller: answers at once, and lines of its log together with the next of them.

Sent one by one, the line that each step leaves wakes the caller up for each, and it takes longer to be told what was
done than to do it: 0.1 ms a line on both sides.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import Any

from hybridvif.privileged.messages import Message, packed

PATIENCE = 0.1
"""Seconds that a line waits for company, as soon as there is another; a warning waits for nothing."""
_FIELDS = ("name", "levelno", "levelname", "pathname", "filename", "module", "lineno", "funcName", "created", "msecs")
LONGEST_LINE = 16_384
"""Characters of one line of the log, or of a traceback with it."""


class Replies:
    """The writing end of the daemon's channel. A caller that reads nothing holds up whoever sends."""

    def __init__(self, writesock: socket.socket) -> None:
        self._writesock = writesock
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._since = 0.0

    def send(self, msg: Any) -> None:
        """Send this message, and the lines that wait; or have it wait, if it is a line itself. Raises OSError."""
        frame = packed(msg)
        with self._lock:
            if not self._lines:
                self._since = time.monotonic()
            self._lines.append(frame)
            if not _can_wait(msg) or time.monotonic() - self._since >= PATIENCE:
                lines, self._lines = self._lines, []
                self._writesock.sendall(b"".join(lines))


class LogHandler(logging.Handler):
    """Sends what the daemon logs to its caller, and nowhere else."""

    def __init__(self, replies: Replies) -> None:
        super().__init__()
        self._replies = replies

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line. Whatever a third party hangs on a record stays here."""
        line = {name: getattr(record, name) for name in _FIELDS}
        line["msg"], line["args"] = record.getMessage()[:LONGEST_LINE], ()
        if record.exc_info and record.exc_info[0] is not None:
            line["exc_text"] = logging.Formatter().formatException(record.exc_info)[-LONGEST_LINE:]
        try:
            self._replies.send((None, (Message.LOG.value, line)))
        except OSError:
            # The caller has hung up, and the daemon is about to end.
            return


def _can_wait(msg: Any) -> bool:
    match msg:
        case (None, (Message.LOG, {"levelno": int(level)})):
            return level < logging.WARNING
    return False
