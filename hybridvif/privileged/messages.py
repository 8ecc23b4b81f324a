"""Messages between client and daemon, as in oslo.privsep's channel (oslo_privsep/comm.py).

The daemon imports nothing of oslo.privsep, so no version of it can make the daemon weaker. A unit test compares the
numbers with those of oslo.privsep.
"""

from __future__ import annotations

import enum
from typing import Any

import msgpack

UNPACKING = {"use_list": False, "raw": False, "strict_map_key": False, "unicode_errors": "surrogateescape"}


@enum.unique
class Message(enum.IntEnum):
    """The kind of a message."""

    PING = 1
    PONG = 2
    CALL = 3
    RET = 4
    ERR = 5
    LOG = 6


def packed(message: Any) -> bytes:
    """Return a message as msgpack. Raises TypeError, ValueError, OverflowError for a value that has no form there."""
    frame: bytes = msgpack.packb(message, use_bin_type=True, unicode_errors="surrogatepass")
    return frame
