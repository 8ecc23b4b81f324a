"""The levels of a sandbox, and the requirements of a level that a host does not meet."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from hybridvif.model.errors import PreconditionError


class Level(enum.Enum):
    """The levels of a sandbox, the best first."""

    PACKETS = "packets"
    """Open vSwitch with its userspace (netdev) datapath: everything works."""
    DUMMY = "dummy"
    """Open vSwitch with its dummy datapath: packets cross, but br-int has no device of its own."""
    NONE = "none"
    """No namespaces or no Open vSwitch, so no sandbox."""

    @property
    def promise(self) -> str:
        """A short description of the level."""
        return _PROMISES[self]


_PROMISES = {
    Level.PACKETS: "links, Open vSwitch with br-int (netdev datapath), packets",
    Level.DUMMY: "links, Open vSwitch with br-int (dummy datapath), packets",
    Level.NONE: "nothing but the recording host",
}


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement of a better level that this host does not meet."""

    what: str
    """The missing thing and its effect, as a sentence without a full stop."""
    remedy: str
    """The exact command that provides it."""

    def __str__(self) -> str:
        return f"{self.what}; fix it with: {self.remedy}"


class SandboxError(PreconditionError):
    """A sandbox cannot be created, or failed. The message is one sentence with the remedy."""

    code = "sandbox"
