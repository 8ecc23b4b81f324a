"""Carries plans out: which steps of which plans go to an executor together, and what a failure stops.

A plan alternates between the roles at most as switch, links, switch. All plans of a call go through these rounds side by
side, so that three hundred ports cost one switch transaction, not three hundred.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from hybridvif.executors.base import Executor, ExecutorError
from hybridvif.parts import Role
from hybridvif.report import Outcome, Result
from hybridvif.steps import Delete, Step, role_of

LOG = logging.getLogger(__name__)
ROUNDS = (Role.SWITCH, Role.LINK)
_STOPS = (Result.FAILED, Result.REFUSED, Result.SKIPPED, Result.UNKNOWN)
SHARE = 1 / 3
"""Of the time that is left, what a round may take that has others after it: a silent ovs-vswitchd must leave time for links."""


class _Course:
    """One plan on its way."""

    def __init__(self, plan: Sequence[Step]) -> None:
        self.waiting = list(plan)
        self.outcomes: list[Outcome] = []

    def next_for(self, role: Role) -> list[Step]:
        """The steps that this role carries out next, taken off the plan."""
        count = 0
        while count < len(self.waiting) and role_of(self.waiting[count]) is role:
            count += 1
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    def note(self, outcomes: Sequence[Outcome]) -> None:
        """Take what came of the steps; after a failure only deletes are still tried, after a lost answer nothing."""
        self.outcomes += outcomes
        if any(outcome.result is Result.UNKNOWN for outcome in outcomes):
            self._skip(lambda step: True)
        elif any(outcome.result in _STOPS for outcome in outcomes):
            self._skip(lambda step: not isinstance(step, Delete))

    def _skip(self, which: Callable[[Step], bool]) -> None:
        dropped = [step for step in self.waiting if which(step)]
        self.waiting = [step for step in self.waiting if step not in dropped]
        reason = "not tried, since an earlier step of this port failed"
        self.outcomes += [Outcome(step, Result.SKIPPED, reason) for step in dropped]


def carry_out(
    plans: Sequence[Sequence[Step]], executors: Mapping[Role, Executor], deadline: float
) -> list[tuple[Outcome, ...]]:
    """The outcomes of every plan, each in the order of its steps."""
    courses = [_Course(plan) for plan in plans]
    while any(course.waiting for course in courses):
        for role in ROUNDS:
            batch = [(course, steps) for course in courses if (steps := course.next_for(role))]
            if batch:
                more = any(course.waiting for course in courses)
                _carry_out_batch(batch, executors[role], _share(deadline) if more else deadline)
    return [_in_order(plan, course.outcomes) for plan, course in zip(plans, courses, strict=True)]


def _share(deadline: float) -> float:
    now = time.monotonic()
    return now + (deadline - now) * SHARE


def _carry_out_batch(batch: list[tuple[_Course, list[Step]]], executor: Executor, deadline: float) -> None:
    steps = [step for _, some in batch for step in some]
    outcomes = _apply(executor, steps, deadline)
    if executor.atomic and len(batch) > 1 and any(outcome.result in _STOPS[:3] for outcome in outcomes):
        # One port's fault undid the others' as well: halve until it stands alone.
        middle = len(batch) // 2
        _carry_out_batch(batch[:middle], executor, deadline)
        _carry_out_batch(batch[middle:], executor, deadline)
        return
    remaining = list(outcomes)
    for course, some in batch:
        course.note(remaining[: len(some)])
        remaining = remaining[len(some) :]


def _apply(executor: Executor, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
    try:
        outcomes = executor.apply(steps, deadline)
    except ExecutorError as error:
        outcomes = [error.outcome_of(step) for step in steps]
    for outcome in outcomes:
        # The audit trail.
        verb = type(outcome.step).__name__.lower()
        LOG.info("%s %s %s: %s %s", verb, outcome.step.part.kind, outcome.step.part.name, outcome.result.value, outcome.reason)
    return outcomes


def _in_order(plan: Sequence[Step], outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    place = {id(step): at for at, step in enumerate(plan)}
    return tuple(sorted(outcomes, key=lambda outcome: place[id(outcome.step)]))
