"""One thing that doctor looked at, and what it found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A precondition, or something good to know."""

    name: str
    verdict: str
    """pass, fail, or info: of no consequence for plugging."""
    text: str
    remedy: str = ""
    """The exact command that mends it."""


def passed(name: str, text: str) -> CheckResult:
    """It is met."""
    return CheckResult(name, "pass", text)


def failed(name: str, text: str, remedy: str = "") -> CheckResult:
    """It is not met."""
    return CheckResult(name, "fail", text, remedy)


def info(name: str, text: str, remedy: str = "") -> CheckResult:
    """It is good to know."""
    return CheckResult(name, "info", text, remedy)


def failed_with(name: str, sentence: str) -> CheckResult:
    """It is not met, in the words of an error: "fact; remedy"."""
    fact, _, remedy = sentence.partition("; ")
    return failed(name, fact, remedy)
