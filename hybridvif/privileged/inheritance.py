"""Reset what a process inherits from its parent: the helper and the daemon run alike, whoever started them."""

from __future__ import annotations

import contextlib
import locale
import os
import resource
import signal

from hybridvif.privileged.privileges import OPEN_FILES

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
LOCALE = "C.UTF-8"
_PYTHONS_OWN: dict[int, signal.Handlers] = {signal.SIGPIPE: signal.SIG_IGN, signal.SIGXFSZ: signal.SIG_IGN}
"""Signals that Python itself ignores: the call then fails with an error (EPIPE, EFBIG)."""
_UNLIMITED = (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_DATA)


def reset() -> None:
    """Reset all of it, before anything is opened or imported that depends on it."""
    _open_standard_files()
    _reset_signals()
    _reset_limits()
    os.umask(0o077)
    # oslo.config reads options from the environment, and importlib.metadata and stevedore a home directory.
    os.environ.clear()
    os.environ.update(PATH=PATH, LC_ALL=LOCALE)
    with contextlib.suppress(locale.Error):
        # The encoding of what programs print (subprocess, text=True).
        locale.setlocale(locale.LC_ALL, LOCALE)


def _open_standard_files() -> None:
    # A socket with the number 1 would get what a library prints. The lowest free number is the one that is opened.
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)


def _reset_signals() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # Python keeps its own handler of SIGINT, if it was not ignored. A C library may keep two numbers for itself.
        if signal.getsignal(number) is not signal.default_int_handler:
            with contextlib.suppress(OSError, ValueError):
                # SIGCHLD, if it is ignored, makes the exit code of every program 0 (waitpid(2), ECHILD).
                signal.signal(number, _PYTHONS_OWN.get(number, signal.SIG_DFL))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # An alarm survives execve(2).
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)


def _reset_limits() -> None:
    for limit in _UNLIMITED:
        _set_limit(limit, resource.RLIM_INFINITY)
    # Not dumpable, an ordinary user cannot list its own /proc/self/fd, and subprocess tries every number instead.
    _set_limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _set_limit(resource.RLIMIT_CORE, 0)
    with contextlib.suppress(OSError):
        # A daemon that gets no processor holds up every other caller of its port.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, min(os.getpriority(os.PRIO_PROCESS, 0), 0))


def _set_limit(limit: int, value: int) -> None:
    _, most = resource.getrlimit(limit)
    # Without CAP_SYS_RESOURCE the hard limit is the most that there is.
    below = most if resource.RLIM_INFINITY in (value, most) else min(value, most)
    for wanted in (value, below):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (wanted, wanted))
            return
