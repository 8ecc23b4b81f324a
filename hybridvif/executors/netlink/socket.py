"""One rtnetlink socket: many requests in one send, their answers read after; and dumps that prove something.

Own, since pyroute2 sends one request at a time and takes 0.2 ms for each, and 0.4 ms to decode a link: for three
hundred ports that is longer than the kernel and Open vSwitch need together. pyroute2 is its twin in the contract tests.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
NLM_F_DUMP_INTR = 0x10
"""linux/netlink.h: devices came or went while the dump was made; it may lack some."""
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_ATTR_MSG = 1
RTMGRP_LINK = 1
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 270, 10, 11, 12
_RCVBUFFORCE = 33
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_CHUNK = 64
"""Requests of one send: their answers wait in the receive buffer until the last has been carried out."""


@dataclass(frozen=True, slots=True)
class Request:
    """One message to the kernel, without its header."""

    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """What the kernel answered where it did not do it: an errno, and its own words if it had any."""

    code: int
    said: str = ""


Answer = bytes | Rejected | None
"""To a request: the link message it asked for, why not, or None: done."""


class Interrupted(Exception):
    """The kernel says that the dump may lack links: it proves nothing."""


class Channel:
    """A socket to the kernel's links, for the calls of one thread; every wait ends by the deadline."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._number = 0
        self._socket = _socket()
        self._buffer = bytearray(1 << 17)

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def exchange(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers to these requests, which are carried out in their order. Raises TimeoutError, OSError.

        Those that were not sent by the deadline are answered with ETIMEDOUT.
        """
        answers: list[Answer] = []
        for at in range(0, len(requests), _CHUNK):
            if time.monotonic() >= self._deadline:
                return answers + [Rejected(errno.ETIMEDOUT)] * (len(requests) - at)
            answers += self._exchange(requests[at : at + _CHUNK])
        return answers

    def dump(self, request: Request) -> list[bytes]:
        """The messages that answer a request for a dump. Raises Interrupted, TimeoutError, OSError."""
        own = self._number
        self._send([request])
        found: list[bytes] = []
        interrupted = False
        while True:
            data = self._receive()
            for kind, flags, number, body in _messages(data):
                if number != own:
                    # The late answer to a delete that was announced before.
                    continue
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    rejected = _rejected(flags, body) if len(body) >= 4 else None
                    if rejected is not None:
                        raise OSError(rejected.code, os.strerror(rejected.code))
                    if interrupted:
                        raise Interrupted
                    return found
                found.append(body)

    def delete_announced(self, request: Request, indexes: Sequence[int]) -> Answer:
        """The answer to a request that deletes all these devices, or None as soon as each has been announced as gone.

        The kernel answers after a grace period only (rcu_barrier in netdev_run_todo), in which nobody can reach the
        devices any more.
        """
        left = set(indexes)
        with _socket(RTMGRP_LINK) as listener:
            first = self._number
            # The kernel works in the send, so it waits in a thread of its own.
            # That thread has a copy of the socket: this one may be closed before the grace period is over.
            sending = self._socket.dup()
            frame = self._frame([request])
            threading.Thread(
                target=_send_and_close, args=(sending, frame), name="hybridvif-delete", daemon=True
            ).start()
            while left:
                ready, _, _ = select.select([self._socket, listener], [], [], max(self._deadline - time.monotonic(), 0))
                if not ready:
                    raise TimeoutError
                if self._socket in ready:
                    for kind, flags, number, body in _messages(self._receive()):
                        if kind == NLMSG_ERROR and number == first:
                            return _rejected(flags, body)
                if listener in ready:
                    left -= _gone(listener)
        return None

    def _exchange(self, requests: Sequence[Request]) -> list[Answer]:
        first, last = self._number, len(requests) - 1
        self._send(requests)
        answers: list[Answer] = [None] * len(requests)
        at = -1
        while at != last:
            for kind, flags, number, body in _messages(self._receive()):
                at = number - first
                if 0 <= at <= last:
                    answers[at] = _rejected(flags, body) if kind == NLMSG_ERROR else body
        return answers

    def _send(self, requests: Sequence[Request]) -> None:
        self._socket.send(self._frame(requests))

    def _frame(self, requests: Sequence[Request]) -> bytes:
        """The messages of one send. What is not done is always told; that it is done, of the last of them alone.

        They are carried out in their order (netlink_rcv_skb), so the last answer says that there are no others.
        """
        parts = []
        for request in requests:
            size = _HEADER.size + len(request.body)
            flags = request.flags | NLM_F_REQUEST
            if request is not requests[-1]:
                flags &= ~NLM_F_ACK
            parts += [_HEADER.pack(size, request.kind, flags, self._number, 0), request.body]
            self._number += 1
        return b"".join(parts)

    def _receive(self) -> bytes:
        try:
            # What is asked for is answered within the send, as a rule.
            size = self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            size = self._received_late()
        return bytes(memoryview(self._buffer)[:size])

    def _received_late(self) -> int:
        left = max(self._deadline - time.monotonic(), 0.001)
        seconds = int(left)
        timeout = struct.pack("@ll", seconds, int((left - seconds) * 1e6) or 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        try:
            return self._socket.recv_into(self._buffer)
        except BlockingIOError:
            raise TimeoutError from None


def _socket(groups: int = 0) -> socket.socket:
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
        # None is needed: they make answers smaller, tell more, and refuse what the kernel would overlook.
        with contextlib.suppress(OSError):
            channel.setsockopt(_SOL_NETLINK, option, 1)
    try:
        channel.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 1 << 23)
    except PermissionError:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
    channel.bind((0, groups))
    return channel


def _messages(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """The kind, flags, sequence number and body of each message."""
    found, at = [], 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, number, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        found.append((kind, flags, number, data[at + _HEADER.size : at + length]))
        at += (length + 3) & ~3
    return found


def _rejected(flags: int, body: bytes) -> Rejected | None:
    code = -struct.unpack_from("=i", body)[0]
    if not code:
        return None
    said = b""
    if flags & NLM_F_ACK_TLVS:
        (length,) = struct.unpack_from("=I", body, 4)
        # Capped answers repeat the header of the request only.
        start = 4 + (_HEADER.size if flags & NLM_F_CAPPED else (length + 3) & ~3)
        said = attributes_of(body, start).get(NLMSGERR_ATTR_MSG, b"")
    return Rejected(code, said.rstrip(b"\0").decode(errors="backslashreplace"))


def _gone(listener: socket.socket) -> set[int]:
    """The devices that one announcement says are gone; a bridge announces members that leave under its own family."""
    try:
        data = listener.recv(1 << 16)
    except OSError:
        # Too many at once: the answer itself tells.
        return set()
    links = [_LINK.unpack_from(body) for kind, _, _, body in _messages(data) if kind == RTM_DELLINK]
    return {index for family, _, index, _, _ in links if family == socket.AF_UNSPEC}


def _send_and_close(sending: socket.socket, frame: bytes) -> None:
    with sending, contextlib.suppress(OSError):
        sending.send(frame)


# -- attributes --------------------------------------------------------------------------------------------------------


def attribute(kind: int, value: bytes | str | int) -> bytes:
    """One attribute: a number is 32 bits wide, a text ends with a zero."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | 0x8000, b"".join(attributes))


def link_header(index: int = 0, *, flags: int = 0, change: int = 0, family: int = socket.AF_UNSPEC) -> bytes:
    """The header of a link message, struct ifinfomsg."""
    return _LINK.pack(family, 0, index, flags, change)


def link_header_of(body: bytes) -> tuple[int, int]:
    """The index and the flags of a link message."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    return index, flags


def attributes_of(body: bytes, at: int = 0, only: Collection[int] = ()) -> dict[int, bytes]:
    """The attributes from there on, by kind; of those named alone if any are, and then each of them once."""
    found: dict[int, bytes] = {}
    end, unpack, wanted = len(body) - 3, _ATTRIBUTE.unpack_from, len(only)
    while at < end:
        length, kind = unpack(body, at)
        if length < 4:
            break
        kind &= 0x3FFF
        if not wanted or kind in only:
            found[kind] = body[at + 4 : at + length]
            if len(found) == wanted:
                break
        at += length + 3 & ~3
    return found


def places_of(body: bytes, at: int, end: int, only: Collection[int]) -> list[slice]:
    """Where the values of these attributes are in a message, of which those from `at` to `end` are looked through."""
    found: list[slice] = []
    while at < end - 3:
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < 4:
            break
        if kind & 0x3FFF in only:
            found.append(slice(at + 4, min(at + length, end)))
        at += length + 3 & ~3
    return found
