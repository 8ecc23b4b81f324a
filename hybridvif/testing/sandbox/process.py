"""The processes of a sandbox: the outer one creates the namespaces, the first one in them sets them up.

    caller ==exec or spawn==> outer --fork--> first: process 1 of the pid namespace --spawn--> the command

When the outer process ends, the sandbox ends: the kernel kills process 1 with its parent (PR_SET_PDEATHSIG), and all
others with process 1 (pid_namespaces(7)). The namespaces and their mounts are deleted with their last process.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import NoReturn

from hybridvif.testing.sandbox import missing
from hybridvif.testing.sandbox.launch import (
    PROGRAMS,
    PROMISE,
    TEMPORARY,
    Command,
    Response,
    environment,
    working_directory,
)
from hybridvif.testing.sandbox.missing import Requirement, SandboxError
from hybridvif.testing.sandbox.switch import RUN_DIRECTORY, run_here, start_switch

EXIT_PRECONDITION = 5
HOST_CONFIGURATION = "/etc/hybridvif"

_FORWARDED = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
_SI_USER, _SI_TKILL = 0, -6

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x1000, 0x4000, 1 << 18
_SAFE = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_PR_SET_PDEATHSIG = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCBRADDBR, _IFF_UP = 0x8913, 0x8914, 0x89A0, 1
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 1 << 12, 1 << 21
_NEEDED = _CAP_NET_ADMIN | _CAP_SYS_ADMIN
"""The capabilities to create a sandbox without a user namespace."""
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Become the sandbox of the last argument."""
    command = Command(*json.loads(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it was ignored, the exit code would be lost
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        make_namespaces()
    except OSError as error:
        give_up(command, missing.missing_namespaces(error))
    this = os.pidfd_open(os.getpid())
    setup, done = os.pipe()
    first = os.fork()
    if first == 0:
        _checked(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0), "prctl")
        if select.select([this], [], [], 0)[0]:  # the parent died before the line above
            os._exit(1)
        os.close(this)
        os.close(setup)
        run_first(command, done)
    os.close(done)
    sys.exit(supervise_in_foreground(first, setup) if command.argv else hold(command, first))


def make_namespaces() -> None:
    """Leave the caller's namespaces. Processes forked from now on are in a new pid namespace.

    A user namespace is made only if it is needed. Raises OSError if it is not permitted.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    user_namespace = effective & _NEEDED != _NEEDED
    uid, gid = os.geteuid(), os.getegid()
    flags = _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWPID | (_CLONE_NEWUSER if user_namespace else 0)
    _checked(_libc.unshare(flags), "unshare")
    if user_namespace:
        for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            Path("/proc/self", file).write_text(text)
    # systemd makes "/" shared: without this, mounts of the sandbox would propagate to the host.
    _mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
    # Create a real link as a test: Ubuntu from 23.10 on grants the namespaces and strips the capabilities
    # (kernel.apparmor_restrict_unprivileged_userns), and a kernel may lack bridges. The bridge is deleted with its
    # namespace, because an explicit delete takes 16 to 35 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCBRADDBR, b"probe\0")
    _checked(_libc.unshare(_CLONE_NEWNET), "unshare")


def hold(command: Command, first: int) -> int:
    """Wait for the end of the sandbox, of the caller, or of stdin.

    Stdin alone does not show the end of the caller, because a child of the caller may hold its other end open.
    """
    watched = select.poll()
    watched.register(os.pidfd_open(first), select.POLLIN)
    if not command.probe:
        watched.register(0, select.POLLIN)
    with contextlib.suppress(ProcessLookupError):
        watched.register(os.pidfd_open(command.caller), select.POLLIN)
        if os.getppid() == command.caller:
            watched.poll()
    # The kernel ends every process of the namespace before its first process counts as ended (pid_namespaces(7)).
    with contextlib.suppress(ProcessLookupError):
        os.kill(first, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(first, 0)
    return 0


def supervise_in_foreground(first: int, setup: int) -> int:
    """Wait for the command in the sandbox. Forward the signals that only this process received."""
    in_foreground = _has_terminal()
    os.read(setup, 1)  # until the command starts, a signal ends this process and so the sandbox
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_FORWARDED, signal.SIGTTOU})
    with contextlib.suppress(ProcessLookupError):
        os.kill(first, signal.SIGALRM)
    code = supervise(first)
    if in_foreground and not _has_terminal():
        # A shell inside makes itself the foreground group and cannot return the terminal: in its pid namespace, the
        # group of this process is 0. The next program would be stopped by its first read.
        os.tcsetpgrp(0, os.getpgrp())
    return code


def supervise(command: int) -> int:
    """Reap ended processes and forward signals until a process ends. Return its exit code, or 128+n for signal n."""
    while True:
        with contextlib.suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                if reaped[0] == command:
                    code = os.waitstatus_to_exitcode(reaped[1])
                    return code if code >= 0 else 128 - code
        received = signal.sigwaitinfo({*_FORWARDED, signal.SIGCHLD})
        # Otherwise the terminal sent the signal to the whole process group, which includes the command.
        if command and received.si_signo != signal.SIGCHLD and received.si_code in (_SI_USER, _SI_TKILL):
            os.kill(command, received.si_signo)


def run_first(command: Command, done: int) -> NoReturn:
    """Set up the sandbox and run the command, or wait. As process 1, it ignores signals without a handler."""
    pid = int(os.readlink("/proc/self"))  # in the caller's pid namespace: /proc is not mounted yet
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        lesser = _mount_all()
        _set_up("lo")
    except OSError as error:
        give_up(command, missing.missing_namespaces(error))
    _make_own_directory()
    unmet = (missing.missing_switch() or missing.missing_tun()) if command.switch else None
    if unmet is None and command.switch and not command.probe:
        try:
            start_switch(run_here)
        except SandboxError as error:
            unmet = missing.missing_start(error)
    if unmet:
        give_up(command, unmet)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_FORWARDED, signal.SIGCHLD, signal.SIGALRM})
    if not command.argv:
        _respond(Response(missing=lesser, pid=pid))
        os._exit(0 if command.probe else supervise(0))
    _greet(command, lesser)
    os.close(done)
    signal.sigwait({signal.SIGALRM})  # the outer process forwards signals from now on
    os._exit(supervise(_spawn(command.argv)))


def give_up(command: Command, unmet: Requirement) -> NoReturn:
    """Report a failed setup and exit: in a Response if the caller reads one, else on stderr."""
    if not command.argv:
        _respond(Response(unmet=unmet))
    else:
        print(f"error: {unmet.what}\n  try: {unmet.remedy}", file=sys.stderr, flush=True)
    os._exit(EXIT_PRECONDITION)


def _respond(response: Response) -> None:
    """Write the response, and leave the caller's pipes."""
    with contextlib.suppress(BrokenPipeError):  # the caller has ended
        os.write(1, json.dumps(response).encode() + b"\n")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)


def _spawn(argv: Sequence[str]) -> int:
    """Start the command and return its pid. If that fails, exit with the codes of a shell (126, 127)."""
    pythons_own = (signal.SIGPIPE, signal.SIGXFSZ)  # other signals ignored by the caller (nohup) stay ignored
    try:
        return os.posix_spawnp(argv[0], list(argv), os.environ, setsigdef=pythons_own, setsigmask=())
    except OSError as error:
        print(f"error: {argv[0]} cannot be run: {error.strerror}; check its spelling", file=sys.stderr, flush=True)
        # An unreadable directory in PATH turns "no such file" into "permission denied".
        absent = isinstance(error, FileNotFoundError) or (os.sep not in argv[0] and shutil.which(argv[0]) is None)
        os._exit(127 if absent else 126)


def _make_own_directory() -> None:
    """Create the program `hybridvif` of the sandbox, and set the environment of all its programs."""
    os.makedirs(PROGRAMS)
    os.mkdir(TEMPORARY)
    program = Path(PROGRAMS, "hybridvif")
    # -P: other users may be able to write to the working directory.
    program.write_text(f'#!/bin/sh\nexec {quote(sys.executable)} -P -m hybridvif "$@"\n')
    program.chmod(0o755)
    changed = environment(os.environ)
    os.environ.clear()
    os.environ.update(changed)


def _mount_all() -> tuple[Requirement, ...]:
    """Mount /run, /proc and /sys. Returns the mounts that failed but are optional."""
    _mount("hybridvif-sandbox", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755")
    if os.path.isdir("/var/run") and not os.path.samefile("/run", "/var/run"):
        _mount("/run", "/var/run", flags=_MS_BIND)
    if os.path.isdir(HOST_CONFIGURATION):
        # The host's configuration may name an OVSDB that is reachable from the sandbox.
        _mount("hybridvif-sandbox", HOST_CONFIGURATION, "tmpfs", _SAFE, "mode=0755")
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
            _mount(kind, target, kind, _SAFE)
        except OSError as error:  # a container that covers parts of them (mount_too_revealing() in the kernel)
            refused.append(missing.missing_mount(path, error))
    return tuple(refused)


def _greet(command: Command, lesser: tuple[Requirement, ...]) -> None:
    if not command.quiet:
        for requirement in lesser:
            print(f"hybridvif sandbox: {requirement.what}\n  fix it with: {requirement.remedy}", file=sys.stderr)
    if command.greet:
        text = f"a throw-away host with {PROMISE}; 'exit' leaves nothing of it behind"
        print(f"hybridvif sandbox: {text}", file=sys.stderr)
    sys.stderr.flush()


def _has_terminal() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # no terminal on stdin
        return False


def _set_up(link: str) -> None:
    """Set a link up, without the program `ip`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH14x", link.encode(), 0))
        flags: int = struct.unpack("16sH14x", request)[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", link.encode(), flags | _IFF_UP))


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount one file system: mount(2)."""
    place, settings = os.fsencode(target), ctypes.c_char_p(options.encode())
    _checked(_libc.mount(source.encode(), place, kind.encode(), ctypes.c_ulong(flags), settings), target)


def _checked(result: int, name: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
