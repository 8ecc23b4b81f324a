"""subprocess-brctl: links through brctl (bridge-utils) and ip, with the lines of command_lines.py.

A failed command becomes a failed outcome with its error message. The devices are read over netlink.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from hybridvif.children import LOST
from hybridvif.executors.base import ExecutorError, StepFailed
from hybridvif.executors.command import Program
from hybridvif.executors.command_lines import Command, lines_of
from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.connection import Connection, Response
from hybridvif.executors.netlink.executor import NetlinkExecutor
from hybridvif.executors.netlink.operations import Get, Operation, Sysctl
from hybridvif.executors.netlink.socket import Rejected
from hybridvif.model.errors import PreconditionError
from hybridvif.model.settings import Settings

_ERRORS: tuple[tuple[str, bool, bool], ...] = (
    # error message of brctl or ip (C locale); retry; precondition
    ("already exists", True, False),
    ("File exists", True, False),
    ("does not exist", True, False),
    ("doesn't exist", True, False),
    ("Cannot find device", True, False),
    ("No such device", True, False),
    ("Device or resource busy", True, False),
    ("already a member of a bridge", False, False),
    ("Operation not permitted", False, True),
    ("Permission denied", False, True),
    ("Operation not supported", False, True),
    ("Unknown device type", False, True),
    ("Read-only file system", False, True),
)
"""stderr -> outcome, first match; any other message is a plain failure."""

_ABSENT = ("does not exist", "Cannot find device", "No such device")


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


class _Connection(Connection):
    """A connection that changes devices by commands."""

    def __init__(self, programs: Mapping[str, Program], deadline: float) -> None:
        for program in programs.values():
            program.require()
        sysctl.require()
        super().__init__(deadline)
        self._programs = programs

    def exchange(self, operations: Sequence[Operation], indexes: Mapping[str, int]) -> list[Response]:
        """Carry out the operations, one command after another. Raises OSError."""
        if all(isinstance(operation, Get) for operation in operations):
            return super().exchange(operations, indexes)
        return [self._response_to(operation, indexes) for operation in operations]

    def _response_to(self, operation: Operation, indexes: Mapping[str, int]) -> Response:
        if isinstance(operation, Get):
            return super().exchange([operation], indexes)[0]
        try:
            for line in lines_of(operation):
                match line:
                    case Command():
                        self._run(line)
                    case Sysctl(device, attribute, value):
                        sysctl.write(device, attribute, value)
        except StepFailed as failure:
            return failure
        except ExecutorError as error:
            code = PreconditionError.code if error.precondition else ""
            return StepFailed(str(error), retry=not error.precondition, code=code)
        except OSError as error:
            return Rejected(error.errno or 0)
        return None

    def _run(self, command: Command) -> None:
        result = self._programs[command.program].run(command.arguments, self._deadline)
        if result.expired:
            raise StepFailed(f"{command} did not end before the deadline and was killed", retry=True)
        if result.code < 0:
            raise StepFailed(f"{command}: {result.said if result.code == LOST else 'it was killed'}", retry=True)
        if result.code and not (command.absent and any(message in result.stderr for message in _ABSENT)):
            retry, lacks = next((kind for text, *kind in _ERRORS if text in result.said), (False, False))
            code = PreconditionError.code if lacks else ""
            raise StepFailed(f"{command} failed: {result.said.rstrip('.')}", retry=retry, code=code)
