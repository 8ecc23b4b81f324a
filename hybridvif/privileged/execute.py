"""Execute plans: which steps go to an executor together, and what a failure prevents.

A plan alternates between the roles at most as switch, links, switch. All plans of a request advance side by side, so
that 300 ports cost one transaction of the switch, not 300.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from hybridvif.executors.base import NOT_REALIZED, Executor, ExecutorError, expected
from hybridvif.model.errors import HybridVifError, PreconditionError, escaped
from hybridvif.model.parts import Role
from hybridvif.model.report import Outcome, Result
from hybridvif.model.steps import Delete, Replace, Step, names_of_step, role_of

LOG = logging.getLogger(__name__)
ROLE_ORDER = (Role.SWITCH, Role.LINK)
FEW = 8
"""The largest number of ports whose links are created soon enough for other requests to wait for their rows."""
FAILURES = frozenset({Result.FAILED, Result.REFUSED, Result.SKIPPED})
SHARE = 1 / 3
"""The share of the remaining time for a batch that others follow: a silent ovs-vswitchd must leave time for links."""
Numbered = list[tuple[int, Step]]
"""Steps with their index in the plan."""


class PlanProgress:
    """The progress of one plan: the waiting steps, and the outcomes of the others by their index."""

    def __init__(self, plan: Sequence[Step]) -> None:
        self.waiting: Numbered = list(enumerate(plan))
        self._converts = any(isinstance(step, Replace) for step in plan)
        self._outcomes: dict[int, Outcome] = {}

    def take(self, role: Role) -> Numbered:
        """Remove and return the next steps of a role, at most one per part.

        ovs-vswitchd does not notice a row that becomes a placeholder and is restored in one transaction.
        """
        names, count = set[str](), 0
        for _, step in self.waiting:
            if role_of(step) is not role or names.intersection(names_of_step(step)):
                break
            names.update(names_of_step(step))
            count += 1
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    def record(self, taken: Numbered, outcomes: Sequence[Outcome]) -> None:
        """Store outcomes. After a failure skip all steps but deletes; after a lost response skip all steps.

        A conversion also skips its deletes: the parts of the old path are needed to roll back. It does not go on to cut
        the VM off while ovs-vswitchd is silent.
        """
        self._outcomes |= {index: outcome for (index, _), outcome in zip(taken, outcomes, strict=True)}
        results = {outcome.result for outcome in outcomes}
        is_silent = Result.CONFIGURED in results and self._converts
        is_silent = is_silent and any(isinstance(step, Replace | Delete) for _, step in self.waiting)
        if not is_silent and not results & {Result.UNKNOWN, *FAILURES}:
            return
        is_lost = Result.UNKNOWN in results or self._converts
        skipped = [(index, step) for index, step in self.waiting if is_lost or not isinstance(step, Delete)]
        self.waiting = [numbered for numbered in self.waiting if numbered not in skipped]
        reason = "not tried, since an earlier step of this port failed"
        self._outcomes |= {index: Outcome(step, Result.SKIPPED, reason) for index, step in skipped}

    def outcomes(self) -> tuple[Outcome, ...]:
        """Return the outcomes so far, in the order of the plan."""
        return tuple(outcome for _, outcome in sorted(self._outcomes.items(), key=lambda numbered: numbered[0]))


def execute(
    plans: Sequence[Sequence[Step]], executors: Mapping[Role, Executor], deadline: float
) -> list[tuple[Outcome, ...]]:
    """Execute plans and return their outcomes, each in the order of its steps."""
    runs = [PlanProgress(plan) for plan in plans]
    for run in runs:
        _fail_unserved(run, executors)
    with ExitStack() as stack:
        for role in _later_roles(runs):
            stack.enter_context(expected(executors[role]))
        try:
            alternate_roles(runs, executors, deadline)
        finally:
            # The audit log, one line per port.
            for run in runs:
                if outcomes := run.outcomes():
                    LOG.info("%s", "; ".join(map(_described, outcomes)))
    return [run.outcomes() for run in runs]


def alternate_roles(runs: Sequence[PlanProgress], executors: Mapping[Role, Executor], deadline: float) -> None:
    """Give the steps to the executors, all plans together, one role after the other, until none waits."""
    while any(run.waiting for run in runs):
        for role in ROLE_ORDER:
            batch = [(run, taken) for run in runs if (taken := run.take(role))]
            if batch:
                is_last = not any(run.waiting for run in runs)
                _execute_batch(batch, executors[role], deadline if is_last else share(deadline))


def share(deadline: float) -> float:
    """Return the deadline of a batch or an observation that others follow."""
    now = time.monotonic()
    return now + (deadline - now) * SHARE


def _execute_batch(batch: list[tuple[PlanProgress, Numbered]], executor: Executor, deadline: float) -> None:
    outcomes = list(_apply(executor, [step for _, taken in batch for _, step in taken], deadline))
    if executor.atomic and len(batch) > 1 and all(_had_no_effect(outcome) for outcome in outcomes):
        # The failure of one port undid the steps of all: halve the batch until the port is alone.
        middle = len(batch) // 2
        _execute_batch(batch[:middle], executor, deadline)
        _execute_batch(batch[middle:], executor, deadline)
        return
    for run, taken in batch:
        run.record(taken, outcomes[: len(taken)])
        del outcomes[: len(taken)]


def _had_no_effect(outcome: Outcome) -> bool:
    return outcome.result in FAILURES and outcome.code != NOT_REALIZED


def _apply(executor: Executor, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
    try:
        return executor.apply(steps, deadline)
    except ExecutorError as error:
        return [error.outcome_of(step) for step in steps]
    except Exception:
        # The outcomes of the other role and of other ports must not be lost.
        LOG.exception("the executor %s failed", type(executor).__name__)
        reason = f"the {executor.role.value} executor failed, and it is not known how far it came; see the daemon's log"
        return [Outcome(step, Result.UNKNOWN, reason, code=HybridVifError.code) for step in steps]


def _fail_unserved(run: PlanProgress, executors: Mapping[Role, Executor]) -> None:
    """Fail a whole plan if it contains a part that no configured executor serves."""
    for _, step in run.waiting:
        part = step.part
        if type(part) not in executors[role_of(step)].serves:
            reason = (
                f"the configured {part.role.value} executor does not serve {part.kind} {part.name}; "
                f"set [hybridvif] {part.role.value}_executor to one that does"
            )
            taken, run.waiting = run.waiting, []
            run.record(taken, [Outcome(step, Result.FAILED, reason, code=PreconditionError.code) for _, step in taken])
            return


def _later_roles(runs: Sequence[PlanProgress]) -> set[Role]:
    """Return the roles with steps behind those of another role. Empty for many ports: others need not wait for them."""
    roles = [[role_of(step) for _, step in run.waiting] for run in runs if len(runs) <= FEW]
    return {role for plan_roles in roles for role in plan_roles if role is not plan_roles[0]}


def _described(outcome: Outcome) -> str:
    part, verb = outcome.step.part, type(outcome.step).__name__.lower()
    return escaped(f"{verb} {part.kind} {part.name}: {outcome.result.value} {outcome.reason}".rstrip())
