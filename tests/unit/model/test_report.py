from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import replace

import pytest

from hybridvif import RecordingHost, plug, plug_all, unplug_all
from hybridvif.cli.output.report import answer_of_reports
from hybridvif.model.errors import (
    BridgeMissing,
    BridgeNotAllowed,
    Conflict,
    HybridVifError,
    NameCollision,
    NotReady,
    PlugFailed,
    PortRunning,
    PreconditionError,
    Refused,
    UnplugFailed,
)
from hybridvif.model.parts import IvsPort
from hybridvif.model.report import Outcome, Report, Result, Status, error_of, worst_exit_code
from hybridvif.model.state import Create, Observed
from tests.support.answers import PORT, ports_of

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


def test_report_as_json_is_an_entry_of_the_document_of_plug() -> None:
    host = RecordingHost()
    done = plug(PORT, host)
    host.fail(name=PORT.names.bridge, reason="told to fail")
    (failed,) = unplug_all([PORT.id], host)
    for command, reported in (("plug", done), ("unplug", failed)):
        assert json.loads(reported.to_json()) == reported.document
        assert ports_of(answer_of_reports(command, [reported])) == [reported.document]
    assert json.loads(done.to_json())["steps"][0]["changes"][0]["attribute"] == "alias"
    assert [step["result"] for step in json.loads(failed.to_json())["steps"]].count("failed") == 1


def test_report_as_text_is_one_line() -> None:
    plugged = replace(report(Status.DONE), changed=True, simulated=True, duration=0.0123)
    assert str(plugged) == f"port {ID}: done, changed, simulated, 12.3 ms"
    assert str(report(Status.REFUSED, reason="in\nthe way")) == f"port {ID}: refused, 0.0 ms: in\\nthe way"


def test_duration_is_measured_and_not_compared() -> None:
    class SlowHost(RecordingHost):
        def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
            time.sleep(0.02)
            return super().observe(names, deadline)

    host = SlowHost()
    first = plug(PORT, host)
    assert 0.02 <= first.duration < 600
    assert first.document["duration"] == first.duration
    assert replace(first, duration=0.0) == first


def test_report_of_a_failed_observation_has_a_duration() -> None:
    class LostHost(RecordingHost):
        def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
            raise PreconditionError("no daemon; start it")

    (lost,) = plug_all([PORT], LostHost())
    assert lost.status is Status.PRECONDITION
    assert lost.duration > 0
