"""The table of requests, the names that executors observe, and errors as data."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from hybridvif.executors.base import Executor, ExecutorError
from hybridvif.model.parts import Part, Role
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import Create, Observed, Step, Update
from hybridvif.privileged import requests
from hybridvif.privileged.channel import APPLY, OBSERVE, WATCH, Message
from hybridvif.privileged.requests import REQUESTS, respond
from tests.support.strategies import BRIDGE, NAMES, WIRING


class FakeExecutor:
    """An executor that records the observed names."""

    role: ClassVar[Role] = Role.LINK
    serves: ClassVar[frozenset[type[Part]]] = frozenset()
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self.names: list[Collection[str] | None] = []

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        self.names.append(names)
        return Observed()

    def apply(self, steps: Collection[Step], deadline: float) -> list[Outcome]:
        raise AssertionError


@pytest.mark.parametrize("names", [None, frozenset(NAMES)], ids=["all", "of a port"])
def test_names_reach_both_executors(names: frozenset[str] | None) -> None:
    """Open vSwitch takes a device into the bridge of the row with its name, whatever its prefix."""
    executors: Mapping[Role, Executor] = {each: FakeExecutor(Settings()) for each in Role}
    requests._observed(executors, names, time.monotonic() + 1)
    assert [executor.names for executor in executors.values() if isinstance(executor, FakeExecutor)] == [[names]] * 2


class OneRole(FakeExecutor):
    """An executor whose steps succeed, or that cannot observe."""

    def __init__(self, serves: frozenset[type[Part]], error: ExecutorError | None = None) -> None:
        super().__init__(Settings())
        self.serves = serves  # type: ignore[misc]  # of the instance
        self.error = error
        self.applied: list[Step] = []

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        if self.error:
            raise self.error
        return super().observe(names, deadline)

    def apply(self, steps: Collection[Step], deadline: float) -> list[Outcome]:
        self.applied += steps
        return [Outcome(step, Result.DONE) for step in steps]


PLUG: list[Step] = [Create(part) for part in WIRING]
REPAIR: list[Step] = [Update(replace(BRIDGE, mtu=1400), BRIDGE)]


def one_of_each_role(error: ExecutorError | None = None) -> dict[Role, OneRole]:
    return {role: OneRole(frozenset(type(step.part) for step in PLUG), error) for role in Role}


@pytest.mark.parametrize("steps", [PLUG, REPAIR], ids=["plug", "repair"])
def test_host_is_observed_once_before_and_once_after_steps(steps: list[Step]) -> None:
    executors = one_of_each_role()
    outcomes, observed = requests.apply([steps], time.monotonic() + 1, executors)
    assert [outcome[0] for outcome in outcomes[0]] == ["done"] * len(steps)
    assert observed is not None
    assert [len(executor.names) for executor in executors.values()] == [2, 2]


@pytest.mark.parametrize("precondition", [True, False])
def test_failed_observation_fails_all_plans(precondition: bool) -> None:
    executors = one_of_each_role(ExecutorError("no answer", precondition=precondition))
    outcomes, observed = requests.apply([PLUG, []], time.monotonic() + 1, executors)
    assert [(result, reason, retry) for result, reason, retry, *_ in outcomes[0]] == [
        ("failed", "no answer", not precondition)
    ] * len(PLUG)
    assert (outcomes[1], observed) == ([], None)
    assert not any(executor.applied for executor in executors.values())


@pytest.mark.parametrize("error", [ModuleNotFoundError("yaml"), PermissionError(13, "Permission denied")])
def test_failed_observation_names_its_executor(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """A lazy import ended as "the daemon failed: ModuleNotFoundError", of no executor."""

    class Broken(FakeExecutor):
        def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
            raise error

    executors: Mapping[Role, Executor] = {Role.LINK: Broken(Settings()), Role.SWITCH: FakeExecutor(Settings())}
    request = requests.Request(lambda value: value, lambda names, end: requests._observed(executors, names, end))
    cause = getattr(error, "strerror", None) or "ModuleNotFoundError"
    assert requests.call(request, (None, time.monotonic() + 1)) == [
        "failed",
        "error",
        f"the link executor {Broken.__module__}.{Broken.__qualname__} failed ({cause}); see the daemon's log",
    ]
    assert caplog.records[0].exc_info is not None


def test_request_without_steps_observes_nothing() -> None:
    executors = one_of_each_role()
    assert requests.apply([[], []], time.monotonic() + 1, executors)[0] == [[], []]
    assert [names for executor in executors.values() for names in executor.names if names] == []


def test_executor_that_raises_system_exit_has_failed() -> None:
    def end(_question: object, _deadline: object) -> Any:
        raise SystemExit(3)

    request = requests.Request(lambda value: value, end)
    assert requests.call(request, ((), 0.0)) == ["failed", "error", "the daemon failed: SystemExit; see its log"]


@pytest.mark.parametrize("name", [OBSERVE, APPLY, WATCH])
@pytest.mark.parametrize("arguments", [(), ([],), ([], 1.0, "x")])
def test_request_with_other_arguments_is_refused(name: str, arguments: tuple[object, ...]) -> None:
    sentence = "refused: a request takes a question and a deadline"
    response = respond((Message.CALL.value, name, arguments, {}))
    assert response == (Message.RET.value, ["failed", "refused", sentence])


def test_request_name_outside_the_table_does_not_exist() -> None:
    assert {*REQUESTS} == {f"{requests.__name__}.{name}" for name in ("observe", "apply", "watch")}
    name = f"{requests.__name__}.respond"
    assert respond((Message.CALL.value, name, ([], 1.0), {})) == (
        Message.RET.value,
        ["failed", "refused", f"refused: {name!r} is no entry point"],
    )


@pytest.mark.parametrize("message", [(), (99, "x"), (Message.CALL.value, 7, (), {}), (Message.PONG.value,)])
def test_message_of_another_form_is_refused(message: tuple[Any, ...]) -> None:
    assert respond(message) == (Message.RET.value, ["failed", "refused", "refused: no such request"])
