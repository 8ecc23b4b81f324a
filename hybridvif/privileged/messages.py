"""The messages between client and daemon, as in oslo.privsep's channel (oslo_privsep/comm.py).

The daemon imports nothing of oslo.privsep, so no version of it can weaken the daemon. A unit test compares the numbers
with those of oslo.privsep.
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


def pack(message: Any) -> bytes:
    """Encode a message as msgpack. Raises TypeError, ValueError, OverflowError if msgpack cannot encode it."""
    frame: bytes = msgpack.packb(message, use_bin_type=True, unicode_errors="surrogatepass")
    return frame
