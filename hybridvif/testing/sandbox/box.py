"""A sandbox beside the calling process, for tests: run commands in it, and do to it what befalls real hosts."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from select import select
from subprocess import DEVNULL, CompletedProcess, Popen, TimeoutExpired
from types import TracebackType
from typing import IO, Self

from hybridvif import children
from hybridvif.children import Child
from hybridvif.testing.sandbox import missing, switch
from hybridvif.testing.sandbox.capability import Level, Requirement, SandboxError
from hybridvif.testing.sandbox.commands import Command, Response
from hybridvif.testing.sandbox.environment import environment, working_directory
from hybridvif.testing.sandbox.launch import command_line
from hybridvif.testing.sandbox.switch import DAEMONS, Daemon

_READY_TIMEOUT = 60.0
_STATE_TIMEOUT = 5.0


class Sandbox:
    """A throw-away host: own namespaces, own /run, own Open vSwitch with br-int.

    It is up when the constructor returns and gone, with all that runs in it, after close(), at the end of the `with`
    block, or when the calling process ends in whatever way. The calling process stays in its own namespaces.

        with Sandbox() as box:
            box.run(["hybridvif", "list"])

    Raises SandboxError where it, or the level asked for, cannot be had. `ovs=False` starts no Open vSwitch.
    """

    def __init__(self, *, level: Level | None = None, ovs: bool = True, user_namespace: bool | None = None) -> None:
        command = Command(level=level, switch=ovs, user_namespace=user_namespace)
        their_end, lifeline = os.pipe()
        self._lifeline = open(lifeline, "wb", buffering=0)  # noqa: SIM115 - its end is the sandbox's, so it is kept
        answers, their_answers = os.pipe()
        line = command_line(replace(command, lifeline=their_end, answers=their_answers))
        self._database = switch.DATABASE
        # A session of its own: the terminal's keys are for the calling program.
        self._outer = Popen(line, stdin=DEVNULL, pass_fds=[their_end, their_answers], start_new_session=True)
        os.close(their_end)
        os.close(their_answers)
        try:
            answer = _read(answers)
        except SandboxError:
            self.close()
            raise
        self.pid: int = answer.pid
        """Of the sandbox's first process, as seen from the calling process."""
        self._user_namespace = answer.user_namespace
        self.level: Level = answer.level
        self.missing: tuple[Requirement, ...] = answer.missing
        """The requirements that a better level needs."""
        if answer.error or self.level is Level.NONE:
            self.close()
            raise SandboxError(_sentence(answer))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the sandbox and everything in it; again is harmless."""
        self._lifeline.close()
        try:
            self._outer.wait(_STATE_TIMEOUT)
        except TimeoutExpired:
            self._outer.kill()
            self._outer.wait()

    @property
    def run_dir(self) -> Path:
        """The sandbox's /run, as a path outside of it: its OVSDB is run_dir / "openvswitch" / "db.sock"."""
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
        """Run a command inside, in the caller's directory, and wait for it; `env` comes on top of the caller's.

        Raises CalledProcessError, with stderr as a note, TimeoutExpired, after which the command is dead, and
        SandboxError if the calling process ignores SIGCHLD, so that nobody knows the exit code.
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
        """Start a command inside. Killing the Popen kills the command; other signals: see send_signal()."""
        words = self.entering(argv)
        return Child(words, stdin=stdin, stdout=stdout, stderr=stderr, env=_environment(env), text=True)

    def python(self, code: str, *arguments: str, check: bool = True, timeout: float = 60.0) -> CompletedProcess[str]:
        """Run Python code inside, with the caller's interpreter, which imports nothing from the working directory."""
        return self.run([sys.executable, "-P", "-c", code, *arguments], check=check, timeout=timeout)

    def send_signal(self, process: Popen[str], number: int) -> None:
        """Send a signal to the very command that popen() started; the Popen itself is its way into the sandbox."""
        for pid in _children(process.pid):
            os.kill(pid, number)

    def start_switch(self, *, schema: str | None = None, database: str = switch.DATABASE) -> None:
        """Start an Open vSwitch in a sandbox made with ovs=False, if need be of an older schema or on another disk."""
        self._database = database
        switch.start_switch(self.run, self.level, schema=schema, database=database)

    def pause(self, name: Daemon) -> None:
        """Hang a daemon (SIGSTOP); on return all its threads stand still."""
        pid = self.daemon_pid(name)
        os.kill(pid, signal.SIGSTOP)
        _await(lambda: _is_stopped(pid), f"{name} did not stop")

    def resume(self, name: Daemon) -> None:
        """Let a paused daemon go on."""
        os.kill(self.daemon_pid(name), signal.SIGCONT)

    def kill(self, name: Daemon, number: int = signal.SIGKILL) -> None:
        """Kill a daemon, by default without a chance to tidy up; on return it is dead."""
        pid = self.daemon_pid(name)
        gone = os.pidfd_open(pid)
        try:
            os.kill(pid, number)
            if not select([gone], [], [], _STATE_TIMEOUT)[0]:
                raise SandboxError(f"{name} survived signal {number}; resume it first if it is paused")
        finally:
            os.close(gone)

    def start(self, name: Daemon, *, timeout: float = 20.0) -> None:
        """Start a killed daemon on the same database; on return it serves.

        ovs-vswitchd serves only once ovsdb-server does.
        """
        switch.start_daemon(self.run, name, self.level, database=self._database, timeout=timeout)

    def restart(self, name: Daemon) -> None:
        """Kill a daemon and start it."""
        self.kill(name)
        self.start(name)

    def reboot(self) -> None:
        """What a reboot of the host leaves: the rows of OVSDB, and none of the links; both daemons start anew."""
        for name in reversed(DAEMONS):
            self.kill(name)
        links = [link for link in self.run(["ls", "/sys/class/net"]).stdout.split() if link != "lo"]
        # --force: the second end of a veth pair is gone already.
        self.run(["ip", "-force", "-batch", "-"], input="".join(f"link delete {x}\n" for x in links), check=False)
        for name in DAEMONS:
            self.start(name)

    def daemon_pid(self, name: Daemon) -> int:
        """The pid of a running daemon, as seen from the calling process."""
        try:
            inside = (self.run_dir / switch.pid_file(name).removeprefix("/run/")).read_text().strip()
        except FileNotFoundError:
            inside = ""
        for pid in _children(self.pid):
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                # It ended between being listed and being read.
                continue
            status = dict(line.split(":\t", 1) for line in lines)
            if status["NSpid"].split()[-1] == inside and status["Name"] == name and "Z" not in status["State"]:
                return pid
        raise SandboxError(f"{name} does not run in this sandbox; start it first")

    def entering(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs a command inside; for a program that starts it by itself."""
        user = ["--user", "--preserve-credentials"] if self._user_namespace else []
        # By their paths: the program that runs this may have a PATH with an element that means its working directory.
        nsenter = [_path_of("nsenter"), "--target", str(self.pid), *user, "--net", "--mount", "--pid", "--"]
        # nsenter forks to enter the pid namespace, and what it forked would outlive its death by SIGKILL.
        dying = [_path_of("setpriv"), "--pdeathsig", "KILL"]
        # To enter a mount namespace leaves one in its root directory.
        back_in_directory = [_path_of("sh"), "-c", 'cd -- "$0" 2>/dev/null; exec "$@"', working_directory() or "/"]
        return [*nsenter, *dying, *back_in_directory, *argv]


def _read(answers: int) -> Response:
    with open(answers, encoding="utf-8") as reader:
        if not select([reader], [], [], _READY_TIMEOUT)[0]:
            raise SandboxError(f"the sandbox was not ready in {_READY_TIMEOUT:g} s; is this host overloaded?")
        return Response.from_json(reader.read())


def _sentence(answer: Response) -> str:
    remedies = ", or ".join(requirement.remedy for requirement in answer.missing)
    why = answer.error or f"no sandbox can be had here: {answer.missing[0].what}"
    return f"{why}; mend it with: {remedies}"


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
