"""Bring ports to their target state. This file is the whole algorithm; what it calls is detail.

    for each batch of ports:
        take the locks of the ports
        observe the host
        converge:  plan, apply, observe again, classify; retry while the host changes underneath
        roll back: converge once more, towards the first observation, for each plug that failed

Success is reported only from an observation made after the change. A plug that failed is rolled back only if every
answer arrived: after a lost answer (`unknown`), or while ovs-vswitchd has not taken a committed row (`configured`),
nothing is undone. An unplug continues past what it cannot remove, and names it.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from hybridvif.engine.goals import Goal, for_port, is_reached, make_plan
from hybridvif.engine.host_protocol import AnyHost, Outcomes
from hybridvif.engine.locks import LockTimeout
from hybridvif.model.errors import (
    BridgeMissing,
    ConfigurationError,
    HybridVifError,
    InvalidInput,
    NotReady,
    PreconditionError,
    Refused,
)
from hybridvif.model.facts import Observed
from hybridvif.model.names import KEY_LENGTH
from hybridvif.model.parts import NOTHING, ForeignObject, HostState, OvsPort, Part, Tap, agree
from hybridvif.model.planner import goal_for, plan
from hybridvif.model.report import Outcome, Report, Result, Status
from hybridvif.model.rollback_target import rollback_target
from hybridvif.model.steps import Step, owners_of

PLUG_BATCH, UNPLUG_BATCH = 500, 100
"""Ports that share one observation, one switch transaction and one verification.

ovs-vswitchd reconfigures the whole host for every transaction, so large batches win; deleting a port's links takes the
kernel 20 to 40 ms, and a batch must end within the deadline.
"""
WORK_SHARE = 0.8
"""Share of the deadline for applying; the rest is for verification and rollback."""
MAX_ATTEMPTS = 4
"""Plans made for one port in one call, if the host changes between planning and applying."""
VERIFY_DELAYS = (0.05, 0.1)
"""Seconds before the second and third observation after a lost answer: the request may take effect in between."""

_HOST_LACKS = frozenset(error.code for error in (PreconditionError, ConfigurationError, BridgeMissing))

Progress = Callable[[int, int], None]
"""Called with (ports finished, ports in all): before the first batch and after each."""


def converge(goals: Sequence[Goal], host: AnyHost, progress: Progress = lambda _finished, _total: None) -> list[Report]:
    """Bring every port to its goal; one report per goal, in order. Raises InvalidInput for a repeated port id."""
    for port_id, count in Counter(goal.port_id for goal in goals).items():
        if count > 1:
            raise InvalidInput(f"port {port_id} is there more than once; name each port once")
    started, reports = time.monotonic(), list[Report]()
    progress(0, len(goals))
    for number, batch in enumerate(_batches(goals), start=1):
        # A batch that overran takes its overrun from the next one, so overruns do not add up.
        limit = started + number * host.settings.deadline
        reports += _run_batch(batch, host, min(time.monotonic() + host.settings.deadline, limit))
        progress(len(reports), len(goals))
    return reports


def _batches(goals: Sequence[Goal]) -> Iterator[list[Goal]]:
    """Split the goals, in order. Two ports whose device names collide never share a batch."""
    batch: list[Goal] = []
    keys: set[str] = set()
    for goal in goals:
        key = goal.port_id[:KEY_LENGTH]
        if key in keys or len(batch) == (PLUG_BATCH if goal.is_plug else UNPLUG_BATCH):
            yield batch
            batch, keys = [], set()
        batch.append(goal)
        keys.add(key)
    if batch:
        yield batch


def _run_batch(goals: Sequence[Goal], host: AnyHost, deadline: float) -> list[Report]:
    now = time.monotonic()
    apply_deadline = now + (deadline - now) * WORK_SHARE
    try:
        with host.locked({goal.port_id[:KEY_LENGTH] for goal in goals}, apply_deadline):
            observed = host.observe({name for goal in goals for name in goal.names}, deadline)
            runs = [PortRun.of(goal, observed) for goal in goals]
            _converge(runs, host, apply_deadline, deadline)
            _roll_back([run for run in runs if run.report is None], host, deadline)
    except LockTimeout:
        return _unchanged(goals, Status.ROLLED_BACK, "busy", "another caller was at work on this port; call again")
    except PreconditionError as error:
        return _unchanged(goals, Status.PRECONDITION, error.code, str(error))
    except HybridVifError as error:
        # The first observation failed, and nothing was requested before it.
        return _unchanged(goals, Status.ROLLED_BACK, error.code, str(error))
    return [run.report for run in runs if run.report is not None]


def _unchanged(goals: Sequence[Goal], status: Status, code: str, reason: str) -> list[Report]:
    return [Report(port_id=goal.port_id, status=status, code=code, reason=reason) for goal in goals]


def _converge(runs: Sequence[PortRun], host: AnyHost, apply_deadline: float, deadline: float) -> None:
    """Plan, apply, verify, classify; retry. Afterwards every run has a report, or a failure to roll back."""
    for attempt in range(MAX_ATTEMPTS):
        runs = [run for run in runs if run.make_plan(host)]
        if not runs:
            return
        observed = _apply(runs, host, apply_deadline)
        _verify(runs, host, deadline, observed)
        last = attempt == MAX_ATTEMPTS - 1 or time.monotonic() >= apply_deadline
        runs = [run for run in runs if run.needs_retry(last=last)]
        if runs:
            time.sleep(random.uniform(0, 0.02 * 2**attempt))


def _roll_back(failed: Sequence[PortRun], host: AnyHost, deadline: float) -> None:
    """Converge once more, towards the first observation: there are no inverse operations to write."""
    rollbacks = [Rollback.of(run, host) for run in failed if run.changed]
    _converge(rollbacks, host, deadline, deadline)
    for rollback in rollbacks:
        rollback.finish()
    reports = {rollback.goal.port_id: rollback.report for rollback in rollbacks}
    for run in failed:
        run.report = reports.get(run.goal.port_id) or run.result(Status.ROLLED_BACK, **run.failure)


def _apply(runs: Sequence[PortRun], host: AnyHost, deadline: float) -> Observed | None:
    """Carry out the plans; what was observed right after, if the host returned that as well."""
    try:
        outcomes = host.apply([run.steps for run in runs], deadline)
    except HybridVifError as error:
        # The daemon refused the request as a whole, or cannot work: nothing was tried.
        result = Result.REFUSED if isinstance(error, Refused) else Result.FAILED
        outcomes = [tuple(Outcome(step, result, str(error), code=error.code) for step in run.steps) for run in runs]
    for run, latest in zip(runs, outcomes, strict=True):
        run.latest = latest
        run.outcomes += latest
        # The steps of one transaction were all retried together.
        run.retries += max((outcome.retries for outcome in latest), default=0)
    return outcomes.seen if isinstance(outcomes, Outcomes) else None


def _verify(runs: Sequence[PortRun], host: AnyHost, deadline: float, observed: Observed | None) -> None:
    """Read the host back; again after a delay if an answer was lost. observed: the first read-back, if it was made."""
    error = _observe(runs, host, deadline, observed)
    for delay in VERIFY_DELAYS:
        in_doubt = any(run.is_in_doubt and not run.is_reached() for run in runs)
        if not (error or in_doubt) or time.monotonic() + delay >= deadline:
            break
        time.sleep(random.uniform(delay / 2, delay))
        error = _observe(runs, host, deadline)
    if error:
        for run in runs:
            run.cannot_verify(f"the host could not be read back: {error}")


def _observe(
    runs: Sequence[PortRun], host: AnyHost, deadline: float, observed: Observed | None = None
) -> HybridVifError | None:
    if observed is None:
        try:
            observed = host.observe({name for run in runs for name in run.goal.names}, deadline)
        except HybridVifError as error:
            return error
    for run in runs:
        run.seen = for_port(observed, run.goal.names)
    return None


@dataclass(slots=True)
class PortRun:
    """One port within one call: its goal, what was observed, what was done."""

    goal: Goal
    before: HostState
    seen: Observed
    steps: tuple[Step, ...] = ()
    outcomes: list[Outcome] = field(default_factory=list)
    latest: Sequence[Outcome] = ()
    """The outcomes of the latest attempt."""
    retries: int = 0
    failure: dict[str, str] = field(default_factory=dict)
    """The code and reason of a plug that must be rolled back."""
    report: Report | None = None

    @classmethod
    def of(cls, goal: Goal, observed: Observed) -> PortRun:
        """A run that starts from what was observed."""
        seen = for_port(observed, goal.names)
        return cls(goal, seen.state, seen)

    def make_plan(self, host: AnyHost) -> bool:
        """Plan the next attempt; False if the run is finished instead."""
        # A precondition of the goal is checked before the first write only.
        goal = replace(self.goal, precondition=None) if self.wrote else self.goal
        try:
            self.steps = make_plan(goal, self.seen, host)
        except (Refused, NotReady, BridgeMissing) as error:
            self._stop(error)
            return False
        if not self.steps:
            self.report = self.result(Status.DONE)
        return bool(self.steps)

    def _stop(self, error: HybridVifError) -> None:
        if not self.wrote:
            status = Status.REFUSED if isinstance(error, Refused) else Status.PRECONDITION
            self.report = self.result(status, code=error.code, reason=str(error))
            return
        self.failure = {"code": "changed-meanwhile", "reason": f"someone else was at work meanwhile: {error}"}
        if not self.goal.is_plug:
            self.report = self.result(Status.INCOMPLETE, leftovers=self.leftovers(NOTHING), **self.failure)

    def is_reached(self) -> bool:
        """Whether the port is as the goal wants it, by the latest observation."""
        return is_reached(self.goal, self.seen)

    def needs_retry(self, *, last: bool) -> bool:
        """Whether to try again; otherwise the run gets its report, or a failure to roll back."""
        status = self._status(last=last)
        if status is None:
            self.retries += 1
            return True
        failure = {} if status is Status.DONE else self._failure()
        if status is Status.ROLLED_BACK:
            self.failure = failure
        elif status is Status.INCOMPLETE:
            self.report = self.result(status, leftovers=self.leftovers(NOTHING), **failure)
        else:
            self.report = self.result(status, **failure)
        return False

    def _status(self, *, last: bool) -> Status | None:
        """The status after an attempt; None: try again. A plug that is ROLLED_BACK has yet to be rolled back."""
        results = {outcome.result for outcome in self.latest}
        if self.is_reached():
            return Status.DONE
        if Result.UNKNOWN in results:
            return Status.UNKNOWN
        if Result.CONFIGURED in results and is_reached(self.goal, _as_if_accepted(self.seen)):
            return Status.CONFIGURED
        failed = [outcome for outcome in self.latest if outcome.result is Result.FAILED]
        hopeless = Result.REFUSED in results or any(not outcome.retry for outcome in failed)
        if not hopeless and not last:
            return None
        if self.changed:
            return Status.ROLLED_BACK if self.goal.is_plug else Status.INCOMPLETE
        if Result.REFUSED in results:
            return Status.REFUSED
        if failed and all(outcome.code in _HOST_LACKS for outcome in failed):
            return Status.PRECONDITION
        return Status.ROLLED_BACK if self.goal.is_plug else Status.INCOMPLETE

    def _failure(self) -> dict[str, str]:
        for outcome in self.latest:
            if outcome.result not in (Result.DONE, Result.SKIPPED):
                return {"code": outcome.code or outcome.result.value, "reason": outcome.reason}
        reason = "the host was changed by someone else while it was worked on; call again"
        return {"code": "changed-meanwhile", "reason": reason}

    def cannot_verify(self, reason: str) -> None:
        """Make every outcome of the latest attempt unknown, whatever the executor reported."""
        self.latest = [
            outcome if outcome.result is Result.SKIPPED else replace(outcome, result=Result.UNKNOWN, reason=reason)
            for outcome in self.latest
        ]
        self.outcomes[len(self.outcomes) - len(self.latest) :] = self.latest

    @property
    def wrote(self) -> bool:
        """Whether any step was carried out, or may have been."""
        written = (Result.DONE, Result.CONFIGURED, Result.UNKNOWN)
        return any(outcome.result in written for outcome in self.outcomes)

    @property
    def changed(self) -> bool:
        """Whether the port changed since the first observation, by this call or by anyone."""
        return self.wrote or not agree(self.before, self.seen.state)

    @property
    def is_in_doubt(self) -> bool:
        """Whether an answer of the latest attempt was lost."""
        return any(outcome.result is Result.UNKNOWN for outcome in self.latest)

    def leftovers(self, before: HostState) -> tuple[str, ...]:
        """Names of parts that were not there before. A tap we did not create is never ours."""
        old: set[Part] = set(before)
        return tuple(part.name for part in self.seen.state if part not in old and not isinstance(part, Tap))

    def result(self, status: Status, **more: object) -> Report:
        """The report of this run."""
        facts = self.seen.facts
        return Report(
            port_id=self.goal.port_id,
            status=status,
            changed=self.changed,
            simulated=facts.simulated,
            retries=self.retries,
            outcomes=tuple(self.outcomes),
            unchecked=tuple(what for what in facts.unchecked if what.split(":")[0] in self.goal.names),
            **more,  # type: ignore[arg-type]
        )


@dataclass(slots=True)
class Rollback(PortRun):
    """A failed plug on its way back to the first observation."""

    target: HostState = NOTHING
    unrestorable: tuple[str, ...] = ()
    """Attributes that stay as the plug set them."""
    blocked: str = ""
    """Why no plan leads back."""

    @classmethod
    def of(cls, run: PortRun, host: AnyHost) -> Rollback:  # type: ignore[override]
        """The rollback of a run that failed."""
        wanted = goal_for(run.before, run.goal.wanted, run.goal.names)
        target, unrestorable = rollback_target(run.before, wanted, run.seen.state, host.settings)
        return cls(
            run.goal, run.before, run.seen, outcomes=run.outcomes, latest=run.latest, retries=run.retries,
            failure=run.failure, target=target, unrestorable=unrestorable,
        )  # fmt: skip

    def make_plan(self, host: AnyHost) -> bool:  # noqa: ARG002
        """Plan the way back; False if there is none, or nothing left to undo."""
        try:
            self.steps = self._remaining()
        except HybridVifError as error:
            self.blocked = str(error)
            return False
        return bool(self.steps)

    def _remaining(self) -> tuple[Step, ...]:
        return plan(self._own_state(), self.target)

    def _own_state(self) -> HostState:
        """The port as it is now, without what others put under its names meanwhile."""
        known = {(part.role, part.name) for part in self.before}
        state = self.seen.state
        for part in state:
            foreign = owners_of(part) - {self.goal.port_id} and (part.role, part.name) not in known
            if foreign or isinstance(part, ForeignObject):
                state = state.without(part)
        return state

    def is_reached(self) -> bool:
        """Whether nothing is left to undo."""
        try:
            return not self._remaining()
        except HybridVifError:
            return False

    def needs_retry(self, *, last: bool) -> bool:
        """Whether to try again: only if nothing failed for good."""
        bad = [outcome for outcome in self.latest if outcome.result is not Result.DONE]
        may_succeed = all(outcome.retry or outcome.result is Result.SKIPPED for outcome in bad)
        return not last and may_succeed and not self.is_reached()

    def finish(self) -> None:
        """Make the report."""
        failure = dict(self.failure)
        if self.is_reached():
            status = Status.INCOMPLETE if self.unrestorable else Status.ROLLED_BACK
            self.report = self.result(status, leftovers=self.unrestorable, **failure)
            return
        why = self.blocked or self._failure()["reason"]
        failure["reason"] += f"; it could not be undone: {why}"
        if self.is_in_doubt:
            self.report = self.result(Status.UNKNOWN, **failure | {"code": Result.UNKNOWN.value})
            return
        names = self.leftovers(self.before) if self.blocked else tuple(step.part.name for step in self._remaining())
        self.report = self.result(Status.INCOMPLETE, leftovers=(*names, *self.unrestorable), **failure)


def _as_if_accepted(seen: Observed) -> Observed:
    ports = [replace(port, realized=True) for port in seen.state.ports.values() if isinstance(port, OvsPort)]
    return replace(seen, state=seen.state.with_parts(*ports))
