"""The watch request: answered at once, at a notification or at the deadline, and bounded."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from hybridvif.executors.base import ExecutorError
from hybridvif.model.errors import Refused
from hybridvif.model.parts import Role
from hybridvif.model.state import Facts, HostState, Observed
from hybridvif.privileged import codec
from hybridvif.privileged.requests import MAX_WATCHERS, digest_of, next_observation
from tests.support.strategies import WIRING

PATIENCE = 5.0


class Subscription:
    """A subscription whose notifications are bytes. Those of zero do not count, as a keepalive."""

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair()
        self.reader.setblocking(False)
        self.fileno = self.reader.fileno
        self.error: ExecutorError | None = None
        self.drained = threading.Event()
        self.closed = False

    def drain(self) -> bool:
        if self.error:
            raise self.error
        try:
            return bool(self.reader.recv(100).strip(b"\0"))
        except BlockingIOError:
            return False
        finally:
            self.drained.set()

    def close(self) -> None:
        self.closed = True


class Notifying:
    """An executor with one subscription."""

    role = Role.LINK

    def __init__(self) -> None:
        self.subscription = Subscription()

    def subscribe(self, deadline: float) -> Subscription:
        assert deadline <= time.monotonic() + PATIENCE
        return self.subscription


class Lab:
    """Two executors, and a host whose observation is set by the test."""

    def __init__(self) -> None:
        self.executors: list[Any] = [Notifying(), Notifying()]
        self.observed: list[Any] = codec.encode_observed(Observed())
        self.deadlines: list[float] = []
        self.observations = threading.Semaphore(0)

    def observe(self, deadline: float) -> list[Any]:
        self.deadlines.append(deadline)
        self.observations.release()
        return self.observed

    def ask(self, digest: str, seconds: float = 10.0) -> list[Any] | None:
        return next_observation(self.observe, digest, self.executors, PATIENCE, time.monotonic() + seconds)

    def close(self) -> None:
        for executor in self.executors:
            executor.subscription.reader.close()
            executor.subscription.writer.close()

    def notify(self, index: int, content: bytes = b"x") -> None:
        self.executors[index].subscription.writer.sendall(content)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with closing(Lab()) as lab:
        yield lab


CHANGED = codec.encode_observed(Observed(HostState().with_parts(*WIRING)))


def test_client_without_an_observation_gets_it_at_once(lab: Lab) -> None:
    assert lab.ask("") == [digest_of(lab.observed), lab.observed]
    assert all(executor.subscription.closed for executor in lab.executors)


def test_unchanged_host_is_answered_at_the_deadline(lab: Lab) -> None:
    started = time.monotonic()
    assert lab.ask(digest_of(lab.observed), 0.1) is None
    assert time.monotonic() - started >= 0.1
    assert len(lab.deadlines) == 1


@pytest.mark.parametrize("index", [0, 1])
def test_notification_of_any_executor_causes_an_observation(lab: Lab, index: int) -> None:
    def change() -> None:
        assert lab.observations.acquire(timeout=PATIENCE)
        lab.observed = CHANGED
        lab.notify(index)

    digest = digest_of(lab.observed)
    with_change = threading.Thread(target=change)
    with_change.start()
    assert lab.ask(digest) == [digest_of(CHANGED), CHANGED]
    with_change.join()
    assert lab.deadlines[1] <= time.monotonic() + PATIENCE


def test_notification_without_a_change_is_not_answered(lab: Lab) -> None:
    digest = digest_of(lab.observed)
    lab.notify(0)
    assert lab.ask(digest, 0.5) is None
    assert len(lab.deadlines) == 2


def test_keepalive_causes_no_observation(lab: Lab) -> None:
    lab.notify(1, b"\0")
    assert lab.ask(digest_of(lab.observed), 0.2) is None
    assert len(lab.deadlines) == 1


def test_lost_connection_is_an_error(lab: Lab) -> None:
    subscription = lab.executors[1].subscription
    subscription.error = ExecutorError("OVSDB closed the connection")
    lab.notify(1)
    with pytest.raises(ExecutorError, match="closed the connection"):
        lab.ask(digest_of(lab.observed))
    assert subscription.closed


def test_executor_without_subscriptions_is_a_precondition(lab: Lab) -> None:
    class Silent:
        role = Role.SWITCH

    with pytest.raises(ExecutorError, match="the switch executor Silent reports no changes") as raised:
        next_observation(lab.observe, "", [Silent()], PATIENCE, 0.0)  # type: ignore[list-item]
    assert raised.value.precondition


def test_only_some_requests_may_wait(lab: Lab) -> None:
    digest = digest_of(lab.observed)
    with ExitStack() as stack:
        labs = [stack.enter_context(closing(Lab())) for _ in range(MAX_WATCHERS)]
        waiting = [threading.Thread(target=each.ask, args=(digest,)) for each in labs]
        for thread in waiting:
            thread.start()
        for each in labs:
            assert each.observations.acquire(timeout=PATIENCE)
        with pytest.raises(Refused, match=f"{MAX_WATCHERS} watch requests are waiting already"):
            lab.ask("")
        for each in labs:
            each.observed = CHANGED
            each.notify(0)
        for thread in waiting:
            thread.join()
        assert lab.ask("") is not None


def test_digest_does_not_depend_on_an_order() -> None:
    parts, members = [*WIRING], {"a": ("1",), "b": ("2",)}
    first = Observed(HostState().with_parts(*parts), Facts(members=members))
    second = Observed(HostState().with_parts(*parts[::-1]), Facts(members=dict(reversed(members.items()))))
    other = Observed(HostState().with_parts(*parts), Facts(members={"a": ("1",)}))
    digests = [digest_of(codec.encode_observed(observed)) for observed in (first, second, other)]
    assert digests[0] == digests[1] != digests[2]
