"""The Executor protocol: all that a third party implements, and what every executor does the same way.

An executor carries out steps of one role on this host. It runs in the privileged daemon, is made once, and may be
called from several threads at a time. It decides nothing: what a step means is steps.simulate(), when it must not run
is steps.objection().
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Protocol, runtime_checkable

from hybridvif.errors import HybridVifError, PreconditionError
from hybridvif.facts import Observed
from hybridvif.names import key_of, names_of_key
from hybridvif.parts import HostState, Part, Role
from hybridvif.report import Outcome, Result
from hybridvif.settings import Settings
from hybridvif.steps import Delete, Objection, Step, is_there, objection, simulate

LOG = logging.getLogger(__name__)


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


def expected(executor: Executor) -> AbstractContextManager[None]:
    """Within, this thread does something else first, and then calls apply() of this executor.

    One that carries out together what several threads bring may have a method of this name.
    """
    expect: Callable[[], AbstractContextManager[None]] = getattr(executor, "expected", nullcontext)
    return expect()


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


def failed_by_a_bug(step: Step, error: Exception) -> Outcome:
    """The outcome of a step in which the executor itself failed; those of other steps stand."""
    LOG.error("the executor failed", exc_info=error)
    reason = f"the executor failed at {step.part.name}: {type(error).__name__}; see the daemon's log"
    return Outcome(step, Result.FAILED, reason, code=HybridVifError.code)


def refused(step: Step, against: Objection) -> Outcome:
    """The outcome of a step that must not run: refused, or failed where the host has merely moved on."""
    if against.retry:
        return Outcome(step, Result.FAILED, f"{against.reason}; call again", retry=True)
    return Outcome(step, Result.REFUSED, f"refused: {against.reason}")


def untried(step: Step, state: HostState, deadline: float, *, failed: bool) -> Outcome | None:
    """The outcome of a step that is not to be tried on a host in this state; None: try it.

    failed: whether an earlier step of the same port did. Then only its deletes are still tried, so that an unplug goes
    on past what it cannot remove, and nothing is built on something that is not there.
    """
    if failed and not isinstance(step, Delete):
        return Outcome(step, Result.SKIPPED, "not tried, since an earlier step of this port failed")
    against = objection(state, step)
    if against:
        return refused(step, against)
    if time.monotonic() >= deadline:
        return Outcome(step, Result.FAILED, "not tried, since the deadline had passed", retry=True)
    if isinstance(step, Delete) and not is_there(state, step.part):
        return Outcome(step, Result.DONE)
    return None


def one_by_one(
    steps: Sequence[Step], state: HostState, do: Callable[[Step], None], deadline: float
) -> tuple[Outcome, ...]:
    """Carry steps out one after another; what an executor does that is not atomic. state: the host as just observed.

    do: carries one step out; what it raises, StepFailed or ExecutorError, is the outcome of that step.
    """
    outcomes: list[Outcome] = []
    states: dict[str | None, HostState] = {}
    failed: set[str | None] = set()
    for step in steps:
        key = key_of(step.part.name)
        # Of this port alone: every step makes another state, and a host may have a thousand ports.
        before = states.setdefault(key, state.of(names_of_key(key or "")))
        outcome = untried(step, before, deadline, failed=key in failed)
        if outcome is None:
            try:
                do(step)
                states[key] = simulate(before, step)
                outcome = Outcome(step, Result.DONE)
            except (StepFailed, ExecutorError) as failure:
                # ExecutorError as well: what earlier steps came to must not be lost with it.
                outcome = failure.outcome_of(step)
            except Exception as error:  # noqa: BLE001  # and so with any other
                outcome = failed_by_a_bug(step, error)
        if outcome.result is not Result.DONE:
            failed.add(key)
        outcomes.append(outcome)
    return tuple(outcomes)


def objected(state: HostState, steps: Sequence[Step]) -> list[Outcome] | None:
    """The outcomes of a transaction of the switch if any of its steps must not run; None if all may.

    state: the ports as just observed.
    """
    # One port a state: every step makes another state, and a batch may have hundreds.
    states = {name: HostState({}, {name: port}) for name, port in state.ports.items()}
    against: list[Objection | None] = []
    for step in steps:
        own = states.get(step.part.name, HostState())
        against.append(objection(own, step))
        if not against[-1]:
            states[step.part.name] = simulate(own, step)
    if not any(against):
        return None
    reason = "not tried, since another step of the same transaction was not permitted"
    return [
        refused(step, one) if one else Outcome(step, Result.SKIPPED, reason)
        for step, one in zip(steps, against, strict=True)
    ]
