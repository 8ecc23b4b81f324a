"""The first process of a sandbox: sets it up, runs the command, reaps ended processes.

When it ends, the kernel kills every process in the sandbox. As process 1 of a pid namespace it ignores signals
without a handler, so signals from the terminal reach only the command.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
from typing import NoReturn

from hybridvif.testing.sandbox import kernel
from hybridvif.testing.sandbox.capability import Level, Requirement, SandboxError
from hybridvif.testing.sandbox.commands import Command, Response
from hybridvif.testing.sandbox.environment import describe, environment, working_directory
from hybridvif.testing.sandbox.missing import missing_for, missing_mount, missing_namespaces, missing_start
from hybridvif.testing.sandbox.switch import RUN_DIRECTORY, datapath_type, discard_switch, run_here, start_switch

EXIT_PRECONDITION = 5
HOST_CONFIGURATION = "/etc/hybridvif"

_LEVELS = (Level.PACKETS, Level.DUMMY)
_SAFE = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


def main(command: Command, lifeline: int, ready: int) -> NoReturn:
    """Run the sandbox until the command or the lifeline ends. Closes `ready` after the setup."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    answer = _set_up(command)
    if answer.error or answer.level is Level.NONE:
        give_up(command, answer)
    if command.answers >= 0:
        os.write(command.answers, answer.to_json().encode())
    os.close(ready)
    if command.probe:
        os._exit(0)
    if not command.argv:
        os._exit(wait(lifeline, None))
    _greet(command, answer)
    os.read(lifeline, 1)  # first byte: the outer process is ready to forward signals
    os._exit(wait(lifeline, spawn(command.argv)))


def give_up(command: Command, answer: Response) -> NoReturn:
    """Report a failed setup and exit: in a Response if the caller reads one, else on stderr."""
    if command.answers >= 0:
        os.write(command.answers, answer.to_json().encode())
        os._exit(0)
    why = answer.error or f"no sandbox can be had here: {answer.missing[0].what}"
    remedies = "".join(f"\n  try: {requirement.remedy}" for requirement in answer.missing)
    print(f"error: {why}{remedies}", file=sys.stderr, flush=True)
    os._exit(EXIT_PRECONDITION)


def spawn(argv: tuple[str, ...]) -> int:
    """Start the command and return its pid. If that fails, exit with the codes of a shell (126, 127)."""
    pythons_own = (signal.SIGPIPE, signal.SIGXFSZ)  # other signals ignored by the caller (nohup) stay ignored
    try:
        return os.posix_spawnp(argv[0], argv, os.environ, setsigdef=pythons_own, setsigmask=())
    except OSError as error:
        print(f"error: {argv[0]} cannot be run: {error.strerror}; check its spelling", file=sys.stderr, flush=True)
        # An unreadable directory in PATH turns "no such file" into "permission denied".
        absent = isinstance(error, FileNotFoundError) or (os.sep not in argv[0] and shutil.which(argv[0]) is None)
        os._exit(127 if absent else 126)


def wait(lifeline: int, command: int | None) -> int:
    """Reap orphaned processes until the command or the lifeline ends. Returns the exit code.

    A byte on the lifeline is the number of a signal to send to the command.
    """
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    watched = select.poll()
    watched.register(woken, select.POLLIN)
    watched.register(lifeline, select.POLLIN)
    while (code := _reap(command)) is None:
        ready = dict(watched.poll())
        if woken in ready:
            os.read(woken, 4096)
        if lifeline in ready:
            numbers = os.read(lifeline, 64)
            if not numbers:
                return 128 + signal.SIGKILL
            if command is not None:
                for number in numbers:
                    os.kill(command, number)
    return code


def _reap(command: int | None) -> int | None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return None
            if pid == command:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
    return None


def _set_up(command: Command) -> Response:
    pid = int(os.readlink("/proc/self"))  # in the caller's pid namespace: /proc is not mounted yet
    try:
        refused = _mount_all()
        kernel.set_up("lo")
    except OSError as error:
        return Response(level=Level.NONE, missing=(missing_namespaces(error),), pid=pid)
    changed = environment(os.environ)
    os.environ.clear()
    os.environ.update(changed)
    level, lacking = _reach_best_level(command)
    if level is Level.NONE:
        wanted = command.level.value if command.level else "any"
        return Response(level=level, missing=lacking, error=f"no sandbox of the level {wanted}: {lacking[0].what}")
    answer = Response(level=level, missing=(*refused, *lacking), pid=pid, user_namespace=bool(command.user_namespace))
    describe(answer)
    return answer


def _mount_all() -> tuple[Requirement, ...]:
    """Mount /run, /proc and /sys. Returns the mounts that failed but are optional."""
    kernel.mount("hybridvif-sandbox", "/run", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755")
    if os.path.isdir("/var/run") and not os.path.samefile("/run", "/var/run"):
        kernel.mount("/run", "/var/run", flags=kernel.MS_BIND)
    if os.path.isdir(HOST_CONFIGURATION):
        # The host's configuration may name an OVSDB that is reachable from the sandbox.
        kernel.mount("hybridvif-sandbox", HOST_CONFIGURATION, "tmpfs", _SAFE, "mode=0755")
    os.mkdir(RUN_DIRECTORY)
    os.mkdir("/run/lock")
    os.chmod("/run/lock", 0o1777)  # noqa: S103 - as on any host: the locks of all programs
    here = working_directory()
    if here is None or here == "/run" or here.startswith("/run/"):
        os.chdir("/")  # else relative names would still reach hidden files
    refused = []
    # /sys/class/net shows the network namespace in which sysfs was mounted.
    for kind, target, path in (("proc", "/proc", "/proc"), ("sysfs", "/sys", "/sys/class/net")):
        try:
            kernel.mount(kind, target, kind, _SAFE)
        except OSError as error:  # a container that covers parts of them (mount_too_revealing() in the kernel)
            refused.append(missing_mount(path, error))
    return tuple(refused)


def _reach_best_level(command: Command) -> tuple[Level, tuple[Requirement, ...]]:
    """Return the best level allowed, with its switch running, and the requirements missing for a better one."""
    missing: dict[Requirement, None] = {}
    for level in _LEVELS:
        if command.level not in (None, level):
            continue
        unmet = missing_for(level)
        if not unmet and command.switch and not command.probe:
            unmet = _start(level)
        missing.update(dict.fromkeys(unmet))
        if not unmet:
            return level, tuple(missing)
    return Level.NONE, tuple(missing)


def _start(level: Level) -> tuple[Requirement, ...]:
    try:
        start_switch(run_here, level)
    except SandboxError as error:
        discard_switch(run_here)
        return (missing_start(datapath_type(level), error),)
    return ()


def _greet(command: Command, answer: Response) -> None:
    if not command.quiet:
        for requirement in answer.missing:
            print(f"hybridvif sandbox: {requirement.what}\n  fix it with: {requirement.remedy}", file=sys.stderr)
    if command.greet:
        print(
            f"hybridvif sandbox: a throw-away host with {answer.level.promise}; 'exit' leaves nothing of it behind",
            file=sys.stderr,
        )
    sys.stderr.flush()
