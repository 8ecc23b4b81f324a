"""What the daemon answers: observe and apply. Nothing else runs with privileges.

Its twin is host.py, which asks. Both return data only, ["ok", ...] or ["failed", code, sentence]: an exception would be
rebuilt from its args, in the caller. The daemon imports this module and nothing of oslo.privsep.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from hybridvif.executors.base import Executor, ExecutorError
from hybridvif.model.errors import HybridVifError, PreconditionError, Refused
from hybridvif.model.facts import merge_observed, observing
from hybridvif.model.names import LINK_PREFIXES, SWITCH_PREFIXES, key_of, names_of_key
from hybridvif.model.parts import Role
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import MAX_DEADLINE, Settings
from hybridvif.privileged import codec, execute, identification, imports, policy, privileges, registry

LOG = logging.getLogger(__name__)

_lock = threading.Lock()
_started: dict[Settings, dict[Role, Executor]] = {}
"""One configuration in the daemon; more in a process that does the work itself, as a test does."""


def entrypoint(function: Callable[..., Any]) -> functools.partial[Any]:
    """Return what the caller calls in its place, which asks the daemon. The daemon calls the function itself."""
    return functools.partial(_asked, function)


def _asked(function: Callable[..., Any], *args: Any, _wrap_timeout: float | None = None, **kwargs: Any) -> Any:
    from hybridvif.privileged.context import daemon_context

    return daemon_context.call(function, args, kwargs, _wrap_timeout)


def _answering(answer: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Failures cross as data."""

    @functools.wraps(answer)
    def guarded(*args: Any, **kwargs: Any) -> list[Any]:
        try:
            if len(args) != 2 or kwargs:
                raise Refused(f"refused: {answer.__name__} takes a question and a deadline")
            return ["ok", answer(*args, **kwargs)]
        except HybridVifError as error:
            LOG.warning("%s", error)
            return ["failed", error.code, str(error)]
        except ExecutorError as error:
            return ["failed", PreconditionError.code if error.precondition else "no-answer", str(error)]
        except (Exception, SystemExit) as error:
            # The boundary: whatever a bug or a third party's executor raises must not cross as an exception.
            LOG.exception("the daemon failed to answer")
            said = error.strerror if isinstance(error, OSError) else ""
            return ["failed", HybridVifError.code, f"the daemon failed: {said or type(error).__name__}; see its log"]

    return guarded


@entrypoint
@_answering
def observe(names: object, deadline: object) -> Any:
    """The parts and facts under these names; None: under all of our grammar."""
    until = _instant(deadline)
    asked = codec.decode_names(names)
    policy.permit_names(asked)
    return _seen(asked, _executors(), until)


@entrypoint
@_answering
def apply(plans: object, deadline: object) -> Any:
    """Carry out plans, one a port; all are decoded and permitted, and their ports known, before any step runs.

    What was done is looked at at once, as the caller would do next; nothing if that could not be.
    """
    until = _instant(deadline)
    decoded = codec.decode_plans(plans)
    executors = _executors()
    settings = registry.configured()
    policy.permit_plans(decoded, settings)
    refused = identification.refusals(decoded, executors, settings.allows, execute.share(until))
    left = [() if at in refused else plan for at, plan in enumerate(decoded)]
    outcomes = execute.carry_out(left, executors, until)
    whole = [refused.get(at, done) for at, done in enumerate(outcomes)]
    return [codec.encode_outcomes(whole), _seen_after(whole, executors, until)]


def _seen(names: frozenset[str] | None, executors: Mapping[Role, Executor], until: float) -> list[Any]:
    with ExitStack() as asking:
        # All are asked before the first is waited for.
        answers = [
            asking.enter_context(observing(executor, _own(role, names), until)) for role, executor in executors.items()
        ]
        seen = merge_observed(answer() for answer in answers)
    serves = frozenset(cls.kind for executor in executors.values() for cls in executor.serves)
    return codec.encode_observed(replace(seen, facts=replace(seen.facts, serves=serves)))


def _own(role: Role, names: frozenset[str] | None) -> frozenset[str] | None:
    """Those of these names that parts of a role can have: a switch port named tap is no part of a hybrid port."""
    prefixes = LINK_PREFIXES if role is Role.LINK else SWITCH_PREFIXES
    return None if names is None else frozenset(name for name in names if name[:3] in prefixes)


def _seen_after(
    plans: Sequence[Sequence[Outcome]], executors: Mapping[Role, Executor], until: float
) -> list[Any] | None:
    outcomes = [outcome for plan in plans for outcome in plan]
    if any(outcome.result is not Result.DONE for outcome in outcomes):
        # The caller has to look more than once, or for longer than this request may take.
        return None
    keys = {key_of(outcome.step.part.name) or "" for outcome in outcomes}
    try:
        return _seen(frozenset(name for key in keys for name in names_of_key(key)), executors, until)
    except Exception as error:  # noqa: BLE001  # what has been done must be told, whatever a look may come to
        # Nothing for people: the caller looks for itself, and tells what comes of that.
        LOG.info("what was done could not be looked at: %s", error)
        return None


def _instant(deadline: object) -> float:
    """The caller's deadline, an instant of the host's monotonic clock, no later than we allow."""
    if type(deadline) is not float or math.isnan(deadline):
        raise Refused("refused: the deadline is no number")
    return min(deadline, time.monotonic() + MAX_DEADLINE)


def _executors() -> dict[Role, Executor]:
    settings = registry.configured()
    with _lock:
        if settings not in _started:
            _started[settings] = {role: registry.executor_of(role, settings) for role in Role}
            imports.close()
        executors = _started[settings]
    if any(executor.programs for executor in executors.values()):
        privileges.pass_on()
    return executors
