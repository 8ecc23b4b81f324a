"""Concurrent callers of one switch share its transactions: each waits for the one in flight, then all go together.

ovs-vswitchd reconfigures the whole host for every transaction, 9 ms on an empty host and 235 ms where 225 ports are, so
ten callers one after another wait ten times. Left alone such a queue settles into one caller and nine in turns: whoever
comes first finds nobody and goes alone. So who leads waits for those who are at work on their links and will come
next; not for longer than two transactions take, which is what it costs to go without them.
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

LONGEST = 0.1
"""Seconds that a leader waits for the others at most."""
SHARE = 0.25
"""Of the time that a caller has left, how much it waits for others at most, and how much who goes with it leaves it."""
PATIENCE = 1.0
"""Seconds after which nobody waits for the transaction in flight any longer: ovs-vswitchd may hang."""

Commit = Callable[[Sequence[Step], float], Sequence[Outcome]]


@dataclass(slots=True, eq=False)
class _Wish:
    steps: Sequence[Step]
    deadline: float
    outcomes: Sequence[Outcome] | None = None
    taken: bool = False
    alone: bool = False
    """Whether nobody is to go with it any more."""


class GroupCommit:
    """Carries out what several threads ask for in as few transactions as can be; each gets its own outcomes."""

    def __init__(self, commit: Commit, *, atomic: bool = True) -> None:
        self._commit = commit
        self._atomic = atomic
        self._turn = threading.Condition()
        self._waiting: list[_Wish] = []
        self._leader: _Wish | None = None
        self._since = 0.0
        self._took = 0.0
        self._coming: set[int] = set()
        """The threads that have said that they will come."""

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Within, this thread does what comes before its steps here; it is waited for until it brings them."""
        with self._turn:
            self._coming.add(threading.get_ident())
        try:
            yield
        finally:
            with self._turn:
                self._came()
                self._turn.notify_all()

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """What came of these steps, whoever sent them."""
        wish = _Wish(steps, deadline)
        # The rest of its time is for its own transaction.
        until = deadline - max(deadline - time.monotonic(), 0) / 2
        with self._turn:
            self._came()
            self._waiting.append(wish)
            self._turn.notify_all()
            while wish.outcomes is None and (wish.taken or self._is_led(until)):
                # Whoever has taken it sees to the deadline.
                end = min(self._since + PATIENCE, until)
                self._turn.wait(None if wish.taken else max(end - time.monotonic(), 0.001))
            if wish.outcomes is not None:
                return wish.outcomes
            self._leader, self._since = wish, time.monotonic()
            # At once: while it gathers, another who can wait no longer may lead, and take all that wait.
            self._take([wish])
            others: list[_Wish] = []
            if not wish.alone:
                self._gather(wish.deadline)
                others = self._fellows_of(wish)
                self._take(others)
            group = [wish, *others]
        try:
            self._carry_out(group)
        finally:
            with self._turn:
                for one in group:
                    if one.outcomes is None and one is not wish:
                        # The commit raised, of which its own caller hears, or undid what was asked for by some for
                        # the fault of others: each asks for itself.
                        one.taken = False
                        self._waiting.append(one)
                if self._leader is wish:
                    self._leader = None
                self._turn.notify_all()
        if wish.outcomes is None:
            wish.outcomes = self._commit(wish.steps, wish.deadline)
        return wish.outcomes

    def _is_led(self, until: float) -> bool:
        """Whether a transaction is in flight that is worth waiting for."""
        return self._leader is not None and time.monotonic() < min(self._since + PATIENCE, until)

    def _came(self) -> None:
        self._coming.discard(threading.get_ident())

    def _gather(self, deadline: float) -> None:
        now = time.monotonic()
        end = now + min(2 * self._took, LONGEST, (deadline - now) * SHARE)
        while self._coming and (left := end - time.monotonic()) > 0:
            self._turn.wait(left)

    def _take(self, wishes: list[_Wish]) -> None:
        for one in wishes:
            self._waiting.remove(one)
            one.taken = True

    def _fellows_of(self, wish: _Wish) -> list[_Wish]:
        """Those that can go with this wish: no two of one part, and none that would cut another one short."""
        fellows: list[_Wish] = []
        names = {step.part.name for step in wish.steps}
        now = time.monotonic()
        shortest = longest = wish.deadline - now
        for one in self._waiting:
            own, left = {step.part.name for step in one.steps}, one.deadline - now
            least, most = min(shortest, left), max(longest, left)
            # All of them have until the first one's deadline.
            if not one.alone and not own & names and least >= most * SHARE:
                names |= own
                shortest, longest = least, most
                fellows.append(one)
        return fellows

    def _carry_out(self, group: list[_Wish]) -> None:
        started = time.monotonic()
        merge_observed = [step for wish in group for step in wish.steps]
        outcomes = list(self._commit(merge_observed, min(wish.deadline for wish in group)))
        self._took = time.monotonic() - started
        if self._atomic and len(group) > 1 and all(_took_no_effect(outcome) for outcome in outcomes):
            # One caller's fault undid the others' as well.
            for wish in group:
                wish.alone = True
            return
        for wish in group:
            wish.outcomes = outcomes[: len(wish.steps)]
            del outcomes[: len(wish.steps)]


def _took_no_effect(outcome: Outcome) -> bool:
    return outcome.result in (Result.FAILED, Result.REFUSED, Result.SKIPPED) and outcome.code != NOT_REALIZED
