"""The table of requests, the names that executors observe, and errors as data."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import pytest

from hybridvif.executors.base import Executor
from hybridvif.model.names import names_of
from hybridvif.model.parts import Part, Role
from hybridvif.model.report import Outcome
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed
from hybridvif.model.steps import Step
from hybridvif.privileged import channel, main, requests
from hybridvif.privileged.messages import Message
from hybridvif.privileged.requests import REQUESTS

NAMES = names_of("5f2c0e1a-7b00-4c00-8000-000000000001")


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


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (Role.LINK, {NAMES.bridge, NAMES.bridge_end, NAMES.switch_end, NAMES.tap}),
        (Role.SWITCH, {NAMES.switch_end, NAMES.vhost_user, NAMES.tap}),
    ],
)
def test_executor_observes_only_names_of_its_role(role: Role, names: set[str]) -> None:
    executors: Mapping[Role, Executor] = {each: FakeExecutor(Settings()) for each in Role}
    requests._observe_all(executors, frozenset(NAMES), time.monotonic() + 1)
    asked = executors[role]
    assert isinstance(asked, FakeExecutor)
    assert asked.names == [names]


def test_observation_of_all_names_reaches_both_executors() -> None:
    executors: Mapping[Role, Executor] = {each: FakeExecutor(Settings()) for each in Role}
    requests._observe_all(executors, None, time.monotonic() + 1)
    assert [executor.names for executor in executors.values() if isinstance(executor, FakeExecutor)] == [[None], [None]]


def test_executor_that_raises_system_exit_has_failed() -> None:
    def end(_question: object, _deadline: object) -> Any:
        raise SystemExit(3)

    request = requests.Request(lambda value: value, end)
    assert requests.respond(request, ((), 0.0)) == ["failed", "error", "the daemon failed: SystemExit; see its log"]


def test_request_with_other_arguments_is_refused() -> None:
    wrong: list[tuple[object, ...]] = [(), ([],), ([], 1.0, "x")]
    for arguments in wrong:
        for answer in (requests.observe(*arguments), requests.apply(*arguments)):
            assert answer == ["failed", "refused", "refused: a request takes a question and a deadline"]


def test_request_name_outside_the_table_does_not_exist() -> None:
    name = f"{requests.__name__}.respond"
    assert {*REQUESTS} == {
        f"{requests.__name__}.{function.__name__}" for function in (requests.observe, requests.apply)
    }
    assert main.response((Message.CALL.value, name, ([], 1.0), {})) == (
        Message.ERR.value,
        "builtins.NameError",
        (f"refused: {name!r} is no entry point",),
    )


def test_reply_cannot_raise_system_exit_in_the_client() -> None:
    reply = (Message.ERR.value, "builtins.SystemExit", ("1",))
    with pytest.raises(channel.ProtocolError):
        channel._result_of(reply)
    with pytest.raises(ValueError, match="so it is"):
        channel._result_of((Message.ERR.value, "builtins.ValueError", ("so it is",), "a traceback"))
    assert channel._result_of((Message.RET.value, ["ok", 1])) == ["ok", 1]
