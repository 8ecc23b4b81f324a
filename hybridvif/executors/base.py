"""The Executor protocol, and the outcomes that all executors share.

An executor carries out the steps of one role on this host. The privileged daemon creates it once and may call it from
several threads. It makes no decisions: `state.simulate()` defines the effect of a step, `state.objection()` its
preconditions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Protocol, runtime_checkable

from hybridvif.model.errors import HybridVifError, PreconditionError, escaped
from hybridvif.model.names import key_of, names_of_key
from hybridvif.model.parts import Part, Role
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import (
    Delete,
    HostState,
    Objection,
    Observed,
    Replace,
    Step,
    is_there,
    names_of_step,
    objection,
    simulate,
)

LOG = logging.getLogger(__name__)


@runtime_checkable
class Executor(Protocol):
    """Executor of the steps of one role on this host.

    A deadline is an instant of time.monotonic(). observe() and apply() return by it or raise ExecutorError.
    """

    role: ClassVar[Role]
    serves: ClassVar[frozenset[type[Part]]]
    """Parts that it can create. A port that needs another part is refused before any step."""
    programs: ClassVar[tuple[str, ...]]
    """Programs that must be installed; used by `doctor` and the precondition error."""
    atomic: ClassVar[bool]
    """True if a batch takes effect as a whole or not at all."""

    def __init__(self, settings: Settings) -> None: ...

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the parts and facts under these names; None: under all device names of ports (names.key_of)."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Carry out the steps in order; return one Outcome per step, in the same order.

        The steps of one port depend on each other; those of different ports do not. A failed step is an Outcome, never
        an exception.
        """


def expected(executor: Executor) -> AbstractContextManager[None]:
    """Announce an apply() of this executor by the current thread, for as long as the context lasts.

    An executor that merges the calls of several threads may have a method of this name. It then waits briefly for the
    announced call.
    """
    expect: Callable[[], AbstractContextManager[None]] = getattr(executor, "expected", nullcontext)
    return expect()


class Subscription(Protocol):
    """Notifications about the objects of an executor. One says only that a new observation may differ.

    fileno() is readable when there are any. So nobody wakes up while nothing changes.
    """

    def fileno(self) -> int: ...  # noqa: D102

    def drain(self) -> bool:
        """Discard the pending notifications, without waiting. Return whether there were any. Raises ExecutorError."""

    def close(self) -> None: ...  # noqa: D102


def subscribed(executor: Executor, deadline: float) -> Subscription:
    """Subscribe to the changes of an executor's objects, by its optional method subscribe(). Raises ExecutorError."""
    subscribe: Callable[[float], Subscription] | None = getattr(executor, "subscribe", None)
    if subscribe is None:
        reason = f"the {executor.role.value} executor {type(executor).__name__} reports no changes"
        raise ExecutorError(f"{reason}; look again and again: hybridvif check", precondition=True)
    return subscribe(deadline)


def seconds_until(deadline: float) -> float:
    """Return the timeout of a wait that ends by the deadline: never 0, which would be no wait at all."""
    return max(deadline - time.monotonic(), 0.001)


NOT_REALIZED = "not-realized"
"""Error code of a step that was committed and that the switch rejected."""

NOT_ACKNOWLEDGED = "committed in OVSDB, but ovs-vswitchd has not acknowledged it by the deadline; is it running?"
"""Reason of the outcome `configured`."""


class Failure(Exception):
    """An error that is the outcome of a step."""

    def __init__(self, message: str, *, retry: bool, code: str) -> None:
        super().__init__(escaped(message))
        self.retry, self.code = retry, code

    def outcome_of(self, step: Step) -> Outcome:
        """Return the failure as an Outcome."""
        return Outcome(step, Result.FAILED, str(self), retry=self.retry, code=self.code)


class ExecutorError(Failure):
    """The executor cannot work: no socket, no program, no response. The message is one complete sentence.

    precondition: the host lacks something and nothing was tried. Otherwise the response did not come by the deadline.
    """

    def __init__(self, message: str, *, precondition: bool = False) -> None:
        super().__init__(message, retry=not precondition, code=PreconditionError.code if precondition else "")
        self.precondition = precondition


class StepFailed(Failure):
    """A step was tried and failed; the message contains the error of the kernel or the switch."""

    def __init__(self, message: str, *, retry: bool = False, code: str = "") -> None:
        super().__init__(message, retry=retry, code=code)


def internal_error(step: Step, error: Exception) -> Outcome:
    """Return the outcome of a step in which the executor raised an unexpected exception."""
    LOG.error("the executor failed", exc_info=error)
    reason = f"the executor failed at {step.part.name}: {type(error).__name__}; see the daemon's log"
    return Outcome(step, Result.FAILED, reason, code=HybridVifError.code)


def refused(step: Step, problem: Objection) -> Outcome:
    """Return the outcome of a step with an objection: refused, or failed if the host has changed meanwhile."""
    if problem.retry:
        return Outcome(step, Result.FAILED, f"{problem.reason}; call again", retry=True)
    return Outcome(step, Result.REFUSED, f"refused: {problem.reason}")


NOT_TRIED = "not tried, since an earlier step of this port failed"
"""Reason of an outcome `skipped`."""


def untried(step: Step, state: HostState, deadline: float, *, failed: bool) -> Outcome | None:
    """Return the outcome of a step that must not run on a host in this state; None: run it.

    failed: an earlier step of the port failed. Then only deletes are tried: an unplug continues past an object that it
    cannot delete, and nothing is built on a missing one.
    """
    if failed and not isinstance(step, Delete):
        return Outcome(step, Result.SKIPPED, NOT_TRIED)
    problem = objection(state, step)
    if problem:
        return refused(step, problem)
    if time.monotonic() >= deadline:
        return Outcome(step, Result.FAILED, "not tried, since the deadline had passed", retry=True)
    if isinstance(step, Delete) and not is_there(state, step.part):
        return Outcome(step, Result.DONE)
    return None


def one_by_one(
    steps: Sequence[Step], state: HostState, do: Callable[[Step], None], deadline: float
) -> tuple[Outcome, ...]:
    """Carry out steps one after another, for an executor that is not atomic.

    state: the host as just observed. do: carries out one step; a StepFailed or ExecutorError that it raises is the
    outcome of the step.
    """
    # A conversion deletes nothing after a failure: its VM would be cut off.
    converted = {key_of(step.part.name) for step in steps if isinstance(step, Replace)}
    outcomes: list[Outcome] = []
    states: dict[str | None, HostState] = {}
    failed: set[str | None] = set()
    for step in steps:
        key = key_of(step.part.name)
        # Only the state of this port: each step copies the state, and a host may have a thousand ports.
        before = states.setdefault(key, state.of(names_of_key(key or "")))
        outcome = untried(step, before, deadline, failed=key in failed)
        if key in failed and key in converted:
            outcome = Outcome(step, Result.SKIPPED, NOT_TRIED)
        if outcome is None:
            try:
                do(step)
                states[key] = simulate(before, step)
                outcome = Outcome(step, Result.DONE)
            except Failure as failure:
                # Not raised, or the outcomes of earlier steps would be lost.
                outcome = failure.outcome_of(step)
            except Exception as error:  # noqa: BLE001  # as above
                outcome = internal_error(step, error)
        if outcome.result is not Result.DONE:
            failed.add(key)
        outcomes.append(outcome)
    return tuple(outcomes)


def rejected_transaction(state: HostState, steps: Sequence[Step]) -> list[Outcome] | None:
    """Return the outcomes of a switch transaction if any of its steps has an objection; None if none has.

    state: the ports as just observed.
    """
    # The state of the step alone: each step copies it, and a batch may have hundreds of ports.
    ports = dict(state.ports)
    problems: list[Objection | None] = []
    for step in steps:
        own = HostState({}, {name: ports[name] for name in names_of_step(step) if name in ports})
        problems.append(objection(own, step))
        if not problems[-1]:
            for name in own.ports:
                del ports[name]
            ports |= simulate(own, step).ports
    if not any(problems):
        return None
    reason = "not tried, since another step of the same transaction was not permitted"
    return [
        refused(step, problem) if problem else Outcome(step, Result.SKIPPED, reason)
        for step, problem in zip(steps, problems, strict=True)
    ]
