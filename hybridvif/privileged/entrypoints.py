"""What the daemon answers: observe and apply. Nothing else runs with privileges.

Its twin is host.py, which asks. Both return data only, ["ok", ...] or ["failed", code, sentence]: privsep rebuilds an
exception from its args, in the caller.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from hybridvif import wire
from hybridvif.errors import HybridVifError, PreconditionError, Refused
from hybridvif.executors.base import Executor, ExecutorError, observing
from hybridvif.facts import together
from hybridvif.parts import Role
from hybridvif.privileged import batches, identification, imports, policy, posture, registry
from hybridvif.privileged.context import entrypoint
from hybridvif.settings import MAX_DEADLINE

LOG = logging.getLogger(__name__)

_lock = threading.Lock()
_state: dict[str, Any] = {}


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
        except Exception as error:
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
    asked = wire.decode_names(names)
    policy.permit_names(asked)
    executors = _executors().values()
    with ExitStack() as asking:
        # All are asked before the first is waited for.
        answers = [asking.enter_context(observing(executor, asked, until)) for executor in executors]
        seen = together(answer() for answer in answers)
    serves = frozenset(cls.kind for executor in executors for cls in executor.serves)
    return wire.encode_observed(replace(seen, facts=replace(seen.facts, serves=serves)))


@entrypoint
@_answering
def apply(plans: object, deadline: object) -> Any:
    """Carry out plans, one a port; all are decoded and permitted, and their ports known, before any step runs."""
    until = _instant(deadline)
    decoded = wire.decode_plans(plans)
    executors = _executors()
    settings = registry.configured()
    policy.permit_plans(decoded, settings)
    refused = identification.refusals(decoded, executors, settings.allows, batches.share(until))
    left = [() if at in refused else plan for at, plan in enumerate(decoded)]
    outcomes = batches.carry_out(left, executors, until)
    return wire.encode_outcomes([refused.get(at, done) for at, done in enumerate(outcomes)])


def _instant(deadline: object) -> float:
    """The caller's deadline, an instant of the host's monotonic clock, no later than we allow."""
    if type(deadline) is not float or math.isnan(deadline):
        raise Refused("refused: the deadline is no number")
    return min(deadline, time.monotonic() + MAX_DEADLINE)


def _executors() -> dict[Role, Executor]:
    settings = registry.configured()
    with _lock:
        if "executors" not in _state:
            _state["executors"] = {role: registry.executor_of(role, settings) for role in Role}
            imports.close()
        executors: dict[Role, Executor] = _state["executors"]
    if any(executor.programs for executor in executors.values()):
        posture.pass_on()
    return executors
