"""Tests of the text of other tools: escaped if not printable, cut if too long."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from hybridvif.executors.base import ExecutorError, StepFailed
from hybridvif.model.errors import MAX_SHOWN, Conflict, bounded, escaped, escaped_lines, shown


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("", ""),
        ("5f2c0e1a-7b00-4c00-8000-000000000001", "5f2c0e1a-7b00-4c00-8000-000000000001"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\x00b\x1c\x1d\x1e", "a\\x00b\\x1c\\x1d\\x1e"),
        ("\u2028\u2029\x85", "\\u2028\\u2029\\x85"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\udcff\udc80", "\\xff\\x80"),
        ("\ud800", "\\ud800"),
        ("é \U0001f600", "é \U0001f600"),
    ],
)
def test_escaped_replaces_unprintable_characters(text: str, printed: str) -> None:
    assert escaped(text) == printed


@given(st.text())
def test_escaped_text_is_printable_and_utf8(text: str) -> None:
    assert escaped(text).isprintable()
    assert escaped(escaped(text)) == escaped(text)
    assert escaped(text).encode().decode() == escaped(text)
    assert len(shown(text)) <= 10 * (MAX_SHOWN + 30)


def test_bounded_cuts_text_and_adds_its_length() -> None:
    assert bounded("x" * MAX_SHOWN) == "x" * MAX_SHOWN
    assert bounded("x" * 70_000) == "x" * MAX_SHOWN + "... (70000 characters)"
    assert bounded("x" * 70_000) != bounded("x" * 70_001)


def test_escaped_lines_keep_their_ends() -> None:
    assert escaped_lines("a\x1b\nb\u2028c\n") == "a\\x1b\nb\\u2028c\n"


@pytest.mark.parametrize("kind", [Conflict, ExecutorError, StepFailed])
def test_error_escapes_its_message(kind: type[Exception]) -> None:
    assert str(kind("hv\x1b[3m is in the way\nERROR forged")) == "hv\\x1b[3m is in the way\\nERROR forged"
