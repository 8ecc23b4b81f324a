"""Which devices are read through a packet socket: so Open vSwitch's userspace datapath holds a system device."""

from __future__ import annotations

import socket

TABLE = "/proc/thread-self/net/packet"
"""Of the calling thread's own network namespace (man 7 packet); /proc/net follows the first thread's."""


def held_devices() -> frozenset[str]:
    """The names of the devices that have a packet socket bound to them.

    A capture (tcpdump -i qvo...) counts as well, so absence proves that Open vSwitch does not hold the device, presence
    does not prove that it does.
    """
    with open(TABLE, encoding="ascii") as table:
        indexes = {int(line.split()[4]) for line in table.readlines()[1:]}
    return frozenset(name for index, name in socket.if_nameindex() if index in indexes)
