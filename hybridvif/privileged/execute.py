"""Execute plans: the executors by configuration and entry point, the steps they get together, the effect of a failure.

A plan alternates between the roles at most as switch, links, switch. All plans of a request advance side by side, so
that 300 ports cost one transaction of the switch, not 300.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import EntryPoint, EntryPoints, distributions
from typing import Any

from oslo_config import cfg

from hybridvif.engine import config
from hybridvif.executors.base import NOT_REALIZED, NOT_TRIED, Executor, ExecutorError, expected
from hybridvif.model.errors import ConfigurationError, HybridVifError, PreconditionError, did_you_mean, escaped
from hybridvif.model.names import key_of
from hybridvif.model.parts import ManagedTap, Role, Tap, differences
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import Delete, Replace, Step, Update, names_of_step, owners_of, role_of
from hybridvif.spans import span

LOG = logging.getLogger(__name__)
ROLE_ORDER = (Role.SWITCH, Role.LINK)
FEW = 8
"""The largest number of ports whose links are created soon enough for other requests to wait for their rows."""
FAILURES = frozenset({Result.FAILED, Result.REFUSED, Result.SKIPPED})
MAX_CUT_OFF = 20
"""The largest number of VMs that conversions cut off together. They wait until all their rows are replaced."""
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

    def cuts_off(self, role: Role) -> bool:
        """Return whether the next step is of this role, and a conversion takes the VM off its path with it."""
        step = self.waiting[0][1] if self.waiting and self._converts else None
        leaves = isinstance(step, Update) and isinstance(step.after, Tap | ManagedTap) and not step.after.master
        return step is not None and role_of(step) is role and (leaves or isinstance(step, Replace))

    def is_in_doubt(self) -> bool:
        """Return whether a step was not acknowledged."""
        return any(outcome.result in (Result.CONFIGURED, Result.UNKNOWN) for outcome in self._outcomes.values())

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
        self._outcomes |= {index: Outcome(step, Result.SKIPPED, NOT_TRIED) for index, step in skipped}

    def outcomes(self) -> tuple[Outcome, ...]:
        """Return the outcomes so far, in the order of the plan."""
        return tuple(outcome for _, outcome in sorted(self._outcomes.items(), key=lambda numbered: numbered[0]))


Batch = list[tuple[PlanProgress, Numbered]]
"""The steps that an executor gets together, by plan."""


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
        stack.callback(_log_audit, runs)
        for role, some in _batches(runs):
            executor, batch = executors[role], [(run, taken) for run in some if (taken := run.take(role))]
            end = share(deadline) if any(run.waiting for run in runs) else deadline
            batches = [batch] if batch else []
            while batches:
                batch = batches.pop()
                steps = [step for _, taken in batch for _, step in taken]
                outcomes: list[Outcome] = []
                with _errors_as_outcomes(executor, steps, outcomes), span(f"apply {role.value}"):
                    outcomes += executor.apply(steps, end)
                    if [outcome.step for outcome in outcomes] != steps:
                        raise ValueError("apply() did not return one outcome per step, in their order")
                batches += _record(batch, outcomes, executor)
    return [run.outcomes() for run in runs]


def _batches(runs: Sequence[PlanProgress]) -> Iterator[tuple[Role, Sequence[PlanProgress]]]:
    """Yield the role and the plans of each batch, which advance before the next one.

    All plans go together, one role after the other. But few VMs are cut off together, until they are connected again.
    """
    while any(run.waiting for run in runs):
        for role, other in (ROLE_ORDER, ROLE_ORDER[::-1]):
            cut_off = [run for run in runs if run.cuts_off(role)]
            yield role, [run for run in runs if not run.cuts_off(role)]
            for start in range(0, len(cut_off), MAX_CUT_OFF):
                some = cut_off[start : start + MAX_CUT_OFF]
                yield role, some
                yield other, some
                if any(run.is_in_doubt() for run in some):
                    _fail(cut_off[start + MAX_CUT_OFF :], "not tried, since the switch does not respond")
                    break


def share(deadline: float) -> float:
    """Return the deadline of a batch or an observation that others follow."""
    now = time.monotonic()
    return now + (deadline - now) * SHARE


@contextmanager
def _errors_as_outcomes(executor: Executor, steps: Sequence[Step], outcomes: list[Outcome]) -> Iterator[None]:
    """Turn an error into outcomes: those of the other role and of other ports must not be lost."""
    try:
        yield
    except ExecutorError as error:
        outcomes[:] = [error.outcome_of(step) for step in steps]
    except (Exception, SystemExit) as error:  # noqa: BLE001  # failure_of() logs it
        reason = f"{failure_of(executor, error)}, and it is not known how far it came; see the daemon's log"
        outcomes[:] = [Outcome(step, Result.UNKNOWN, reason, code=HybridVifError.code) for step in steps]


def _record(batch: Batch, outcomes: list[Outcome], executor: Executor) -> Sequence[Batch]:
    """Store the outcomes of a batch. Return the batches to execute in its place, the last one first."""
    had_no_effect = all(outcome.result in FAILURES and outcome.code != NOT_REALIZED for outcome in outcomes)
    if executor.atomic and len(batch) > 1 and had_no_effect:
        # The failure of one port undid the steps of all: halve the batch until the port is alone.
        middle = len(batch) // 2
        return batch[middle:], batch[:middle]
    for run, taken in batch:
        run.record(taken, outcomes[: len(taken)])
        del outcomes[: len(taken)]
    return ()


def failure_of(executor: Executor, error: BaseException) -> str:
    """Log an unexpected error of an executor, and return the clause that names both."""
    name = f"{type(executor).__module__}.{type(executor).__qualname__}"
    LOG.error("the executor %s failed", name, exc_info=error)
    reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
    return f"the {executor.role.value} executor {name} failed ({reason})"


def _fail_unserved(run: PlanProgress, executors: Mapping[Role, Executor]) -> None:
    """Fail a whole plan if it contains a part that no configured executor serves."""
    for _, step in run.waiting:
        part = step.part
        if type(part) not in executors[role_of(step)].serves:
            reason = (
                f"the configured {part.role.value} executor does not serve {part.kind} {part.name}; "
                f"set [hybridvif] {part.role.value}_executor to one that does"
            )
            _fail([run], reason, PreconditionError.code)
            return


def _fail(runs: Sequence[PlanProgress], reason: str, code: str = "") -> None:
    """Fail all waiting steps."""
    for run in runs:
        taken, run.waiting = run.waiting, []
        run.record(taken, [Outcome(step, Result.FAILED, reason, code=code) for _, step in taken])


def _later_roles(runs: Sequence[PlanProgress]) -> set[Role]:
    """Return the roles with steps behind those of another role. Empty for many ports: others need not wait for them."""
    roles = [[role_of(step) for _, step in run.waiting] for run in runs if len(runs) <= FEW]
    return {role for plan_roles in roles for role in plan_roles if role is not plan_roles[0]}


def _log_audit(runs: Sequence[PlanProgress]) -> None:
    """Write the audit log, one line per port."""
    for run in runs:
        if outcomes := run.outcomes():
            audit = audit_of(outcomes)
            LOG.info("%s", "; ".join(map(_described, audit["changes"])), extra={"audit": audit})


def audit_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the changes of one port as the fields of its log line. attributes: the values before and after."""
    parts = [outcome.step.part for outcome in outcomes]
    port = next((port_id for part in parts for port_id in sorted(owners_of(part))), key_of(parts[0].name))
    changes = [
        {
            "verb": type(step).__name__.lower(),
            "kind": step.part.kind,
            "name": step.part.name,
            "result": outcome.result.value,
            "reason": outcome.reason,
            "attributes": {
                change.attribute: [change.before, change.after]
                for change in (differences(step.before, step.part) if isinstance(step, Update) else ())
            },
        }
        for outcome in outcomes
        for step in (outcome.step,)
    ]
    is_done = all(outcome.result is Result.DONE for outcome in outcomes)
    return {"port": port, "done": is_done, "changes": changes}


def _described(change: Mapping[str, Any]) -> str:
    return escaped("{verb} {kind} {name}: {result} {reason}".format_map(change).rstrip())


# -- the configured executors ------------------------------------------------------------------------------------------


GROUPS = {Role.LINK: "hybridvif.link_executors", Role.SWITCH: "hybridvif.switch_executors"}
_MEMBERS = ("role", "serves", "programs", "atomic", "observe", "apply")


_kept: list[Settings | HybridVifError] = []
"""The configuration read at the start of the daemon, or the error. Empty in a process without a daemon."""


def keep(read: Callable[[], Settings]) -> None:
    """Read the daemon's configuration once. An error is raised when the configuration is used."""
    try:
        _kept[:] = [read()]
    except HybridVifError as error:
        _kept[:] = [error]


def configured() -> Settings:
    """Return the daemon's configuration, or that of a process without a daemon. Raises ConfigurationError."""
    if not _kept:
        return config.settings_of(cfg.CONF)
    (kept,) = _kept
    if isinstance(kept, HybridVifError):
        raise kept.with_traceback(None)
    return kept


def executor_of(role: Role, settings: Settings) -> Executor:
    """Create the configured executor of a role. Raises ConfigurationError."""
    cls, name = class_of(role, settings), _configured_name(role, settings)
    try:
        executor: Executor = cls(settings)
    except Exception as error:
        raise _unusable(role, f"{name!r} cannot be started ({error})") from error
    return executor


def class_of(role: Role, settings: Settings) -> Any:
    """Load the class of the configured executor of a role.

    Raises ConfigurationError if it is misspelled, missing, broken, or of the other role. The error lists the installed
    executors.
    """
    # The client imports this module too, but loads no executor.
    from stevedore.driver import DriverManager
    from stevedore.exception import NoMatches

    name = _configured_name(role, settings)
    # Otherwise stevedore trusts a JSON file in ~/.cache of the user who started the daemon. A planted file makes it
    # load any object as an executor.
    DriverManager.ENTRY_POINT_CACHE[GROUPS[role]] = _entry_points(role)
    try:
        cls: Any = DriverManager(GROUPS[role], name).driver
    except NoMatches as error:
        hint = did_you_mean(name, installed(role))
        raise _unusable(role, f"no executor named {name!r} is installed", hint) from error
    except Exception as error:
        # The module of a third party may raise anything.
        raise _unusable(role, f"{name!r} is installed but cannot be loaded ({error}); reinstall it") from error
    missing = [member for member in _MEMBERS if not hasattr(cls, member)]
    if missing:
        raise _unusable(role, f"{name!r} is no executor, it lacks {', '.join(missing)}")
    writes = getattr(cls, "writes", ())
    if not isinstance(writes, tuple) or not all(isinstance(path, str) and os.path.isabs(path) for path in writes):
        # A string would count as a sequence of paths of one character, "/" among them.
        raise _unusable(role, f"{name!r} is no executor, for its writes are not a tuple of absolute paths")
    if cls.role is not role:
        raise _unusable(role, f"{name!r} is a {getattr(cls.role, 'value', cls.role)} executor")
    return cls


def _configured_name(role: Role, settings: Settings) -> str:
    return settings.link_executor if role is Role.LINK else settings.switch_executor


def _unusable(role: Role, reason: str, hint: str = "") -> ConfigurationError:
    names = ", ".join(installed(role)) or "none"
    return ConfigurationError(
        f"[hybridvif] {role.value}_executor: {reason}; of {role.value} executors there are {names}{hint}"
    )


def installed(role: Role) -> list[str]:
    """Return the names of the installed executors of a role."""
    return sorted({point.name for point in _entry_points(role)})


def _entry_points(role: Role) -> list[EntryPoint]:
    """Return the entry points of a role. The entry points of all of Nova's libraries take 0.1 s to parse."""
    group = GROUPS[role]
    points: dict[str, EntryPoints] = {}
    for distribution in distributions():
        if group in (distribution.read_text("entry_points.txt") or ""):
            # The first of a name in sys.path is the one that is imported.
            points.setdefault(distribution.name, distribution.entry_points.select(group=group))
    return list({(point.name, point.value): point for own in points.values() for point in own}.values())
