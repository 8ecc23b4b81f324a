"""Exceptions of the public API. Each message is one complete sentence.

HybridVifError
|-- InvalidInput               the input is not legal; nothing was changed
|-- PreconditionError          the host lacks something; nothing was changed
|   |-- ConfigurationError     the configuration names a missing object, or contradicts itself
|   |-- BridgeMissing          the integration bridge does not exist (also a PlugFailed)
|   '-- NotReady               the same, raised by plug() or unplug() (also a PlugFailed and an UnplugFailed)
|-- PlugFailed                 plug() failed; `.report` has every step
|-- UnplugFailed               unplug() failed; the same
'-- Refused                    refused before any change (a PlugFailed and an UnplugFailed)
    |-- NameCollision          the parts belong to another port with the same first 11 characters
    |-- Conflict               a foreign object has the name of a part, or holds one
    |-- BridgeNotAllowed       this host must not plug into that bridge
    '-- PortRunning            a running VM uses the port, and unplug was not forced
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hybridvif.model.text import escaped

if TYPE_CHECKING:
    from hybridvif.model.report import Report


class HybridVifError(Exception):
    """Base class. `code` is a word for machines, stable across releases."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str = "", report: Report | None = None) -> None:
        # The message may quote text of other tools. It is printed and logged unchanged.
        super().__init__(escaped(message))
        self.report = report


class InvalidInput(HybridVifError, ValueError):
    """Illegal input. The message names the field, the value and the rule."""

    code = "invalid-input"


class PreconditionError(HybridVifError):
    """The host lacks something that the call needs. The message names it and the remedy."""

    code = "precondition"


class ConfigurationError(PreconditionError):
    """The configuration names a missing object, or contradicts an earlier one."""

    code = "configuration"


class PlugFailed(HybridVifError):
    """Failed plug. `.report` has the outcome of every step."""

    code = "plug-failed"


class UnplugFailed(HybridVifError):
    """Failed unplug. `.report` names the remaining parts."""

    code = "unplug-failed"


class BridgeMissing(PreconditionError, PlugFailed):
    """The integration bridge does not exist. It is not created, because the name may be a typing error."""

    code = "bridge-missing"


class NotReady(PreconditionError, PlugFailed, UnplugFailed):
    """The host lacks something that every plug or unplug needs. Nothing was changed."""

    code = "not-ready"


class Refused(PlugFailed, UnplugFailed):
    """Refused before any change."""

    code = "refused"


class NameCollision(Refused):
    """The parts belong to another port, whose id has the same first 11 characters."""

    code = "name-collision"


class Conflict(Refused):
    """A foreign object has the name of a part, holds a part, or keeps one in a wrong state."""

    code = "conflict"


class BridgeNotAllowed(Refused):
    """The configuration of this host does not list the integration bridge."""

    code = "bridge-not-allowed"


class PortRunning(Refused):
    """A running VM uses the port: a member of its Linux bridge has carrier, or a tap to be deleted."""

    code = "port-running"


REFUSALS: dict[str, type[Refused]] = {
    cls.code: cls for cls in (Refused, NameCollision, Conflict, BridgeNotAllowed, PortRunning)
}
"""Refusals by code, to turn data back into exceptions."""
