"""The three requests that the daemon serves. A name that REQUESTS does not contain does not exist.

A result is data, ["ok", ...] or ["failed", code, message]. privsep would rebuild an exception from its args, in the
client. client/host.py sends the requests.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import select
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from hybridvif.executors.base import Executor, ExecutorError, Subscription, subscribed
from hybridvif.model.errors import HybridVifError, PreconditionError, Refused
from hybridvif.model.names import key_of, names_of_key
from hybridvif.model.parts import Role
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import MAX_DEADLINE, Settings
from hybridvif.model.state import Observed, Step, merge_observed
from hybridvif.privileged import authorize, codec, privileges
from hybridvif.privileged.channel import APPLY, OBSERVE, WATCH, Message, refusal
from hybridvif.privileged.execute import configured, execute, executor_of, failure_of, share
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
    return codec.encode_observed(_observed(_executors(), names, deadline))


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
    names = _names_of(step for plan in plans for step in plan)
    try:
        before = _observed(executors, names, share(deadline)) if names else Observed()
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
        with collecting() if is_traced else nullcontext() as spans, span("request"):
            result = request.serve(request.decode(question), deadline)
        return ["ok", result] if spans is None else ["ok", result, [threading.get_native_id(), spans[OWN]]]
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


def _checked(arguments: Collection[object]) -> tuple[object, float, bool]:
    """Return the question, the deadline, and whether the client asks for the spans. Raises Refused.

    The deadline of the client, an instant of CLOCK_MONOTONIC, is bounded by MAX_DEADLINE.
    """
    match tuple(arguments):
        case (question, float(deadline)) | (question, float(deadline), True) if not math.isnan(deadline):
            return question, min(deadline, time.monotonic() + MAX_DEADLINE), len(arguments) > 2
        case (_, _) | (_, _, True):
            raise Refused("refused: the deadline is no number")
    raise Refused("refused: a request takes a question and a deadline")


def _names_of(steps: Iterable[Step]) -> frozenset[str]:
    """Return all device names of the ports of these steps."""
    keys = {key_of(step.part.name) or "" for step in steps}
    return frozenset(name for key in keys for name in names_of_key(key))


def _observed(executors: Executors, names: frozenset[str] | None, deadline: float) -> Observed:
    """Observe every kind of object under these names, because Open vSwitch takes a device with the name of a row."""
    observations = []
    for executor in executors.values():
        try:
            with span(f"observe {executor.role.value}"):
                observations.append(executor.observe(names, deadline))
        except (HybridVifError, ExecutorError):
            raise
        except Exception as error:
            # An executor of a third party may raise anything.
            raise HybridVifError(f"{failure_of(executor, error)}; see the daemon's log") from error
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
        return codec.encode_observed(_observed(executors, names, deadline))
    except Exception as error:  # noqa: BLE001  # the outcomes must be returned, whatever the observation raises
        # Not a warning: the client observes by itself, and reports a failure of that.
        LOG.info("the host cannot be observed after the change: %s", error)
        return None


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


# -- watch -------------------------------------------------------------------------------------------------------------

# The result is that of `observe`, so a captured client learns nothing else. The daemon keeps nothing between two
# requests. It subscribes first and observes then, so no change is lost: not between two requests, not with a lost
# notification, and not with a daemon that dies. A value that changes there and back between two observations is not
# seen.


MAX_WATCHERS = 4
"""Largest number of requests that wait. Each takes a thread and a connection to OVSDB."""
GATHER = 0.05
"""Seconds between a notification and the observation: a plug causes a dozen notifications."""
REST, MAX_REST = 3, 0.25
"""Seconds of rest for each second of CPU of an observation without a change, and the maximum.

So a storm of notifications about objects of others costs a quarter of one CPU. It costs more if an observation takes
longer than 80 ms.
"""

_slots = threading.BoundedSemaphore(MAX_WATCHERS)


def next_observation(
    observe: Callable[[float], list[Any]],
    digest: str,
    executors: Collection[Executor],
    patience: float,
    deadline: float,
) -> list[Any] | None:
    """Return [digest, encoded observation] once the digest differs; None at the deadline. Raises ExecutorError.

    patience: the seconds that an observation may take, also at the deadline. The deadline may be an hour away.
    """
    if not _slots.acquire(blocking=False):
        raise Refused(f"refused: {MAX_WATCHERS} watch requests are waiting already")
    try:
        with ExitStack() as stack:
            soon = time.monotonic() + patience
            subscriptions = [stack.enter_context(closing(subscribed(each, soon))) for each in executors]
            rest = 0.0
            while True:
                started = time.thread_time()
                observed = observe(time.monotonic() + patience)
                current = digest_of(observed)
                if current != digest:
                    return [current, observed]
                time.sleep(rest)
                if not _wait(subscriptions, deadline):
                    return None
                time.sleep(GATHER)
                for subscription in subscriptions:
                    subscription.drain()
                # Not after the first observation: no notification was in vain.
                rest = min(REST * (time.thread_time() - started), MAX_REST)
    finally:
        _slots.release()


def digest_of(observed: Sequence[Any]) -> str:
    """Return the digest of an encoded observation. The order of parts and facts does not matter."""
    rows, facts = observed
    text = json.dumps([sorted(map(json.dumps, rows)), facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _wait(subscriptions: Sequence[Subscription], deadline: float) -> bool:
    """Wait for a notification. Return False at the deadline."""
    poll = select.poll()
    for subscription in subscriptions:
        poll.register(subscription, select.POLLIN)
    while (remaining := deadline - time.monotonic()) > 0:
        poll.poll(math.ceil(remaining * 1000))
        if any(subscription.drain() for subscription in subscriptions):
            return True
    return False
