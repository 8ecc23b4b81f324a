"""The messages between client and daemon: msgpack, one after the other, as in oslo.privsep (oslo_privsep/comm.py).

The daemon imports nothing of oslo.privsep, so no version of it can weaken the daemon. A unit test compares the numbers
with those of oslo.privsep.

The daemon does not trust its client. It finds the end of a message before it decodes the message, so it refuses a bad
one by its name and goes on with the next. The values of a message are counted while it is decoded, because an empty map
takes 1 byte in the message and 64 bytes in memory.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Callable, Iterator, Sized
from typing import Any

import msgpack

from hybridvif.model.errors import Refused

UNPACKING = {"use_list": False, "raw": False, "strict_map_key": False, "unicode_errors": "surrogateescape"}
MAX_MESSAGE = 4 * 1024 * 1024
"""Largest size of a request in bytes, four times that of 512 plans."""
MAX_VALUES = 700_000
"""Largest number of values of a request, with lists and maps and their elements. The longest plans have 631,821."""
MAX_BUFFER = 16 * 1024 * 1024
"""Largest size of a single text in bytes. A client that sends a longer one is disconnected."""
_NAME_BYTES = 64
"""The size of the beginning of a message that contains its name."""
_CHUNK = 64 * 1024
_LIMITS = {
    **UNPACKING,
    # Above the limits of codec.py, which returns better messages.
    "max_array_len": 8192,
    "max_map_len": 256,
    "max_str_len": 4 * 65_536,
    "max_bin_len": 65_536,
    "max_ext_len": 0,
}
OBSERVE, APPLY = f"{__package__}.requests.observe", f"{__package__}.requests.apply"
"""The names of the two requests (requests.py)."""
CONTEXT = f"{__package__}.context.daemon_context"
"""The name of the client's context, which the arguments of the helper contain."""
Request = tuple[str, tuple[Any, ...]]
"""The name of a request, which its response repeats, and its content."""


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
    encoded: bytes = msgpack.packb(message, use_bin_type=True, unicode_errors="surrogatepass")
    return encoded


def requests_from(channel: socket.socket, answer: Callable[[Request], None]) -> Iterator[tuple[Request, int]]:
    """Yield the requests of a client with their sizes, until EOF or until the next message cannot be found.

    answer: sends the refusal of a bad message. A message without a name is ignored.
    """
    splitter = msgpack.Unpacker(max_buffer_size=MAX_BUFFER)
    pending, start, end = bytearray(), 0, 0
    while received := channel.recv(_CHUNK):
        pending += received
        end += len(received)
        try:
            splitter.feed(received)
            while True:
                splitter.skip()
                size, start = splitter.tell() - start, splitter.tell()
                behind = len(pending) - (end - start)
                encoded, pending = bytes(pending[:behind]), pending[behind:]
                request = _decoded(encoded) if size <= MAX_MESSAGE else f"a message is larger than {MAX_MESSAGE} bytes"
                if not isinstance(request, str):
                    yield request, size
                elif name := _name_of(encoded):
                    answer((name, (Message.RET.value, ["failed", Refused.code, f"refused: {request}"])))
        except msgpack.OutOfData:
            if len(pending) > MAX_MESSAGE:
                # Read to the end of the message without storing it.
                del pending[_NAME_BYTES:]
        except (ValueError, msgpack.UnpackException):
            # No msgpack, nested too deeply, or a text that is too long.
            return


def _decoded(encoded: bytes) -> Request | str:
    """Return the request, or what is wrong with the message."""
    number = 0

    def counted(items: Sized) -> Sized:
        nonlocal number
        number += 1 + len(items) * (1 + isinstance(items, dict))
        if number > MAX_VALUES:
            raise Refused(f"a message has more than {MAX_VALUES} values")
        return items

    try:
        message = msgpack.unpackb(encoded, list_hook=counted, object_hook=counted, **_LIMITS)
    except Refused as error:
        return str(error)
    except Exception:  # noqa: BLE001  # many types: too long, a list as a key
        return "a message cannot be read"
    match message:
        # An extension type of msgpack is a subclass of tuple.
        case (str(), (int(), *_) as content) if type(message) is type(content) is tuple:
            return message
    return "a message is no request"


def _name_of(encoded: bytes) -> str:
    """Return the name of a message that begins like a request; empty for another."""
    head = msgpack.Unpacker(**_LIMITS)
    head.feed(encoded[:_NAME_BYTES])
    try:
        name = head.unpack() if head.read_array_header() else None
    except Exception:  # noqa: BLE001  # as in _decoded
        return ""
    return name if type(name) is str else ""
