from __future__ import annotations

import pytest

from hybridvif.model.errors import (
    BridgeMissing,
    BridgeNotAllowed,
    Conflict,
    HybridVifError,
    NameCollision,
    NotReady,
    PlugFailed,
    PortRunning,
    Refused,
    UnplugFailed,
)
from hybridvif.model.parts import IvsPort
from hybridvif.model.report import Outcome, Report, Result, Status, error_of, worst_exit_code
from hybridvif.model.state import Create

ID = "5f2c0e1a-7b00-4c00-8000-000000000001"


def report(status: Status, code: str = "", reason: str = "") -> Report:
    return Report(port_id=ID, status=status, code=code, reason=reason)


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [
        ("done", 0),
        ("rolled-back", 1),
        ("incomplete", 4),
        ("precondition", 5),
        ("refused", 6),
        ("unknown", 7),
        ("configured", 65),
    ],
)
def test_status_has_its_exit_code(status: str, exit_code: int) -> None:
    assert Status(status).exit_code == exit_code


def test_exit_codes_are_unique() -> None:
    assert len({status.exit_code for status in Status}) == len(Status)


@pytest.mark.parametrize("status", Status)
def test_only_done_is_ok(status: Status) -> None:
    assert report(status).ok == (status is Status.DONE)


def test_report_has_empty_defaults() -> None:
    bare = report(Status.DONE)
    assert (bare.changed, bare.simulated, bare.retries) == (False, False, 0)
    assert (bare.outcomes, bare.leftovers, bare.unchecked) == ((), (), ())
    assert (bare.code, bare.reason) == ("", "")


def test_outcome_has_empty_defaults() -> None:
    outcome = Outcome(Create(IvsPort(name="qvo5f2c0e1a-7b")), Result.DONE)
    assert (outcome.reason, outcome.retry, outcome.simulated, outcome.code) == ("", False, False, "")


def test_bulk_exit_code_is_that_of_the_worst_status() -> None:
    worst_first = [
        Status.INCOMPLETE,
        Status.UNKNOWN,
        Status.ROLLED_BACK,
        Status.CONFIGURED,
        Status.REFUSED,
        Status.PRECONDITION,
        Status.DONE,
    ]
    assert set(worst_first) == set(Status)
    for index, worst in enumerate(worst_first):
        reports = [report(status) for status in reversed(worst_first[index:])]
        assert worst_exit_code(reports) == worst.exit_code
        assert worst_exit_code(reports[::-1]) == worst.exit_code


def test_bulk_exit_code_without_ports_is_zero() -> None:
    assert worst_exit_code([]) == 0


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (Status.REFUSED, "refused", Refused),
        (Status.REFUSED, "name-collision", NameCollision),
        (Status.REFUSED, "conflict", Conflict),
        (Status.REFUSED, "bridge-not-allowed", BridgeNotAllowed),
        (Status.REFUSED, "port-running", PortRunning),
        (Status.PRECONDITION, "bridge-missing", BridgeMissing),
        (Status.PRECONDITION, "precondition", NotReady),
        (Status.PRECONDITION, "a word of a later release", NotReady),
    ],
)
def test_report_is_converted_to_the_narrowest_error(status: Status, code: str, error: type[HybridVifError]) -> None:
    failed = report(status, code, "Why.")
    for error_of_verb in (error_of(failed, PlugFailed), error_of(failed, UnplugFailed)):
        assert type(error_of_verb) is error
        assert str(error_of_verb) == "Why."
        assert error_of_verb.report is failed


@pytest.mark.parametrize("status", [Status.ROLLED_BACK, Status.INCOMPLETE, Status.CONFIGURED, Status.UNKNOWN])
def test_other_failure_is_converted_to_the_error_of_its_verb(status: Status) -> None:
    failed = report(status, "unknown-to-all", "Why.")
    assert type(error_of(failed, PlugFailed)) is PlugFailed
    assert type(error_of(failed, UnplugFailed)) is UnplugFailed
    assert error_of(failed, PlugFailed).report is failed


def test_results_have_their_words() -> None:
    assert [result.value for result in Result] == ["done", "failed", "skipped", "refused", "configured", "unknown"]
