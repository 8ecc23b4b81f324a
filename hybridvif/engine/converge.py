"""Bring ports to their desired state. The retry, status and rollback of a port are decided here alone.

Executors retry a transaction, and the daemon skips the steps after a failed step. Neither ends the work on a port.

    for each batch of ports:
        take the locks of the ports
        observe the host
        converge:  plan, apply, observe again, classify; retry while the host changes underneath
        roll back: converge once more, towards the first observation, for each plug that failed

A plug is `done` only if an observation made after the change shows it. A failed plug is rolled back, with two
exceptions. Nothing is rolled back after a lost response (`unknown`), nor while ovs-vswitchd has not accepted a
committed row (`configured`). An unplug is never rolled back. It removes as much as it can and reports the rest.

Reading order: converge(), _run_batch(), _converge(), PortRun, Rollback.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

from hybridvif.engine.any_host import AnyHost
from hybridvif.engine.goals import (
    Goal,
    checked_plan,
    desired_on,
    goal_for_plug,
    goal_for_unplug,
    is_reached,
    runs_natively,
)
from hybridvif.model.errors import (
    BridgeMissing,
    ConfigurationError,
    HybridVifError,
    InvalidInput,
    NotReady,
    PlugFailed,
    PreconditionError,
    Refused,
    UnplugFailed,
)
from hybridvif.model.names import KEY_LENGTH
from hybridvif.model.parts import ForeignObject, OvsPort, Part, Tap
from hybridvif.model.planner import plan, rollback_target
from hybridvif.model.port import Port
from hybridvif.model.report import Outcome, Outcomes, Report, Result, Status, error_of
from hybridvif.model.state import NOTHING, HostState, Observed, Step, agree, owners_of

PLUG_BATCH, UNPLUG_BATCH, CONVERSION_BATCH = 2000, 300, 100
"""Maximum number of ports in a batch. They share one observation, one switch transaction and one verification.

ovs-vswitchd reconfigures the whole host after each transaction, so large batches are faster. The kernel takes 20 to
40 ms to delete the links of a port, as an unplug or a conversion does. A batch must end within its deadline.
"""
PLUGS_PER_DEADLINE, UNPLUGS_PER_DEADLINE = 500, 100
"""Ports that have one deadline of the configuration. A larger batch has several."""
WORK_SHARE = 0.8
"""Share of the deadline for locks and steps. The rest is for verification and rollback."""
MAX_ATTEMPTS = 4
"""Maximum number of plans for one port in one call. A further plan is made if the host changed underneath."""
VERIFY_DELAYS = (0.05, 0.1)
"""Maximum seconds before the second and third observation, after a lost response or a failed observation."""
_MAX_BACKOFF = 0.02
"""Seconds before the second attempt, at most. The limit doubles with each attempt."""

RUNS_NATIVELY = "runs-natively"
"""The code of a plug that left a converted port as it is, which is a success."""
_PRECONDITION_CODES = frozenset(error.code for error in (PreconditionError, ConfigurationError, BridgeMissing))
"""Error codes that mean a missing precondition on the host."""

listeners: list[Callable[[Sequence[Goal], Sequence[Report], float], None]] = []
"""Callbacks (goals, reports, seconds), called after each batch (client/metrics.py)."""
Progress = Callable[[int, int], None]
"""Callback (finished, total), called before the first batch and after each batch."""


def ignore_progress(_finished: int, _total: int) -> None:
    """Do nothing: the default callback."""


def converge(goals: Sequence[Goal], host: AnyHost, progress: Progress = ignore_progress) -> list[Report]:
    """Bring each port to its goal. Return one report per goal, in order.

    A failed port does not stop the others. Raises InvalidInput for a duplicate port id, and nothing else.
    """
    for port_id, count in Counter(goal.port_id for goal in goals).items():
        if count > 1:
            raise InvalidInput(f"port {port_id} is there more than once; name each port once")
    limit, reports = time.monotonic(), list[Report]()
    progress(0, len(goals))
    for batch in _batches(goals):
        ports_per_deadline = PLUGS_PER_DEADLINE if batch[0].is_plug else UNPLUGS_PER_DEADLINE
        seconds = host.settings.deadline * math.ceil(len(batch) / ports_per_deadline)
        # A batch that overruns its deadline shortens the next one, so overruns do not add up.
        limit += seconds
        begun = time.monotonic()
        finished = _run_batch(batch, host, min(begun + seconds, limit))
        for listener in listeners:
            listener(batch, finished, time.monotonic() - begun)
        reports += finished
        progress(len(reports), len(goals))
    return reports


def _batches(goals: Sequence[Goal]) -> Iterator[list[Goal]]:
    """Split the goals into batches, in order. Two ports with the same device names never share a batch."""
    batch: list[Goal] = []
    keys: set[str] = set()
    for goal in goals:
        key = goal.port_id[:KEY_LENGTH]
        size = CONVERSION_BATCH if goal.is_conversion else PLUG_BATCH if goal.is_plug else UNPLUG_BATCH
        if key in keys or len(batch) == size:
            yield batch
            batch, keys = [], set()
        batch.append(goal)
        keys.add(key)
    if batch:
        yield batch


def _run_batch(goals: Sequence[Goal], host: AnyHost, deadline: float) -> list[Report]:
    """Bring the ports of one batch to their goals, by the deadline. Return one report per goal."""
    begun, apply_deadline = time.monotonic(), _work_deadline(deadline)
    try:
        with host.locked({goal.port_id[:KEY_LENGTH] for goal in goals}, apply_deadline):
            observed = host.observe({name for goal in goals for name in goal.names}, deadline)
            runs = [PortRun.of(goal, observed) for goal in goals]
            _converge(runs, host, apply_deadline, deadline)
            _roll_back([run for run in runs if run.report is None], host, deadline)
    except HybridVifError as error:
        # The locks or the first observation failed, so no change was requested.
        status = Status.PRECONDITION if isinstance(error, PreconditionError) else Status.ROLLED_BACK
        reports = [Report(port_id=goal.port_id, status=status, code=error.code, reason=str(error)) for goal in goals]
    else:
        reports = [run.report for run in runs if run.report is not None]
    return [replace(report, duration=time.monotonic() - begun) for report in reports]


def _work_deadline(deadline: float) -> float:
    """Return the deadline of the steps, which leaves time for what follows them."""
    now = time.monotonic()
    return now + (deadline - now) * WORK_SHARE


def _converge(runs: Sequence[PortRun], host: AnyHost, apply_deadline: float, deadline: float) -> None:
    """Plan, apply, verify and classify, until no run needs a retry.

    Afterwards each run has a report, or a failure for which it must be rolled back.
    """
    for attempt in range(MAX_ATTEMPTS):
        runs = [run for run in runs if run.plan_next(host)]
        if not runs:
            return
        observed = _apply(runs, host, apply_deadline)
        _verify(runs, host, deadline, observed)
        is_last = attempt == MAX_ATTEMPTS - 1 or time.monotonic() >= apply_deadline
        runs = [run for run in runs if run.needs_retry(is_last=is_last)]
        if runs:
            time.sleep(random.uniform(0, _MAX_BACKOFF * 2**attempt))


def _roll_back(failed: Sequence[PortRun], host: AnyHost, deadline: float) -> None:
    """Roll back plugs that failed: converge once more, towards the first observation. Set their reports."""
    rollbacks = [Rollback.of(run, host) for run in failed if run.has_changed]
    _converge(rollbacks, host, _work_deadline(deadline), deadline)
    for rollback in rollbacks:
        rollback.finish()
    reports = {rollback.goal.port_id: rollback.report for rollback in rollbacks}
    for run in failed:
        run.report = reports.get(run.goal.port_id) or run.make_report(Status.ROLLED_BACK, **run.failure)


def _apply(runs: Sequence[PortRun], host: AnyHost, deadline: float) -> Observed | None:
    """Carry out the plans and store their outcomes. Return the observation made right after them, if there is one."""
    try:
        outcomes = host.apply([run.steps for run in runs], deadline)
    except HybridVifError as error:
        # The daemon refused the whole request, or it cannot work. Nothing was changed.
        result = Result.REFUSED if isinstance(error, Refused) else Result.FAILED
        outcomes = [tuple(Outcome(step, result, str(error), code=error.code) for step in run.steps) for run in runs]
    for run, latest in zip(runs, outcomes, strict=True):
        run.latest = latest
        run.outcomes += latest
        # All steps of a transaction are retried together, so their counts do not add up.
        run.retries += max((outcome.retries for outcome in latest), default=0)
    return outcomes.observed if isinstance(outcomes, Outcomes) else None


def _verify(runs: Sequence[PortRun], host: AnyHost, deadline: float, observed: Observed | None) -> None:
    """Store an observation made after the change. After a lost response, observe again with a delay.

    observed: the first such observation, if the host returned it with the outcomes.
    """
    error: HybridVifError | None = None
    for delay in (0, *VERIFY_DELAYS):
        if delay:
            if time.monotonic() + delay >= deadline:
                break
            time.sleep(random.uniform(delay / 2, delay))
        try:
            observed = observed or host.observe({name for run in runs for name in run.goal.names}, deadline)
            error = None
        except HybridVifError as failure:
            error = failure
            continue
        for run in runs:
            run.observed = observed.of(run.goal.names)
        if all(not run.is_in_doubt or run.is_reached() for run in runs):
            return
        observed = None
    if error:
        for run in runs:
            run.make_unknown(f"the host could not be read back: {error}")


@dataclass(slots=True)
class PortRun:
    """One port within one call: its goal, its observations and its outcomes."""

    goal: Goal
    before: HostState
    """The state in the first observation."""
    observed: Observed
    """The latest observation."""
    steps: tuple[Step, ...] = ()
    """The latest plan."""
    outcomes: list[Outcome] = field(default_factory=list)
    """The outcomes of all attempts."""
    latest: Sequence[Outcome] = ()
    """The outcomes of the latest attempt."""
    retries: int = 0
    failure: dict[str, str] = field(default_factory=dict)
    """The code and reason of a plug that must be rolled back."""
    report: Report | None = None
    """None: the run is not finished."""

    @classmethod
    def of(cls, goal: Goal, observed: Observed) -> PortRun:
        """Return the run of a goal, from the first observation of the batch."""
        first = observed.of(goal.names)
        return cls(goal, first.state, first)

    def plan_next(self, host: AnyHost) -> bool:
        """Plan the next attempt. Return False if there is none; the run then has a report or a failure."""
        # The precondition of the goal holds for the state before the first write only.
        goal = replace(self.goal, precondition=None) if self.has_written else self.goal
        try:
            self.steps = checked_plan(goal, self.observed, host.settings)
        except (Refused, NotReady, BridgeMissing) as error:
            reason = f"someone else was at work meanwhile: {error}"
            if self.has_written:
                self._end(self._undone, code="changed-meanwhile", reason=reason)
            else:
                status = Status.REFUSED if isinstance(error, Refused) else Status.PRECONDITION
                self._end(status, code=error.code, reason=str(error))
            return False
        if not self.steps:
            self._end(Status.DONE)
        return bool(self.steps)

    @property
    def _undone(self) -> Status:
        """The status of a failure after a change: a plug is rolled back, and an unplug is not."""
        return Status.ROLLED_BACK if self.goal.is_plug else Status.INCOMPLETE

    def _end(self, status: Status, **failure: str) -> None:
        """Set the report, or the failure that causes a rollback."""
        if status is Status.ROLLED_BACK:
            self.failure = failure
        else:
            leftovers = self.leftovers(NOTHING) if status is Status.INCOMPLETE else ()
            self.report = self.make_report(status, leftovers=leftovers, **failure)

    def is_reached(self) -> bool:
        """Return whether the port has its desired state in the latest observation."""
        return is_reached(self.goal, self.observed)

    def needs_retry(self, *, is_last: bool) -> bool:
        """Return whether to retry. If not, set the report, or the failure that causes a rollback."""
        status = self._classify(is_last=is_last)
        if status is None:
            self.retries += 1
            return True
        self._end(status, **({} if status is Status.DONE else self._failure()))
        return False

    def _classify(self, *, is_last: bool) -> Status | None:
        """Return the status after an attempt. None: retry. ROLLED_BACK: roll back first, if the port changed."""
        results = {outcome.result for outcome in self.latest}
        if self.is_reached():
            return Status.DONE
        if Result.UNKNOWN in results:
            return Status.UNKNOWN
        if Result.CONFIGURED in results and is_reached(self.goal, _as_if_accepted(self.observed)):
            return Status.CONFIGURED
        if Result.CONFIGURED in results and self.goal.is_conversion:
            # The VM is not left on a path that ovs-vswitchd has not taken over.
            return self._undone
        failed = [outcome for outcome in self.latest if outcome.result is Result.FAILED]
        can_retry = Result.REFUSED not in results and all(outcome.retry for outcome in failed)
        if can_retry and not is_last:
            return None
        if not self.has_changed and Result.REFUSED in results:
            return Status.REFUSED
        if not self.has_changed and failed and all(outcome.code in _PRECONDITION_CODES for outcome in failed):
            return Status.PRECONDITION
        return self._undone

    def _failure(self) -> dict[str, str]:
        """Return the code and reason of the first step that failed in the latest attempt."""
        for outcome in self.latest:
            if outcome.result not in (Result.DONE, Result.SKIPPED):
                return {"code": outcome.code or outcome.result.value, "reason": outcome.reason}
        if is_reached(self.goal, _as_if_accepted(self.observed)):
            reason = (
                "ovs-vswitchd has not taken the port, and gives no reason; does its bridge work? see hybridvif doctor"
            )
            return {"code": "not-realized", "reason": reason}
        reason = "the host was changed by someone else while it was worked on; call again"
        return {"code": "changed-meanwhile", "reason": reason}

    def make_unknown(self, reason: str) -> None:
        """Change the outcomes of the latest attempt to unknown, because no observation confirms them."""
        self.latest = [
            outcome if outcome.result is Result.SKIPPED else replace(outcome, result=Result.UNKNOWN, reason=reason)
            for outcome in self.latest
        ]
        self.outcomes[len(self.outcomes) - len(self.latest) :] = self.latest

    @property
    def has_written(self) -> bool:
        """Return whether this call changed the host, or may have done so."""
        written = (Result.DONE, Result.CONFIGURED, Result.UNKNOWN)
        return any(outcome.result in written for outcome in self.outcomes)

    @property
    def has_changed(self) -> bool:
        """Return whether the port changed since the first observation, by this call or another program."""
        return self.has_written or not agree(self.before, self.observed.state)

    @property
    def is_in_doubt(self) -> bool:
        """Return whether a response of the latest attempt was lost."""
        return any(outcome.result is Result.UNKNOWN for outcome in self.latest)

    def leftovers(self, before: HostState) -> tuple[str, ...]:
        """Return the names of parts that were not there before. A tap of the VM is not ours, so it never counts."""
        earlier: set[Part] = set(before)
        return tuple(part.name for part in self.observed.state if part not in earlier and not isinstance(part, Tap))

    def make_report(self, status: Status, **more: object) -> Report:
        """Return the report of this run. more: further fields of the report."""
        facts = self.observed.facts
        if status is Status.DONE and runs_natively(self.goal, self.observed):
            reason = f"port {self.goal.port_id} was converted and its VM runs, so it stays plugged natively"
            more = {"code": RUNS_NATIVELY, "reason": f"{reason}; go back with: hybridvif convert --to hybrid", **more}
        return Report(
            port_id=self.goal.port_id,
            status=status,
            changed=self.has_changed,
            simulated=facts.simulated,
            retries=self.retries,
            outcomes=tuple(self.outcomes),
            unchecked=tuple(item for item in facts.unchecked if item.split(":")[0] in self.goal.names),
            **more,  # type: ignore[arg-type]
        )


@dataclass(slots=True)
class Rollback(PortRun):
    """The rollback of a failed plug: a run whose target is the first observation.

    It needs no inverse operations, because a plan leads from any state to any other.
    """

    target: HostState = NOTHING
    """The state to restore."""
    unrestorable: tuple[str, ...] = ()
    """Attributes that keep the value from the plug."""
    blocked: str = ""
    """The reason for which no plan leads back."""

    @classmethod
    def of(cls, run: PortRun, host: AnyHost) -> Rollback:  # type: ignore[override]
        """Return the rollback of a failed run."""
        desired = desired_on(run.goal, Observed(run.before, run.observed.facts))
        target, unrestorable = rollback_target(run.before, desired, run.observed.state, host.settings)
        values = {spec.name: getattr(run, spec.name) for spec in fields(run)}
        return cls(**values, target=target, unrestorable=unrestorable)

    def plan_next(self, host: AnyHost) -> bool:  # noqa: ARG002
        """Plan the rollback. Return False if no plan leads back, or if nothing remains to roll back."""
        self.steps = self._remaining()
        return bool(self.steps)

    def _remaining(self) -> tuple[Step, ...]:
        """Return the steps from the latest observation to the target. If no plan leads back, set `blocked`."""
        try:
            self.blocked = ""
            return plan(self._own_state(), self.target)
        except HybridVifError as error:
            self.blocked = str(error)
            return ()

    def _own_state(self) -> HostState:
        """Return the latest state without the objects that other programs created under its names."""
        state = self.observed.state
        for part in state:
            is_new = self.before.get(part) is None
            if isinstance(part, ForeignObject) or (is_new and owners_of(part) - {self.goal.port_id}):
                state = state.without(part)
        return state

    def is_reached(self) -> bool:
        """Return whether nothing remains to roll back. A silent ovs-vswitchd takes the row over later by itself."""
        if any(outcome.result is Result.CONFIGURED for outcome in self.latest):
            self.observed = _as_if_accepted(self.observed)
        return not self._remaining() and not self.blocked

    def needs_retry(self, *, is_last: bool) -> bool:
        """Return whether to retry: something remains, and no step failed permanently."""
        can_retry = all(outcome.retry or outcome.result in (Result.DONE, Result.SKIPPED) for outcome in self.latest)
        return can_retry and not is_last and not self.is_reached()

    def finish(self) -> None:
        """Set the report."""
        failure = dict(self.failure)
        if self.is_reached():
            status = Status.INCOMPLETE if self.unrestorable else Status.ROLLED_BACK
            self.report = self.make_report(status, leftovers=self.unrestorable, **failure)
            return
        failure["reason"] += f"; it could not be undone: {self.blocked or self._failure()['reason']}"
        if self.is_in_doubt:
            self.report = self.make_report(Status.UNKNOWN, **failure | {"code": Result.UNKNOWN.value})
            return
        names = self.leftovers(self.before) if self.blocked else tuple(step.part.name for step in self._remaining())
        self.report = self.make_report(Status.INCOMPLETE, leftovers=(*names, *self.unrestorable), **failure)


def _as_if_accepted(observed: Observed) -> Observed:
    """Return the observation as it would be if ovs-vswitchd had accepted all rows."""
    ports = [replace(port, realized=True) for port in observed.state.ports.values() if isinstance(port, OvsPort)]
    return replace(observed, state=observed.state.with_parts(*ports))


# -- calls -------------------------------------------------------------------------------------------------------------


def only_report(reports: list[Report], failure: type[PlugFailed | UnplugFailed]) -> Report:
    """Return the report of a call for one port. Raises `failure`, or the error of its code, if it is not done."""
    (report,) = reports
    if report.status is not Status.DONE:
        raise error_of(report, failure)
    return report


def plug(port: Port, host: AnyHost) -> Report:
    """Plug one port. Afterwards it has its desired state, or the state from before the call.

    A port in sync costs one observation and no write. Raises PlugFailed with the report. Its subclasses: Refused if
    the plug is not permitted, NotReady or BridgeMissing if the host lacks something.
    """
    return only_report(converge([goal_for_plug(port, host.settings)], host), PlugFailed)


def unplug(port_id: str, host: AnyHost, *, force: bool = False) -> Report:
    """Unplug one port. Afterwards only the tap of the VM remains.

    The unplug of an absent port succeeds and costs no write. force: unplug even if a VM uses the port. Raises
    UnplugFailed with the report. Its subclasses: PortRunning or another Refused if the unplug is not permitted,
    NotReady if the host lacks something.
    """
    return only_report(converge([goal_for_unplug(port_id, force=force)], host), UnplugFailed)


def check(port: Port, host: AnyHost) -> tuple[Step, ...]:
    """Return the plan of a plug, without a write. It is empty if the port is in sync.

    Raises Refused if a plug is not permitted, PreconditionError if the host lacks something, NoResponse.
    """
    deadline = time.monotonic() + host.settings.deadline
    goal = goal_for_plug(port, host.settings)
    return checked_plan(goal, host.observe(set(port.names), deadline).of(goal.names), host.settings)


def plug_all(ports: Iterable[Port], host: AnyHost, *, progress: Progress = ignore_progress) -> list[Report]:
    """Plug many ports. Return one report per port, in order. A failed port does not stop the others.

    progress: called with (finished, total), before the first batch and after each batch. Raises InvalidInput for a
    duplicate port id, and nothing else.
    """
    return converge([goal_for_plug(port, host.settings) for port in ports], host, progress)


def unplug_all(
    port_ids: Iterable[str], host: AnyHost, *, force: bool = False, progress: Progress = ignore_progress
) -> list[Report]:
    """Unplug many ports. Return one report per port, in order. A failed port does not stop the others.

    progress: as in plug_all(). Raises InvalidInput for an id that is not a UUID or that is there twice, and nothing
    else.
    """
    return converge([goal_for_unplug(port_id, force=force) for port_id in port_ids], host, progress)
