"""The messages between the caller and the process that becomes the sandbox: a Command in, Responses out.

caller --Command, as an argument--> outer --fork--> inside --Response, one JSON line on a pipe--> caller
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from hybridvif.testing.sandbox.capability import Level, Requirement, SandboxError


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """The kind of sandbox, and the program to run in it."""

    argv: tuple[str, ...] = ()
    """The program to run in it; empty: a sandbox that stays until its lifeline is closed."""
    level: Level | None = None
    """The level it must have; None: the best that this host allows."""
    switch: bool = True
    """Whether to start Open vSwitch."""
    user_namespace: bool | None = None
    """Whether to be root only in a user namespace; None: only if that is needed."""
    probe: bool = False
    """Only report the best level."""
    greet: bool = False
    """Print on stderr what works, and how to leave."""
    quiet: bool = False
    """Do not print on stderr what is missing."""
    lifeline: int = -1
    """A pipe to read; its end is the end of the sandbox."""
    answers: int = -1
    """A pipe to write Responses to."""

    def __post_init__(self) -> None:
        if self.level is Level.NONE:
            raise SandboxError("level none: a sandbox needs the level packets or dummy; use RecordingHost instead")

    def to_json(self) -> str:
        """As an argument of a command line."""
        return json.dumps({**asdict(self), "level": self.level and self.level.value})

    @classmethod
    def from_json(cls, text: str) -> Command:
        """Parse the argument. Raises SandboxError for the level none."""
        fields: dict[str, Any] = json.loads(text)
        level, argv = fields.pop("level"), fields.pop("argv")
        return cls(level=Level(level) if level else None, argv=tuple(argv), **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The level reached and the requirements missing for a better one."""

    level: Level
    missing: tuple[Requirement, ...] = ()
    error: str = ""
    """One finished sentence, if the command could not be carried out."""
    pid: int = 0
    """Of the first process of the sandbox, as the caller sees it."""
    user_namespace: bool = False
    """Whether it has a user namespace of its own, which whoever enters it must enter too."""

    def to_json(self) -> str:
        """As one line."""
        return json.dumps({**asdict(self), "level": self.level.value}) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Response:
        """Parse the line. Raises SandboxError if the sandbox died before it wrote one."""
        if not text.endswith("\n"):
            raise SandboxError("the sandbox died before it was ready; see its last words on stderr and try again")
        fields: dict[str, Any] = json.loads(text)
        missing = tuple(Requirement(**requirement) for requirement in fields.pop("missing"))
        return cls(level=Level(fields.pop("level")), missing=missing, **fields)
