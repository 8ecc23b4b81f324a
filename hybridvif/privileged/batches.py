"""Carries plans out: which steps of which plans go to an executor together, and what a failure stops.

A plan alternates between the roles at most as switch, links, switch. All plans of a call go through these rounds side
by side, so that three hundred ports cost one switch transaction, not three hundred.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from hybridvif.errors import HybridVifError, PreconditionError
from hybridvif.executors.base import NOT_REALIZED, Executor, ExecutorError, expected
from hybridvif.parts import Role
from hybridvif.report import Outcome, Result
from hybridvif.steps import Delete, Step, role_of

LOG = logging.getLogger(__name__)
ROUNDS = (Role.SWITCH, Role.LINK)
FEW = 8
"""Ports whose links are soon made: callers who are through with theirs wait for them."""
FAILURES = frozenset({Result.FAILED, Result.REFUSED, Result.SKIPPED})
SHARE = 1 / 3
"""Of the time left, what a round may take that has others after it: a silent ovs-vswitchd must leave time for links."""


class _Course:
    """One plan on its way: which of its steps wait, and what came of the others, by their place in the plan."""

    def __init__(self, plan: Sequence[Step]) -> None:
        self.waiting = list(enumerate(plan))
        self.outcomes: dict[int, Outcome] = {}

    def next_for(self, role: Role) -> list[tuple[int, Step]]:
        """The steps that this role carries out next, taken off the plan; no two of the same part.

        A row that is parked and freed in one transaction has not changed at all, and ovs-vswitchd would look away.
        """
        names: set[str] = set()
        for _, step in self.waiting:
            if role_of(step) is not role or step.part.name in names:
                break
            names.add(step.part.name)
        count = len(names)
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    def next_for_all(self) -> list[tuple[int, Step]]:
        """All the steps, taken off the plan."""
        taken, self.waiting = self.waiting, []
        return taken

    def note(self, taken: Sequence[tuple[int, Step]], outcomes: Sequence[Outcome]) -> None:
        """Take what came of the steps; after a failure only deletes are still tried, after a lost answer nothing."""
        self.outcomes |= {place: outcome for (place, _), outcome in zip(taken, outcomes, strict=True)}
        results = {outcome.result for outcome in outcomes}
        if results & {Result.UNKNOWN, *FAILURES}:
            lost = Result.UNKNOWN in results
            dropped = [(place, step) for place, step in self.waiting if lost or not isinstance(step, Delete)]
            self.waiting = [one for one in self.waiting if one not in dropped]
            reason = "not tried, since an earlier step of this port failed"
            self.outcomes |= {place: Outcome(step, Result.SKIPPED, reason) for place, step in dropped}

    def in_order(self) -> tuple[Outcome, ...]:
        """The outcomes in the order of the plan."""
        return tuple(outcome for _, outcome in sorted(self.outcomes.items(), key=lambda one: one[0]))

    def told(self) -> str:
        """What came of the steps so far, for the log."""
        return "; ".join(map(_told, self.in_order()))


def carry_out(
    plans: Sequence[Sequence[Step]], executors: Mapping[Role, Executor], deadline: float
) -> list[tuple[Outcome, ...]]:
    """The outcomes of every plan, each in the order of its steps."""
    courses = [_Course(plan) for plan in plans]
    for course in courses:
        _refuse_unserved(course, executors)
    with ExitStack() as stack:
        for role in _later(courses):
            stack.enter_context(expected(executors[role]))
        try:
            _in_rounds(courses, executors, deadline)
        finally:
            # The audit trail. A line a port: one a step was a seventh of what the daemon does for 300 ports.
            for course in courses:
                if course.outcomes:
                    LOG.info("%s", course.told())
    return [course.in_order() for course in courses]


def _told(outcome: Outcome) -> str:
    part = outcome.step.part
    verb = type(outcome.step).__name__.lower()
    return f"{verb} {part.kind} {part.name}: {outcome.result.value} {outcome.reason}".rstrip()


def _later(courses: Sequence[_Course]) -> set[Role]:
    """The roles of which there are steps behind those of another; none of many ports, for which nobody need wait."""
    roles = [[role_of(step) for _, step in course.waiting] for course in courses if len(courses) <= FEW]
    return {role for some in roles for role in some if role is not some[0]}


def _in_rounds(courses: Sequence[_Course], executors: Mapping[Role, Executor], deadline: float) -> None:
    while any(course.waiting for course in courses):
        for role in ROUNDS:
            batch = [(course, taken) for course in courses if (taken := course.next_for(role))]
            if batch:
                more = any(course.waiting for course in courses)
                _carry_out_batch(batch, executors[role], share(deadline) if more else deadline)


def _refuse_unserved(course: _Course, executors: Mapping[Role, Executor]) -> None:
    """A plan that holds a part which no configured executor serves fails before any of its steps."""
    unserved = [step.part for _, step in course.waiting if type(step.part) not in executors[role_of(step)].serves]
    if unserved:
        part = unserved[0]
        reason = (
            f"the configured {part.role.value} executor does not serve {part.kind} {part.name}; "
            f"set [hybridvif] {part.role.value}_executor to one that does"
        )
        failed = [Outcome(step, Result.FAILED, reason, code=PreconditionError.code) for _, step in course.waiting]
        course.note(course.next_for_all(), failed)


def share(deadline: float) -> float:
    """The deadline of what others follow."""
    now = time.monotonic()
    return now + (deadline - now) * SHARE


def _carry_out_batch(batch: list[tuple[_Course, list[tuple[int, Step]]]], executor: Executor, deadline: float) -> None:
    outcomes = list(_apply(executor, [step for _, taken in batch for _, step in taken], deadline))
    if executor.atomic and len(batch) > 1 and all(_took_no_effect(outcome) for outcome in outcomes):
        # One port's fault undid the others' as well: halve until it stands alone.
        middle = len(batch) // 2
        _carry_out_batch(batch[:middle], executor, deadline)
        _carry_out_batch(batch[middle:], executor, deadline)
        return
    for course, taken in batch:
        course.note(taken, outcomes[: len(taken)])
        del outcomes[: len(taken)]


def _took_no_effect(outcome: Outcome) -> bool:
    return outcome.result in FAILURES and outcome.code != NOT_REALIZED


def _apply(executor: Executor, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
    try:
        return executor.apply(steps, deadline)
    except ExecutorError as error:
        return [error.outcome_of(step) for step in steps]
    except Exception:
        # The outcomes of the other role, and of other ports, must not be lost with it.
        LOG.exception("the executor %s failed", type(executor).__name__)
        reason = f"the {executor.role.value} executor failed, and it is not known how far it came; see the daemon's log"
        return [Outcome(step, Result.UNKNOWN, reason, code=HybridVifError.code) for step in steps]
