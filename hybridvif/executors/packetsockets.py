"""Which devices are read through a packet socket: so Open vSwitch's userspace datapath holds a system device."""

from __future__ import annotations

import socket
from collections.abc import Collection

TABLE = "/proc/thread-self/net/packet"
"""Of the calling thread's own network namespace (man 7 packet); /proc/net follows the first thread's."""


def held_devices(names: Collection[str]) -> frozenset[str]:
    """Which of these devices have a packet socket bound to them.

    A capture (tcpdump -i qvo...) counts as well, so absence proves that Open vSwitch does not hold the device, presence
    does not prove that it does.
    """
    if not names:
        return frozenset()
    with open(TABLE, encoding="ascii") as table:
        indexes = {int(line.split(maxsplit=5)[4]) for line in table.readlines()[1:]}
    # The index of a device that is gone is -1, and 0 is any.
    return frozenset(name for name in names if _index_of(name) in indexes - {0})


def _index_of(name: str) -> int:
    """The index of a device; -2 where there is none, which no socket is bound to."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return -2
