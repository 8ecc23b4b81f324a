"""What crosses between the caller and the process that becomes the sandbox: an Order in, Answers out.

caller --Order, as an argument--> outer --fork--> inside --Answer, one JSON line on a pipe--> caller
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from hybridvif.sandbox.rungs import Lack, Rung, SandboxError


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What kind of sandbox is wanted, and for what."""

    argv: tuple[str, ...] = ()
    """The command to run in it; empty: a sandbox that stays until its lifeline is cut."""
    rung: Rung | None = None
    """The rung it must be; None: the best that can be had."""
    switch: bool = True
    """Whether to start Open vSwitch."""
    user_namespace: bool | None = None
    """Whether to be root only in a user namespace; None: only if that is needed."""
    probe: bool = False
    """Only say what can be had."""
    greet: bool = False
    """Say on stderr what works, and how to leave."""
    quiet: bool = False
    """Do not say on stderr what is missing."""
    lifeline: int = -1
    """A pipe to read; its end is the end of the sandbox."""
    answers: int = -1
    """A pipe to write Answers to."""

    def __post_init__(self) -> None:
        if self.rung is Rung.NONE:
            raise SandboxError("a sandbox of the rung none is no sandbox; use RecordingHost instead")

    def to_json(self) -> str:
        """As an argument of a command line."""
        return json.dumps({**asdict(self), "rung": self.rung and self.rung.value})

    @classmethod
    def from_json(cls, text: str) -> Order:
        """The order a caller gave."""
        fields: dict[str, Any] = json.loads(text)
        rung, argv = fields.pop("rung"), fields.pop("argv")
        return cls(rung=Rung(rung) if rung else None, argv=tuple(argv), **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How it went: the rung reached and what is lacking for a better one; or, with rung NONE, why there is none."""

    rung: Rung
    lacks: tuple[Lack, ...] = ()
    error: str = ""
    """One finished sentence, if the order could not be carried out."""
    pid: int = 0
    """Of the first process of the sandbox, as the caller sees it."""
    user_namespace: bool = False
    """Whether it has a user namespace of its own, which whoever enters it must enter too."""

    def to_json(self) -> str:
        """As one line."""
        return json.dumps({**asdict(self), "rung": self.rung.value}) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Answer:
        """The answer that was given, or an error if there was none."""
        if not text.endswith("\n"):
            raise SandboxError("the sandbox died before it was ready; see its last words on stderr and try again")
        fields: dict[str, Any] = json.loads(text)
        lacks = tuple(Lack(**lack) for lack in fields.pop("lacks"))
        return cls(rung=Rung(fields.pop("rung")), lacks=lacks, **fields)
