"""Devices with a packet socket. Open vSwitch's userspace datapath holds a system device through one."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection

TABLE = "/proc/thread-self/net/packet"
"""Of the network namespace of the calling thread (packet(7)); /proc/net is that of the first thread."""


def held_devices(names: Collection[str]) -> frozenset[str]:
    """Return the devices of these that have a packet socket bound to them.

    A capture (tcpdump -i qvo...) also counts. Absence proves that Open vSwitch does not hold the device; presence
    proves nothing.
    """
    if not names:
        return frozenset()
    # os.open() is used since open() is slow in comparison.
    table = os.open(TABLE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = b"".join(iter(lambda: os.read(table, 1 << 16), b"")).splitlines()[1:]
    finally:
        os.close(table)
    # Deleted devices have the index -1, and 0 means any device.
    indexes = {int(line.split(maxsplit=5)[4]) for line in lines} - {-1, 0}
    return frozenset(name for name in names if index_of(name) in indexes)


def index_of(name: str) -> int:
    """Return the index of a device; 0 if absent."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
