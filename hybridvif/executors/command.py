"""Run one of a fixed list of programs: absolute path, C locale, deadline, captured stderr.

The path is looked up in [hybridvif] program_path of the daemon, never in an inherited PATH. The program leads its own
process group, which is killed as a whole at the deadline.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hybridvif.children import LOST, WHY_LOST, Child
from hybridvif.executors.base import ExecutorError, seconds_until
from hybridvif.model.errors import escaped

PACKAGES = {"brctl": "bridge-utils", "ip": "iproute2", "ovs-vsctl": "openvswitch-switch"}
"""Debian and Ubuntu package of each program that has one. ivs-ctl has none."""


def how_to_install(program: str) -> str:
    """Return the remedy for a missing program."""
    return f"install it: apt-get install {PACKAGES[program]}" if program in PACKAGES else "install it"


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
