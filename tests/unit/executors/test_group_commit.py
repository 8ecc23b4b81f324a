"""group_commit: concurrent callers share transactions, and each gets its own outcomes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from hybridvif.executors.base import NOT_REALIZED
from hybridvif.executors.group_commit import GroupCommit
from hybridvif.model.parts import OvsPort
from hybridvif.model.port import Port, desired_state
from hybridvif.model.report import Outcome, Result
from hybridvif.model.state import Create, Step
from tests.support.strategies import PORT, the

PORTS = [
    Port(id=f"{number:08x}-7b00-4c00-8000-000000000001", mac=PORT.mac, instance_id=PORT.instance_id)
    for number in range(10)
]
STEPS = [Create(the(OvsPort, desired_state(port))) for port in PORTS]
Respond = Callable[[Step], Outcome]


class Switch:
    """Commits once `open` is set, and records the merged steps."""

    def __init__(self, respond: Respond = lambda step: Outcome(step, Result.DONE)) -> None:
        self.respond = respond
        self.transactions: list[list[str]] = []
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)

    def commit(self, steps: Sequence[Step], deadline: float) -> list[Outcome]:
        self.transactions.append([step.part.name for step in steps])
        self.entered.release()
        assert self.open.wait(10)
        outcomes = [self.respond(step) for step in steps]
        if any(outcome.result is Result.FAILED and outcome.code != NOT_REALIZED for outcome in outcomes):
            # A transaction takes effect as a whole or not at all.
            return [
                outcome if outcome.result is Result.FAILED else Outcome(outcome.step, Result.SKIPPED)
                for outcome in outcomes
            ]
        return outcomes


def all_at_once(switch: Switch, steps: Sequence[Step], group: GroupCommit) -> list[Sequence[Outcome]]:
    """Return the outcomes of callers that come while the first one is in flight."""
    with ThreadPoolExecutor(len(steps)) as pool:
        first = pool.submit(group.apply, [steps[0]], time.monotonic() + 10)
        assert switch.entered.acquire(timeout=10)
        rest = [pool.submit(group.apply, [step], time.monotonic() + 10) for step in steps[1:]]
        while len(group._waiting) < len(rest):
            time.sleep(0.001)
        switch.open.set()
        return [future.result(10) for future in (first, *rest)]


def test_callers_during_a_transaction_share_the_next() -> None:
    switch = Switch()
    outcomes = all_at_once(switch, STEPS, GroupCommit(switch.commit))
    assert [len(some) for some in switch.transactions] == [1, 9]
    assert [[outcome.step for outcome in some] for some in outcomes] == [[step] for step in STEPS]
    assert {outcome.result for some in outcomes for outcome in some} == {Result.DONE}


def test_failed_request_of_one_caller_does_not_fail_the_others() -> None:
    guilty = STEPS[4]
    switch = Switch(lambda step: Outcome(step, Result.FAILED if step is guilty else Result.DONE))
    outcomes = all_at_once(switch, STEPS, GroupCommit(switch.commit))
    assert [some[0].result for some in outcomes] == [Result.FAILED if step is guilty else Result.DONE for step in STEPS]
    # One alone, nine together, and each of those again by itself.
    assert [len(some) for some in switch.transactions] == [1, 9, *[1] * 9]


def test_step_committed_but_not_accepted_is_not_committed_again() -> None:
    switch = Switch(lambda step: Outcome(step, Result.FAILED, code=NOT_REALIZED))
    all_at_once(switch, STEPS, GroupCommit(switch.commit))
    assert [len(some) for some in switch.transactions] == [1, 9]


def test_two_steps_of_one_part_never_share_a_transaction() -> None:
    switch = Switch()
    all_at_once(switch, [STEPS[0], STEPS[1], STEPS[1]], GroupCommit(switch.commit))
    assert all(len(some) == len(set(some)) for some in switch.transactions)
    assert sum(len(some) for some in switch.transactions) == 3


def test_single_caller_does_not_wait() -> None:
    switch = Switch()
    switch.open.set()
    group = GroupCommit(switch.commit)
    for step in STEPS:
        assert [outcome.result for outcome in group.apply([step], time.monotonic() + 10)] == [Result.DONE]
    assert [len(some) for some in switch.transactions] == [1] * len(STEPS)


def test_commit_that_raises_does_not_stop_other_callers() -> None:
    class Broken(Exception):
        pass

    def commit(steps: Sequence[Step], deadline: float) -> list[Outcome]:
        if len(steps) > 1:
            raise Broken
        return [Outcome(step, Result.DONE) for step in steps]

    group = GroupCommit(commit)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(group.apply, [step], time.monotonic() + 10) for step in STEPS[:4] * 5]
        for future in futures:
            with suppress(Broken):
                assert [outcome.result for outcome in future.result(10)] == [Result.DONE]
    assert group.apply([STEPS[0]], time.monotonic() + 10)[0].result is Result.DONE


@pytest.mark.parametrize("patience", [-1.0, 0.0])
def test_caller_after_its_deadline_gets_an_outcome(patience: float) -> None:
    switch = Switch()
    switch.open.set()
    assert len(GroupCommit(switch.commit).apply([STEPS[0]], time.monotonic() + patience)) == 1


def gather_announced_caller() -> list[int]:
    """Return the sizes of the transactions of a first caller, a second one, and one that announces itself before it."""
    switch = Switch()
    group = GroupCommit(switch.commit)
    threading.Timer(0.2, switch.open.set).start()
    group.apply([STEPS[0]], time.monotonic() + 10)
    is_expected = threading.Event()

    def come_later() -> Sequence[Outcome]:
        with group.expected():
            is_expected.set()
            time.sleep(0.02)
            return group.apply([STEPS[2]], time.monotonic() + 10)

    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(come_later)
        assert is_expected.wait(10)
        assert group.apply([STEPS[1]], time.monotonic() + 10)[0].result is Result.DONE
        assert later.result(10)[0].result is Result.DONE
    return [len(some) for some in switch.transactions]


def test_announced_caller_is_waited_for() -> None:
    # On a loaded machine it may come too late, after 0.1 s.
    assert any(gather_announced_caller() == [1, 2] for _ in range(5))


@pytest.mark.parametrize("comes", [True, False], ids=["late", "never"])
def test_announced_caller_that_is_late_is_not_waited_for(comes: bool) -> None:
    switch = Switch()
    group = GroupCommit(switch.commit)
    threading.Timer(0.2, switch.open.set).start()
    group.apply([STEPS[0]], time.monotonic() + 10)
    is_expected, has_gone = threading.Event(), threading.Event()

    def come_late() -> None:
        with group.expected():
            is_expected.set()
            assert not comes or has_gone.wait(10)

    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(come_late)
        assert is_expected.wait(10)
        assert group.apply([STEPS[1]], time.monotonic() + 10)[0].result is Result.DONE
        has_gone.set()
        late.result(10)
    assert [len(some) for some in switch.transactions] == [1, 1]
    assert not group._coming


def test_group_not_atomic_is_not_repeated_one_by_one() -> None:
    switch = Switch(lambda step: Outcome(step, Result.FAILED, code=NOT_REALIZED if step is STEPS[0] else ""))
    outcomes = all_at_once(switch, STEPS, GroupCommit(switch.commit, atomic=False))
    assert [len(some) for some in switch.transactions] == [1, 9]
    assert {outcome.result for some in outcomes for outcome in some} == {Result.FAILED}


class Hung:
    """Responds to nobody before the deadline, and records the time that each group got."""

    def __init__(self) -> None:
        self.given: dict[str, float] = {}
        self.entered = threading.Semaphore(0)

    def commit(self, steps: Sequence[Step], deadline: float) -> list[Outcome]:
        remaining = deadline - time.monotonic()
        self.given |= {step.part.name: remaining for step in steps}
        self.entered.release()
        time.sleep(max(remaining, 0))
        return [Outcome(step, Result.FAILED if remaining <= 0 else Result.CONFIGURED) for step in steps]


@pytest.mark.parametrize("atomic", [True, False])
def test_caller_with_little_time_does_not_shorten_the_others(atomic: bool) -> None:
    switch = Hung()
    group = GroupCommit(switch.commit, atomic=atomic)

    def timed(step: Step, seconds: float) -> tuple[Result, float]:
        began = time.monotonic()
        (outcome,) = group.apply([step], began + seconds)
        return outcome.result, time.monotonic() - began

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(timed, STEPS[0], 1.0)
        assert switch.entered.acquire(timeout=10)
        short = pool.submit(timed, STEPS[1], 0.2)
        others = [pool.submit(timed, step, 1.0) for step in STEPS[2:8]]
        assert short.result(10)[1] < 0.5
        assert {future.result(10)[0] for future in (first, short, *others)} == {Result.CONFIGURED}
    assert min(switch.given[step.part.name] for step in STEPS[2:8]) > 0.2


def test_leader_keeps_time_for_its_own_transaction() -> None:
    switch = Switch()
    group = GroupCommit(switch.commit)
    threading.Timer(0.2, switch.open.set).start()
    group.apply([STEPS[0]], time.monotonic() + 10)
    remaining: list[float] = []

    def commit(steps: Sequence[Step], deadline: float) -> list[Outcome]:
        remaining.append(deadline - time.monotonic())
        return switch.commit(steps, deadline)

    group._commit = commit
    is_expected, is_through = threading.Event(), threading.Event()

    def come_late() -> None:
        with group.expected():
            is_expected.set()
            assert is_through.wait(10)

    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(come_late)
        assert is_expected.wait(10)
        group.apply([STEPS[1]], time.monotonic() + 0.08)
        is_through.set()
        late.result(10)
    assert remaining[0] > 0


def test_repeated_requests_run_in_their_own_threads() -> None:
    begin = threading.Event()

    def commit(steps: Sequence[Step], deadline: float) -> list[Outcome]:
        if not begin.is_set():
            assert begin.wait(10)
        elif len(steps) == 1 and steps[0] is not STEPS[1]:
            time.sleep(1.0)
            return [Outcome(steps[0], Result.DONE)]
        return [Outcome(step, Result.FAILED) for step in steps]

    group = GroupCommit(commit)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(group.apply, [STEPS[0]], time.monotonic() + 10)
        while group._leader is None:
            time.sleep(0.001)
        some = [pool.submit(group.apply, [step], time.monotonic() + 10) for step in STEPS[1:4]]
        while len(group._waiting) < len(some):
            time.sleep(0.001)
        begin.set()
        began = time.monotonic()
        first.result(10)
        assert some[0].result(10)[0].result is Result.FAILED
        assert time.monotonic() - began < 1.5
        assert {future.result(10)[0].result for future in some[1:]} == {Result.DONE}


def test_two_leaders_at_once_do_not_take_each_others_requests() -> None:
    switch = Switch()
    group = GroupCommit(switch.commit)
    threading.Timer(0.2, switch.open.set).start()
    group.apply([STEPS[0]], time.monotonic() + 10)
    is_expected, may_go = threading.Event(), threading.Event()

    def never_come() -> None:
        with group.expected():
            is_expected.set()
            assert may_go.wait(10)

    with ThreadPoolExecutor(3) as pool:
        expected = pool.submit(never_come)
        assert is_expected.wait(10)
        now = time.monotonic()
        first = pool.submit(group.apply, [STEPS[1]], now + 1.44)
        # It becomes leader after half of its time, while the first one still waits: a quarter of its own.
        second = pool.submit(group.apply, [STEPS[2]], now + 0.64)
        time.sleep(0.34)
        may_go.set()
        expected.result(10)
        outcomes = [future.result(10) for future in (first, second)]
    assert [[outcome.step for outcome in some] for some in outcomes] == [[STEPS[1]], [STEPS[2]]]
    assert sorted(name for some in switch.transactions for name in some) == [step.part.name for step in STEPS[:3]]
