"""Taps, which rtnetlink cannot create: through /dev/net/tun (tuntap.rst of the kernel's documentation).

A tap exists while its file is open, and outlives it only once it is persistent. An incomplete tap therefore disappears
if this process dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from hybridvif.model.parts import ROOT

DEVICE = "/dev/net/tun"
NO_TUN = f"without {DEVICE} no tap can be made: load the module before the daemon starts: modprobe tun"

_IOW = 0x80000000 if os.uname().machine.startswith(("ppc", "mips", "sparc", "alpha")) else 0x40000000
"""Direction bits of a writing ioctl, which differ on those architectures (uapi/asm/ioctl.h)."""
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = _IOW | 0x454CA, _IOW | 0x454CB, _IOW | 0x454CC
_IFF_TAP, _IFF_NO_PI, _IFF_TUN_EXCL, _IFF_MULTI_QUEUE = 0x2, 0x1000, 0x8000, 0x100
_REQUEST = struct.Struct("=16sH22x")
"""struct ifreq: the name and the flags."""


class NewTap:
    """A new tap, owned by root; deleted at the end of the `with` if an exception ends it, otherwise persistent."""

    def __init__(self, name: str, multi_queue: bool) -> None:
        """Create it. Raises OSError: EEXIST if there is a device of this name."""
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL | (_IFF_MULTI_QUEUE if multi_queue else 0)
        self._fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(self._fd, _TUNSETIFF, _REQUEST.pack(name.encode(), flags))
            # /dev/net/tun has mode 0666, so any user may attach to a tap without an owner.
            fcntl.ioctl(self._fd, _TUNSETOWNER, ROOT)
        except OSError as error:
            os.close(self._fd)
            if error.errno in (errno.EBUSY, errno.EINVAL):
                # A tap of this name exists, or a device of another kind.
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
            raise

    def __enter__(self) -> NewTap:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                fcntl.ioctl(self._fd, _TUNSETPERSIST, 1)
        finally:
            os.close(self._fd)


@contextmanager
def attached(name: str) -> Iterator[int]:
    """Attach to an existing tap, and yield its file. Raises OSError: EBUSY if a process holds its only queue."""
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.ioctl(fd, _TUNSETIFF, _REQUEST.pack(name.encode(), _IFF_TAP | _IFF_NO_PI))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # A tap of several queues, to which one can attach beside another process.
            fcntl.ioctl(fd, _TUNSETIFF, _REQUEST.pack(name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_MULTI_QUEUE))
        yield fd
    finally:
        os.close(fd)


def own(fd: int) -> None:
    """Make root the owner of an attached tap. Raises OSError."""
    fcntl.ioctl(fd, _TUNSETOWNER, ROOT)
