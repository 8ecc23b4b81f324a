"""Drop privileges for good before the first thread starts, and prove it by reading back what the kernel holds.

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
from dataclasses import dataclass

from hybridvif.model.errors import PreconditionError

LOG = logging.getLogger(__name__)
KEPT = 12
"""CAP_NET_ADMIN (linux/capability.h)."""
SETPCAP = 8
OPEN_FILES = 1024
ARENAS = 2

_M_ARENA_MAX = -8
_GET_DUMPABLE, _SET_DUMPABLE = 3, 4
_SET_KEEPCAPS = 8
_CAPBSET_READ, _CAPBSET_DROP = 23, 24
_GET_SECUREBITS, _SET_SECUREBITS = 27, 28
_SET_NO_NEW_PRIVS, _GET_NO_NEW_PRIVS = 38, 39
_CAP_AMBIENT, _AMBIENT_IS_SET, _AMBIENT_RAISE = 47, 1, 2
_NOROOT_LOCKED = 0b11
"""SECBIT_NOROOT and its lock: user 0 gets no capabilities by execve(2)."""
_CAPABILITY_VERSION_3 = 0x20080522
_SETS = "=6I"
"""Effective, permitted, inheritable: the lower 32 bits of each, and the upper ones (capget(2))."""

_libc = ctypes.CDLL(None, use_errno=True)
_is_sealed = False


class PrivilegeError(PreconditionError):
    """The daemon could not drop what it has to drop. One finished sentence."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capability sets of a thread, each as a mask."""

    effective: int
    permitted: int
    inheritable: int


def capabilities() -> Capabilities:
    """Return the capability sets of this thread. Raises OSError."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    sets = ctypes.create_string_buffer(struct.calcsize(_SETS))
    _called(_libc.capget(header, sets), "capget")
    low = struct.unpack(_SETS, sets.raw)
    return Capabilities(*(low[index] | low[index + 3] << 32 for index in range(3)))


def keep(wanted: Capabilities) -> None:
    """Set the capability sets of this thread. Raises OSError."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    masks = (wanted.effective, wanted.permitted, wanted.inheritable)
    sets = struct.pack(_SETS, *(mask & 0xFFFFFFFF for mask in masks), *(mask >> 32 for mask in masks))
    _called(_libc.capset(header, ctypes.create_string_buffer(sets, len(sets))), "capset")


def narrow() -> bool:
    """Empty the bounding set but for CAP_NET_ADMIN, and end root's special exec. Return whether that was allowed.

    Both need CAP_SETPCAP. A process started without it has little to lose, and NO_NEW_PRIVS holds its children.
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
    """Close every file but the standard ones and this one; bound what the C library keeps of freed memory."""
    with contextlib.suppress(AttributeError):
        # glibc keeps what each of the 32 threads has freed apart, 16 times over: 3 MB, and more in the course of time.
        _libc.mallopt(_M_ARENA_MAX, ARENAS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(3, channel)
    os.closerange(channel + 1, OPEN_FILES if most == resource.RLIM_INFINITY else most)


def account_of(user: str | None, group: str | None) -> tuple[int | None, int | None]:
    """Return the uid and the gid of a configured user and group, by name or number. Raises PrivilegeError.

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
    """Become this user and group for good, if any is given, and keep CAP_NET_ADMIN alone. Raises PrivilegeError."""
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
    keep(Capabilities(1 << KEPT, 1 << KEPT, 0))


def seal() -> None:
    """Gain nothing by exec, and let nobody of the same user trace or read this memory."""
    global _is_sealed  # noqa: PLW0603  # of the process
    _prctl(_SET_NO_NEW_PRIVS, 1)
    _prctl(_SET_DUMPABLE, 0)
    _is_sealed = True


def prove(*, narrowed: bool, uid: int | None, gid: int | None) -> None:
    """Compare what this process holds with what it promises, as the kernel reports it. Raises PrivilegeError.

    narrowed: whether it had CAP_SETPCAP, without which the bounding set cannot change.
    """
    held, only = capabilities(), 1 << KEPT
    bounding = sum(1 << number for number in range(64) if _prctl(_CAPBSET_READ, number, tolerate=True) == 1)
    ambient = [number for number in range(64) if _prctl(_CAP_AMBIENT, _AMBIENT_IS_SET, number, tolerate=True) == 1]
    proofs = {
        "its effective and permitted capabilities": (held.effective, held.permitted) == (only, only),
        "its inheritable and ambient capabilities": (held.inheritable, ambient) == (0, []),
        "its bounding set": not narrowed or bounding | only == only,
        "SECBIT_NOROOT": not narrowed or _prctl(_GET_SECUREBITS) & _NOROOT_LOCKED == _NOROOT_LOCKED,
        "NO_NEW_PRIVS": _prctl(_GET_NO_NEW_PRIVS) == 1,
        "that it is not dumpable": _prctl(_GET_DUMPABLE) == 0,
        "its user": uid is None or set(os.getresuid()) == {uid},
        "its group": gid is None or (set(os.getresgid()) == {gid} and not set(os.getgroups()) - {gid}),
    }
    lacking = [what for what, is_so in proofs.items() if not is_so]
    if lacking:
        raise PrivilegeError(
            f"the privileged daemon does not have the posture that it promises: wrong are {', '.join(lacking)} (Linux "
            f"{platform.release()}); it answers nobody"
        )


def pass_on() -> None:
    """Let the programs that this thread starts keep CAP_NET_ADMIN, where execve(2) would else take it.

    In the daemon alone: a process that does the work itself (set_client_mode) stays as it is.
    """
    if not _is_sealed:
        return
    held = capabilities()
    if held.permitted >> KEPT & 1 and not held.inheritable >> KEPT & 1:
        keep(Capabilities(held.effective, held.permitted, held.inheritable | 1 << KEPT))
        _prctl(_CAP_AMBIENT, _AMBIENT_RAISE, KEPT)


def _prctl(option: int, *values: int, tolerate: bool = False) -> int:
    given = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    answer: int = _libc.prctl(option, *given)
    return answer if tolerate else _called(answer, f"prctl({option})")


def _called(answer: int, name: str) -> int:
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return answer
