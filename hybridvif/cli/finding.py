"""One thing that doctor looked at, and what it found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A precondition, or something good to know."""

    name: str
    verdict: str
    """pass, fail, or info: of no consequence for plugging."""
    text: str
    remedy: str = ""
    """The exact command that mends it."""


def passed(name: str, text: str) -> Finding:
    """It is met."""
    return Finding(name, "pass", text)


def failed(name: str, text: str, remedy: str = "") -> Finding:
    """It is not met."""
    return Finding(name, "fail", text, remedy)


def info(name: str, text: str, remedy: str = "") -> Finding:
    """It is good to know."""
    return Finding(name, "info", text, remedy)


def failed_with(name: str, sentence: str) -> Finding:
    """It is not met, in the words of an error: "fact; remedy"."""
    fact, _, remedy = sentence.partition("; ")
    return failed(name, fact, remedy)
