"""One round of many ports: their plans are carried out together, and what came of it is read back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from hybridvif.errors import HybridVifError, Refused
from hybridvif.facts import Observed
from hybridvif.goals import Goal, seen_of
from hybridvif.host import AnyHost, Outcomes
from hybridvif.parts import HostState, Part, Tap, agree
from hybridvif.report import Outcome, Report, Result, Status
from hybridvif.steps import Step

TRIES = 4
"""How often a plan is made anew where the host moves on under it, before that counts as a failure."""
PAUSES = (0.05, 0.1)
"""Seconds before a second and a third look, where an answer was lost: what was sent may take effect in between."""


@dataclass(slots=True)
class Attempt:
    """One port on its way to its goal."""

    goal: Goal
    first: HostState
    seen: Observed
    steps: tuple[Step, ...] = ()
    outcomes: list[Outcome] = field(default_factory=list)
    latest: Sequence[Outcome] = ()
    retries: int = 0
    why: dict[str, object] = field(default_factory=dict)
    """The code and the reason of a plug that must be undone."""

    def report(self, status: Status, **more: object) -> Report:
        """How it ended."""
        unchecked = self.seen.facts.unchecked
        return Report(
            port_id=self.goal.port_id,
            status=status,
            changed=self.changed,
            simulated=self.seen.facts.simulated,
            retries=self.retries,
            outcomes=tuple(self.outcomes),
            unchecked=tuple(what for what in unchecked if what.split(":")[0] in self.goal.names),
            **more,  # type: ignore[arg-type]
        )

    @property
    def wrote(self) -> bool:
        """Whether any step was carried out, or may have been."""
        written = (Result.DONE, Result.CONFIGURED, Result.UNKNOWN)
        return any(outcome.result in written for outcome in self.outcomes)

    @property
    def changed(self) -> bool:
        """Whether anything was written, by us or (as far as that can be told apart) by others."""
        return self.wrote or not agree(self.first, self.seen.state)

    @property
    def is_in_doubt(self) -> bool:
        """Whether an answer of the latest round was lost."""
        return any(outcome.result is Result.UNKNOWN for outcome in self.latest)

    def leftovers(self, before: HostState) -> tuple[str, ...]:
        """The names of the parts that were not there before; a tap that was not made here is never ours."""
        old: set[Part] = set(before)
        return tuple(part.name for part in self.seen.state if part not in old and not isinstance(part, Tap))


def pause(attempt: int) -> None:
    """Let others finish, each waiting differently long, and longer from time to time."""
    time.sleep(random.uniform(0, 0.02 * 2**attempt))


def apply_all(attempts: list[Attempt], host: AnyHost, deadline: float) -> Observed | None:
    """Carry out the steps of each; what was seen right after, if the host has told it."""
    try:
        outcomes = host.apply([one.steps for one in attempts], deadline)
    except HybridVifError as error:
        # Nothing was tried: the daemon refused the call as a whole, or cannot work.
        result = Result.REFUSED if isinstance(error, Refused) else Result.FAILED
        outcomes = [tuple(Outcome(step, result, str(error), code=error.code) for step in one.steps) for one in attempts]
    for one, latest in zip(attempts, outcomes, strict=True):
        one.latest = latest
        one.outcomes += latest
        # The steps of one transaction were all tried anew together.
        one.retries += max((outcome.retries for outcome in latest), default=0)
    return outcomes.seen if isinstance(outcomes, Outcomes) else None


def observe_all(
    attempts: list[Attempt],
    host: AnyHost,
    deadline: float,
    has_arrived: Callable[[Attempt], bool],
    seen: Observed | None = None,
) -> None:
    """Read back; and, where an answer was lost or does not come, look again while there is time.

    seen: what has been read back already.
    """
    lost = _look(attempts, host, deadline, seen)
    for seconds in PAUSES:
        in_doubt = any(one.is_in_doubt and not has_arrived(one) for one in attempts)
        if not (lost or in_doubt) or time.monotonic() + seconds >= deadline:
            break
        time.sleep(random.uniform(seconds / 2, seconds))
        lost = _look(attempts, host, deadline)
    if lost:
        for one in attempts:
            # What was done cannot be read back, so it is not known, whatever the executor said.
            reason = f"the host could not be read back: {lost}"
            one.latest = [
                outcome if outcome.result is Result.SKIPPED else replace(outcome, result=Result.UNKNOWN, reason=reason)
                for outcome in one.latest
            ]
            one.outcomes[len(one.outcomes) - len(one.latest) :] = one.latest


def _look(
    attempts: list[Attempt], host: AnyHost, deadline: float, seen: Observed | None = None
) -> HybridVifError | None:
    """See each of them anew; why that could not be, if it could not."""
    try:
        observed = (
            seen if seen is not None else host.observe({name for one in attempts for name in one.goal.names}, deadline)
        )
    except HybridVifError as error:
        return error
    for one in attempts:
        one.seen = seen_of(observed, one.goal.names)
    return None
