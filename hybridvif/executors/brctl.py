"""subprocess-brctl: links, by brctl (bridge-utils) and ip, as recipes.py has it.

A failed command is an outcome with what the program said, never a log line and success.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from hybridvif.errors import PreconditionError
from hybridvif.executors import iplinks, procfs
from hybridvif.executors.base import StepFailed, one_by_one
from hybridvif.executors.command import Program
from hybridvif.executors.linkmessages import get_link, message_of, queues_of
from hybridvif.executors.linkstate import random_mac
from hybridvif.executors.recipes import RANDOM_MAC, Command, Owner, Sysctl, bridges_that_go_up_later, link_lines
from hybridvif.executors.rtnetlink import Channel
from hybridvif.executors.tuntap import NO_TUN, own
from hybridvif.facts import Observed
from hybridvif.names import key_of, names_of_key
from hybridvif.parts import Bridge, MadeTap, Part, Role, Tap, Veth
from hybridvif.report import Outcome
from hybridvif.settings import Settings
from hybridvif.steps import Step

_SAID: tuple[tuple[str, bool, bool], ...] = (
    # what brctl or ip says (C locale); whether to try again; whether the host lacks something
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
    # ip tuntap, of /dev/net/tun.
    ("open: No such", False, True),
)
"""stderr -> outcome, first match; anything else is a plain failure."""

_NO_IPV6 = ("Address family not supported",)
_ABSENT = ("does not exist", "doesn't exist", "Cannot find device", "No such device")


class BrctlExecutor:
    """Links by brctl and ip."""

    role: ClassVar[Role] = Role.LINK
    serves: ClassVar[frozenset[type[Part]]] = frozenset({Bridge, Veth, Tap, MadeTap})
    programs: ClassVar[tuple[str, ...]] = ("brctl", "ip")
    atomic: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self._programs = {name: Program(name, settings.program_path) for name in self.programs}

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """The links under these names, or all of our grammar."""
        self._programs["brctl"].require()
        return iplinks.observe(self._programs["ip"], names, deadline)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Carry the steps out one by one."""
        names = {name for step in steps for name in names_of_key(key_of(step.part.name) or "")}
        state = self.observe(names, deadline).state
        worker = _Worker(self._programs, bridges_that_go_up_later(steps), deadline)
        return one_by_one(steps, state, worker.do, deadline)


class _Worker:
    """Carries single steps out."""

    def __init__(self, programs: Mapping[str, Program], up_later: frozenset[str], deadline: float) -> None:
        self._programs, self._up_later, self._deadline = programs, up_later, deadline

    def do(self, step: Step) -> None:
        for line in link_lines(step, self._up_later):
            if isinstance(line, Sysctl):
                _write(line)
            elif isinstance(line, Owner):
                _own(line)
            else:
                self._run(line)
                if "multi_queue" in line.arguments:
                    self._require_alone(step.part.name)

    def _require_alone(self, tap: str) -> None:
        """Make sure that nobody attached to another queue of a tap before it had an owner; else it goes again."""
        with Channel(self._deadline) as channel:
            (answer,) = channel.exchange([get_link(tap)])
        if isinstance(answer, bytes) and queues_of(message_of(answer)):
            self._run(Command("ip", ("link", "delete", tap)))
            raise StepFailed(f"{tap}: another process attached to it before it had an owner", retry=True)

    def _run(self, command: Command) -> None:
        arguments = [random_mac().hex(":") if word == RANDOM_MAC else word for word in command.arguments]
        done = self._programs[command.program].run(arguments, self._deadline)
        if done.expired:
            raise StepFailed(f"{command} did not end before the deadline and was killed", retry=True)
        if done.code < 0:
            raise StepFailed(f"{command} was killed", retry=True)
        harmless = _ABSENT if command.absent else _NO_IPV6 if command.without_ipv6 else ()
        if done.code and not any(said in done.stderr for said in harmless):
            raise _failure(f"{command} failed", done.said)


def _write(line: Sysctl) -> None:
    try:
        procfs.write(line.device, line.attribute, line.value)
    except OSError as error:
        raise _failure(f"{line} failed", error.strerror or str(error)) from error


def _own(line: Owner) -> None:
    try:
        own(line.device)
    except OSError as error:
        raise _failure(f"{line} failed", error.strerror or str(error)) from error


def _failure(attempt: str, said: str) -> StepFailed:
    retry, lacking = next(((again, lacks) for text, again, lacks in _SAID if text in said), (False, False))
    remedy = f"; {NO_TUN}" if "open: No such" in said else ""
    return StepFailed(
        f"{attempt}: {said.rstrip('.')}{remedy}", retry=retry, code=PreconditionError.code if lacking else ""
    )
