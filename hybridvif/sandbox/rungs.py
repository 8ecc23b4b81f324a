"""What a sandbox can be on a host: a rung of a ladder, and what it lacks to be on the next one."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from hybridvif.errors import PreconditionError


class Rung(enum.Enum):
    """How much of a host a sandbox is, the best first."""

    PACKETS = "packets"
    """Open vSwitch with its userspace (netdev) datapath: everything works."""
    DUMMY = "dummy"
    """Open vSwitch with its dummy datapath: packets cross, but br-int has no device of its own."""
    NONE = "none"
    """No namespaces or no Open vSwitch, so no sandbox."""

    @property
    def promise(self) -> str:
        """What works on this rung, in a few words."""
        return _PROMISES[self]


_PROMISES = {
    Rung.PACKETS: "links, Open vSwitch with br-int (netdev datapath), packets",
    Rung.DUMMY: "links, Open vSwitch with br-int (dummy datapath), packets",
    Rung.NONE: "nothing but the recording host",
}


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that keeps a sandbox off a better rung."""

    what: str
    """What is missing and what follows from it: a sentence without its full stop."""
    remedy: str
    """The exact command that mends it."""

    def __str__(self) -> str:
        return f"{self.what}; mend it with: {self.remedy}"


class SandboxError(PreconditionError):
    """The sandbox cannot be had, or was not up to what it was asked; one finished sentence with the remedy."""

    code = "sandbox"
