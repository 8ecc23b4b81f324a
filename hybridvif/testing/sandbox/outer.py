"""The outer process of a sandbox: creates the namespaces, forks their first process, waits for its end.

    caller ==exec or spawn==> outer --fork--> inside: process 1 of the sandbox

When it ends, the sandbox ends: the kernel kills process 1 with its parent (PR_SET_PDEATHSIG), and all others with
process 1 (pid_namespaces(7)). The namespaces and their mounts are deleted with their last process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from dataclasses import replace
from typing import NoReturn

from hybridvif.testing.sandbox import inside, kernel, missing
from hybridvif.testing.sandbox.capability import Level
from hybridvif.testing.sandbox.commands import Command, Response

_PASSED_ON = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_SI_USER, _SI_TKILL = 0, -6


def main() -> NoReturn:
    """Become the sandbox of the last argument."""
    command = Command.from_json(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it was ignored, the exit code would be lost
    try:
        command = replace(command, user_namespace=make_namespaces(command.user_namespace))
    except OSError as error:
        inside.give_up(command, Response(level=Level.NONE, missing=(missing.missing_namespaces(error),)))
    if command.argv:
        sys.exit(run_in_foreground(command))
    sys.exit(hold(command))


def make_namespaces(user_namespace: bool | None) -> bool:
    """Leave the caller's namespaces. Processes forked from now on are in a new pid namespace.

    Returns True if a user namespace was created. Raises OSError if it is not permitted.
    """
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWPID
    if user_namespace is None:
        user_namespace = not kernel.may_make_namespaces()
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(flags | (kernel.CLONE_NEWUSER if user_namespace else 0))
    if user_namespace:
        kernel.map_to_root(uid, gid)
    # systemd makes "/" shared: without this, mounts of the sandbox would propagate to the host.
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    # Create a real link as a test: Ubuntu from 23.10 on grants the namespaces and strips the capabilities
    # (kernel.apparmor_restrict_unprivileged_userns), and a kernel may lack bridges. The bridge is deleted with its
    # namespace, because an explicit delete takes 16 to 35 ms.
    kernel.make_bridge("probe")
    kernel.unshare(kernel.CLONE_NEWNET)
    return user_namespace


def hold(command: Command) -> int:
    """Wait for the end of the sandbox or of the caller.

    The lifeline alone does not show the end of the caller, because a child of the caller may hold it open.
    """
    caller = os.getppid()
    first = _fork(command, command.lifeline, command.answers)
    watched = select.poll()
    with contextlib.suppress(ProcessLookupError):  # it has ended, and closed the lifeline
        watched.register(os.pidfd_open(caller), select.POLLIN)
    watched.register(os.pidfd_open(first), select.POLLIN)
    watched.poll()
    _, status = os.waitpid(first, os.WNOHANG)  # if it still runs, it dies with this process
    return _exit_code(status)


def run_in_foreground(command: Command) -> int:
    """Wait for the command in the sandbox. Forward the signals that only this process received."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTTOU})
    in_foreground = _has_terminal()
    lifeline, passed_on = os.pipe()
    furnishing, furnished = os.pipe()
    first = _fork(command, lifeline, furnished, passed_on, furnishing)
    os.read(furnishing, 1)  # until the command starts, a signal ends this process and so the sandbox
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    _tell(passed_on, 0)
    while True:
        received = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
        if received.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(first, os.WNOHANG)
            if ended:
                if in_foreground and not _has_terminal():
                    # A shell inside makes itself the foreground group and cannot return the terminal: in its pid
                    # namespace, the group of this process is 0. The next program would be stopped by its first read.
                    os.tcsetpgrp(0, os.getpgrp())
                return _exit_code(status)
        elif received.si_code in (_SI_USER, _SI_TKILL):
            # Else the terminal sent the signal to the whole process group, which includes the command.
            _tell(passed_on, received.si_signo)


def _fork(command: Command, lifeline: int, ready: int, *ours: int) -> int:
    """Fork the first process, which inherits only `lifeline` and `ready`. Returns its pid."""
    this = os.pidfd_open(os.getpid())
    first = os.fork()
    if first == 0:
        kernel.die_with_parent()
        if select.select([this], [], [], 0)[0]:  # the parent died before the line above
            os._exit(1)
        for descriptor in (this, *ours):
            os.close(descriptor)
        inside.main(command, lifeline, ready)
    for descriptor in (this, lifeline, ready):
        if descriptor >= 0:
            os.close(descriptor)
    return first


def _tell(lifeline: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # it has ended, and SIGCHLD is on its way
        os.write(lifeline, bytes([number]))


def _has_terminal() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # no terminal on stdin
        return False


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
