"""subprocess-brctl: links through brctl (bridge-utils) and ip, with the lines of command_lines.py.

A failed command becomes a failed outcome with its error message. The devices are read over netlink.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from hybridvif.children import LOST
from hybridvif.executors.base import StepFailed, one_by_one
from hybridvif.executors.command import Program
from hybridvif.executors.command_lines import Command, link_lines, text_of
from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.connection import Connection
from hybridvif.executors.netlink.devices import random_mac
from hybridvif.executors.netlink.links import observe_links
from hybridvif.executors.netlink.notifications import LinkSubscription
from hybridvif.executors.netlink.operations import held_queues, not_alone, write
from hybridvif.executors.netlink.tap import NO_TUN
from hybridvif.model.errors import PreconditionError
from hybridvif.model.names import key_of, names_of_key
from hybridvif.model.parts import Bridge, ManagedTap, Part, Role, Tap, Veth
from hybridvif.model.report import Outcome
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed, Step

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
    # ip tuntap, about /dev/net/tun.
    ("open: No such", False, True),
)
"""stderr -> outcome, first match; any other message is a plain failure."""

_ABSENT = ("does not exist", "Cannot find device", "No such device")


class BrctlExecutor:
    """Links through brctl and ip."""

    role: ClassVar[Role] = Role.LINK
    serves: ClassVar[frozenset[type[Part]]] = frozenset({Bridge, Veth, Tap, ManagedTap})
    programs: ClassVar[tuple[str, ...]] = ("brctl", "ip")
    atomic: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self._programs = {name: Program(name, settings.program_path) for name in self.programs}

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the links under these names, or under all device names of ports, as the kernel reports them."""
        for program in self._programs.values():
            program.require()
        sysctl.require()
        return observe_links(Connection, names, deadline)

    def subscribe(self, deadline: float) -> LinkSubscription:  # noqa: ARG002  # nothing waits
        """Subscribe to the changes of links."""
        return LinkSubscription()

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Carry out the steps one by one."""
        names = {name for step in steps for name in names_of_key(key_of(step.part.name) or "")}
        state = self.observe(names, deadline).state
        worker = _Worker(self._programs, deadline)
        return one_by_one(steps, state, worker.do, deadline)


class _Worker:
    """Carries out single steps."""

    def __init__(self, programs: Mapping[str, Program], deadline: float) -> None:
        self._programs, self._deadline = programs, deadline

    def do(self, step: Step) -> None:
        for line in link_lines(step, random_mac()):
            try:
                if not isinstance(line, Command):
                    write(line)
                    continue
                self._run(line)
                if "multi_queue" in line.arguments and held_queues(step.part.name):
                    self._run(Command("ip", ("link", "delete", step.part.name)))
                    raise not_alone(step.part.name)
            except OSError as error:
                raise _failure(f"{text_of(line)} failed", error.strerror or str(error)) from error

    def _run(self, command: Command) -> None:
        result = self._programs[command.program].run(command.arguments, self._deadline)
        if result.expired:
            raise StepFailed(f"{command} did not end before the deadline and was killed", retry=True)
        if result.code < 0:
            raise StepFailed(f"{command}: {result.said if result.code == LOST else 'it was killed'}", retry=True)
        if result.code and not (command.absent and any(message in result.stderr for message in _ABSENT)):
            raise _failure(f"{command} failed", result.said)


def _failure(attempt: str, message: str) -> StepFailed:
    retry, lacking = next(
        ((can_retry, is_precondition) for text, can_retry, is_precondition in _ERRORS if text in message),
        (False, False),
    )
    remedy = f"; {NO_TUN}" if "open: No such" in message else ""
    return StepFailed(
        f"{attempt}: {message.rstrip('.')}{remedy}", retry=retry, code=PreconditionError.code if lacking else ""
    )
