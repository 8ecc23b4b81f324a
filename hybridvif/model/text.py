"""Escape and cut the text of other tools, so that it is safe to print, to log and to send.

An alias, an external_ids value or a device name may hold anything. No plan writes a value that is not printable or
longer than MAX_SHOWN, so no information is lost.
"""

from __future__ import annotations

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


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
