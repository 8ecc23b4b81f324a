"""The two requests that the daemon serves. A name that REQUESTS does not contain does not exist.

A response is data, ["ok", ...] or ["failed", code, message]. privsep would rebuild an exception from its args, in the
client. client/host.py sends the requests. This module imports nothing of oslo.privsep.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from hybridvif.executors.base import Executor, ExecutorError
from hybridvif.model.errors import HybridVifError, PreconditionError, Refused
from hybridvif.model.names import LINK_PREFIXES, SWITCH_PREFIXES, key_of, names_of_key
from hybridvif.model.parts import Role
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import MAX_DEADLINE, Settings
from hybridvif.model.state import Observed, merge_observed
from hybridvif.model.steps import Step
from hybridvif.privileged import authorize, codec, imports, privileges, registry
from hybridvif.privileged.execute import execute, share

LOG = logging.getLogger(__name__)


class Request(NamedTuple):
    """A kind of request: the decoder of its argument, and the function that serves it by a deadline."""

    decode: Callable[[object], Any]
    serve: Callable[[Any, float], Any]


def _serve_observe(names: frozenset[str] | None, deadline: float) -> list[Any]:
    authorize.permit_names(names)
    return codec.encode_observed(_observe_all(_executors(), names, deadline))


def _serve_apply(plans: Sequence[Sequence[Step]], deadline: float) -> list[Any]:
    executors, settings = _executors(), registry.configured()
    authorize.permit_plans(plans, settings)
    refused = authorize.refusals(plans, executors, settings, share(deadline))
    allowed = [() if index in refused else plan for index, plan in enumerate(plans)]
    outcomes = execute(allowed, executors, deadline)
    outcomes = [refused.get(index, done) for index, done in enumerate(outcomes)]
    return [codec.encode_outcomes(outcomes), _observe_after(outcomes, executors, deadline)]


REQUESTS: Mapping[str, Request] = {
    f"{__name__}.observe": Request(codec.decode_names, _serve_observe),
    f"{__name__}.apply": Request(codec.decode_plans, _serve_apply),
}
"""The requests by their name on the wire."""


def observe(*arguments: object) -> list[Any]:
    """Return the parts and facts under some names, or under all of our names for None."""
    return respond(REQUESTS[f"{__name__}.observe"], arguments)


def apply(*arguments: object) -> list[Any]:
    """Carry out plans, one per port. Return their outcomes and, if all steps succeeded, an observation.

    All plans are decoded and authorized before the first step runs.
    """
    return respond(REQUESTS[f"{__name__}.apply"], arguments)


def respond(request: Request, arguments: Collection[object]) -> list[Any]:
    """Serve a request. This is the boundary: every error is returned as data."""
    try:
        if len(arguments) != 2:
            raise Refused("refused: a request takes a question and a deadline")
        question, deadline = arguments
        instant = _instant(deadline)
        return ["ok", request.serve(request.decode(question), instant)]
    except HybridVifError as error:
        LOG.warning("%s", error)
        return ["failed", error.code, str(error)]
    except ExecutorError as error:
        return ["failed", PreconditionError.code if error.precondition else "no-answer", str(error)]
    except (Exception, SystemExit) as error:
        # An executor of a third party may raise anything.
        LOG.exception("the daemon failed to answer")
        reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        return ["failed", HybridVifError.code, f"the daemon failed: {reason}; see its log"]


def _observe_all(executors: Mapping[Role, Executor], names: frozenset[str] | None, deadline: float) -> Observed:
    observed = merge_observed(
        executor.observe(_names_for(role, names), deadline) for role, executor in executors.items()
    )
    serves = frozenset(cls.kind for executor in executors.values() for cls in executor.serves)
    return replace(observed, facts=replace(observed.facts, serves=serves))


def _names_for(role: Role, names: frozenset[str] | None) -> frozenset[str] | None:
    """Return the names that parts of a role can have: a switch port named tap is no part of a hybrid port."""
    prefixes = LINK_PREFIXES if role is Role.LINK else SWITCH_PREFIXES
    return None if names is None else frozenset(name for name in names if name[:3] in prefixes)


def _observe_after(
    plans: Sequence[Sequence[Outcome]], executors: Mapping[Role, Executor], deadline: float
) -> list[Any] | None:
    """Return the encoded observation after the steps; None if it failed, or if a step did."""
    outcomes = [outcome for plan in plans for outcome in plan]
    if any(outcome.result is not Result.DONE for outcome in outcomes):
        # The client has to observe more than once then.
        return None
    keys = {key_of(outcome.step.part.name) or "" for outcome in outcomes}
    names = frozenset(name for key in keys for name in names_of_key(key))
    try:
        return codec.encode_observed(_observe_all(executors, names, deadline))
    except Exception as error:  # noqa: BLE001  # the outcomes must be returned, whatever the observation raises
        # Not a warning: the client observes by itself, and reports a failure of that.
        LOG.info("the host cannot be observed after the change: %s", error)
        return None


def _instant(deadline: object) -> float:
    """Return the client's deadline, an instant of CLOCK_MONOTONIC, bounded by MAX_DEADLINE."""
    if type(deadline) is not float or math.isnan(deadline):
        raise Refused("refused: the deadline is no number")
    return min(deadline, time.monotonic() + MAX_DEADLINE)


_lock = threading.Lock()
_started: dict[Settings, dict[Role, Executor]] = {}
"""The executors by configuration. The daemon has one; a process without a daemon, such as a test, may have more."""


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
