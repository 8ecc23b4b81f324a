"""One rtnetlink socket: many requests in one send, and dumps that detect interruption.

pyroute2 sends one request at a time and is several times slower. It verifies this module in the contract tests.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hybridvif.executors.base import seconds_until

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
NLM_F_DUMP_INTR = 0x10
"""linux/netlink.h: devices were added or removed during the dump; it may be incomplete."""
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 270, 10, 11, 12
_RCVBUFFORCE = 33
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
MAX_REPEATS = 20
"""Attempts of a dump that is interrupted."""
_CHUNK = 64
"""Requests per send: their responses wait in the receive buffer until the last one has been executed."""


@dataclass(frozen=True, slots=True)
class NetlinkRequest:
    """A message to the kernel, without its header."""

    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """An error response of the kernel: an errno, and its message if there is one."""

    code: int
    message: str = ""


Response = bytes | Rejected | None
"""Response to a request: the requested link message, the error, or None for success."""


class Interrupted(OSError):
    """The dump may be incomplete, according to the kernel."""


class NetlinkSocket:
    """A netlink socket for one thread; every wait ends by the deadline."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._number = 0
        self._socket = _socket()
        self.close = self._socket.close
        self._buffer = bytearray(1 << 17)

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def exchange(self, requests: Sequence[NetlinkRequest]) -> list[Response]:
        """Return the responses to these requests, which are executed in order. Raises TimeoutError, OSError.

        Requests that were not sent by the deadline get ETIMEDOUT.
        """
        responses: list[Response] = []
        for start in range(0, len(requests), _CHUNK):
            if time.monotonic() >= self._deadline:
                return responses + [Rejected(errno.ETIMEDOUT)] * (len(requests) - start)
            responses += self._exchange(requests[start : start + _CHUNK])
        return responses

    def repeated_dump(self, request: NetlinkRequest, attempts: int = MAX_REPEATS) -> list[bytes]:
        """Repeat a dump until it is not interrupted. Raises Interrupted, TimeoutError, OSError."""
        for _ in range(attempts):
            with contextlib.suppress(Interrupted):
                return self.dump(request)
            if time.monotonic() >= self._deadline:
                break
        raise Interrupted(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def dump(self, request: NetlinkRequest) -> list[bytes]:
        """Return the messages of a dump. Raises Interrupted, TimeoutError, OSError."""
        own = self._send([request])
        found: list[bytes] = []
        interrupted = False
        for kind, flags, number, body in self._received():
            if number != own:
                # The late response to an earlier request.
                continue
            interrupted |= bool(flags & NLM_F_DUMP_INTR)
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                rejected = _rejected(flags, body) if len(body) >= 4 else None
                if rejected is not None:
                    raise OSError(rejected.code, os.strerror(rejected.code))
                break
            found.append(body)
        if interrupted:
            raise Interrupted(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return found

    def _exchange(self, requests: Sequence[NetlinkRequest]) -> list[Response]:
        first, last = self._send(requests), len(requests) - 1
        responses: list[Response] = [None] * len(requests)
        for kind, flags, number, body in self._received():
            position = number - first
            if 0 <= position <= last:
                responses[position] = _rejected(flags, body) if kind == NLMSG_ERROR else body
            if position == last:
                break
        return responses

    def _send(self, requests: Sequence[NetlinkRequest]) -> int:
        """Send the requests in one message, and return the number of the first.

        Errors are always reported; success only for the last request. The kernel executes them in order
        (netlink_rcv_skb), so the last response means that all are done.
        """
        first, parts = self._number, list[bytes]()
        for request in requests:
            size = _HEADER.size + len(request.body)
            flags = request.flags | NLM_F_REQUEST
            if request is not requests[-1]:
                flags &= ~NLM_F_ACK
            parts += [_HEADER.pack(size, request.kind, flags, self._number, 0), request.body]
            self._number += 1
        self._socket.send(b"".join(parts))
        return first

    def _received(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield the kind, flags, sequence number and body of each received message."""
        while True:
            data, offset = self._receive(), 0
            while offset + _HEADER.size <= len(data):
                length, kind, flags, number, _ = _HEADER.unpack_from(data, offset)
                if length < _HEADER.size:
                    raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
                yield kind, flags, number, data[offset + _HEADER.size : offset + length]
                offset += (length + 3) & ~3

    def _receive(self) -> bytes:
        self._socket.settimeout(seconds_until(self._deadline))
        size = self._socket.recv_into(self._buffer)
        return bytes(memoryview(self._buffer)[:size])


def _socket() -> socket.socket:
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
        # All optional: smaller responses, error messages, and strict checks.
        with contextlib.suppress(OSError):
            channel.setsockopt(_SOL_NETLINK, option, 1)
    try:
        channel.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 1 << 23)
    except PermissionError:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
    channel.bind((0, 0))
    return channel


def _rejected(flags: int, body: bytes) -> Rejected | None:
    code = -struct.unpack_from("=i", body)[0]
    if not code:
        return None
    message = b""
    if flags & NLM_F_ACK_TLVS:
        (length,) = struct.unpack_from("=I", body, 4)
        # Capped responses repeat only the header of the request.
        start = 4 + (_HEADER.size if flags & NLM_F_CAPPED else (length + 3) & ~3)
        message = NetlinkAttributes(body[start:])[NLMSGERR_ATTR_MSG]
    return Rejected(code, message.rstrip(b"\0").decode(errors="backslashreplace"))


# -- attributes --------------------------------------------------------------------------------------------------------


def packed(kind: int, value: bytes | str | int) -> bytes:
    """Return one attribute: a number has 32 bits, a string ends with a zero byte."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that contains others."""
    return packed(kind | 0x8000, b"".join(attributes))


def link_header(index: int = 0, *, flags: int = 0, change: int = 0) -> bytes:
    """Return the header of a link message (struct ifinfomsg)."""
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change)


def link_header_of(body: bytes) -> tuple[int, int]:
    """Return the index and the flags of a link message."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    return index, flags


_layouts: dict[int, tuple[struct.Struct, tuple[int, ...], Mapping[int, slice]]] = {}
"""By size of a part: the format of its headers, their values, and the positions of the attributes."""
MAX_LAYOUTS = 256


def positions_of(part: bytes) -> Mapping[int, slice]:
    """Return the positions of the values of the attributes in a part of a message, by kind.

    Parts of one size mostly have the same headers. They are compared in one step, since a device has 80 attributes.
    """
    known = _layouts.get(len(part))
    if known is not None and known[0].unpack(part) == known[1]:
        return known[2]
    found: dict[int, slice] = {}
    headers, formats, start, end = list[int](), ["="], 0, len(part)
    while start < end - 3:
        length, kind = _ATTRIBUTE.unpack_from(part, start)
        if length < _ATTRIBUTE.size:
            return found
        found[kind & 0x3FFF] = slice(start + 4, min(start + length, end))
        following = min(start + (length + 3 & ~3), end)
        headers += [length, kind]
        formats.append(f"HH{following - start - 4}x")
        start = following
    layout = struct.Struct("".join([*formats, f"{end - start}x"]))
    if len(_layouts) >= MAX_LAYOUTS:
        _layouts.clear()
    _layouts[end] = layout, tuple(headers), found
    return found


class NetlinkAttributes:
    """The attributes of a part of a message: the value of each by its kind, b"" for an absent one."""

    __slots__ = ("_part", "positions")

    def __init__(self, part: bytes) -> None:
        self._part, self.positions = part, positions_of(part)

    def __getitem__(self, kind: int) -> bytes:
        position = self.positions.get(kind)
        return b"" if position is None else self._part[position]


# -- notifications -----------------------------------------------------------------------------------------------------

GROUPS = (1, 5, 12, 24)
"""RTNLGRP_LINK, _IPV4_IFADDR, _IPV6_IFINFO, _IPV4_NETCONF (linux/rtnetlink.h): a group per kind of observed value.

The kernel has none for arp_ignore, arp_announce and addr_gen_mode that are written under /proc/sys.
"""
MAX_READS = 4096
"""Notifications to discard in one go. The socket stays readable if there are more."""


class LinkSubscription:
    """A socket that receives the notifications of this network namespace."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, sum(1 << group - 1 for group in GROUPS)))
        self.fileno, self.close = self._socket.fileno, self._socket.close

    def drain(self) -> bool:
        """Discard the pending notifications. Return whether there were any; lost ones count (ENOBUFS)."""
        for number in range(MAX_READS):
            try:
                # The content is of no interest, so one byte is enough.
                self._socket.recv(1)
            except BlockingIOError:
                return number > 0
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
        return True
