"""The Executor protocol: all that a third party implements, and what every executor does the same way.

An executor carries out steps of one role on this host. It runs in the privileged daemon, is made once, and may be
called from several threads at a time. It decides nothing: what a step means is steps.simulate(), when it must not run
is steps.objection().
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from hybridvif.errors import PreconditionError
from hybridvif.facts import Observed
from hybridvif.names import key_of
from hybridvif.parts import HostState, Part, Role
from hybridvif.report import Outcome, Result
from hybridvif.settings import Settings
from hybridvif.steps import Delete, Objection, Step, is_there, objection, simulate


@runtime_checkable
class Executor(Protocol):
    """Carries out steps of one role on this host.

    A deadline is an instant of time.monotonic(). observe() and apply() return by it, or raise ExecutorError.
    """

    role: ClassVar[Role]
    serves: ClassVar[frozenset[type[Part]]]
    """The parts it can make; a port that needs another is refused before any step."""
    programs: ClassVar[tuple[str, ...]]
    """What must be installed, for doctor and for the precondition error."""
    atomic: ClassVar[bool]
    """True: a batch takes effect whole or not at all."""

    def __init__(self, settings: Settings) -> None: ...

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """The parts and facts under these names; None: under all names of our grammar (names.key_of)."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Carry the steps out in their order; one Outcome a step, in the same order.

        The steps of one port depend on each other, those of different ports do not. Never raises for a step that
        failed: that is an Outcome.
        """


NOT_REALIZED = "not-realized"
"""The code of a step that was committed, and that the switch then would not carry out."""

NOT_ACKNOWLEDGED = "committed in OVSDB, but ovs-vswitchd has not acknowledged it by the deadline; is it running?"
"""The reason of the outcome `configured`."""


class ExecutorError(Exception):
    """The executor can do nothing at all now: no socket, no program, no answer. One finished sentence.

    precondition: the host lacks something, and nothing was tried; else the answer did not come by the deadline.
    """

    def __init__(self, message: str, *, precondition: bool = False) -> None:
        super().__init__(message)
        self.precondition = precondition

    def outcome_of(self, step: Step) -> Outcome:
        """The failure as data."""
        code = PreconditionError.code if self.precondition else ""
        return Outcome(step, Result.FAILED, str(self), retry=not self.precondition, code=code)


class StepFailed(Exception):
    """A step was tried and not done; the sentence says what the kernel or the switch said."""

    def __init__(self, message: str, *, retry: bool = False, code: str = "") -> None:
        super().__init__(message)
        self.retry = retry
        self.code = code

    def outcome_of(self, step: Step) -> Outcome:
        """The failure as data."""
        return Outcome(step, Result.FAILED, str(self), retry=self.retry, code=self.code)


def refused(step: Step, against: Objection) -> Outcome:
    """The outcome of a step that must not run: refused, or failed where the host has merely moved on."""
    if against.retry:
        return Outcome(step, Result.FAILED, f"{against.reason}; call again", retry=True)
    return Outcome(step, Result.REFUSED, f"refused: {against.reason}")


def one_by_one(
    steps: Sequence[Step], state: HostState, do: Callable[[Step], None], deadline: float
) -> tuple[Outcome, ...]:
    """Carry steps out one after another; what an executor does that is not atomic.

    state: the host as just observed. After a failure only the deletes of that port are still tried, so that an unplug
    goes on past what it cannot remove, and nothing is built on something that is not there.
    """
    outcomes: list[Outcome] = []
    failed: set[str | None] = set()
    for step in steps:
        key = key_of(step.part.name)
        against = objection(state, step)
        if key in failed and not isinstance(step, Delete):
            outcomes.append(Outcome(step, Result.SKIPPED, "not tried, since an earlier step of this port failed"))
        elif against:
            outcomes.append(refused(step, against))
            failed.add(key)
        elif time.monotonic() >= deadline:
            outcomes.append(Outcome(step, Result.FAILED, "not tried, since the deadline had passed", retry=True))
            failed.add(key)
        elif isinstance(step, Delete) and not is_there(state, step.part):
            outcomes.append(Outcome(step, Result.DONE))
        else:
            try:
                do(step)
                state = simulate(state, step)
                outcomes.append(Outcome(step, Result.DONE))
            except StepFailed as failure:
                outcomes.append(failure.outcome_of(step))
                failed.add(key)
    return tuple(outcomes)
