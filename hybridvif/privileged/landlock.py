"""Restrict the files that the daemon may open, by Landlock if the kernel has it: see landlock(7).

The daemon writes only under /proc/sys/net and to the device that creates taps. It reads neither a home directory nor
/etc/shadow. If its executors run programs, it reads all that its user may read, and writes under FREE too. Landlock
does not restrict connections to Unix sockets with a path: the mode of the socket does. From ABI 6 on (Linux 6.12), the
daemon can signal only its own processes, and connect only to its own abstract sockets. An older kernel restricts less
(landlock(7), ABI versions).
"""

from __future__ import annotations

import ctypes
import logging
import os
import struct
import sys
from collections.abc import Iterable

LOG = logging.getLogger(__name__)

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""The numbers of the system calls, the same on all architectures (asm-generic/unistd.h)."""
_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << bit for bit in range(4))
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_TO_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
"""The rights to a file. The others are rights to a directory, and invalid for a file (EINVAL)."""
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""The number of file rights by ABI version. The last entry holds for all later versions."""
READ = (
    *(sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(__file__))),
    *("/usr", "/lib", "/lib64", "/proc", "/sys", "/dev/urandom"),
    *(f"/etc/{name}" for name in ("hosts", "host.conf", "resolv.conf", "nsswitch.conf", "gai.conf", "services")),
    *("/etc/ld.so.cache", "/etc/localtime"),
)
"""Readable paths: the interpreter and its packages, the files of the kernel, and those of name resolution."""
WRITTEN = ("/proc/sys/net", "/dev/null")
FREE = ("/sys/devices/virtual/net", "/tmp", "/var/tmp")  # noqa: S108  # not used here, but allowed
"""Writable paths of the programs that executors run: brctl writes the options of a bridge into sysfs,
and other programs write temporary files.

/run is not among them, because it can hold units of systemd. Neither is the rest of /proc and /sys, which can make the
kernel run programs.
"""
IOCTL_DEVICES = ("/dev/net/tun",)
"""Device files that need ioctl(2), a separate right since ABI 5."""

_FIELDS = {1: 1, 4: 2, 6: 3}
"""The number of fields of struct landlock_ruleset_attr by ABI version: file rights, network rights, scopes."""
_SCOPES = 0b11
"""LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and LANDLOCK_SCOPE_SIGNAL."""
_RULE = "=Qi"
"""struct landlock_path_beneath_attr, packed: rights and file descriptor."""

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Return the ABI version of the kernel's Landlock; 0 if it has none or if it is disabled."""
    return max(int(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))), 0)


def restrict(read: Iterable[str], free: Iterable[str] = ()) -> bool:
    """Restrict this thread and its future threads to these files. Return False if the kernel has no Landlock.

    Needs NO_NEW_PRIVS. read: paths beneath which files may be read and executed; missing paths are ignored. free: paths
    beneath which all rights remain.
    """
    if not (abi := version()):
        LOG.info("this kernel has no Landlock, so the daemon may open what its user may")
        return False
    every = (1 << _RIGHTS[min(abi, max(_RIGHTS))]) - 1
    reading = _READ_FILE | _READ_DIR | _EXECUTE
    fields = _FIELDS[max(first for first in _FIELDS if first <= abi)]
    attributes = struct.pack(f"={fields}Q", *(every, 0, _SCOPES)[:fields])
    ruleset = _call(_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for path in read:
            _allow(ruleset, path, reading)
        for path in WRITTEN:
            _allow(ruleset, path, reading | _WRITE_FILE)
        for path in free:
            _allow(ruleset, path, every)
        for path in IOCTL_DEVICES:
            _allow(ruleset, path, (_READ_FILE | _WRITE_FILE | _IOCTL) & every)
        _call(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return True


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            rights &= _TO_A_FILE
        rule = struct.pack(_RULE, rights, fd)
        _call(_ADD, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(fd)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock, system call {number}: {os.strerror(code)}")
    return result
