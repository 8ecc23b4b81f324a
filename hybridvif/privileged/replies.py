"""What the daemon sends its caller: answers at once, and lines of its log together with the next of them.

Sent one by one, the line that each step leaves wakes the caller up for each, and it takes longer to be told what was
done than to do it: 0.1 ms a line on both sides.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import msgpack
from oslo_privsep import comm

PATIENCE = 0.1
"""Seconds that a line waits for company, as soon as there is another; a warning waits for nothing."""


class Replies(comm.Serializer):
    """The writing end of the daemon's channel; oslo.privsep's channel has it send one message at a time."""

    def __init__(self, writer: comm.Serializer) -> None:
        super().__init__(writer.writesock)
        self._lines: list[bytes] = []
        self._since = 0.0

    def send(self, msg: Any) -> None:
        """Send this message, and the lines that wait; or have it wait, if it is a line itself."""
        if not self._lines:
            self._since = time.monotonic()
        self._lines.append(msgpack.packb(msg, use_bin_type=True, unicode_errors="surrogatepass"))
        if not _can_wait(msg) or time.monotonic() - self._since >= PATIENCE:
            lines, self._lines = self._lines, []
            self.writesock.sendall(b"".join(lines))


def _can_wait(msg: Any) -> bool:
    match msg:
        case (None, (comm.Message.LOG, {"levelno": int(level)})):
            return level < logging.WARNING
    return False
