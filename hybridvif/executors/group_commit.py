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
from hybridvif.model.state import Step

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
    is_over: bool = False
    """True after the transaction of its group."""
    outcomes: Sequence[Outcome] | None = None
    """None if that transaction raised, or if one of its requests made it fail."""

    @property
    def names(self) -> set[str]:
        return {step.part.name for step in self.steps}


class GroupCommit:
    """Merge the steps of several threads into few transactions; each caller gets its own outcomes."""

    def __init__(self, commit: Commit, *, atomic: bool = True) -> None:
        self._commit, self._atomic = commit, atomic
        self._changed = threading.Condition()
        self._waiting: list[_Request] = []
        self._leader: _Request | None = None
        self._coming: set[int] = set()
        """Threads that have announced an apply()."""
        self._took = 0.0

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Announce an apply() of this thread; leaders wait for it until it comes or the context ends."""
        with self._changed:
            self._coming.add(threading.get_ident())
        try:
            yield
        finally:
            with self._changed:
                self._coming.discard(threading.get_ident())
                self._changed.notify_all()

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Return the outcomes of these steps, which this thread or another one commits."""
        own = _Request(steps, deadline)
        group: list[_Request] = []
        with self._changed:
            self._coming.discard(threading.get_ident())
            self._waiting.append(own)
            self._changed.notify_all()
            # The second half of its time is reserved for its own transaction.
            patience = min(max(deadline - time.monotonic(), 0) / 2, MAX_WAIT)
            self._changed.wait_for(lambda: own.is_over or self._leader is None, patience)
            if own in self._waiting:
                group = self._lead(own)
            else:
                # The leader that has taken it observes the deadline.
                self._changed.wait_for(lambda: own.is_over)
        if group:
            self._commit_group(group)
        return own.outcomes if own.outcomes is not None else self._commit(steps, deadline)

    def _lead(self, own: _Request) -> list[_Request]:
        """Wait for announced callers, and return the group of requests to commit with this one."""
        # Before waiting: another caller may become leader meanwhile, and take all waiting requests.
        self._waiting.remove(own)
        self._leader = own
        remaining = own.deadline - time.monotonic()
        self._changed.wait_for(
            lambda: not self._coming, max(min(2 * self._took, MAX_GATHER_TIME, remaining * MIN_TIME_SHARE), 0)
        )
        group, names = [own], own.names
        for request in self._waiting:
            times = [member.deadline - time.monotonic() for member in (*group, request)]
            # The earliest deadline applies to the whole transaction.
            if min(times) >= max(times) * MIN_TIME_SHARE and not request.names & names:
                group.append(request)
                names |= request.names
        self._waiting = [request for request in self._waiting if request not in group]
        return group

    def _commit_group(self, group: list[_Request]) -> None:
        started = time.monotonic()
        steps = [step for request in group for step in request.steps]
        outcomes: list[Outcome] = []
        try:
            outcomes = list(self._commit(steps, min(request.deadline for request in group)))
        finally:
            with self._changed:
                self._took = time.monotonic() - started
                self._share(outcomes, group)
                if self._leader is group[0]:
                    self._leader = None
                self._changed.notify_all()

    def _share(self, outcomes: list[Outcome], group: list[_Request]) -> None:
        # If one request made the transaction of all fail, each request is committed again by itself.
        is_failed = self._atomic and len(group) > 1 and all(map(_took_no_effect, outcomes))
        for request in group:
            request.is_over = True
            if outcomes and not is_failed:
                request.outcomes = outcomes[: len(request.steps)]
                del outcomes[: len(request.steps)]


def _took_no_effect(outcome: Outcome) -> bool:
    return outcome.result in (Result.FAILED, Result.REFUSED, Result.SKIPPED) and outcome.code != NOT_REALIZED
