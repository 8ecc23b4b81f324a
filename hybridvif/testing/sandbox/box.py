"""A sandbox for tests, beside the calling process: run commands in it, kill and hang its daemons, reboot it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from select import select
from subprocess import PIPE, CompletedProcess, Popen, TimeoutExpired
from types import TracebackType
from typing import IO, Self

from hybridvif import children
from hybridvif.children import Child
from hybridvif.testing.sandbox import missing, switch
from hybridvif.testing.sandbox.launch import Command, Response, command_line, environment, working_directory
from hybridvif.testing.sandbox.missing import Requirement, SandboxError
from hybridvif.testing.sandbox.switch import DAEMONS, Daemon

_READY_TIMEOUT = 60.0
_STATE_TIMEOUT = 5.0


class Sandbox:
    """A sandbox: own namespaces, own /run, own Open vSwitch with br-int.

    It is ready when the constructor returns. It ends, with all its processes, at close(), at the end of the `with`
    block or with the calling process. The calling process stays in its own namespaces.

        with Sandbox() as box:
            box.run(["hybridvif", "list"])

    Raises SandboxError if none can be created. `ovs=False` starts no Open vSwitch.
    """

    def __init__(self, *, ovs: bool = True) -> None:
        self._database = switch.DATABASE
        line = command_line(Command(caller=os.getpid(), switch=ovs))
        # Its own session: signals from the terminal are for the calling program.
        self._outer = Popen(line, stdin=PIPE, stdout=PIPE, bufsize=0, start_new_session=True)
        self._pipes: list[IO[bytes]] = [pipe for pipe in (self._outer.stdin, self._outer.stdout) if pipe]
        try:
            response = _response(self._pipes[1])
            if response.unmet:
                raise SandboxError(str(response.unmet))
        except SandboxError:
            self.close()
            raise
        self.pid: int = response.pid
        """The pid of the first process, in the pid namespace of the calling process."""
        self._user_namespace = response.user_namespace
        self.missing: tuple[Requirement, ...] = response.missing
        """The unmet requirements without which the sandbox does less."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the sandbox and its processes. Repeated calls are harmless."""
        for pipe in self._pipes:
            pipe.close()
        try:
            self._outer.wait(_STATE_TIMEOUT)
        except TimeoutExpired:
            self._outer.kill()
            self._outer.wait()

    @property
    def run_dir(self) -> Path:
        """The /run of the sandbox as a path outside. Its OVSDB is run_dir / "openvswitch" / "db.sock"."""
        return Path(f"/proc/{self.pid}/root/run")

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        input: str | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> CompletedProcess[str]:
        """Run a command inside, in the caller's working directory. `env` is added to the caller's environment.

        Raises CalledProcessError with stderr as a note. Raises TimeoutExpired after it has killed the command. Raises
        SandboxError if the exit code is lost because the calling process ignores SIGCHLD.
        """
        completed = children.run(self.entering(argv), input=input, timeout=timeout, env=_environment(env))
        return switch.checked(argv, completed, check=check)

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[str] | None = None,
        stdout: int | IO[str] | None = None,
        stderr: int | IO[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Popen[str]:
        """Start a command inside. Popen.kill() kills the command; use send_signal() for other signals."""
        words = self.entering(argv)
        return Child(words, stdin=stdin, stdout=stdout, stderr=stderr, env=_environment(env), text=True)

    def python(self, code: str, *arguments: str, check: bool = True, timeout: float = 60.0) -> CompletedProcess[str]:
        """Run Python code inside with the caller's interpreter and without the working directory in sys.path."""
        return self.run([sys.executable, "-P", "-c", code, *arguments], check=check, timeout=timeout)

    def send_signal(self, process: Popen[str], number: int) -> None:
        """Send a signal to a command of popen(). The process of the Popen itself is nsenter."""
        for pid in _children(process.pid):
            os.kill(pid, number)

    def start_switch(self, *, schema: str | None = None, database: str = switch.DATABASE) -> None:
        """Start Open vSwitch in a sandbox created with ovs=False. schema and database: another schema or disk."""
        self._database = database
        switch.start_switch(self.run, schema=schema, database=database)

    def pause(self, name: Daemon) -> None:
        """Hang a daemon with SIGSTOP. On return all its threads are stopped."""
        pid = self.daemon_pid(name)
        os.kill(pid, signal.SIGSTOP)
        _await(lambda: _is_stopped(pid), f"{name} did not stop")

    def resume(self, name: Daemon) -> None:
        """Resume a hung daemon."""
        os.kill(self.daemon_pid(name), signal.SIGCONT)

    def kill(self, name: Daemon, number: int = signal.SIGKILL) -> None:
        """Kill a daemon, by default with SIGKILL. On return it is dead."""
        pid = self.daemon_pid(name)
        gone = os.pidfd_open(pid)
        try:
            os.kill(pid, number)
            if not select([gone], [], [], _STATE_TIMEOUT)[0]:
                raise SandboxError(f"{name} survived signal {number}; resume it first if it is paused")
        finally:
            os.close(gone)

    def start(self, name: Daemon, *, timeout: float = 20.0) -> None:
        """Start a killed daemon on the same database. On return it serves.

        ovs-vswitchd serves only once ovsdb-server does.
        """
        switch.start_daemon(self.run, name, database=self._database, timeout=timeout)

    def restart(self, name: Daemon) -> None:
        """Kill a daemon and start it again."""
        self.kill(name)
        self.start(name)

    def reboot(self) -> None:
        """Simulate a reboot: delete all links, keep the rows of OVSDB, restart both daemons."""
        for name in reversed(DAEMONS):
            self.kill(name)
        links = [link for link in self.run(["ls", "/sys/class/net"]).stdout.split() if link != "lo"]
        # --force: the second end of a veth pair does not exist any more.
        self.run(["ip", "-force", "-batch", "-"], input="".join(f"link delete {x}\n" for x in links), check=False)
        for name in DAEMONS:
            self.start(name)

    def daemon_pid(self, name: Daemon) -> int:
        """Return the pid of a running daemon, in the pid namespace of the calling process."""
        try:
            inside = (self.run_dir / switch.pid_file(name).removeprefix("/run/")).read_text().strip()
        except FileNotFoundError:
            inside = ""
        for pid in _children(self.pid):
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                # The process ended after it was listed.
                continue
            status = dict(line.split(":\t", 1) for line in lines)
            if status["NSpid"].split()[-1] == inside and status["Name"] == name and "Z" not in status["State"]:
                return pid
        raise SandboxError(f"{name} does not run in this sandbox; start it first")

    def entering(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs a command inside, for programs that start processes themselves."""
        user = ["--user", "--preserve-credentials"] if self._user_namespace else []
        # Absolute paths: the PATH of the program that runs this may include its working directory.
        nsenter = [_path_of("nsenter"), "--target", str(self.pid), *user, "--net", "--mount", "--pid", "--"]
        # nsenter forks to enter the pid namespace. Its child would survive if nsenter was killed.
        dying = [_path_of("setpriv"), "--pdeathsig", "KILL"]
        # Entering a mount namespace changes the working directory to its root.
        back_in_directory = [_path_of("sh"), "-c", 'cd -- "$0" 2>/dev/null; exec "$@"', working_directory() or "/"]
        return [*nsenter, *dying, *back_in_directory, *argv]


def _response(reader: IO[bytes]) -> Response:
    if not select([reader], [], [], _READY_TIMEOUT)[0]:
        raise SandboxError(f"the sandbox was not ready in {_READY_TIMEOUT:g} s; is this host overloaded?")
    return Response.from_json(reader.readline())


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    return environment(os.environ) | dict(extra or {})


def _path_of(name: str) -> str:
    return missing.program(name) or name


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_stopped(pid: int) -> bool:
    states = (path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat"))
    return all(state == "T" for state in states)


def _await(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _STATE_TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise SandboxError(f"{otherwise} within {_STATE_TIMEOUT:g} s; is this host overloaded?")
        time.sleep(0.001)
