"""Split the client's byte stream into msgpack frames. Refuse a bad frame by name, and go on with the next one.

oslo.privsep accepts frames of 100 MB, and exits with a traceback at the first invalid one. The number of objects is
limited before a frame is decoded, because an empty map takes 1 byte in the frame and 72 bytes in memory.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from hybridvif.model.errors import Refused
from hybridvif.privileged.messages import UNPACKING, Message

MAX_FRAME = 4 * 1024 * 1024
"""Largest size of a frame in bytes, four times that of 512 plans."""
MAX_CONTAINERS = 64 * 1024
"""Largest number of lists and maps of a frame. The longest plans of 512 ports have 45,573."""
MAX_OBJECTS = 400_000
"""Largest number of objects of a frame, without small numbers, which take no memory. Those plans have 345,609."""
_CHUNK = 64 * 1024
_TOO_LARGE = f"a message is larger than {MAX_FRAME} bytes"
_TOO_MANY = f"a message has more than {MAX_CONTAINERS} lists and maps, or {MAX_OBJECTS} values"
_OPTIONS = {
    **UNPACKING,
    # Above the limits of codec.py, which returns better messages. These limits bound the memory before it runs.
    "max_array_len": 8192,
    "max_map_len": 256,
    "max_str_len": 4 * 65_536,
    "max_bin_len": 65_536,
    "max_ext_len": 0,
}
_CONTAINERS = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
"""The first bytes of lists and maps."""
_SMALL = bytes(range(0x80))
"""The first bytes of small numbers, and all bytes of ASCII texts."""
Frame = tuple[str, tuple[Any, ...]]
_Answer = Callable[[Frame], None]


class Frames:
    """An iterator over the requests of one client."""

    def __init__(self, channel: socket.socket, answer: _Answer) -> None:
        self._channel, self._answer = channel, answer
        self._open = True
        self.size = 0
        """The size of the last frame in bytes."""
        self._start(b"")

    def _start(self, received: bytes) -> None:
        self._unpacker = msgpack.Unpacker(max_buffer_size=MAX_FRAME + _CHUNK, **_OPTIONS)
        self._consumed = 0
        self._pending = bytearray(received)
        """The received bytes of the current frame and of later ones."""
        self._begin()
        self._unpacker.feed(received)

    def _begin(self) -> None:
        """Reset the counts for a new frame."""
        self._counted = self._containers = self._objects = 0
        self._exact: _End | None = None

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        """Return the next request. Raises StopIteration on EOF, or if the next frame cannot be found."""
        while self._open:
            try:
                frame = next(self._unpacker)
            except StopIteration:
                if len(self._pending) > MAX_FRAME:
                    self._skip(_TOO_LARGE)
                elif not self._receive():
                    self._skip(_TOO_MANY)
                continue
            except Exception:  # noqa: BLE001  # many types: nested too deeply, a list as a key, no msgpack
                self._skip("a message cannot be read")
                continue
            self.size = self._drop_frame()
            small = self.size <= MAX_FRAME
            if small and _is_request(frame):
                return frame  # type: ignore[no-any-return]
            name = frame[0] if isinstance(frame, tuple) and frame else None
            self._refuse(name, "a message is no request" if small else _TOO_LARGE)
        raise StopIteration

    def _receive(self) -> bool:
        """Receive more of a frame. Return False if the frame has too many objects."""
        received = self._channel.recv(_CHUNK)
        self._open = bool(received)
        self._pending += received
        if self._has_too_many():
            return False
        self._unpacker.feed(received)
        return True

    def _has_too_many(self) -> bool:
        if len(self._pending) <= MAX_CONTAINERS:
            return False
        uncounted, self._counted = self._pending[self._counted :], len(self._pending)
        self._containers += len(uncounted) - len(uncounted.translate(None, _CONTAINERS))
        self._objects += len(uncounted.translate(None, _SMALL))
        if self._containers <= MAX_CONTAINERS and self._objects <= MAX_OBJECTS:
            return False
        # The fast count includes the bytes of texts that are not ASCII. So count exactly.
        if self._exact is None:
            self._exact, uncounted = _End(), self._pending
        self._exact.after(bytes(uncounted))
        return self._exact.containers > MAX_CONTAINERS or self._exact.objects > MAX_OBJECTS

    def _drop_frame(self) -> int:
        """Drop the bytes of the decoded frame and return their number."""
        consumed: int = self._unpacker.tell()
        size, self._consumed = consumed - self._consumed, consumed
        del self._pending[:size]
        self._begin()
        return size

    def _skip(self, reason: str) -> None:
        """Read to the end of a frame without storing it, and refuse it."""
        name = _name_of(self._pending)
        end = _End()
        received = bytes(self._pending)
        while received and (rest := end.after(received)) is None:
            received = self._channel.recv(_CHUNK)
        if not received or end.lost:
            # The start of the next frame is unknown.
            self._refuse(name, reason)
            self._open = False
            return
        self._start(rest or b"")
        self._refuse(name, reason)

    def _refuse(self, name: object, reason: str) -> None:
        if type(name) is str:
            answer = ["failed", Refused.code, f"refused: {reason}"]
            self._answer((name, (Message.RET.value, answer)))


def _is_request(frame: object) -> bool:
    match frame:
        case (str(), (int(), *_) as request):
            # An extension type of msgpack is a subclass of tuple.
            return type(frame) is tuple and type(request) is tuple
    return False


def _name_of(received: bytearray) -> object:
    """Return the name of the request, if the frame begins like a request."""
    head = msgpack.Unpacker(**_OPTIONS)
    head.feed(bytes(received[:64]))
    try:
        return head.unpack() if head.read_array_header() == 2 else None
    except Exception:  # noqa: BLE001  # as in __next__
        return None


class _End:
    """A search for the end of one msgpack object in a stream of bytes, without decoding the object."""

    def __init__(self) -> None:
        self.containers = self.objects = 0
        """The lists and maps of the object so far, and its objects without small numbers."""
        self._objects = 1
        self._bytes = 0
        self._head = b""
        self.lost = False

    def after(self, received: bytes) -> bytes | None:
        """Return the bytes behind the object; None if it continues."""
        data = self._head + received
        position, self._head = 0, b""
        while self._objects or self._bytes:
            if self._bytes:
                step = min(self._bytes, len(data) - position)
                position, self._bytes = position + step, self._bytes - step
                if self._bytes:
                    return None
                continue
            if position == len(data):
                return None
            shape = _shape(data, position)
            if shape is None:
                self._head = data[position:]
                return None
            length, objects, self._bytes = shape
            if length == 0:
                self.lost = True
                return b""
            self.containers += data[position] in _CONTAINERS
            self.objects += data[position] >= 0x80
            position += length
            self._objects += objects - 1
        return data[position:]


_SIZED = {
    # First byte: the format of the length, objects and bytes per element, and additional bytes.
    **{0xC4 + n: (fmt, 0, 1, 0) for n, fmt in enumerate((">B", ">H", ">I"))},
    **{0xC7 + n: (fmt, 0, 1, 1) for n, fmt in enumerate((">B", ">H", ">I"))},
    **{0xD9 + n: (fmt, 0, 1, 0) for n, fmt in enumerate((">B", ">H", ">I"))},
    **{0xDC + n: (fmt, 1, 0, 0) for n, fmt in enumerate((">H", ">I"))},
    **{0xDE + n: (fmt, 2, 0, 0) for n, fmt in enumerate((">H", ">I"))},
}
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8} | {
    **{0xD0 + n: 1 << n for n in range(4)},
    **{0xD4 + n: 1 + (1 << n) for n in range(5)},
}
"""First byte: the number of bytes that follow."""


def _shape(data: bytes, start: int) -> tuple[int, int, int] | None:
    """Return the length of the head of an object, and the number of objects and bytes in it.

    None: the head is incomplete. Length 0: the byte is invalid. https://github.com/msgpack/msgpack/blob/master/spec.md
    """
    first = data[start]
    if first <= 0x7F or first >= 0xE0:
        return 1, 0, 0
    if first <= 0x8F:
        return 1, 2 * (first & 0x0F), 0
    if first <= 0x9F:
        return 1, first & 0x0F, 0
    if first <= 0xBF:
        return 1, 0, first & 0x1F
    if first in _FIXED:
        return 1, 0, _FIXED[first]
    if first not in _SIZED:
        return 0, 0, 0
    form, objects, octets, additional = _SIZED[first]
    length = 1 + struct.calcsize(form)
    if len(data) < start + length:
        return None
    (count,) = struct.unpack_from(form, data, start + 1)
    return length, objects * count, octets * count + additional
