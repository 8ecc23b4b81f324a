"""The first process of a sandbox: furnishes it, runs the command, buries the dead.

Its end is the end of every process in the sandbox. As process 1 of a pid namespace it takes no signal it has no
handler for, so the terminal's keys, meant for the command, leave it alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
from typing import NoReturn

from hybridvif.sandbox import kernel
from hybridvif.sandbox.environment import describe, environment, working_directory
from hybridvif.sandbox.lacks import lacks_of, mount_lack, namespace_lack, start_lack
from hybridvif.sandbox.order import Answer, Order
from hybridvif.sandbox.rungs import Lack, Rung, SandboxError
from hybridvif.sandbox.switch import RUN_DIRECTORY, datapath_type, discard_switch, run_here, start_switch

EXIT_PRECONDITION = 5
HOST_CONFIGURATION = "/etc/hybridvif"

_LADDER = (Rung.PACKETS, Rung.DUMMY, Rung.LINKS)
_SAFE = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


def main(order: Order, lifeline: int, ready: int) -> NoReturn:
    """Be the sandbox until the command ends, or the lifeline; `ready` is closed once it is furnished."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    answer = _furnish(order)
    if answer.error or answer.rung is Rung.NONE:
        give_up(order, answer)
    if order.answers >= 0:
        os.write(order.answers, answer.to_json().encode())
    os.close(ready)
    if order.probe:
        os._exit(0)
    if not order.argv:
        os._exit(wait(lifeline, None))
    _say(order, answer)
    os.read(lifeline, 1)  # its first byte: the outer process is ready to pass signals on
    os._exit(wait(lifeline, spawn(order.argv)))


def give_up(order: Order, answer: Answer) -> NoReturn:
    """Answer that there is no sandbox and end; where nobody reads answers, say so on stderr."""
    if order.answers >= 0:
        os.write(order.answers, answer.to_json().encode())
        os._exit(0)
    why = answer.error or f"no sandbox can be had here: {answer.lacks[0].what}"
    remedies = "".join(f"\n  try: {lack.remedy}" for lack in answer.lacks)
    print(f"error: {why}{remedies}", file=sys.stderr, flush=True)
    os._exit(EXIT_PRECONDITION)


def spawn(argv: tuple[str, ...]) -> int:
    """Start the command; returns its pid. Where it cannot be started, ends the sandbox as a shell would."""
    pythons_own = (signal.SIGPIPE, signal.SIGXFSZ)  # what the caller ignores (nohup) stays ignored
    try:
        return os.posix_spawnp(argv[0], argv, os.environ, setsigdef=pythons_own, setsigmask=())
    except OSError as error:
        print(f"error: {argv[0]} cannot be run: {error.strerror}; check its spelling", file=sys.stderr, flush=True)
        # A directory of PATH that may not be read makes "no such file" into "permission denied".
        absent = isinstance(error, FileNotFoundError) or (os.sep not in argv[0] and shutil.which(argv[0]) is None)
        os._exit(127 if absent else 126)


def wait(lifeline: int, command: int | None) -> int:
    """Reap every process left to this one until the command or the lifeline ends; returns the exit code.

    A byte on the lifeline is a signal for the command.
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


def _furnish(order: Order) -> Answer:
    pid = int(os.readlink("/proc/self"))  # in the caller's pid namespace, as long as /proc is still the caller's
    try:
        refused = _mount_all()
        kernel.set_up("lo")
    except OSError as error:
        return Answer(rung=Rung.NONE, lacks=(namespace_lack(error),), pid=pid)
    changed = environment(os.environ)
    os.environ.clear()
    os.environ.update(changed)
    rung, lacks = _climb(order)
    if rung is Rung.NONE:
        wanted = order.rung.value if order.rung else "any"
        return Answer(rung=rung, lacks=lacks, error=f"no sandbox of the rung {wanted}: {lacks[0].what}")
    answer = Answer(rung=rung, lacks=(*refused, *lacks), pid=pid, user_namespace=bool(order.user_namespace))
    describe(answer)
    return answer


def _mount_all() -> tuple[Lack, ...]:
    """Give the sandbox its own /run, /proc and /sys; returns what was refused and can be done without."""
    kernel.mount("hybridvif-sandbox", "/run", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755")
    if os.path.isdir("/var/run") and not os.path.samefile("/run", "/var/run"):
        kernel.mount("/run", "/var/run", flags=kernel.MS_BIND)
    if os.path.isdir(HOST_CONFIGURATION):
        # It may name an OVSDB that is reachable from here, which would be the host's.
        kernel.mount("hybridvif-sandbox", HOST_CONFIGURATION, "tmpfs", _SAFE, "mode=0755")
    os.mkdir(RUN_DIRECTORY)
    os.mkdir("/run/lock")
    os.chmod("/run/lock", 0o1777)  # noqa: S103 - as on any host: every program's locks
    here = working_directory()
    if here is None or here == "/run" or here.startswith("/run/"):
        os.chdir("/")  # else relative names would still lead to what is hidden now
    refused = []
    # /sys/class/net belongs to the network namespace sysfs was mounted in: the old one shows the caller's links.
    for kind, target, what in (("proc", "/proc", "/proc"), ("sysfs", "/sys", "/sys/class/net")):
        try:
            kernel.mount(kind, target, kind, _SAFE)
        except OSError as error:  # a container that covers parts of them (mount_too_revealing() in the kernel)
            refused.append(mount_lack(what, error))
    return tuple(refused)


def _climb(order: Order) -> tuple[Rung, tuple[Lack, ...]]:
    """The best rung allowed, with its switch running; and what is lacking for a better one."""
    missing: dict[Lack, None] = {}
    for rung in _LADDER:
        if order.rung not in (None, rung):
            continue
        lacks = lacks_of(rung)
        if not lacks and rung.has_switch and order.switch and not order.probe:
            lacks = _start(rung)
        missing.update(dict.fromkeys(lacks))
        if not lacks:
            return rung, tuple(missing)
    return Rung.NONE, tuple(missing)


def _start(rung: Rung) -> tuple[Lack, ...]:
    try:
        start_switch(run_here, rung)
    except SandboxError as error:
        discard_switch(run_here)
        return (start_lack(datapath_type(rung), error),)
    return ()


def _say(order: Order, answer: Answer) -> None:
    if not order.quiet:
        for lack in answer.lacks:
            print(f"hybridvif sandbox: {lack.what}\n  mend it with: {lack.remedy}", file=sys.stderr)
    if order.greet:
        print(
            f"hybridvif sandbox: a throw-away host with {answer.rung.promise}; 'exit' leaves nothing of it behind",
            file=sys.stderr,
        )
    sys.stderr.flush()
