"""Ports on their way to their goals: observe, plan, apply, observe again; and back again where that failed.

Success is claimed only from what was read back. A plug that fails is rolled back by a plan to what was observed
first, and only if every answer came: after a lost one (`unknown`), or where ovs-vswitchd has merely not taken the row
yet (`configured`), nothing is undone. An unplug goes on past what it cannot remove, and names it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from hybridvif.errors import (
    BridgeMissing,
    ConfigurationError,
    HybridVifError,
    InvalidInput,
    NotReady,
    PreconditionError,
    Refused,
)
from hybridvif.facts import Observed, observing
from hybridvif.goals import Goal, Wish, planned, reached, seen_of
from hybridvif.host import AnyHost
from hybridvif.locks import LockTimeout
from hybridvif.names import KEY_LENGTH
from hybridvif.parts import NOTHING, OvsPort
from hybridvif.report import Report, Result, Status
from hybridvif.rollback import undone_all
from hybridvif.rounds import TRIES, Attempt, apply_all, observe_all, pause

BATCH, UNPLUG_BATCH = 500, 100
"""Ports of a bulk call that go through one observation, one switch transaction and one verification.

ovs-vswitchd reconfigures the whole host for every transaction, so three of a hundred ports take half as long again as
one of three hundred. To unplug costs the kernel 20 to 40 ms a port, and a batch must end within the deadline.
"""
WORK_SHARE = 0.8
"""Of the deadline, what the work may take; the rest is for reading back and for undoing it."""

_LACKS = frozenset(error.code for error in (PreconditionError, ConfigurationError, BridgeMissing))
"""What a step failed of that says that the host lacks something; other codes say no more than that it failed."""

_Ended = list[tuple[Attempt, Report | None]]
"""Ports that are at an end, with their reports; None: it is yet to be undone."""


Progress = Callable[[int, int], None]
"""Told how many ports are at an end, of how many: before the first batch, and after each."""


def carry_out(
    goals: Sequence[Goal | Wish], host: AnyHost, progress: Progress = lambda _done, _total: None
) -> list[Report]:
    """One report a goal, in their order. Raises InvalidInput for two of one id, and nothing else."""
    for port_id, times in Counter(goal.port_id for goal in goals).items():
        if times > 1:
            raise InvalidInput(f"port {port_id} is there more than once; name each port once")
    begun, reports = time.monotonic(), list[Report]()
    progress(0, len(goals))
    for number, batch in enumerate(_batches(goals), start=1):
        # A batch that overran by the daemon's grace has taken that from the next one, so that graces do not add up.
        limit = begun + number * host.settings.deadline
        reports += _carry_out_batch(batch, host, min(time.monotonic() + host.settings.deadline, limit))
        progress(len(reports), len(goals))
    return reports


def _batches(goals: Sequence[Goal | Wish]) -> Iterator[list[Goal | Wish]]:
    """The goals in their order, so many at a time; a port whose device names another one has waits for the next batch.

    The second of them is refused by what the first has left, as it would be in a call of its own.
    """
    batch: list[Goal | Wish] = []
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


def _carry_out_batch(goals: Sequence[Goal | Wish], host: AnyHost, deadline: float) -> list[Report]:
    now = time.monotonic()
    work = now + (deadline - now) * WORK_SHARE
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


def _untouched(goals: Sequence[Goal | Wish], status: Status, code: str, reason: str) -> list[Report]:
    return [Report(port_id=goal.port_id, status=status, code=code, reason=reason) for goal in goals]


def _settled(
    wishes: Sequence[Goal | Wish], host: AnyHost, work: float, deadline: float
) -> Iterator[tuple[str, Report]]:
    """Every port's report. What must be undone is undone last, and together."""
    with observing(host, {name for wish in wishes for name in wish.names}, deadline) as observed_then:
        goals = [wish.made() for wish in wishes]
        observed = observed_then()
    pending, failed = [], list[Attempt]()
    for goal in goals:
        seen = seen_of(observed, goal.names)
        pending.append(Attempt(goal, seen.state, seen))
    for attempt in range(TRIES):
        pending, ended = _planned_all(pending, host)
        if pending:
            after = apply_all(pending, host, work)
            observe_all(pending, host, deadline, lambda one: reached(one.goal, one.seen), after)
            pending, judged = _judged_all(pending, last=attempt == TRIES - 1 or time.monotonic() >= work)
            ended += judged
        for one, report in ended:
            if report is None:
                failed.append(one)
            else:
                yield one.goal.port_id, report
        if not pending:
            break
        pause(attempt)
    yield from undone_all(failed, host, deadline)


def _planned_all(attempts: list[Attempt], host: AnyHost) -> tuple[list[Attempt], _Ended]:
    """Those that have something to do, their plans made; and those that have not, or may not."""
    pending: list[Attempt] = []
    ended: _Ended = []
    for one in attempts:
        try:
            # What was begun is gone on with, though by now it looks like something else.
            goal = replace(one.goal, unless=None) if one.wrote else one.goal
            one.steps = planned(goal, one.seen, host)
        except (Refused, NotReady, BridgeMissing) as error:
            ended.append((one, _stopped(one, error)))
            continue
        if one.steps:
            pending.append(one)
        else:
            ended.append((one, one.report(Status.DONE)))
    return pending, ended


def _stopped(one: Attempt, error: Refused | NotReady | BridgeMissing) -> Report | None:
    """The report of a port that may not be planned; where it had been begun, what got in its way came meanwhile."""
    if not one.wrote:
        status = Status.REFUSED if isinstance(error, Refused) else Status.PRECONDITION
        return one.report(status, code=error.code, reason=str(error))
    one.why = {"code": "changed-meanwhile", "reason": f"someone else was at work meanwhile: {error}"}
    if one.goal.is_plug:
        return None
    return one.report(Status.INCOMPLETE, leftovers=one.leftovers(NOTHING), **one.why)


def _judged_all(attempts: list[Attempt], *, last: bool) -> tuple[list[Attempt], _Ended]:
    """Those for which another attempt is worth making; and those that are at an end, or must be undone."""
    again: list[Attempt] = []
    ended: _Ended = []
    for one in attempts:
        status = _judged(one, last)
        if status is None:
            one.retries += 1
            again.append(one)
        elif status is Status.ROLLED_BACK:
            one.why = _why(one, status)
            ended.append((one, None))
        else:
            ended.append((one, one.report(status, **_why(one, status))))
    return again, ended


def _judged(one: Attempt, last: bool) -> Status | None:
    """How it stands after an attempt; None if another one is worth making, ROLLED_BACK if all must be undone."""
    results = {outcome.result for outcome in one.latest}
    if reached(one.goal, one.seen):
        return Status.DONE
    if Result.UNKNOWN in results:
        return Status.UNKNOWN
    if Result.CONFIGURED in results and reached(one.goal, _as_if_realized(one.seen)):
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
    lacking = failed and all(outcome.code in _LACKS for outcome in failed)
    return Status.PRECONDITION if lacking else Status.ROLLED_BACK if one.goal.is_plug else Status.INCOMPLETE


def _as_if_realized(seen: Observed) -> Observed:
    ports = [replace(port, realized=True) for port in seen.state.ports.values() if isinstance(port, OvsPort)]
    return replace(seen, state=seen.state.having(*ports))


def _why(one: Attempt, status: Status) -> dict[str, object]:
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
        return {**said, "leftovers": one.leftovers(NOTHING)}
    return dict(said)
