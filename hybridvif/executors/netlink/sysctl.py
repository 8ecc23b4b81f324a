"""Per-device settings under /proc/sys/net.

Only these files of the devices of a port are written. Netlink cannot set disable_ipv6. Executors with netlink also
write addr_gen_mode of an existing device here, and the others write all settings here. /proc/sys/net follows the
network namespace of the thread that opens it (sysfs does not). Each directory is named after the device, so no symbolic
link leads elsewhere.
"""

from __future__ import annotations

import errno
import os

from hybridvif.executors.base import ExecutorError
from hybridvif.executors.netlink.devices import IPV6

_IPV6_TABLE = "/proc/thread-self/net/if_inet6"
"""Exists if the kernel has IPv6, even if /proc/sys is hidden."""


def key(device: str, attribute: str) -> str:
    """Return the key of a setting for sysctl(8)."""
    return f"net/{'ipv6' if attribute in IPV6 else 'ipv4'}/conf/{device}/{attribute}"


def has_ipv6() -> bool:
    """Return whether the kernel has IPv6."""
    return os.path.exists(_IPV6_TABLE)


def lacking() -> str:
    """Return the reason that the settings are hidden, as "fact; remedy"; empty if they are visible.

    Otherwise a hidden directory would look like a kernel without IPv6, and IPv6 would stay on.
    """
    families = ("ipv4", "ipv6") if has_ipv6() else ("ipv4",)
    missing = next((path for family in families if not os.path.isdir(path := f"/proc/sys/net/{family}/conf")), "")
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


def write(device: str, attribute: str, value: int) -> None:
    """Write one setting of one device. Raises OSError; a missing IPv6 file is no error.

    A kernel without IPv6 has no such file, and neither has a device whose MTU is below 1280. Then there is nothing to
    switch off.
    """
    try:
        fd = os.open(f"/proc/sys/{key(device, attribute)}", os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % value)
        finally:
            os.close(fd)
    except FileNotFoundError:
        # Also raised by the write, if the device was renamed or deleted after the open (fs/proc/proc_sysctl.c).
        if attribute not in IPV6:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), device) from None
