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
    """The program to run. If it is empty, the sandbox stays until its lifeline is closed."""
    level: Level | None = None
    """The required level; None: the best level of this host."""
    switch: bool = True
    """True to start Open vSwitch."""
    user_namespace: bool | None = None
    """True to create a user namespace; None: only if it is needed."""
    probe: bool = False
    """True to report only the best level."""
    greet: bool = False
    """True to print the level, and how to leave, to stderr."""
    quiet: bool = False
    """True to omit the missing requirements on stderr."""
    lifeline: int = -1
    """The descriptor of a pipe to read. The sandbox ends when the pipe is closed."""
    answers: int = -1
    """The descriptor of a pipe for Responses."""

    def __post_init__(self) -> None:
        if self.level is Level.NONE:
            raise SandboxError("level none: a sandbox needs the level packets or dummy; use RecordingHost instead")

    def to_json(self) -> str:
        """Encode as a command line argument."""
        return json.dumps({**asdict(self), "level": self.level and self.level.value})

    @classmethod
    def from_json(cls, text: str) -> Command:
        """Decode the argument. Raises SandboxError for the level none."""
        fields: dict[str, Any] = json.loads(text)
        level, argv = fields.pop("level"), fields.pop("argv")
        return cls(level=Level(level) if level else None, argv=tuple(argv), **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The level reached and the requirements missing for a better one."""

    level: Level
    missing: tuple[Requirement, ...] = ()
    error: str = ""
    """A sentence if the command failed; else ""."""
    pid: int = 0
    """The pid of the first process, in the pid namespace of the caller."""
    user_namespace: bool = False
    """True if the sandbox has its own user namespace."""

    def to_json(self) -> str:
        """Encode as one line."""
        return json.dumps({**asdict(self), "level": self.level.value}) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Response:
        """Decode the line. Raises SandboxError if the sandbox ended before it wrote one."""
        if not text.endswith("\n"):
            raise SandboxError("the sandbox died before it was ready; see its last words on stderr and try again")
        fields: dict[str, Any] = json.loads(text)
        missing = tuple(Requirement(**requirement) for requirement in fields.pop("missing"))
        return cls(level=Level(fields.pop("level")), missing=missing, **fields)
