"""Ports on their way to their goals: observe, plan, apply, observe again; and back again where that failed.

Success is claimed only from what was read back. A plug that fails is rolled back by a plan to what was observed
first, and only if every answer came: after a lost one (`unknown`), or where ovs-vswitchd has merely not taken the row
yet (`configured`), nothing is undone. An unplug goes on past what it cannot remove, and names it.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from hybridvif.errors import (
    BridgeMissing,
    HybridVifError,
    InvalidInput,
    NotReady,
    PreconditionError,
    Refused,
)
from hybridvif.facts import Observed
from hybridvif.goals import Goal, planned, reached, seen_of
from hybridvif.host import AnyHost, NoAnswer
from hybridvif.limits import restorable
from hybridvif.locks import LockTimeout
from hybridvif.names import KEY_LENGTH
from hybridvif.parts import NOTHING, HostState, OvsPort, Part, Stray, Tap, agree
from hybridvif.planner import plan
from hybridvif.report import Outcome, Report, Result, Status
from hybridvif.steps import Step, owners_of

BATCH, UNPLUG_BATCH = 500, 100
"""Ports of a bulk call that go through one observation, one switch transaction and one verification.

ovs-vswitchd reconfigures the whole host for every transaction, so three of a hundred ports take half as long again as
one of three hundred. To unplug costs the kernel 20 to 40 ms a port, and a batch must end within the deadline.
"""
TRIES = 4
"""How often a plan is made anew where the host moves on under it, before that counts as a failure."""
WORK_SHARE = 0.8
"""Of the deadline, what the work may take; the rest is for reading back and for undoing it."""


def carry_out(goals: list[Goal], host: AnyHost) -> list[Report]:
    """One report a goal, in their order. Raises InvalidInput for two of one id, and nothing else."""
    for port_id, times in Counter(goal.port_id for goal in goals).items():
        if times > 1:
            raise InvalidInput(f"port {port_id} is there more than once; name each port once")
    return [report for batch in _batches(goals) for report in _carry_out_batch(batch, host)]


def _batches(goals: list[Goal]) -> Iterator[list[Goal]]:
    """The goals in their order, so many at a time; a port whose device names another one has waits for the next batch.

    The second of them is refused by what the first has left, as it would be in a call of its own.
    """
    batch: list[Goal] = []
    keys: set[str] = set()
    for goal in goals:
        key = goal.port_id[:KEY_LENGTH]
        if key in keys or len(batch) == (BATCH if goal.is_plug else UNPLUG_BATCH):
            yield batch
            batch, keys = [], set()
        batch.append(goal)
        keys.add(key)
    if batch:
        yield batch


def _carry_out_batch(goals: list[Goal], host: AnyHost) -> list[Report]:
    now = time.monotonic()
    deadline, work = now + host.settings.deadline, now + host.settings.deadline * WORK_SHARE
    try:
        with host.locked({goal.port_id[:KEY_LENGTH] for goal in goals}, work):
            reports = dict(_settled(goals, host, work, deadline))
    except LockTimeout:
        return _untouched(goals, Status.ROLLED_BACK, "busy", "another caller was at work on this port; call again")
    except PreconditionError as error:
        return _untouched(goals, Status.PRECONDITION, error.code, str(error))
    except HybridVifError as error:
        # The first observation had no answer, and nothing was asked of the host before it.
        return _untouched(goals, Status.ROLLED_BACK, error.code, str(error))
    return [reports[goal.port_id] for goal in goals]


def _untouched(goals: list[Goal], status: Status, code: str, reason: str) -> list[Report]:
    return [Report(port_id=goal.port_id, status=status, code=code, reason=reason) for goal in goals]


@dataclass(slots=True)
class _Attempt:
    """One port on its way to its goal."""

    goal: Goal
    first: HostState
    seen: Observed
    steps: tuple[Step, ...] = ()
    outcomes: list[Outcome] = field(default_factory=list)
    latest: Sequence[Outcome] = ()
    retries: int = 0

    def report(self, status: Status, **more: object) -> Report:
        mine = set(self.goal.names)
        return Report(
            port_id=self.goal.port_id,
            status=status,
            changed=self.changed,
            simulated=self.seen.facts.simulated,
            retries=self.retries,
            outcomes=tuple(self.outcomes),
            unchecked=tuple(what for what in self.seen.facts.unchecked if what.split(":")[0] in mine),
            **more,  # type: ignore[arg-type]
        )

    @property
    def wrote(self) -> bool:
        written = (Result.DONE, Result.CONFIGURED, Result.UNKNOWN)
        return any(outcome.result in written for outcome in self.outcomes)

    @property
    def changed(self) -> bool:
        return self.wrote or not agree(self.first, self.seen.state)


def _settled(goals: list[Goal], host: AnyHost, work: float, deadline: float) -> Iterator[tuple[str, Report]]:
    """Every port's report, as soon as it is known."""
    observed = host.observe({name for goal in goals for name in goal.names}, deadline)
    pending = []
    for goal in goals:
        seen = seen_of(observed, goal.names)
        pending.append(_Attempt(goal, seen.state, seen))
    for attempt in range(TRIES):
        pending, done = _planned_all(pending, host, deadline)
        yield from done
        if not pending:
            return
        _apply_all(pending, host, work)
        _observe_all(pending, host, deadline)
        again = []
        for one in pending:
            status = _judged(one, last=attempt == TRIES - 1 or time.monotonic() >= work)
            if status is None:
                one.retries += 1
                again.append(one)
            elif status is Status.ROLLED_BACK:
                yield one.goal.port_id, _undone(one, host, deadline, _why(one, status))
            else:
                yield one.goal.port_id, one.report(status, **_why(one, status))
        pending = again
        if pending:
            time.sleep(random.uniform(0, 0.02 * 2**attempt))


def _planned_all(
    attempts: list[_Attempt], host: AnyHost, deadline: float
) -> tuple[list[_Attempt], list[tuple[str, Report]]]:
    """Those that have something to do, their plans made; and the reports of those that have not, or may not."""
    pending, done = [], []
    for one in attempts:
        try:
            one.steps = planned(one.goal, one.seen, host)
        except (Refused, NotReady, BridgeMissing) as error:
            done.append((one.goal.port_id, _stopped(one, error, host, deadline)))
            continue
        if one.steps:
            pending.append(one)
        else:
            done.append((one.goal.port_id, one.report(Status.DONE)))
    return pending, done


def _stopped(one: _Attempt, error: Refused | NotReady | BridgeMissing, host: AnyHost, deadline: float) -> Report:
    """The report of a port that may not be planned; where it had been begun, what got in its way came meanwhile."""
    if not one.wrote:
        status = Status.REFUSED if isinstance(error, Refused) else Status.PRECONDITION
        return one.report(status, code=error.code, reason=str(error))
    why: dict[str, object] = {"code": "changed-meanwhile", "reason": f"someone else was at work meanwhile: {error}"}
    if one.goal.is_plug:
        return _undone(one, host, deadline, why)
    return one.report(Status.INCOMPLETE, leftovers=_leftovers(one.seen.state, NOTHING), **why)


def _apply_all(attempts: list[_Attempt], host: AnyHost, deadline: float) -> None:
    try:
        outcomes = host.apply([one.steps for one in attempts], deadline)
    except HybridVifError as error:
        # Nothing was tried: the daemon refused the call as a whole, or cannot work.
        result = Result.REFUSED if isinstance(error, Refused) else Result.FAILED
        outcomes = [tuple(Outcome(step, result, str(error), code=error.code) for step in one.steps) for one in attempts]
    for one, latest in zip(attempts, outcomes, strict=True):
        one.latest = latest
        one.outcomes += latest


def _observe_all(attempts: list[_Attempt], host: AnyHost, deadline: float) -> None:
    try:
        observed = host.observe({name for one in attempts for name in one.goal.names}, deadline)
    except HybridVifError as error:
        for one in attempts:
            # What was done cannot be read back, so it is not known, whatever the executor said.
            lost = f"the host could not be read back: {error}"
            one.latest = [replace(outcome, result=Result.UNKNOWN, reason=lost) for outcome in one.latest]
            one.outcomes[len(one.outcomes) - len(one.latest) :] = one.latest
        return
    for one in attempts:
        one.seen = seen_of(observed, one.goal.names)


def _judged(one: _Attempt, last: bool) -> Status | None:
    """How it stands after an attempt; None if another one is worth making, ROLLED_BACK if all must be undone."""
    results = {outcome.result for outcome in one.latest}
    if reached(one.goal, one.seen.state):
        return Status.DONE
    if Result.UNKNOWN in results:
        return Status.UNKNOWN
    if Result.CONFIGURED in results and reached(one.goal, _as_if_realized(one.seen.state)):
        return Status.CONFIGURED
    failed = [outcome for outcome in one.latest if outcome.result is Result.FAILED]
    hopeless = Result.REFUSED in results or any(not outcome.retry for outcome in failed)
    if not hopeless and not last:
        return None
    if one.goal.is_plug and one.changed:
        return Status.ROLLED_BACK
    if one.changed:
        return Status.INCOMPLETE
    if Result.REFUSED in results:
        return Status.REFUSED
    lacking = failed and all(outcome.code for outcome in failed)
    return Status.PRECONDITION if lacking else Status.ROLLED_BACK if one.goal.is_plug else Status.INCOMPLETE


def _as_if_realized(state: HostState) -> HostState:
    return state.having(*(replace(port, realized=True) for port in state.ports.values() if isinstance(port, OvsPort)))


def _undone(one: _Attempt, host: AnyHost, deadline: float, why: dict[str, object]) -> Report:
    """The report of a plug that failed, after the host was led back to what was observed first."""
    if not one.changed:
        return one.report(Status.ROLLED_BACK, **why)
    goal, kept = restorable(one.first, one.goal.wanted, one.seen.state, host.settings.integration_bridges)
    try:
        steps = plan(_without_strangers(one), goal)
        (outcomes,) = host.apply([steps], deadline) if steps else ((),)
        one.outcomes += outcomes
        one.seen = seen_of(host.observe(set(one.goal.names), deadline), one.goal.names)
        left = plan(_without_strangers(one), goal)
    except (HybridVifError, NoAnswer) as error:
        why["reason"] = f"{why['reason']}; it could not be undone: {error}"
        return one.report(Status.INCOMPLETE, leftovers=_leftovers(one.seen.state, one.first), **why)
    if left or kept:
        return one.report(Status.INCOMPLETE, leftovers=(*(step.part.name for step in left), *kept), **why)
    return one.report(Status.ROLLED_BACK, **why)


def _without_strangers(one: _Attempt) -> HostState:
    """The port as it is now, less what others have put under its names meanwhile: that is not this port's to undo."""
    first = {(part.role, part.name) for part in one.first}
    state = one.seen.state
    for part in one.seen.state:
        theirs = owners_of(part) - {one.goal.port_id} and (part.role, part.name) not in first
        if theirs or isinstance(part, Stray):
            state = state.lacking(part)
    return state


def _why(one: _Attempt, status: Status) -> dict[str, object]:
    """The code and the sentence of a report that is not ok, and what an unplug left."""
    if status is Status.DONE:
        return {}
    bad = [outcome for outcome in one.latest if outcome.result not in (Result.DONE, Result.SKIPPED)]
    if bad:
        said = {"code": bad[0].code or bad[0].result.value, "reason": bad[0].reason}
    else:
        reason = "the host was changed by someone else while it was worked on; call again"
        said = {"code": "changed-meanwhile", "reason": reason}
    if status is Status.INCOMPLETE:
        return {**said, "leftovers": _leftovers(one.seen.state, NOTHING)}
    return dict(said)


def _leftovers(state: HostState, before: HostState) -> tuple[str, ...]:
    """The names of the parts that were not there before; the tap is never ours."""
    old: set[Part] = set(before)
    return tuple(part.name for part in state if part not in old and not isinstance(part, Tap))
