"""Per-device settings under /proc/sys/net.

Only these files of the devices of a port are written. Every link executor writes disable_ipv6, since netlink cannot set
it; those without netlink write the others. /proc/sys/net follows the network namespace of the thread that opens it
(sysfs does not). Each directory is named after the device, so no symbolic link leads elsewhere.
"""

from __future__ import annotations

import errno
import os

from hybridvif.executors.base import ExecutorError

KEYS = {
    "arp_ignore": "net/ipv4/conf/{}/arp_ignore",
    "arp_announce": "net/ipv4/conf/{}/arp_announce",
    "forwarding": "net/ipv4/conf/{}/forwarding",
    "proxy_arp": "net/ipv4/conf/{}/proxy_arp",
    "rp_filter": "net/ipv4/conf/{}/rp_filter",
    "disable_ipv6": "net/ipv6/conf/{}/disable_ipv6",
}
"""Keys of sysctl(8) by attribute."""

_IPV4_DIRECTORY = "/proc/sys/net/ipv4/conf"
_IPV6_DIRECTORY = "/proc/sys/net/ipv6/conf"
_IPV6_TABLE = "/proc/thread-self/net/if_inet6"
"""Exists if the kernel has IPv6, even if /proc/sys is hidden."""


def lacking() -> str:
    """Return the reason that the settings are hidden, as "fact; remedy"; empty if they are visible.

    Otherwise a hidden directory would look like a kernel without IPv6, and IPv6 would stay on.
    """
    expected = (_IPV4_DIRECTORY, _IPV6_DIRECTORY) if os.path.exists(_IPV6_TABLE) else (_IPV4_DIRECTORY,)
    missing = next((path for path in expected if not os.path.isdir(path)), "")
    if not missing:
        return ""
    return (
        f"{missing} is not there, so IPv6 and ARP cannot be switched off on new devices; "
        "mount a whole /proc (under systemd: ProcSubset=all, and no InaccessiblePaths= in it)"
    )


def require() -> None:
    """Raise ExecutorError, a precondition, if the settings are hidden."""
    reason = lacking()
    if reason:
        raise ExecutorError(reason, precondition=True)


def _path(device: str, attribute: str) -> str:
    return f"/proc/sys/{KEYS[attribute].format(device)}"


def write(device: str, attribute: str, value: int) -> None:
    """Write one setting of one device. Raises OSError; a missing IPv6 file is no error.

    A kernel without IPv6 has no such file, and neither has a device whose MTU is below 1280. Then there is nothing to
    switch off.
    """
    try:
        fd = os.open(_path(device, attribute), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        if attribute == "disable_ipv6":
            return
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), device) from None
    try:
        os.write(fd, b"%d" % value)
    finally:
        os.close(fd)


def read(device: str, attribute: str) -> int | None:
    """Return one setting of one device; None if there is no such file."""
    try:
        with open(_path(device, attribute), encoding="ascii") as file:
            return int(file.read())
    except FileNotFoundError:
        return None
