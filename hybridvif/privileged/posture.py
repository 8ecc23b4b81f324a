"""What the daemon gives up for good before its first thread, so that code which runs in it gains nothing by that.

oslo.privsep's own capset leaves the bounding set full and root's exec special. See capabilities(7) and prctl(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource

from oslo_privsep import capabilities

LOG = logging.getLogger(__name__)
KEPT = capabilities.CAP_NET_ADMIN
OPEN_FILES = 1024
ARENAS = 2
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

_M_ARENA_MAX = -8
_SET_DUMPABLE = 4
_CAPBSET_READ, _CAPBSET_DROP = 23, 24
_GET_SECUREBITS, _SET_SECUREBITS = 27, 28
_SET_NO_NEW_PRIVS = 38
_CAP_AMBIENT, _AMBIENT_RAISE = 47, 2
_NOROOT_LOCKED = 0b11
"""SECBIT_NOROOT and its lock: user 0 gets no capabilities by execve(2)."""

_libc = ctypes.CDLL(None, use_errno=True)


def narrow() -> None:
    """Give up what only privileges can give up, while they are still there: the bounding set, root's special exec.

    Both need CAP_SETPCAP. Who was started without it has little to lose; NO_NEW_PRIVS holds its children.
    """
    try:
        for one in range(64):
            if one != KEPT and _prctl(_CAPBSET_READ, one, tolerate=True) == 1:
                _prctl(_CAPBSET_DROP, one)
        _prctl(_SET_SECUREBITS, _prctl(_GET_SECUREBITS) | _NOROOT_LOCKED)
    except PermissionError:
        LOG.info("started without CAP_SETPCAP, so the daemon's bounding set stays as it was")


def detach(channel: int) -> None:
    """Keep nothing of who started us: no session, no environment, no file but this one and stderr."""
    with contextlib.suppress(AttributeError):
        # glibc keeps what each of the 32 threads has freed apart, 16 times over: 3 MB, and more in the course of time.
        _libc.mallopt(_M_ARENA_MAX, ARENAS)
    os.setsid()
    os.umask(0o077)
    os.environ.clear()
    os.environ.update(PATH=PATH, LC_ALL="C.UTF-8")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(3, channel)
    os.closerange(channel + 1, OPEN_FILES if most == resource.RLIM_INFINITY else most)
    # Not dumpable, an ordinary user cannot list its own /proc/self/fd, and subprocess tries every number instead.
    lower = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lower, lower))


def seal() -> None:
    """Gain nothing by exec, and let nobody of the same user trace or read this memory."""
    _prctl(_SET_NO_NEW_PRIVS, 1)
    _prctl(_SET_DUMPABLE, 0)


def pass_on() -> None:
    """Let the programs that this thread starts keep CAP_NET_ADMIN, where execve(2) would else take it."""
    effective, permitted, inheritable = capabilities.get_caps()
    if KEPT in permitted and KEPT not in inheritable:
        capabilities.drop_all_caps_except(effective, permitted, [*inheritable, KEPT])
        _prctl(_CAP_AMBIENT, _AMBIENT_RAISE, KEPT)


def _prctl(option: int, *values: int, tolerate: bool = False) -> int:
    given = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    answer: int = _libc.prctl(option, *given)
    if answer < 0 and not tolerate:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")
    return answer
