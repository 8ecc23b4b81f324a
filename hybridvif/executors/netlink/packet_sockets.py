"""Devices with a packet socket. Open vSwitch's userspace datapath holds a system device through one."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Collection

TABLE = "/proc/thread-self/net/packet"
"""Of the network namespace of the calling thread (packet(7)); /proc/net is that of the first thread."""

_SIOCGIFINDEX, _IFREQ = 0x8933, struct.Struct("=16si20x")
"""linux/sockios.h; struct ifreq, 40 bytes."""


def held_devices(names: Collection[str]) -> frozenset[str]:
    """Return the devices of these that have a packet socket bound to them.

    A capture (tcpdump -i qvo...) also counts. Absence proves that Open vSwitch does not hold the device; presence
    proves nothing.
    """
    if not names:
        return frozenset()
    indexes = {int(line.split(maxsplit=5)[4]) for line in _table().splitlines()[1:]}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        # Deleted devices have the index -1, and 0 means any device.
        return frozenset(name for name in names if _index_of(name, any_socket) in indexes - {0})


def _table() -> bytes:
    """Return the whole table. os.open() is used since open() is slow in comparison."""
    table, pieces = os.open(TABLE, os.O_RDONLY | os.O_CLOEXEC), []
    try:
        while piece := os.read(table, 1 << 16):
            pieces.append(piece)
    finally:
        os.close(table)
    return b"".join(pieces)


def _index_of(name: str, any_socket: socket.socket) -> int:
    """Return the index of a device; -2 if absent, an index that no socket has.

    Like if_nametoindex(3), which however opens a socket for each call.
    """
    try:
        _, index = _IFREQ.unpack(fcntl.ioctl(any_socket, _SIOCGIFINDEX, _IFREQ.pack(name.encode(), 0)))
    except OSError:
        return -2
    return int(index)
