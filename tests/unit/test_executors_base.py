"""What all executors share: no step's outcome is lost, and no program is begun too late."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hybridvif.executors.base import ExecutorError, one_by_one
from hybridvif.executors.command import Program
from hybridvif.executors.recording import RecordingSwitch
from hybridvif.facts import Observed, observing
from hybridvif.parts import NOTHING
from hybridvif.report import Result
from hybridvif.settings import Settings
from hybridvif.steps import Create, Step
from tests.unit.strategies import BRIDGE, VETH

OTHER = replace(BRIDGE, name="qbr91d3aa02-41", alias="91d3aa02-4100-4c00-8000-000000000003")


def test_what_earlier_steps_came_to_outlives_an_executor_that_can_do_no_more() -> None:
    def do(step: Step) -> None:
        if step.part is VETH:
            raise ExecutorError("the socket is gone", precondition=True)

    made, failed = one_by_one([Create(BRIDGE), Create(VETH)], NOTHING, do, time.monotonic() + 60)
    assert made.result is Result.DONE
    assert (failed.result, failed.reason, failed.code) == (Result.FAILED, "the socket is gone", "precondition")


def test_exception_within_one_step_is_its_outcome_alone() -> None:
    def do(step: Step) -> None:
        if step.part is VETH:
            raise KeyError("peer")

    steps = [Create(BRIDGE), Create(VETH), Create(OTHER)]
    made, failed, other = one_by_one(steps, NOTHING, do, time.monotonic() + 60)
    assert (made.result, other.result) == (Result.DONE, Result.DONE)
    assert (failed.result, failed.code, failed.retry) == (Result.FAILED, "error", False)
    assert failed.reason == f"the executor failed at {VETH.name}: KeyError; see the daemon's log"


def test_a_program_is_not_started_after_the_deadline(tmp_path: Path) -> None:
    program, trace = tmp_path / "ip", tmp_path / "trace"
    program.write_text(f"#!/bin/sh\necho ran >{trace}\n")
    program.chmod(0o755)
    with pytest.raises(ExecutorError, match="ip was not started, since the deadline had passed") as raised:
        Program("ip", str(tmp_path)).run([], time.monotonic() - 1)
    assert not raised.value.precondition
    assert not trace.exists()
    assert Program("ip", str(tmp_path)).run([], time.monotonic() + 60).code == 0
    assert trace.exists()


class Waiting(RecordingSwitch):
    """An executor that asks at once."""

    asked = False

    @contextmanager
    def observing(self, names: Collection[str] | None, deadline: float) -> Iterator[Callable[[], Observed]]:
        self.asked = True
        yield lambda: self.observe(names, deadline)


def test_who_can_is_asked_before_the_answer_is_called_for() -> None:
    executor = Waiting(Settings())
    with observing(executor, None, time.monotonic() + 1) as answer:
        assert executor.asked
        assert answer() == executor.observe(None, time.monotonic() + 1)


def test_who_cannot_is_asked_when_it_is() -> None:
    executor = RecordingSwitch(Settings())
    with observing(executor, None, time.monotonic() + 1) as answer:
        assert answer() == executor.observe(None, time.monotonic() + 1)
