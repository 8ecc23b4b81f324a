"""hybridvif-privsep-helper: reset what the process that started it left behind, then start the daemon (main.py)."""

from __future__ import annotations

import contextlib
import gc
import locale
import os
import resource
import signal
import sys

from hybridvif.privileged import peer
from hybridvif.privileged.privileges import OPEN_FILES

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
    caller = peer.caller_of(os.environ)
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
