"""Which files the daemon may open, by Landlock where the kernel has it: see landlock(7).

It writes nowhere but under /proc/sys/net, and to the device by which taps are made; it reads neither a home nor
/etc/shadow. Unix sockets are not files to Landlock: who may connect is the socket's own mode. From ABI 6 on (Linux
6.12) it signals no process but its own, and connects to no abstract socket but its own. Only what the kernel knows of
is asked for, so an older one refuses less (landlock(7), ABI versions).
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
"""The numbers of the system calls, the same on every architecture that has them (asm-generic/unistd.h)."""
_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << at for at in range(4))
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_TO_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
"""The rest are rights to a directory, and refused for anything else (EINVAL)."""
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights to files a kernel knows, by the version of its ABI; the latest holds for all that follow."""
READ = (
    *(sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(__file__))),
    *("/usr", "/lib", "/lib64", "/proc", "/sys", "/dev/urandom"),
    *(f"/etc/{name}" for name in ("hosts", "host.conf", "resolv.conf", "nsswitch.conf", "gai.conf", "services")),
    *("/etc/ld.so.cache", "/etc/localtime"),
)
"""What is read: the interpreter and its packages, the kernel's own files, and what a host's name is looked up in."""
WRITTEN = ("/proc/sys/net", "/dev/null")
FREE = ("/sys/devices/virtual/net", "/tmp", "/var/tmp")  # noqa: S108  # not used here, but allowed
"""Where programs that executors run may do what they like: brctl writes a bridge's options into sysfs.

Not /run, where a unit of systemd's can be put, nor the rest of /proc and /sys, where the kernel is told what to run.
"""
SPOKEN_TO = ("/dev/net/tun",)
"""Devices that are opened to be told something: by ioctl(2), to which a kernel has a right of its own since ABI 5."""


_FIELDS = {1: 1, 4: 2, 6: 3}
"""Fields of struct landlock_ruleset_attr by the version of the ABI: rights to files, rights to networks, scopes."""
_SCOPES = 0b11
"""LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and LANDLOCK_SCOPE_SIGNAL."""
_RULE = "=Qi"
"""struct landlock_path_beneath_attr, which is packed: rights, and the file."""

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The version of the kernel's Landlock; 0 where it has none, or it is switched off."""
    return max(int(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))), 0)


def restrict(read: Iterable[str], free: Iterable[str] = ()) -> bool:
    """Hold this thread, and those that it starts, to these files; whether the kernel can. Needs NO_NEW_PRIVS.

    read: what may be read and executed, and all beneath it; what is not there is left out. free: beneath which
    anything may be done.
    """
    if not (known := version()):
        LOG.info("this kernel has no Landlock, so the daemon may open what its user may")
        return False
    every = (1 << _RIGHTS[min(known, max(_RIGHTS))]) - 1
    reading = _READ_FILE | _READ_DIR | _EXECUTE
    fields = _FIELDS[max(version for version in _FIELDS if version <= known)]
    asked = struct.pack(f"={fields}Q", *(every, 0, _SCOPES)[:fields])
    ruleset = _called(_CREATE, asked, ctypes.c_size_t(len(asked)), ctypes.c_uint32(0))
    try:
        for path in read:
            _allow(ruleset, path, reading)
        for path in WRITTEN:
            _allow(ruleset, path, reading | _WRITE_FILE)
        for path in free:
            _allow(ruleset, path, every)
        for path in SPOKEN_TO:
            _allow(ruleset, path, (_READ_FILE | _WRITE_FILE | _IOCTL) & every)
        _called(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
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
        _called(_ADD, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(fd)


def _called(number: int, *arguments: object) -> int:
    answer: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock, system call {number}: {os.strerror(code)}")
    return answer
