"""Drop privileges irrevocably before the first thread starts, and verify it by reading them back from the kernel.

See capabilities(7), prctl(2), capget(2) and landlock(7).
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
from collections.abc import Mapping, Sequence
from typing import Any

from hybridvif.model.errors import PreconditionError
from hybridvif.model.settings import Settings

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
_CAPBSET_DROP = 24
_GET_SECUREBITS, _SET_SECUREBITS = 27, 28
_SET_NO_NEW_PRIVS = 38
_CAP_AMBIENT, _AMBIENT_RAISE = 47, 2
_NOROOT_LOCKED = 0b11
"""SECBIT_NOROOT and its lock: user 0 gains no capabilities by execve(2)."""
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_is_sealed = False


class PrivilegeError(PreconditionError):
    """The daemon cannot drop its privileges."""


_POSTURE = frozenset({"CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd", "NoNewPrivs", "Uid", "Gid", "Groups"})
"""The lines of the status of a thread that show its privileges."""


def _status() -> dict[str, str]:
    """Return the state of this thread as the kernel reports it (proc(5))."""
    with open("/proc/thread-self/status", encoding="utf-8", errors="replace") as lines:
        return dict(line.rstrip("\n").split(":\t", 1) for line in lines)


def _keep_net_admin(*, inheritable: bool) -> None:
    """Give up all capabilities of this thread but CAP_NET_ADMIN. Raises OSError if the thread does not have it."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    sets = struct.pack("=6I", 1 << KEPT, 1 << KEPT, inheritable << KEPT, 0, 0, 0)
    _checked(_libc.capset(header, sets), "capset")


def narrow() -> bool:
    """Reduce the bounding set to CAP_NET_ADMIN and set SECBIT_NOROOT. Return whether this is permitted.

    Both need CAP_SETPCAP. A process without it has few capabilities, and NO_NEW_PRIVS restricts its children.
    """
    status = _status()
    if not int(status["CapEff"], 16) >> SETPCAP & 1:
        LOG.info("started without CAP_SETPCAP, so the daemon's bounding set stays as it was")
        return False
    for number in range(64):
        if number != KEPT and int(status["CapBnd"], 16) >> number & 1:
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
    try:
        _keep_net_admin(inheritable=False)
    except PermissionError as error:
        raise PrivilegeError("the privileged daemon was started without CAP_NET_ADMIN; start it as root") from error


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
    status, only = _status(), 1 << KEPT
    if missing := _POSTURE - status.keys():
        raise PrivilegeError(
            f"/proc/thread-self/status of this kernel lacks {', '.join(sorted(missing))}; use Linux 4.10"
        )
    effective, permitted, inheritable, ambient, bounding = (
        int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")
    )
    results = {
        "its effective and permitted capabilities": effective == permitted == only,
        "its inheritable and ambient capabilities": inheritable == ambient == 0,
        "its bounding set": not narrowed or bounding | only == only,
        "SECBIT_NOROOT": not narrowed or _prctl(_GET_SECUREBITS) & _NOROOT_LOCKED == _NOROOT_LOCKED,
        "NO_NEW_PRIVS": status["NoNewPrivs"] == "1",
        "that it is not dumpable": _prctl(_GET_DUMPABLE) == 0,
        "its user": uid is None or set(status["Uid"].split()) == {str(uid)},
        "its group": gid is None or {*status["Gid"].split(), *status["Groups"].split()} == {str(gid)},
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
    if _is_sealed:
        _keep_net_admin(inheritable=True)
        _prctl(_CAP_AMBIENT, _AMBIENT_RAISE, KEPT)


def restrict_imports() -> None:
    """Find only Python's own modules and submodules of imported packages from now on.

    An attacker then gains nothing from a way to import a module, or to write into a directory of sys.path. In the
    daemon only.
    """
    if _is_sealed:
        sys.path[:] = STANDARD_PATH


def _prctl(option: int, *values: int) -> int:
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(option, *arguments), f"prctl({option})")


def _checked(result: int, name: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


# -- Landlock ----------------------------------------------------------------------------------------------------------

# The daemon writes only under /proc/sys/net and to the device that creates taps. It reads neither a home directory nor
# /etc/shadow. If its executors run programs, it reads all that its user may read, and writes under FREE too. Landlock
# does not restrict connections to Unix sockets with a path: the mode of the socket does. From ABI 6 on (Linux 6.12),
# the daemon can signal only its own processes, and connect only to its own abstract sockets. An older kernel restricts
# less (landlock(7), ABI versions).


_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""The numbers of the system calls, the same on all architectures (asm-generic/unistd.h)."""
_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << bit for bit in range(4))
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_TO_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
"""The rights to a file. The others are rights to a directory, and invalid for a file (EINVAL)."""
_ABIS = {1: (13, 1), 2: (14, 1), 3: (15, 1), 4: (15, 2), 5: (16, 2), 6: (16, 3)}
"""The number of file rights, and of the fields of struct landlock_ruleset_attr, by ABI version.

The fields are file rights, network rights and scopes. The last entry holds for all later versions.
"""
_SCOPES = 0b11
"""LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and LANDLOCK_SCOPE_SIGNAL."""
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
_RULE = "=Qi"
"""struct landlock_path_beneath_attr, packed: rights and file descriptor."""


def landlock_version() -> int:
    """Return the ABI version of the kernel's Landlock; 0 if it has none or if it is disabled."""
    return max(int(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))), 0)


def restrict_files_to(executors: Sequence[Any], settings: Settings) -> None:
    """Restrict this thread and its future threads to the files that these classes of executors need.

    Needs NO_NEW_PRIVS. Missing files are ignored.
    """
    own = [path for executor in executors for path in getattr(executor, "writes", ())]
    modules = [sys.modules[executor.__module__].__file__ for executor in executors]
    tls = filter(None, (settings.ssl_key_file, settings.ssl_cert_file, settings.ssl_ca_cert_file))
    read = [*READ, *tls, *sys.path, *(os.path.dirname(path) for path in modules if path)]
    if any(executor.programs for executor in executors):
        # The files that a program reads are unknown, and the restriction applies to it too.
        read, own = ["/"], [*FREE, *own]
    if not (abi := landlock_version()):
        LOG.info("this kernel has no Landlock, so the daemon may open what its user may")
        return
    number, fields = _ABIS[min(abi, max(_ABIS))]
    every, reading = (1 << number) - 1, _READ_FILE | _READ_DIR | _EXECUTE
    rights = dict.fromkeys(read, reading) | dict.fromkeys(WRITTEN, reading | _WRITE_FILE)
    rights |= dict.fromkeys(IOCTL_DEVICES, (_READ_FILE | _WRITE_FILE | _IOCTL) & every) | dict.fromkeys(own, every)
    try:
        _restrict(struct.pack(f"={fields}Q", *(every, 0, _SCOPES)[:fields]), rights)
    except OSError as error:
        # The filter of system calls of a container may refuse some calls of Landlock.
        LOG.warning("the daemon may open what its user may: %s", error)


def _restrict(attributes: bytes, rights: Mapping[str, int]) -> None:
    """Restrict this thread to rights by path. The rights to a directory hold for everything beneath it."""
    ruleset = _call(_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for path, granted in rights.items():
            _allow(ruleset, path, granted)
        _call(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


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
    return _checked(_libc.syscall(ctypes.c_long(number), *arguments), f"landlock, system call {number}")
