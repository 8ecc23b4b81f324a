"""The three requests that the daemon serves. A name that REQUESTS does not contain does not exist.

A result is data, ["ok", ...] or ["failed", code, message]. privsep would rebuild an exception from its args, in the
client. client/host.py sends the requests.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from hybridvif.executors.base import Executor, ExecutorError
from hybridvif.model.errors import HybridVifError, PreconditionError, Refused
from hybridvif.model.names import LINK_PREFIXES, SWITCH_PREFIXES, key_of, names_of_key
from hybridvif.model.parts import Role
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import MAX_DEADLINE, Settings
from hybridvif.model.state import Observed, Step, merge_observed
from hybridvif.privileged import authorize, codec, privileges
from hybridvif.privileged.channel import APPLY, OBSERVE, WATCH, Message, refusal
from hybridvif.privileged.execute import configured, execute, executor_of, failure_of, share
from hybridvif.privileged.watch import next_observation
from hybridvif.spans import OWN, collecting, span

LOG = logging.getLogger(__name__)
Executors = Mapping[Role, Executor]
Plans = Sequence[Sequence[Step]]


class Request(NamedTuple):
    """A kind of request: the decoder of its argument, and the function that serves it by a deadline."""

    decode: Callable[[object], Any]
    serve: Callable[[Any, float], Any]


def _observe(names: frozenset[str] | None, deadline: float) -> list[Any]:
    authorize.permit_names(names)
    return codec.encode_observed(_observe_parts(_executors(), names, deadline))


def _watch(known: tuple[frozenset[str] | None, str], deadline: float) -> list[Any] | None:
    names, digest = known
    patience = configured().deadline
    return next_observation(partial(_observe, names), digest, _executors().values(), patience, deadline)


def apply(plans: Plans, deadline: float, executors: Executors | None = None) -> list[Any]:
    """Authorize and execute plans. Return their encoded outcomes, and the encoded observation after them.

    The host is observed once before the first step and once after the last. executors: by default the configured ones.
    Raises Refused if a plan breaks a rule by itself; then no step was executed.
    """
    settings = configured()
    authorize.permit_plans(plans, settings)
    executors = executors or _executors()
    try:
        before = _observe_names(executors, _names_of(step for plan in plans for step in plan), share(deadline))
    except ExecutorError as error:
        return [codec.encode_outcomes([tuple(map(error.outcome_of, plan)) for plan in plans]), None]
    with span("authorize"):
        refused = authorize.refusals(plans, before.state, settings)
    allowed = [() if index in refused else plan for index, plan in enumerate(plans)]
    outcomes = execute(allowed, executors, deadline)
    outcomes = [refused.get(index, done) for index, done in enumerate(outcomes)]
    return [codec.encode_outcomes(outcomes), _observe_after(outcomes, executors, deadline)]


REQUESTS: Mapping[str, Request] = {
    OBSERVE: Request(codec.decode_names, _observe),
    APPLY: Request(codec.decode_plans, apply),
    WATCH: Request(codec.decode_known, _watch),
}
"""The requests by their name in a message."""


def respond(message: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the response to a message. A message of another form, or for another function, is refused."""
    match message:
        case (Message.PING.value,):
            return (Message.PONG.value,)
        case (Message.CALL.value, str(name), tuple(arguments), dict(named)) if not named:
            if name not in REQUESTS:
                return refusal(f"{name[:80]!r} is no entry point")
            return Message.RET.value, call(REQUESTS[name], arguments)
    return refusal("no such request")


def call(request: Request, arguments: Collection[object]) -> list[Any]:
    """Serve a request. This is the boundary: every error is returned as data."""
    try:
        question, deadline, is_traced = _checked(arguments)
        instant = _instant(deadline)
        if not is_traced:
            return ["ok", request.serve(request.decode(question), instant)]
        with collecting() as spans:
            with span("request"):
                result = request.serve(request.decode(question), instant)
            return ["ok", result, [threading.get_native_id(), spans[OWN]]]
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


def _checked(arguments: Collection[object]) -> tuple[object, object, bool]:
    """Return the question, the deadline, and whether the client asks for the spans. Raises Refused."""
    match tuple(arguments):
        case (question, deadline):
            return question, deadline, False
        case (question, deadline, True):
            return question, deadline, True
    raise Refused("refused: a request takes a question and a deadline")


def _names_of(steps: Iterable[Step]) -> frozenset[str]:
    """Return all device names of the ports of these steps."""
    keys = {key_of(step.part.name) or "" for step in steps}
    return frozenset(name for key in keys for name in names_of_key(key))


def _observe_by(executor: Executor, names: frozenset[str] | None, deadline: float) -> Observed:
    try:
        with span(f"observe {executor.role.value}"):
            return executor.observe(names, deadline)
    except (HybridVifError, ExecutorError):
        raise
    except Exception as error:
        # An executor of a third party may raise anything.
        raise HybridVifError(f"{failure_of(executor, error)}; see the daemon's log") from error


def _observe_names(executors: Executors, names: frozenset[str], deadline: float) -> Observed:
    """Observe every kind of object under every name, because Open vSwitch takes a device with the name of a row."""
    return merge_observed(_observe_by(executor, names, deadline) for executor in executors.values() if names)


def _observe_parts(executors: Executors, names: frozenset[str] | None, deadline: float) -> Observed:
    """Observe the names that parts of each role can have: a switch port named tap is no part of a hybrid port."""
    prefixes = {Role.LINK: LINK_PREFIXES, Role.SWITCH: SWITCH_PREFIXES}
    observations = []
    for role, executor in executors.items():
        own = names and frozenset(name for name in names if name[:3] in prefixes[role])
        observations.append(_observe_by(executor, own, deadline))
    observed = merge_observed(observations)
    serves = frozenset(cls.kind for executor in executors.values() for cls in executor.serves)
    return replace(observed, facts=replace(observed.facts, serves=serves))


def _observe_after(plans: Sequence[Sequence[Outcome]], executors: Executors, deadline: float) -> list[Any] | None:
    """Return the encoded observation after the steps; None if it failed, or if a step did."""
    outcomes = [outcome for plan in plans for outcome in plan]
    if any(outcome.result is not Result.DONE for outcome in outcomes):
        # The client has to observe more than once then.
        return None
    try:
        names = _names_of(outcome.step for outcome in outcomes)
        return codec.encode_observed(_observe_parts(executors, names, deadline))
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
_started: dict[Settings, Executors] = {}
"""The executors by configuration. The daemon has one; a process without a daemon, such as a test, may have more."""


def _executors() -> Executors:
    settings = configured()
    with _lock:
        if settings not in _started:
            _started[settings] = {role: executor_of(role, settings) for role in Role}
            privileges.restrict_imports()
        executors = _started[settings]
    if any(executor.programs for executor in executors.values()):
        privileges.pass_on()
    return executors
