"""One lock a port, across the threads and the processes of a host.

The key is the 11 characters that name a port's devices, so two ports that collide share their lock; keys share 1,024
files, so that a host that has seen a million ports is not left with a million files. A bulk call takes its buckets in
ascending order, so that two of them cannot wait for each other.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from oslo_concurrency import lockutils

from hybridvif.model.errors import PreconditionError

BUCKETS = 1024
DELAY, MAX_DELAY = 0.0002, 0.005
"""Seconds between two looks at a lock that another process holds: the library polls, from 10 to 100 ms by default."""

_threads: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
# In a forked child nobody would ever give back what another thread held.
os.register_at_fork(after_in_child=_threads.clear)


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
        name = f"port-{bucket:04}"
        lock = lockutils.external_lock(name, lock_path=path)
        left = max(deadline - time.monotonic(), 0.001)
        try:
            lock.lockfile = _opened(os.path.join(path, name))
            taken = _taken_at_once(lock) or lock.acquire(delay=DELAY, max_delay=MAX_DELAY, timeout=left)
        except BlockingIOError as error:
            raise LockTimeout from error
        except OSError as error:
            raise _useless(path, error) from error
        if not taken:
            # fasteners closes its file only where it had the lock.
            lock.lockfile.close()
            raise LockTimeout
        try:
            yield
        finally:
            lock.release()
    finally:
        _threads[bucket].release()


def _taken_at_once(lock: Any) -> bool:
    """Whether nobody had it. To be ready to wait, and to log how long it was, takes the library as long again."""
    try:
        lock.trylock()
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        lock.lockfile.close()
        raise
    lock.acquired = True
    return True


def _make(path: str) -> None:
    try:
        try:
            itself = os.lstat(path)
        except FileNotFoundError:
            _make_anew(path)
            itself = os.lstat(path)
        # Of a link to it as well: who owns that says where it leads.
        owners = {itself.st_uid, os.stat(path).st_uid} - {0, os.geteuid()}
    except OSError as error:
        raise _useless(path, error) from error
    if owners:
        # Under /run/lock anyone can have made it, to hold our locks or to have root follow a link out of it.
        raise PreconditionError(
            f"the lock directory {path} belongs to user {min(owners)}, who is neither root nor this caller; "
            f"if that is a mistake, remove it or give it to root: chown root {path}"
        )


def _make_anew(path: str) -> None:
    try:
        _make_above(os.path.dirname(path))
        os.mkdir(path, 0o770)
    except FileExistsError:
        # Another caller was faster.
        return
    # Root and the service's user share it by its group; mkdir(2) heeds the umask and ignores the setgid bit.
    os.chmod(path, 0o2770)  # noqa: S103


def _make_above(path: str) -> None:
    """Make the directories above, for their owner to write alone whatever the umask."""
    if path and not os.path.isdir(path):
        _make_above(os.path.dirname(path))
        with suppress(FileExistsError):
            os.mkdir(path, 0o755)
            os.chmod(path, 0o755)  # noqa: S103


def _opened(name: str) -> io.FileIO:
    """The file of a lock, made if need be: group-writable whatever the umask, never through a link that is planted.

    fasteners locks what is open already, and opens nothing itself: that took twice as long, and followed links.
    """
    # Not blocking: for a file that another process holds a lease of, open(2) would wait 45 s for that to be given back.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with suppress(FileNotFoundError):
        return _regular(io.FileIO(os.open(name, flags), "r+"), name)
    try:
        fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o660)
    except FileExistsError:
        # Another caller was faster.
        return _regular(io.FileIO(os.open(name, flags), "r+"), name)
    file = io.FileIO(fd, "r+")
    try:
        os.fchmod(fd, 0o660)
    except OSError:
        file.close()
        raise
    return file


def _regular(file: io.FileIO, name: str) -> io.FileIO:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        # A fifo is locked as well as a file, and a device does whatever it does.
        raise OSError(errno.EINVAL, f"{name} is not a regular file, so remove it")
    return file


def _useless(path: str, error: OSError) -> PreconditionError:
    return PreconditionError(
        f"cannot lock ports under {path}: {error.strerror}; run as root or as the service's user, "
        "or set [hybridvif] lock_path to a directory that all callers of this host can write"
    )
