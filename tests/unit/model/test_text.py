"""Text of others: escaped where it is not printable, bounded where it is long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridvif.executors.base import ExecutorError, StepFailed
from hybridvif.model.errors import Conflict
from hybridvif.model.text import MAX_SHOWN, bounded, escaped, escaped_lines, shown


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
def test_text_is_escaped_where_it_is_not_printable(text: str, printed: str) -> None:
    assert escaped(text) == printed


@given(st.text())
def test_escaped_text_is_printable_and_can_be_sent(text: str) -> None:
    assert escaped(text).isprintable()
    assert escaped(escaped(text)) == escaped(text)
    assert escaped(text).encode().decode() == escaped(text)
    assert len(shown(text)) <= 10 * (MAX_SHOWN + 30)


def test_long_text_is_cut_and_its_length_is_told() -> None:
    assert bounded("x" * MAX_SHOWN) == "x" * MAX_SHOWN
    assert bounded("x" * 70_000) == "x" * MAX_SHOWN + "... (70000 characters)"
    assert bounded("x" * 70_000) != bounded("x" * 70_001)


def test_lines_keep_their_ends() -> None:
    assert escaped_lines("a\x1b\nb\u2028c\n") == "a\\x1b\nb\\u2028c\n"


@pytest.mark.parametrize("kind", [Conflict, ExecutorError, StepFailed])
def test_an_error_quotes_text_escaped(kind: type[Exception]) -> None:
    assert str(kind("hv\x1b[3m is in the way\nERROR forged")) == "hv\\x1b[3m is in the way\\nERROR forged"
