"""Spans, and the file of --trace-file."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hybridvif import spans
from hybridvif.cli import main
from hybridvif.cli.commands.plug import trace_document, traced
from hybridvif.cli.terminal import Terminal
from hybridvif.privileged.requests import Request, call
from tests.support.answers import ID, OPTIONS
from tests.support.schemas import validate_as


def test_nothing_is_collected_unless_asked_for() -> None:
    with spans.span("work"):
        spans.add(7, [("theirs", 0.0, 1.0)])
    assert not spans.is_collecting()


def test_spans_are_collected_by_process_also_after_an_error() -> None:
    with spans.collecting() as collected, spans.span("outer"):
        spans.add(7, [("theirs", 0.0, 1.0)])
        with suppress(ValueError), spans.span("inner"):
            raise ValueError("no")
    assert [name for name, _, _ in collected[spans.OWN]] == ["inner", "outer"]
    assert collected[7] == [("theirs", 0.0, 1.0)]
    (_, start, end), (_, outer_start, outer_end) = collected[spans.OWN]
    assert outer_start <= start <= end <= outer_end
    assert not spans.is_collecting()


def test_spans_of_a_long_request_are_limited() -> None:
    with spans.collecting() as collected:
        spans.add(7, [("theirs", 0.0, 1.0)] * (spans.MAX_SPANS - 1))
        for _ in range(2):
            spans.add(7, [("theirs", 0.0, 1.0)] * 2)
        for _ in range(spans.MAX_SPANS + 1):
            with spans.span("own"):
                pass
    assert [len(collected[key]) for key in (7, spans.OWN)] == [spans.MAX_SPANS] * 2


def served(question: object, _deadline: float) -> object:
    with spans.span("work"):
        return question


REQUEST = Request(lambda question: question, served)


def test_daemon_returns_its_spans_only_to_a_client_that_asks() -> None:
    assert call(REQUEST, ("q", 1e9)) == ["ok", "q"]
    status, result, (thread, own) = call(REQUEST, ("q", 1e9, True))
    assert (status, result) == ("ok", "q")
    assert thread > 0
    assert [name for name, _, _ in own] == ["work", "request"]


@pytest.mark.parametrize("asked", [False, 1, 1.0, "True", None, [True]])
def test_third_argument_is_true_or_refused(asked: Any) -> None:
    refused = ["failed", "refused", "refused: a request takes a question and a deadline"]
    assert call(REQUEST, ("q", 1e9, asked)) == refused


def test_trace_has_a_track_for_each_process_and_the_events_first() -> None:
    document = trace_document("plug", {spans.OWN: [("plug", 10.0, 10.5)], 33: [("request", 10.125, 10.25)]})
    validate_as("trace-file", document)
    assert next(iter(document)) == "traceEvents"
    events: Any = document["traceEvents"]
    assert [(event["name"], event["pid"], event.get("ts"), event.get("dur")) for event in events] == [
        ("process_name", 1, None, None),
        ("process_name", 2, None, None),
        ("plug", 1, 0.0, 500_000.0),
        ("request", 2, 125_000.0, 125_000.0),
    ]


def arguments(path: str) -> argparse.Namespace:
    return argparse.Namespace(trace_file=path, command="plug", terminal=Terminal())


def test_failed_command_has_a_trace_too(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    with pytest.raises(ValueError, match="no"), traced(arguments(str(file))):
        raise ValueError("no")
    validate_as("trace-file", json.loads(file.read_text()))


def test_unwritable_trace_file_ends_the_command_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plug", ID, *OPTIONS, "--trace-file", "/proc/no/such/file"]) == 2
    assert "--trace-file /proc/no/such/file" in capsys.readouterr().err


def test_full_disk_is_a_warning_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with traced(arguments("/dev/full")):
        pass
    assert capsys.readouterr().err == "warning: --trace-file /dev/full: No space left on device\n"
