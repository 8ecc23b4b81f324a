"""Group commit: concurrent callers of a switch share transactions.

ovs-vswitchd reconfigures the whole host for every transaction, so one transaction per caller is slow. A caller that
finds a transaction in flight waits for it. All waiting callers then go together, led by one of them. The leader waits
briefly for callers that have announced themselves (expected()), at most for the duration of two transactions. Otherwise
the first caller would always go alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hybridvif.executors.base import NOT_REALIZED
from hybridvif.model.report import Outcome, Result
from hybridvif.model.steps import Step

MAX_GATHER_TIME = 0.1
"""Seconds that a leader waits for announced callers, at most."""
MIN_TIME_SHARE = 0.25
"""Share of its remaining time that a leader waits; also the least ratio of remaining times within a group."""
MAX_WAIT = 1.0
"""Seconds after which a transaction in flight is no longer waited for: ovs-vswitchd may hang."""

Commit = Callable[[Sequence[Step], float], Sequence[Outcome]]


@dataclass(slots=True, eq=False)
class _Request:
    steps: Sequence[Step]
    deadline: float
    outcomes: Sequence[Outcome] | None = None
    taken: bool = False
    alone: bool = False
    """True if it must not be merged with others any more."""


class GroupCommit:
    """Merge the steps of several threads into few transactions; each caller gets its own outcomes."""

    def __init__(self, commit: Commit, *, atomic: bool = True) -> None:
        self._commit = commit
        self._atomic = atomic
        self._turn = threading.Condition()
        self._waiting: list[_Request] = []
        self._leader: _Request | None = None
        self._since = 0.0
        self._took = 0.0
        self._coming: set[int] = set()
        """Threads that have announced an apply()."""

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Announce an apply() of this thread; leaders wait for it until it comes or the context ends."""
        with self._turn:
            self._coming.add(threading.get_ident())
        try:
            yield
        finally:
            with self._turn:
                self._arrived()
                self._turn.notify_all()

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Return the outcomes of these steps, which this thread or another one commits."""
        own = _Request(steps, deadline)
        # The second half of its time is reserved for its own transaction.
        until = deadline - max(deadline - time.monotonic(), 0) / 2
        with self._turn:
            self._arrived()
            self._waiting.append(own)
            self._turn.notify_all()
            while own.outcomes is None and (own.taken or self._is_led(until)):
                # The leader that has taken it observes the deadline.
                end = min(self._since + MAX_WAIT, until)
                self._turn.wait(None if own.taken else max(end - time.monotonic(), 0.001))
            if own.outcomes is not None:
                return own.outcomes
            self._leader, self._since = own, time.monotonic()
            # Before waiting for others: another caller may become leader meanwhile, and take all waiting requests.
            self._take([own])
            others: list[_Request] = []
            if not own.alone:
                self._gather(own.deadline)
                others = self._mergeable(own)
                self._take(others)
            group = [own, *others]
        try:
            self._commit_group(group)
        finally:
            with self._turn:
                for request in group:
                    if request.outcomes is None and request is not own:
                        # The commit raised, or one request made the whole transaction fail. Each request is then
                        # committed by itself.
                        request.taken = False
                        self._waiting.append(request)
                if self._leader is own:
                    self._leader = None
                self._turn.notify_all()
        if own.outcomes is None:
            own.outcomes = self._commit(own.steps, own.deadline)
        return own.outcomes

    def _is_led(self, until: float) -> bool:
        """Return whether a transaction is in flight that is worth waiting for."""
        return self._leader is not None and time.monotonic() < min(self._since + MAX_WAIT, until)

    def _arrived(self) -> None:
        self._coming.discard(threading.get_ident())

    def _gather(self, deadline: float) -> None:
        now = time.monotonic()
        end = now + min(2 * self._took, MAX_GATHER_TIME, (deadline - now) * MIN_TIME_SHARE)
        while self._coming and (remaining := end - time.monotonic()) > 0:
            self._turn.wait(remaining)

    def _take(self, requests: list[_Request]) -> None:
        for request in requests:
            self._waiting.remove(request)
            request.taken = True

    def _mergeable(self, leader: _Request) -> list[_Request]:
        """Return the requests to merge with this one: distinct parts, compatible deadlines."""
        mergeable: list[_Request] = []
        names = {step.part.name for step in leader.steps}
        now = time.monotonic()
        shortest = longest = leader.deadline - now
        for request in self._waiting:
            own, remaining = {step.part.name for step in request.steps}, request.deadline - now
            least, most = min(shortest, remaining), max(longest, remaining)
            # The earliest deadline applies to the whole transaction.
            if not request.alone and not own & names and least >= most * MIN_TIME_SHARE:
                names |= own
                shortest, longest = least, most
                mergeable.append(request)
        return mergeable

    def _commit_group(self, group: list[_Request]) -> None:
        started = time.monotonic()
        steps = [step for request in group for step in request.steps]
        outcomes = list(self._commit(steps, min(request.deadline for request in group)))
        self._took = time.monotonic() - started
        if self._atomic and len(group) > 1 and all(_took_no_effect(outcome) for outcome in outcomes):
            # One request made the transaction of all fail.
            for request in group:
                request.alone = True
            return
        for request in group:
            request.outcomes = outcomes[: len(request.steps)]
            del outcomes[: len(request.steps)]


def _took_no_effect(outcome: Outcome) -> bool:
    return outcome.result in (Result.FAILED, Result.REFUSED, Result.SKIPPED) and outcome.code != NOT_REALIZED
