"""One lock a port, across the threads and the processes of a host.

The key is the 11 characters that name a port's devices, so two ports that collide share their lock; keys share 1,024
files, so that a host that has seen a million ports is not left with a million files. A bulk call takes its buckets in
ascending order, so that two of them cannot wait for each other.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from oslo_concurrency import lockutils

from hybridvif.errors import PreconditionError

BUCKETS = 1024
DELAY, MAX_DELAY = 0.0002, 0.005
"""Seconds between two looks at a lock that another process holds: the library polls, from 10 to 100 ms by default."""

_threads: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)


class LockTimeout(Exception):
    """Another caller held the lock until the deadline."""


def bucket_of(key: str) -> int:
    """Which of the 1,024 locks a key has; the same in every process."""
    return zlib.crc32(key.encode()) % BUCKETS


@contextmanager
def holding(keys: Iterable[str], path: str, deadline: float) -> Iterator[None]:
    """Hold the locks of these keys. Raises LockTimeout, PreconditionError if the directory is of no use."""
    _make(path)
    with ExitStack() as held:
        for bucket in sorted({bucket_of(key) for key in keys}):
            held.enter_context(_holding_one(bucket, path, deadline))
        yield


@contextmanager
def _holding_one(bucket: int, path: str, deadline: float) -> Iterator[None]:
    if not _threads[bucket].acquire(timeout=max(deadline - time.monotonic(), 0)):
        raise LockTimeout
    try:
        lock = lockutils.external_lock(f"port-{bucket:04}", lock_path=path)
        left = max(deadline - time.monotonic(), 0.001)
        try:
            taken = lock.acquire(delay=DELAY, max_delay=MAX_DELAY, timeout=left)
        except OSError as error:
            raise _useless(path, error) from error
        if not taken:
            raise LockTimeout
        try:
            yield
        finally:
            lock.release()
    finally:
        _threads[bucket].release()


def _make(path: str) -> None:
    try:
        # Group-writable and setgid: root and the service's user share it.
        os.makedirs(path, mode=0o2770, exist_ok=True)
    except OSError as error:
        raise _useless(path, error) from error


def _useless(path: str, error: OSError) -> PreconditionError:
    return PreconditionError(
        f"cannot lock ports under {path}: {error.strerror}; run as root or as the service's user, "
        "or set [hybridvif] lock_path to a directory that all callers of this host can write"
    )
