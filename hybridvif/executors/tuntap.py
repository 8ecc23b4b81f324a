"""Taps, which rtnetlink cannot make: by /dev/net/tun, see tuntap.rst of the kernel's documentation.

A tap is there as long as its file is open, and outlives it only once it was told to. So one that is half made when its
maker dies is gone with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from hybridvif.parts import ROOT

DEVICE = "/dev/net/tun"
NO_TUN = f"without {DEVICE} no tap can be made: load the module before the daemon starts: modprobe tun"

_IOW = 0x80000000 if os.uname().machine.startswith(("ppc", "mips", "sparc", "alpha")) else 0x40000000
"""The direction of an ioctl that writes, which those architectures count otherwise (their uapi/asm/ioctl.h)."""
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = _IOW | 0x454CA, _IOW | 0x454CB, _IOW | 0x454CC
_IFF_TAP, _IFF_NO_PI, _IFF_TUN_EXCL, _IFF_MULTI_QUEUE = 0x2, 0x1000, 0x8000, 0x100
_REQUEST = struct.Struct("=16sH22x")
"""struct ifreq: the name and the flags."""


class NewTap:
    """A tap that is being made, root's: gone at the end of the `with`, unless it was kept."""

    def __init__(self, name: str, *, multi_queue: bool) -> None:
        """Make it. Raises OSError: EEXIST where there is a device of this name."""
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL | (_IFF_MULTI_QUEUE if multi_queue else 0)
        self._fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(self._fd, _TUNSETIFF, _REQUEST.pack(name.encode(), flags))
            # /dev/net/tun is 0666, so whoever likes may attach to a tap without an owner.
            fcntl.ioctl(self._fd, _TUNSETOWNER, ROOT)
        except OSError as error:
            os.close(self._fd)
            if error.errno in (errno.EBUSY, errno.EINVAL):
                # A tap of this name, or a device of another kind.
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
            raise

    def __enter__(self) -> NewTap:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def keep(self) -> None:
        """Have it outlive its file. Raises OSError."""
        fcntl.ioctl(self._fd, _TUNSETPERSIST, 1)


def own(name: str) -> None:
    """Give a tap that nobody holds to root. Raises OSError: EBUSY while a VM holds it."""
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.ioctl(fd, _TUNSETIFF, _REQUEST.pack(name.encode(), _IFF_TAP | _IFF_NO_PI))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # It was made for several queues, of which another could be opened beside a VM's; the caller has looked.
            fcntl.ioctl(fd, _TUNSETIFF, _REQUEST.pack(name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_MULTI_QUEUE))
        fcntl.ioctl(fd, _TUNSETOWNER, ROOT)
    finally:
        os.close(fd)
