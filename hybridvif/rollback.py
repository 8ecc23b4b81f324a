"""The way back: plugs that failed are led to what was observed first, all of them together.

There are no inverse operations to write or to get wrong: it is a plan from what is observed now. It stands under the
same laws as any other: verified by reading back, tried again where the host moves on, and where an answer was lost and
looking does not tell, `unknown`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from hybridvif.errors import HybridVifError
from hybridvif.host import AnyHost
from hybridvif.limits import restorable
from hybridvif.parts import HostState, Stray
from hybridvif.planner import goal_for, plan
from hybridvif.report import Report, Result, Status
from hybridvif.rounds import TRIES, Attempt, apply_all, observe_all, pause
from hybridvif.steps import Step, owners_of


@dataclass(slots=True)
class _Return:
    """One port on its way back."""

    one: Attempt
    back: HostState
    kept: tuple[str, ...]
    """What it must leave as the wiring has it."""
    stopped: str = ""
    """Why no way back is left to be planned."""

    def left(self) -> tuple[Step, ...]:
        """What is still to be undone. Raises Conflict."""
        return plan(_without_strangers(self.one), self.back)

    def sets_out(self) -> bool:
        """Whether there is anything that can be undone; the plan for it is then made."""
        try:
            self.one.steps = self.left()
        except HybridVifError as error:
            self.stopped = str(error)
            return False
        return bool(self.one.steps)

    def has_arrived(self) -> bool:
        """Whether all is as it was found, as far as it can be."""
        try:
            return not self.left()
        except HybridVifError:
            return False

    def may_try_again(self) -> bool:
        """Whether what went wrong may well go right now."""
        bad = [outcome for outcome in self.one.latest if outcome.result is not Result.DONE]
        return all(outcome.retry or outcome.result is Result.SKIPPED for outcome in bad)

    def report(self) -> Report:
        """How it ended."""
        one, why = self.one, dict(self.one.why)
        if not self.has_arrived():
            bad = [outcome.reason for outcome in one.latest if outcome.result not in (Result.DONE, Result.SKIPPED)]
            said = self.stopped or (bad[0] if bad else "the host keeps changing")
            why["reason"] = f"{why['reason']}; it could not be undone: {said}"
            if one.is_in_doubt:
                return one.report(Status.UNKNOWN, **why | {"code": Result.UNKNOWN.value})
            names = one.leftovers(one.first) if self.stopped else tuple(step.part.name for step in self.left())
            return one.report(Status.INCOMPLETE, leftovers=(*names, *self.kept), **why)
        if self.kept:
            return one.report(Status.INCOMPLETE, leftovers=self.kept, **why)
        return one.report(Status.ROLLED_BACK, **why)


def undone_all(failed: list[Attempt], host: AnyHost, deadline: float) -> Iterator[tuple[str, Report]]:
    """The reports of plugs that failed, after the host was led back; those that changed nothing are back already."""
    returns = []
    for one in failed:
        if one.changed:
            wanted = goal_for(one.first, one.goal.wanted, one.goal.names)
            returns.append(_Return(one, *restorable(one.first, wanted, one.seen.state, host.settings)))
        else:
            yield one.goal.port_id, one.report(Status.ROLLED_BACK, **one.why)
    _lead_back(returns, host, deadline)
    for way in returns:
        yield way.one.goal.port_id, way.report()


def _lead_back(returns: list[_Return], host: AnyHost, deadline: float) -> None:
    pending = [way for way in returns if way.sets_out()]
    for attempt in range(TRIES):
        if not pending:
            return
        ways = {way.one.goal.port_id: way for way in pending}
        attempts = [way.one for way in pending]
        seen = apply_all(attempts, host, deadline)
        observe_all(attempts, host, deadline, lambda one, ways=ways: ways[one.goal.port_id].has_arrived(), seen)  # type: ignore[misc]
        if attempt == TRIES - 1 or time.monotonic() >= deadline:
            return
        pending = [way for way in pending if way.may_try_again() and way.sets_out()]
        if pending:
            pause(attempt)


def _without_strangers(one: Attempt) -> HostState:
    """The port as it is now, less what others have put under its names meanwhile: that is not this port's to undo."""
    first = {(part.role, part.name) for part in one.first}
    state = one.seen.state
    for part in one.seen.state:
        theirs = owners_of(part) - {one.goal.port_id} and (part.role, part.name) not in first
        if theirs or isinstance(part, Stray):
            state = state.lacking(part)
    return state
