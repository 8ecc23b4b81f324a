"""netlink.executor: the owner of a tap, which may be made root only if no other process holds the tap."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from hybridvif.executors.base import StepFailed
from hybridvif.executors.netlink import executor
from hybridvif.executors.netlink.connection import Response
from hybridvif.executors.netlink.devices import Device
from hybridvif.executors.netlink.operations import Get
from hybridvif.executors.netlink.socket import Rejected

TAP = "tap5f2c0e1a-7b"
LOST = Rejected(errno.ETIMEDOUT)


def tap(queues: int) -> Device:
    return Device(index=7, name=TAP, kind="tun", carrier=False, values={}, queues=queues)


@pytest.fixture
def owned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors of the taps that were given to root."""

    @contextmanager
    def attached(_: str) -> Iterator[int]:
        yield 5

    owned: list[int] = []
    monkeypatch.setattr(executor, "attached", attached)
    monkeypatch.setattr(executor, "own", owned.append)
    return owned


def answer(*responses: Response) -> None:
    """Run it with one response to each of its operations."""
    running = executor._own(TAP)
    assert next(running) == [Get(TAP)]
    with suppress(StopIteration):
        for response in responses:
            running.send([response])


def test_tap_that_nobody_holds_is_given_to_root(owned: list[int]) -> None:
    answer(tap(1), tap(0))
    assert owned == [5]


@pytest.mark.parametrize(("responses", "number"), [([tap(2)], 0), ([tap(1), tap(1)], 1)])
def test_tap_that_another_process_holds_is_a_failure(responses: list[Response], number: int, owned: list[int]) -> None:
    with pytest.raises(StepFailed, match="another process holds it"):
        answer(*responses)
    assert len(owned) == number


@pytest.mark.parametrize(("responses", "number"), [([LOST], 0), ([tap(1), LOST], 1)])
def test_tap_that_cannot_be_read_is_a_failure(responses: list[Response], number: int, owned: list[int]) -> None:
    """A lost response proves no absence of another process."""
    with pytest.raises(StepFailed, match="timed out"):
        answer(*responses)
    assert len(owned) == number
