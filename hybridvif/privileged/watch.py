"""The request `watch`: an observation, returned as soon as it differs from the one that the client has.

Its result is that of `observe`, so a captured client learns nothing else. The daemon keeps nothing between two
requests. It subscribes first and observes then, so no change is lost: not between two requests, not with a lost
notification, and not with a daemon that dies. A value that changes there and back between two observations is not seen.
"""

from __future__ import annotations

import hashlib
import json
import math
import select
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from typing import Any

from hybridvif.executors.base import Executor, Subscription, subscribed
from hybridvif.model.errors import Refused

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
