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
from hybridvif.model.report import Outcome, Report, Result, Status, plug_error_of, unplug_error_of, worst_exit_code
from hybridvif.model.steps import Create

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
def test_every_end_has_an_exit_code_of_its_own(status: str, exit_code: int) -> None:
    assert Status(status).exit_code == exit_code


def test_no_two_ends_share_an_exit_code() -> None:
    assert len({status.exit_code for status in Status}) == len(Status)


@pytest.mark.parametrize("status", Status)
def test_only_done_is_ok(status: Status) -> None:
    assert report(status).ok == (status is Status.DONE)


def test_a_report_of_nothing_done_says_so() -> None:
    bare = report(Status.DONE)
    assert (bare.changed, bare.simulated, bare.retries) == (False, False, 0)
    assert (bare.outcomes, bare.leftovers, bare.unchecked) == ((), (), ())
    assert (bare.code, bare.reason) == ("", "")


def test_an_outcome_that_says_no_more_is_real_and_final() -> None:
    outcome = Outcome(Create(IvsPort(name="qvo5f2c0e1a-7b")), Result.DONE)
    assert (outcome.reason, outcome.retry, outcome.simulated, outcome.code) == ("", False, False, "")


def test_a_bulk_call_exits_with_the_code_of_the_port_that_ended_worst() -> None:
    by_badness = [
        Status.INCOMPLETE,
        Status.UNKNOWN,
        Status.ROLLED_BACK,
        Status.CONFIGURED,
        Status.REFUSED,
        Status.PRECONDITION,
        Status.DONE,
    ]
    assert set(by_badness) == set(Status)
    for at, worst in enumerate(by_badness):
        reports = [report(status) for status in reversed(by_badness[at:])]
        assert worst_exit_code(reports) == worst.exit_code
        assert worst_exit_code(reports[::-1]) == worst.exit_code


def test_a_bulk_call_without_ports_succeeds() -> None:
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
def test_a_report_becomes_the_narrowest_error(status: Status, code: str, error: type[HybridVifError]) -> None:
    failed = report(status, code, "Why.")
    for made in (plug_error_of(failed), unplug_error_of(failed)):
        assert type(made) is error
        assert str(made) == "Why."
        assert made.report is failed


@pytest.mark.parametrize("status", [Status.ROLLED_BACK, Status.INCOMPLETE, Status.CONFIGURED, Status.UNKNOWN])
def test_any_other_failure_is_that_of_its_verb(status: Status) -> None:
    failed = report(status, "unknown-to-all", "Why.")
    assert type(plug_error_of(failed)) is PlugFailed
    assert type(unplug_error_of(failed)) is UnplugFailed
    assert plug_error_of(failed).report is failed


def test_every_result_of_a_step_is_a_word() -> None:
    assert [result.value for result in Result] == ["done", "failed", "skipped", "refused", "configured", "unknown"]
