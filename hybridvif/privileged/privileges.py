"""Drop privileges irrevocably before the first thread starts, and verify it by reading them back from the kernel.

See capabilities(7), prctl(2) and capget(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import logging
import os
import platform
import pwd
import resource
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from hybridvif.model.errors import PreconditionError

LOG = logging.getLogger(__name__)
KEPT = 12
"""CAP_NET_ADMIN (linux/capability.h)."""
SETPCAP = 8
OPEN_FILES = 1024
ARENAS = 2
STANDARD_PATH = (os.path.dirname(os.__file__), os.path.join(os.path.dirname(os.__file__), "lib-dynload"))
"""The directories of Python's own modules."""

_M_ARENA_MAX = -8
_GET_DUMPABLE, _SET_DUMPABLE = 3, 4
_SET_KEEPCAPS = 8
_CAPBSET_READ, _CAPBSET_DROP = 23, 24
_GET_SECUREBITS, _SET_SECUREBITS = 27, 28
_SET_NO_NEW_PRIVS, _GET_NO_NEW_PRIVS = 38, 39
_CAP_AMBIENT, _AMBIENT_IS_SET, _AMBIENT_RAISE = 47, 1, 2
_NOROOT_LOCKED = 0b11
"""SECBIT_NOROOT and its lock: user 0 gains no capabilities by execve(2)."""
_CAPABILITY_VERSION_3 = 0x20080522
_SETS = "=6I"
"""Effective, permitted, inheritable: the lower 32 bits of each, then the upper ones (capget(2))."""

_libc = ctypes.CDLL(None, use_errno=True)
_is_sealed = False


class PrivilegeError(PreconditionError):
    """The daemon cannot drop its privileges."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capability sets of a thread, as bit masks."""

    effective: int
    permitted: int
    inheritable: int


def capabilities() -> Capabilities:
    """Return the capability sets of this thread. Raises OSError."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    sets = ctypes.create_string_buffer(struct.calcsize(_SETS))
    _checked(_libc.capget(header, sets), "capget")
    low = struct.unpack(_SETS, sets.raw)
    return Capabilities(*(low[index] | low[index + 3] << 32 for index in range(3)))


def set_capabilities(wanted: Capabilities) -> None:
    """Set the capability sets of this thread. Raises OSError."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    masks = (wanted.effective, wanted.permitted, wanted.inheritable)
    sets = struct.pack(_SETS, *(mask & 0xFFFFFFFF for mask in masks), *(mask >> 32 for mask in masks))
    _checked(_libc.capset(header, ctypes.create_string_buffer(sets, len(sets))), "capset")


def narrow() -> bool:
    """Reduce the bounding set to CAP_NET_ADMIN and set SECBIT_NOROOT. Return whether this is permitted.

    Both need CAP_SETPCAP. A process without it has few capabilities, and NO_NEW_PRIVS restricts its children.
    """
    if not capabilities().effective >> SETPCAP & 1:
        LOG.info("started without CAP_SETPCAP, so the daemon's bounding set stays as it was")
        return False
    for number in range(64):
        if number != KEPT and _prctl(_CAPBSET_READ, number, tolerate=True) == 1:
            _prctl(_CAPBSET_DROP, number)
    _prctl(_SET_SECUREBITS, _prctl(_GET_SECUREBITS) | _NOROOT_LOCKED)
    return True


def close_files(channel: int) -> None:
    """Close all files except the standard ones and the channel, and limit the memory arenas of the C library."""
    with contextlib.suppress(AttributeError):
        # glibc keeps the freed memory of each thread in arenas of their own: 3 MB for 32 threads.
        _libc.mallopt(_M_ARENA_MAX, ARENAS)
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(3, channel)
    os.closerange(channel + 1, OPEN_FILES if limit == resource.RLIM_INFINITY else limit)


def account_of(user: str | None, group: str | None) -> tuple[int | None, int | None]:
    """Return the uid and gid of a configured user and group, given by name or number. Raises PrivilegeError.

    A user without a group gets the group of its account.
    """
    uid = gid = None
    if user is not None:
        try:
            account = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
            uid, gid = account.pw_uid, account.pw_gid
        except KeyError:
            if not user.isdecimal():
                raise _unknown("user", user) from None
            uid = int(user)
    if group is not None:
        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise _unknown("group", group) from None
    return uid, gid


def _unknown(option: str, name: str) -> PrivilegeError:
    return PrivilegeError(
        f"[hybridvif_privileged] {option}: this host has no {option} {name[:64]!r}; create it (etc/sysusers.d), or "
        "leave the option out"
    )


def become(uid: int | None, gid: int | None) -> None:
    """Change to this user and group irrevocably, and keep only CAP_NET_ADMIN. Raises PrivilegeError."""
    try:
        _prctl(_SET_KEEPCAPS, 1)
        if uid is not None or gid is not None:
            os.setgroups([])
        if gid is not None:
            os.setresgid(gid, gid, gid)
        if uid is not None:
            os.setresuid(uid, uid, uid)
    except OSError as error:
        raise PrivilegeError(
            f"[hybridvif_privileged] user, group: the daemon cannot become uid {uid}, gid {gid} ({error.strerror}); "
            "start it as root, with CAP_SETUID and CAP_SETGID"
        ) from error
    finally:
        _prctl(_SET_KEEPCAPS, 0)
    if not capabilities().permitted >> KEPT & 1:
        raise PrivilegeError("the privileged daemon was started without CAP_NET_ADMIN; start it as root")
    set_capabilities(Capabilities(1 << KEPT, 1 << KEPT, 0))


def seal() -> None:
    """Set NO_NEW_PRIVS, and keep processes of the same user from tracing this one."""
    global _is_sealed  # noqa: PLW0603  # a property of the process
    _prctl(_SET_NO_NEW_PRIVS, 1)
    _prctl(_SET_DUMPABLE, 0)
    _is_sealed = True


def verify(*, narrowed: bool, uid: int | None, gid: int | None) -> None:
    """Verify the privileges of this process as the kernel reports them. Raises PrivilegeError.

    narrowed: the result of narrow().
    """
    held, only = capabilities(), 1 << KEPT
    bounding = sum(1 << number for number in range(64) if _prctl(_CAPBSET_READ, number, tolerate=True) == 1)
    ambient = [number for number in range(64) if _prctl(_CAP_AMBIENT, _AMBIENT_IS_SET, number, tolerate=True) == 1]
    results = {
        "its effective and permitted capabilities": (held.effective, held.permitted) == (only, only),
        "its inheritable and ambient capabilities": (held.inheritable, ambient) == (0, []),
        "its bounding set": not narrowed or bounding | only == only,
        "SECBIT_NOROOT": not narrowed or _prctl(_GET_SECUREBITS) & _NOROOT_LOCKED == _NOROOT_LOCKED,
        "NO_NEW_PRIVS": _prctl(_GET_NO_NEW_PRIVS) == 1,
        "that it is not dumpable": _prctl(_GET_DUMPABLE) == 0,
        "its user": uid is None or set(os.getresuid()) == {uid},
        "its group": gid is None or (set(os.getresgid()) == {gid} and not set(os.getgroups()) - {gid}),
    }
    wrong = [name for name, is_dropped in results.items() if not is_dropped]
    if wrong:
        raise PrivilegeError(
            f"the privileged daemon does not have the posture that it promises: wrong are {', '.join(wrong)} (Linux "
            f"{platform.release()}); it answers nobody"
        )


def pass_on() -> None:
    """Let the programs that this thread starts keep CAP_NET_ADMIN across execve(2).

    In the daemon only: a process without a daemon (set_client_mode) stays as it is.
    """
    if not _is_sealed:
        return
    held = capabilities()
    if held.permitted >> KEPT & 1 and not held.inheritable >> KEPT & 1:
        set_capabilities(Capabilities(held.effective, held.permitted, held.inheritable | 1 << KEPT))
        _prctl(_CAP_AMBIENT, _AMBIENT_RAISE, KEPT)


class _Deferred:
    """A finder of pyroute2, which an executor imports on first use, because its import takes a tenth of a second."""

    def __init__(self) -> None:
        self._path = list(sys.path)

    def find_spec(
        self, name: str, _: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, self._path, target) if name == "pyroute2" else None


def restrict_imports() -> None:
    """Find only Python's own modules, pyroute2 and submodules of imported packages from now on.

    An attacker then gains nothing from a way to import a module, or to write into a directory of sys.path. In the
    daemon only.
    """
    if _is_sealed:
        sys.meta_path.append(_Deferred())
        sys.path[:] = STANDARD_PATH


def _prctl(option: int, *values: int, tolerate: bool = False) -> int:
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    result: int = _libc.prctl(option, *arguments)
    return result if tolerate else _checked(result, f"prctl({option})")


def _checked(result: int, name: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result
