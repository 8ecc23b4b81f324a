"""The result of one check of `hybridvif doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check."""

    name: str
    verdict: str
    """pass, fail or info. Info has no effect on plug."""
    text: str
    remedy: str = ""
    """The command that fixes it."""


def passed(name: str, text: str) -> CheckResult:
    """Create the result of a precondition that is met."""
    return CheckResult(name, "pass", text)


def failed(name: str, text: str, remedy: str = "") -> CheckResult:
    """Create the result of a precondition that is not met."""
    return CheckResult(name, "fail", text, remedy)


def info(name: str, text: str, remedy: str = "") -> CheckResult:
    """Create a result that is neither pass nor fail."""
    return CheckResult(name, "info", text, remedy)


def failed_with(name: str, sentence: str) -> CheckResult:
    """Create a failed result from an error message "fact; remedy"."""
    fact, _, remedy = sentence.partition("; ")
    return failed(name, fact, remedy)
