"""Run one of a fixed list of programs: absolute path, C locale, deadline, captured stderr.

The path is looked up in [hybridvif] program_path of the daemon, never in an inherited PATH. The program leads its own
process group, which is killed as a whole at the deadline.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hybridvif.children import LOST, WHY_LOST, Child
from hybridvif.executors.base import ExecutorError, StepFailed, seconds_until
from hybridvif.model.errors import PreconditionError, escaped

PACKAGES = {"brctl": "bridge-utils", "ip": "iproute2", "ovs-vsctl": "openvswitch-switch"}
"""Debian and Ubuntu package of each program that has one. ivs-ctl has none."""
_RETRY = (
    *("already exists", "File exists", "does not exist", "doesn't exist", "Cannot find device", "No such device"),
    "Device or resource busy",
)
"""Error messages of brctl and ip (C locale) if the host has changed meanwhile."""
_PRECONDITION_ERRORS = (
    *("Operation not permitted", "Permission denied", "Operation not supported", "Unknown device type"),
    "Read-only file system",
)
"""Error messages that mean a missing precondition on the host."""
_ABSENT = ("does not exist", "Cannot find device", "No such device")


def how_to_install(program: str) -> str:
    """Return the remedy for a missing program."""
    return f"install it: apt-get install {PACKAGES[program]}" if program in PACKAGES else "install it"


RANDOM_MAC = r"$(od -An -N5 -tx1 /dev/urandom | sed 's/ /:/g; s/^/02/')"
"""A word of a command line that a shell expands to a MAC address; an executor generates its own."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command line. absent: it succeeds if its device is already gone."""

    program: str
    arguments: tuple[str, ...]
    absent: bool = False

    def __str__(self) -> str:
        words = (word if word == RANDOM_MAC else shlex.quote(word) for word in self.arguments)
        return " ".join((self.program, *words))


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that exited or was killed at its deadline."""

    argv: tuple[str, ...]
    code: int
    """Negative if it was killed or its exit code was lost. Its output may then be incomplete and proves no absence."""
    stdout: str
    stderr: str
    expired: bool = False

    @property
    def said(self) -> str:
        """The last line of stderr, or the exit code."""
        if self.code == LOST:
            return WHY_LOST
        lines = [line.strip() for line in lines_of(self.stderr) if line.strip()]
        return escaped(lines[-1]) if lines else f"exit code {self.code}"


def lines_of(output: str) -> list[str]:
    """Return the lines of a program's output. str.splitlines() would also split values, at U+2028 for example."""
    return output.removesuffix("\n").split("\n")


class Program:
    """A program of the list."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self._search = path

    def require(self) -> str:
        """Return its absolute path. Raises ExecutorError, naming the package, if it is not installed."""
        found = shutil.which(self.name, path=self._search)
        if found is None:
            raise ExecutorError(
                f"{self.name} is not installed in {self._search}; {how_to_install(self.name)}", precondition=True
            )
        return os.path.abspath(found)

    def run(self, arguments: Sequence[str], deadline: float, *, stdin: str = "") -> Finished:
        """Run it and return its result, whatever its exit code. Raises ExecutorError if it cannot be started.

        After an ExecutorError nothing has run. A program that was killed at the deadline is `expired`.
        """
        argv = (self.require(), *arguments)
        if time.monotonic() >= deadline:
            raise ExecutorError(f"{self.name} was not started, since the deadline had passed; call again")
        try:
            process = Child(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",  # not that of the daemon's locale
                errors="surrogateescape",
                env={"LC_ALL": "C", "PATH": self._search},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise ExecutorError(f"cannot run {argv[0]}: {error.strerror}", precondition=True) from error
        with process:
            try:
                out, err = process.communicate(stdin, timeout=seconds_until(deadline))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
                return Finished(argv, process.returncode, out, err, expired=True)
        return Finished(argv, process.returncode, out, err)

    def carry_out(self, command: Command, deadline: float) -> None:
        """Run a command line of a step. Raises StepFailed with its error message, ExecutorError."""
        result = self.run(command.arguments, deadline)
        if result.expired:
            raise StepFailed(f"{command} did not end before the deadline and was killed", retry=True)
        if result.code < 0:
            raise StepFailed(f"{command}: {result.said if result.code == LOST else 'it was killed'}", retry=True)
        if result.code and not (command.absent and any(message in result.stderr for message in _ABSENT)):
            is_lacking = any(message.lower() in result.stderr.lower() for message in _PRECONDITION_ERRORS)
            raise StepFailed(
                f"{command} failed: {result.said.rstrip('.')}",
                retry=not is_lacking and any(message in result.said for message in _RETRY),
                code=PreconditionError.code if is_lacking else "",
            )
