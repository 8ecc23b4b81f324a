"""Exceptions of the public API, and the escaping of text that they quote. Each message is one complete sentence.

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
    |-- PortRunning            a running VM uses the port, and unplug was not forced
    '-- Unfiltered             nothing would filter the packets of a converted port
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from hybridvif.model.report import Report


# -- the text of other tools -------------------------------------------------------------------------------------------

# An alias, an external_ids value or a device name may hold anything. It is escaped and cut to be safe to print, to log
# and to send. No plan writes a value that is not printable or longer than MAX_SHOWN, so no information is lost.

MAX_SHOWN = 128
"""Maximum length of an observed value. A UUID has 36 characters."""


def escaped(text: str) -> str:
    r"""Return the text with a backslash escape for each character that is not printable.

    A byte that was not UTF-8, decoded with surrogateescape, becomes \xNN.

    >>> escaped("a\x1b[31m\u2028b")
    'a\\x1b[31m\\u2028b'
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def bounded(text: str) -> str:
    """Return the text, cut if it is longer than MAX_SHOWN."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"


def shown(text: str) -> str:
    """Return the text bounded and escaped."""
    return escaped(bounded(text))


def escaped_lines(text: str) -> str:
    """Return the text escaped, except for its line ends."""
    return "\n".join(map(escaped, text.split("\n")))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown word: the most similar known one, or "" without any.

    >>> did_you_mean("plgu", ["plug", "unplug"])
    '; did you mean plug?'
    """
    from difflib import get_close_matches

    similar = get_close_matches(word, known, 1)
    return f"; did you mean {similar[0]}?" if similar else ""


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


# -- the errors --------------------------------------------------------------------------------------------------------


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


class Unfiltered(Refused):
    """Nothing would filter the packets of the VM after the conversion of its port."""

    code = "unfiltered"


REFUSALS: dict[str, type[Refused]] = {
    cls.code: cls for cls in (Refused, NameCollision, Conflict, BridgeNotAllowed, PortRunning, Unfiltered)
}
"""Refusals by code, to turn data back into exceptions."""
