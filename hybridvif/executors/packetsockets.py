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
    # The index of a device that is gone is -1, and 0 is any.
    return frozenset(name for index in indexes if index > 0 and (name := _name_of(index)))


def _name_of(index: int) -> str:
    """The name of a device; "" for one that is gone."""
    # One by one: if_nameindex(3) has the kernel tell everything about every device of the host.
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
