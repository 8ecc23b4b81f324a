"""The outer process of a sandbox: makes the namespaces, forks their first process, waits for its end.

    caller ==exec or spawn==> outer --fork--> inside: process 1 of the sandbox

Whatever way it ends, so does the sandbox: the kernel kills process 1 with its parent (PR_SET_PDEATHSIG), and all
others with process 1 (pid_namespaces(7)); the namespaces and what was mounted in them go with their last process.
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
    """Become the sandbox that the last argument requests."""
    command = Command.from_json(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take the exit code along
    try:
        command = replace(command, user_namespace=make_namespaces(command.user_namespace))
    except OSError as error:
        inside.give_up(command, Response(level=Level.NONE, missing=(missing.missing_namespaces(error),)))
    if command.argv:
        sys.exit(run_in_foreground(command))
    sys.exit(hold(command))


def make_namespaces(user_namespace: bool | None) -> bool:
    """Leave the caller's namespaces; processes forked from now on are in a pid namespace of their own.

    Returns whether that took a user namespace. Raises OSError where that is not allowed.
    """
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWPID
    if user_namespace is None:
        user_namespace = not kernel.may_make_namespaces()
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(flags | (kernel.CLONE_NEWUSER if user_namespace else 0))
    if user_namespace:
        kernel.map_to_root(uid, gid)
    # systemd makes "/" shared: without this the sandbox's mounts would reach the host.
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    # Only a link really made proves anything: Ubuntu from 23.10 on grants the namespaces and strips the capabilities
    # (kernel.apparmor_restrict_unprivileged_userns), and a kernel may lack bridges. To leave the bridge behind in a
    # namespace that goes with it takes 1 ms, to delete it 16 to 35.
    kernel.make_bridge("probe")
    kernel.unshare(kernel.CLONE_NEWNET)
    return user_namespace


def hold(command: Command) -> int:
    """Wait for the sandbox to end, or the caller.

    The caller's end is watched here as well as through the lifeline: a child it forked may still hold that.
    """
    caller = os.getppid()
    first = _fork(command, command.lifeline, command.answers)
    watched = select.poll()
    with contextlib.suppress(ProcessLookupError):  # it went already, and the lifeline with it
        watched.register(os.pidfd_open(caller), select.POLLIN)
    watched.register(os.pidfd_open(first), select.POLLIN)
    watched.poll()
    _, status = os.waitpid(first, os.WNOHANG)  # still there: then it dies with this process
    return _exit_code(status)


def run_in_foreground(command: Command) -> int:
    """Wait for the command in the sandbox; pass on the signals sent to this process alone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTTOU})
    in_foreground = _has_terminal()
    lifeline, passed_on = os.pipe()
    furnishing, furnished = os.pipe()
    first = _fork(command, lifeline, furnished, passed_on, furnishing)
    os.read(furnishing, 1)  # until there is a command, a signal ends this process and so the sandbox
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    _tell(passed_on, 0)
    while True:
        received = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
        if received.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(first, os.WNOHANG)
            if ended:
                if in_foreground and not _has_terminal():
                    # A shell inside makes itself the foreground group and cannot give the terminal back: this
                    # process's group is outside its pid namespace, so it sees it as 0. The next program would be
                    # stopped by its first read.
                    os.tcsetpgrp(0, os.getpgrp())
                return _exit_code(status)
        elif received.si_code in (_SI_USER, _SI_TKILL):
            # Else it is from the terminal's keys, which reach the command too: it is in the same process group.
            _tell(passed_on, received.si_signo)


def _fork(command: Command, lifeline: int, ready: int, *ours: int) -> int:
    """Fork the first process, which takes `lifeline` and `ready` along and not what is ours; returns its pid."""
    this = os.pidfd_open(os.getpid())
    first = os.fork()
    if first == 0:
        kernel.die_with_parent()
        if select.select([this], [], [], 0)[0]:  # it died before the line above: nobody would tell
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
