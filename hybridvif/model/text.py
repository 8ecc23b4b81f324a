"""Text that other tools wrote, made safe to show, to log and to send: escaped, and of bounded length.

An alias, an external_ids value or a device name may hold anything. None of it that is not printable, or longer than
MAX_SHOWN, is ever written by a plan, so nothing is lost.
"""

from __future__ import annotations

MAX_SHOWN = 128
"""Characters of an observed value that are kept; a UUID has 36."""


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
    """Return several lines escaped, their ends kept."""
    return "\n".join(map(escaped, text.split("\n")))


def _escaped(sign: str) -> str:
    if sign.isprintable():
        return sign
    if "\udc80" <= sign <= "\udcff":
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode("ascii")
