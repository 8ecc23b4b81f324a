"""subprocess-brctl: links through brctl (bridge-utils) and ip, with the lines of command_lines.py.

A failed command becomes a failed outcome with its error message. The devices are read over netlink.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hybridvif.executors.command import Command, Program
from hybridvif.executors.command_lines import lines_of
from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.connection import Connection, OneByOne
from hybridvif.executors.netlink.executor import NetlinkExecutor
from hybridvif.executors.netlink.operations import Operation, Sysctl
from hybridvif.model.settings import Settings


class BrctlExecutor(NetlinkExecutor):
    """Links through brctl and ip."""

    programs: ClassVar[tuple[str, ...]] = ("brctl", "ip")
    is_side_by_side: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._programs = {name: Program(name, settings.program_path) for name in self.programs}

    def connect(self, deadline: float) -> Connection:
        """Return a connection whose waits end by the deadline. Raises ExecutorError."""
        return _Connection(self._programs, deadline)


class _Connection(OneByOne):
    """A connection that changes devices by commands."""

    def __init__(self, programs: Mapping[str, Program], deadline: float) -> None:
        for program in programs.values():
            program.require()
        sysctl.require()
        super().__init__(deadline)
        self._programs = programs

    def carry_out(self, operation: Operation, indexes: Mapping[str, int]) -> None:  # noqa: ARG002
        """Run the command lines of an operation. Raises Failure, OSError."""
        for line in lines_of(operation):
            match line:
                case Command():
                    self._programs[line.program].carry_out(line, self.deadline)
                case Sysctl(device, attribute, value):
                    sysctl.write(device, attribute, value)
