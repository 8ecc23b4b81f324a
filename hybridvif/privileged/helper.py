"""hybridvif-privsep-helper: reset what the process that started it left behind, then start the daemon (main.py).

The daemon connects to the caller's socket only, because the helper is root and the caller chooses --privsep_sock_path.
Otherwise the path could name a socket that only root may use, and its server would receive what the daemon sends. So
the socket is in a private directory, the caller owns both, and a process of the caller listens on it.
"""

from __future__ import annotations

import contextlib
import gc
import locale
import os
import resource
import signal
import socket
import stat
import struct
import sys
from collections.abc import Mapping
from contextlib import ExitStack

from hybridvif.model.errors import PreconditionError
from hybridvif.privileged.privileges import OPEN_FILES

# -- the socket of the caller ------------------------------------------------------------------------------------------


STARTERS = ("SUDO_UID", "PKEXEC_UID")
"""The variables that sudo and pkexec always set to the user id of their caller."""


def caller_of(environment: Mapping[str, str]) -> int | None:
    """Return the user who started this process as root; None if unknown.

    launch.py removes these variables, so only the program that started the helper can have set them.
    """
    if os.getuid() != 0:
        return os.getuid()
    return next((int(uid) for name in STARTERS if (uid := environment.get(name, "")).isdecimal()), None)


def connect(path: str, caller: int | None) -> socket.socket:
    """Connect to the caller's socket. Raises PreconditionError if it is not the caller's, or if nobody listens."""
    directory, name = os.path.split(path)
    _require(os.path.isabs(path), "it is not an absolute path")
    try:
        with ExitStack() as opened:
            parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            opened.callback(os.close, parent)
            status = os.fstat(parent)
            owner, mode = status.st_uid, stat.S_IMODE(status.st_mode)
            _require(not mode & 0o077, f"others may use its directory (mode {mode:04o})")
            _require(caller in (None, owner), f"its directory belongs to user {owner}, and the caller is user {caller}")
            entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            opened.callback(os.close, entry)
            status = os.fstat(entry)
            _require(stat.S_ISSOCK(status.st_mode), "it is not a socket")
            _require(status.st_uid == owner, f"it belongs to user {status.st_uid}, and its directory to user {owner}")
            channel = opened.enter_context(socket.socket(socket.AF_UNIX))
            # By descriptor: the owner may have replaced the name by a link after the check.
            channel.connect(f"/proc/self/fd/{entry}")
            _, uid, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            _require(uid == owner, f"user {uid} listens on it, and it belongs to user {owner}")
            return socket.socket(fileno=channel.detach())
    except OSError as error:
        raise _refused(error.strerror or "") from error


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise _refused(reason)


def _refused(reason: str) -> PreconditionError:
    return PreconditionError(
        f"refused: --privsep_sock_path: {reason}; it must be a socket on which the caller listens, in a directory of "
        "the caller's of mode 0700"
    )


# -- start -------------------------------------------------------------------------------------------------------------


PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
LOCALE = "C.UTF-8"
_PYTHONS_OWN: dict[int, signal.Handlers] = {signal.SIGPIPE: signal.SIG_IGN, signal.SIGXFSZ: signal.SIG_IGN}
"""Signals that Python ignores, so that the call fails with an error instead (EPIPE, EFBIG)."""
_UNLIMITED = (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_DATA)


def main() -> None:
    """Start the daemon and exit; the daemon keeps running."""
    # The garbage collector would scan the modules again and again during their import.
    gc.disable()
    # The environment names the caller, and is reset with the rest of what is inherited.
    caller = caller_of(os.environ)
    reset()
    from hybridvif.privileged.main import start

    start(sys.argv[1:], caller)


def reset() -> None:
    """Reset the standard files, signals, limits, umask, environment and locale."""
    _open_standard_files()
    _reset_signals()
    _reset_limits()
    os.umask(0o077)
    # oslo.config reads options from the environment, and stevedore trusts a cache in the home directory.
    os.environ.clear()
    os.environ.update(PATH=PATH, LC_ALL=LOCALE, XDG_CACHE_HOME=os.devnull)
    with contextlib.suppress(locale.Error):
        # The encoding of the output of programs (subprocess, text=True).
        locale.setlocale(locale.LC_ALL, LOCALE)


def _open_standard_files() -> None:
    # A socket with descriptor 1 would receive what a library prints. open(2) returns the lowest free descriptor.
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)


def _reset_signals() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # Python has its own handler of SIGINT, unless it is ignored. A C library may reserve two signals for itself.
        if signal.getsignal(number) is not signal.default_int_handler:
            with contextlib.suppress(OSError, ValueError):
                # If SIGCHLD is ignored, the exit codes of programs are lost (waitpid(2), ECHILD).
                signal.signal(number, _PYTHONS_OWN.get(number, signal.SIG_DFL))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # An alarm survives execve(2).
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)


def _reset_limits() -> None:
    for limit in _UNLIMITED:
        _set_limit(limit, resource.RLIM_INFINITY)
    # A process that is not dumpable cannot list its /proc/self/fd. subprocess then closes every possible descriptor.
    _set_limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _set_limit(resource.RLIMIT_CORE, 0)
    with contextlib.suppress(OSError):
        # A daemon of low priority would delay every other client that waits for the lock of its port.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, min(os.getpriority(os.PRIO_PROCESS, 0), 0))


def _set_limit(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    # Without CAP_SYS_RESOURCE the hard limit cannot be raised.
    permitted = hard if resource.RLIM_INFINITY in (value, hard) else min(value, hard)
    for attempt in (value, permitted):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (attempt, attempt))
            return


if __name__ == "__main__":
    main()
