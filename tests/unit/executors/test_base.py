"""base: the outcomes that all executors share, and the deadline of programs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from hybridvif.executors.base import ExecutorError, one_by_one
from hybridvif.executors.command import Program
from hybridvif.model.planner import as_native, plan
from hybridvif.model.report import Result
from hybridvif.model.state import NOTHING, Create, Delete, Replace, Step
from tests.support.strategies import BRIDGE, PORT, TAP, VETH, WIRING

OTHER = replace(BRIDGE, name="qbr91d3aa02-41", alias="91d3aa02-4100-4c00-8000-000000000003")


def test_one_by_one_executor_error_keeps_earlier_outcomes() -> None:
    def do(step: Step) -> None:
        if step.part is VETH:
            raise ExecutorError("the socket is gone", precondition=True)

    made, failed = one_by_one([Create(BRIDGE), Create(VETH)], NOTHING, do, time.monotonic() + 60)
    assert made.result is Result.DONE
    assert (failed.result, failed.reason, failed.code) == (Result.FAILED, "the socket is gone", "precondition")


def test_one_by_one_exception_fails_only_its_step() -> None:
    def do(step: Step) -> None:
        if step.part is VETH:
            raise KeyError("peer")

    steps = [Create(BRIDGE), Create(VETH), Create(OTHER)]
    made, failed, other = one_by_one(steps, NOTHING, do, time.monotonic() + 60)
    assert (made.result, other.result) == (Result.DONE, Result.DONE)
    assert (failed.result, failed.code, failed.retry) == (Result.FAILED, "error", False)
    assert failed.reason == f"the executor failed at {VETH.name}: KeyError; see the daemon's log"


def test_one_by_one_failed_conversion_deletes_nothing() -> None:
    def do(step: Step) -> None:
        if isinstance(step, Replace):
            raise ExecutorError("the switch is gone")

    running = WIRING.with_parts(TAP)
    steps = plan(running, as_native(WIRING, PORT.id, running))
    outcomes = one_by_one(steps, running, do, time.monotonic() + 60)
    first = next(index for index, step in enumerate(steps) if isinstance(step, Replace))
    assert any(isinstance(step, Delete) for step in steps[first:])
    later = [Result.SKIPPED] * (len(steps) - first - 1)
    assert [outcome.result for outcome in outcomes] == [Result.DONE] * first + [Result.FAILED, *later]


def test_program_after_deadline_is_not_started(tmp_path: Path) -> None:
    program, trace = tmp_path / "ip", tmp_path / "trace"
    program.write_text(f"#!/bin/sh\necho ran >{trace}\n")
    program.chmod(0o755)
    with pytest.raises(ExecutorError, match="ip was not started, since the deadline had passed") as raised:
        Program("ip", str(tmp_path)).run([], time.monotonic() - 1)
    assert not raised.value.precondition
    assert not trace.exists()
    assert Program("ip", str(tmp_path)).run([], time.monotonic() + 60).code == 0
    assert trace.exists()
