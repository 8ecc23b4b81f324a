"""Every exception a caller can meet; each is one finished sentence and can be rebuilt from it.

HybridVifError
|-- InvalidInput               what was asked for is not legal; nothing was touched
|-- PreconditionError          the host lacks something; nothing was touched
|   |-- ConfigurationError     the configuration names something that is not there, or contradicts itself
|   |-- BridgeMissing          the integration bridge does not exist (also a PlugFailed)
|   '-- NotReady               the same, found by plug() or unplug() (also a PlugFailed and an UnplugFailed)
|-- PlugFailed                 plug(): `.report` says what was done and what was found
|-- UnplugFailed               unplug(): the same
'-- Refused                    nothing was changed, on purpose (a PlugFailed and an UnplugFailed)
    |-- NameCollision          the parts belong to another port with the same first 11 characters
    |-- Conflict               something foreign has our name, or holds our part
    |-- BridgeNotAllowed       the integration bridge is not one this host may plug into
    '-- PortRunning            the port carries a running VM and unplug was not forced
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hybridvif.text import escaped

if TYPE_CHECKING:
    from hybridvif.report import Report


class HybridVifError(Exception):
    """The base of all; `code` is the word that machines read, stable across releases."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str = "", report: Report | None = None) -> None:
        # It may quote what other tools wrote, and is shown and logged as it is.
        super().__init__(escaped(message))
        self.report = report


class InvalidInput(HybridVifError, ValueError):
    """What was asked for is not legal; the sentence names the field, the value and the rule."""

    code = "invalid-input"


class PreconditionError(HybridVifError):
    """The host lacks something this call needs; the sentence names it and the remedy."""

    code = "precondition"


class ConfigurationError(PreconditionError):
    """The configuration names something that is not there, or contradicts an earlier one."""

    code = "configuration"


class PlugFailed(HybridVifError):
    """A plug that did not end with the port in order; `.report` has the outcome of every step."""

    code = "plug-failed"


class UnplugFailed(HybridVifError):
    """An unplug that left something behind; `.report` names it."""

    code = "unplug-failed"


class BridgeMissing(PreconditionError, PlugFailed):
    """The integration bridge does not exist; it is never created from what may be a typing error."""

    code = "bridge-missing"


class NotReady(PreconditionError, PlugFailed, UnplugFailed):
    """The host lacks something without which nothing can be plugged or unplugged; nothing was touched."""

    code = "not-ready"


class Refused(PlugFailed, UnplugFailed):
    """Nothing was changed, on purpose."""

    code = "refused"


class NameCollision(Refused):
    """The parts of this name belong to another port whose id has the same first 11 characters."""

    code = "name-collision"


class Conflict(Refused):
    """Something that is not of our shape has our name, holds one of our parts, or keeps one as it must not be."""

    code = "conflict"


class BridgeNotAllowed(Refused):
    """The integration bridge exists or not, but this host's configuration does not list it."""

    code = "bridge-not-allowed"


class PortRunning(Refused):
    """A VM is running on it: a member of the port's Linux bridge has carrier, or a tap that is to go."""

    code = "port-running"


REFUSALS: dict[str, type[Refused]] = {
    cls.code: cls for cls in (Refused, NameCollision, Conflict, BridgeNotAllowed, PortRunning)
}
"""Refusals by code, so that one found as data becomes the exception it stands for."""
