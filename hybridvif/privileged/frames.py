"""Split the client's byte stream into msgpack frames: bounded in bytes and in objects, well formed, or refused by name.

oslo.privsep takes 100 MB, and ends the daemon with a traceback at the first frame that is none of its own. What a frame
grows to in memory is bounded before it is decoded: an empty map is 1 byte here and 72 bytes there.
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
"""512 plans are a quarter of that."""
MAX_CONTAINERS = 64 * 1024
"""Lists and maps of one frame. 512 ports, of which all parts are updated twice, deleted and made anew, have 45,573."""
MAX_OBJECTS = 400_000
"""Objects of one frame but for small numbers, which take no memory of their own. Those ports have 345,609."""
_CHUNK = 64 * 1024
_TOO_LARGE = f"a message is larger than {MAX_FRAME} bytes"
_TOO_MANY = f"a message has more than {MAX_CONTAINERS} lists and maps, or {MAX_OBJECTS} values"
_OPTIONS = {
    **UNPACKING,
    # Above the limits of wire.py, which says more of what it refuses; these bound what is built until then.
    "max_array_len": 8192,
    "max_map_len": 256,
    "max_str_len": 4 * 65_536,
    "max_bin_len": 65_536,
    "max_ext_len": 0,
}
_CONTAINERS = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
"""The first bytes of lists and maps."""
_SMALL = bytes(range(0x80))
"""The first bytes of small numbers, and all bytes of ASCII."""
Frame = tuple[str, tuple[Any, ...]]
_Answer = Callable[[Frame], None]


class Frames:
    """An iterator over the requests of one caller; what is none is refused, and the next one is read."""

    def __init__(self, channel: socket.socket, answer: _Answer) -> None:
        self._channel, self._answer = channel, answer
        self._open = True
        self.size = 0
        """Bytes of the frame that was read last."""
        self._start(b"")

    def _start(self, received: bytes) -> None:
        self._unpacker = msgpack.Unpacker(max_buffer_size=MAX_FRAME + _CHUNK, **_OPTIONS)
        self._consumed = 0
        self._pending = bytearray(received)
        """What was received of the frame that is being read, and behind it."""
        self._begin()
        self._unpacker.feed(received)

    def _begin(self) -> None:
        """Begin to count: nothing of the frame has been counted yet."""
        self._seen = self._containers = self._objects = 0
        self._exact: _End | None = None

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        """The next request. Raises StopIteration when the caller has hung up, or sends what cannot be followed."""
        while self._open:
            try:
                frame = next(self._unpacker)
            except StopIteration:
                if len(self._pending) > MAX_FRAME:
                    self._skip(_TOO_LARGE)
                elif not self._receive():
                    self._skip(_TOO_MANY)
                continue
            except Exception:  # noqa: BLE001  # of many kinds: nested too deeply, a list as a key, no msgpack at all
                self._skip("a message cannot be read")
                continue
            self.size = self._forget_read()
            small = self.size <= MAX_FRAME
            if small and _is_request(frame):
                return frame  # type: ignore[no-any-return]
            name = frame[0] if isinstance(frame, tuple) and frame else None
            self._refuse(name, "a message is no request" if small else _TOO_LARGE)
        raise StopIteration

    def _receive(self) -> bool:
        """Receive more of a frame. Return whether it may be decoded; it may not, if it has too many objects."""
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
        uncounted, self._seen = self._pending[self._seen :], len(self._pending)
        self._containers += len(uncounted) - len(uncounted.translate(None, _CONTAINERS))
        self._objects += len(uncounted.translate(None, _SMALL))
        if self._containers <= MAX_CONTAINERS and self._objects <= MAX_OBJECTS:
            return False
        # Too many as counted fast, where a text that is not ASCII counts as well. So they are counted one by one.
        if self._exact is None:
            self._exact, uncounted = _End(), self._pending
        self._exact.after(bytes(uncounted))
        return self._exact.containers > MAX_CONTAINERS or self._exact.objects > MAX_OBJECTS

    def _forget_read(self) -> int:
        """How long the frame was that has been read."""
        consumed: int = self._unpacker.tell()
        size, self._consumed = consumed - self._consumed, consumed
        del self._pending[:size]
        self._begin()
        return size

    def _skip(self, why: str) -> None:
        """Read to the end of a frame without keeping it, and refuse it."""
        name = _name_of(self._pending)
        end = _End()
        received = bytes(self._pending)
        while received and (left := end.after(received)) is None:
            received = self._channel.recv(_CHUNK)
        if not received or end.lost:
            # Where the next frame begins cannot be told.
            self._refuse(name, why)
            self._open = False
            return
        self._start(left or b"")
        self._refuse(name, why)

    def _refuse(self, name: object, why: str) -> None:
        if type(name) is str:
            answer = ["failed", Refused.code, f"refused: {why}"]
            self._answer((name, (Message.RET.value, answer)))


def _is_request(frame: object) -> bool:
    match frame:
        case (str(), (int(), *_) as request):
            # An extension type of msgpack's is a tuple of a number and its bytes.
            return type(frame) is tuple and type(request) is tuple
    return False


def _name_of(received: bytearray) -> object:
    """By which name the caller waits for an answer, if the frame begins as one of ours."""
    head = msgpack.Unpacker(**_OPTIONS)
    head.feed(bytes(received[:64]))
    try:
        return head.unpack() if head.read_array_header() == 2 else None
    except Exception:  # noqa: BLE001  # as above
        return None


class _End:
    """Finds the end of one msgpack object in what is received piece by piece, without building it."""

    def __init__(self) -> None:
        self.containers = self.objects = 0
        """Lists and maps of it that have begun so far, and objects but for small numbers."""
        self._objects = 1
        self._bytes = 0
        self._head = b""
        self.lost = False

    def after(self, received: bytes) -> bytes | None:
        """What follows the object; None: it goes on."""
        data = self._head + received
        at, self._head = 0, b""
        while self._objects or self._bytes:
            if self._bytes:
                step = min(self._bytes, len(data) - at)
                at, self._bytes = at + step, self._bytes - step
                if self._bytes:
                    return None
                continue
            if at == len(data):
                return None
            shape = _shape(data, at)
            if shape is None:
                self._head = data[at:]
                return None
            length, objects, self._bytes = shape
            if length == 0:
                self.lost = True
                return b""
            self.containers += data[at] in _CONTAINERS
            self.objects += data[at] >= 0x80
            at += length
            self._objects += objects - 1
        return data[at:]


_SIZED = {
    # First byte: how its length is written, what an element of it is (objects, or bytes), and what is added to them.
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
"""First byte: the bytes that follow it."""


def _shape(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Of the object that begins here: the length of its head, and the objects and bytes in it.

    None: the head goes on; length 0: it is none (https://github.com/msgpack/msgpack/blob/master/spec.md).
    """
    first = data[at]
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
    form, objects, octets, more = _SIZED[first]
    length = 1 + struct.calcsize(form)
    if len(data) < at + length:
        return None
    (count,) = struct.unpack_from(form, data, at + 1)
    return length, objects * count, octets * count + more
