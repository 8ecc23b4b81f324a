"""The per-device switches under /proc/sys/net.

Only these files, of the devices of a port, are ever written: disable_ipv6 by every link executor, since netlink cannot
set it, the others by those that do not use netlink. /proc/sys/net
follows the network namespace of the thread that opens it (sysfs does not), and each directory is named for the device,
so no link of ours can lead elsewhere.
"""

from __future__ import annotations

import errno
import os

_FILES = {
    "arp_ignore": "/proc/sys/net/ipv4/conf/{}/arp_ignore",
    "arp_announce": "/proc/sys/net/ipv4/conf/{}/arp_announce",
    "forwarding": "/proc/sys/net/ipv4/conf/{}/forwarding",
    "proxy_arp": "/proc/sys/net/ipv4/conf/{}/proxy_arp",
    "rp_filter": "/proc/sys/net/ipv4/conf/{}/rp_filter",
    "disable_ipv6": "/proc/sys/net/ipv6/conf/{}/disable_ipv6",
}


def write(device: str, attribute: str, value: int) -> None:
    """Write one switch of one device. Raises OSError; a missing IPv6 file is no error.

    A kernel without IPv6, and a device whose MTU is below 1280, have no such file, and nothing to switch off.
    """
    try:
        fd = os.open(_FILES[attribute].format(device), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        if attribute == "disable_ipv6":
            return
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), device) from None
    try:
        os.write(fd, b"%d" % value)
    finally:
        os.close(fd)


def read(device: str, attribute: str) -> int | None:
    """One switch of one device; None where there is no such file."""
    try:
        with open(_FILES[attribute].format(device), encoding="ascii") as file:
            return int(file.read())
    except FileNotFoundError:
        return None
