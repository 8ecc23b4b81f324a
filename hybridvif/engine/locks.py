"""Locks of ports, across the threads and processes of a host.

The key is the 11 characters in the names of the port's devices, so ports with the same names share a lock. All keys
share 1,024 files, so their number is bounded. A bulk call takes its locks in ascending order, which excludes a
deadlock.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
import struct
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from hybridvif.model.errors import HybridVifError, PreconditionError

BUCKETS = 1024
DELAY, MAX_DELAY = 0.0002, 0.005
"""Polling interval in seconds for a lock of another process. The default of fasteners is 10 to 100 ms."""
NOT_REGULAR = (errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENODEV, errno.ENXIO)
"""Errors if something else than a file has the name of a lock: a directory, a link, a device or a socket."""
_FLOCK = "hhqqi"
"""struct flock of fcntl(2): type, whence, start, length, pid."""

_threads: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
# In a forked child, the locks of other threads would never be released.
os.register_at_fork(after_in_child=_threads.clear)


class LockTimeout(HybridVifError):
    """Another caller held a lock until the deadline."""

    code = "busy"

    def __init__(self, message: str = "another caller was at work on this port; call again") -> None:
        super().__init__(message)


def bucket_of(key: str) -> int:
    """Return the number of the lock of a key, 0 to 1023. It is the same in each process and release."""
    return zlib.crc32(key.encode()) % BUCKETS


@contextmanager
def holding(keys: Iterable[str], path: str, deadline: float) -> Iterator[None]:
    """Hold the locks of these keys. Raises LockTimeout, PreconditionError if the directory cannot be used."""
    _require_directory(path)
    with ExitStack() as held:
        for bucket in sorted({bucket_of(key) for key in keys}):
            held.enter_context(_holding_bucket(bucket, path, deadline))
        yield


def busy(keys: Iterable[str], path: str) -> set[str]:
    """Return the keys whose lock is held. A lock that this user may not read counts as free. No lock is taken."""
    return {key for key in keys if _is_held(bucket_of(key), path)}


def _is_held(bucket: int, path: str) -> bool:
    if not _threads[bucket].acquire(blocking=False):
        return True
    # No thread of this process holds it, so closing the file releases no lock of ours.
    try:
        descriptor = os.open(_name_of(bucket, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with io.FileIO(descriptor) as file:
            question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            return bool(struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, question))[0] != fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        _threads[bucket].release()


def _name_of(bucket: int, path: str) -> str:
    return os.path.join(path, f"port-{bucket:04}")


@contextmanager
def _holding_bucket(bucket: int, path: str, deadline: float) -> Iterator[None]:
    if not _threads[bucket].acquire(timeout=max(deadline - time.monotonic(), 0)):
        raise LockTimeout
    name = _name_of(bucket, path)
    try:
        with _open(name) as file:
            _lock(file, name, deadline)
            # Closing the file releases the lock, in this process and if it dies.
            yield
    finally:
        _threads[bucket].release()


def _lock(file: io.FileIO, name: str, deadline: float) -> None:
    """Lock an open file. A free lock is acquired even after the deadline."""
    # Late: the import takes as long as all of ours, and doctor needs no lock.
    from oslo_concurrency import lockutils

    lock, delay = lockutils.external_lock("port", lock_path=os.path.dirname(name)), DELAY
    lock.lockfile = file
    try:
        while True:
            with suppress(BlockingIOError, PermissionError):
                lock.trylock()
                return
            if time.monotonic() >= deadline:
                raise LockTimeout
            time.sleep(min(delay, max(deadline - time.monotonic(), 0)))
            delay = min(delay + DELAY, MAX_DELAY)
    except OSError as error:
        raise _unusable(name, error) from error


def _require_directory(path: str) -> None:
    """Create the lock directory if it is missing. Raises PreconditionError if another user owns it."""
    try:
        try:
            itself = os.lstat(path)
        except FileNotFoundError:
            _create_directory(path)
            itself = os.lstat(path)
        # The owner of a symbolic link can point it elsewhere, so lstat() and stat() both count.
        owners = {itself.st_uid, os.stat(path).st_uid} - {0, os.geteuid()}
    except OSError as error:
        raise _unusable(path, error) from error
    if owners:
        # All users can write to /run/lock. The owner could hold our locks, or plant links for root to follow.
        raise PreconditionError(
            f"the lock directory {path} belongs to user {min(owners)}, who is neither root nor this caller; "
            f"if that is a mistake, remove it or give it to root: chown root {path}"
        )


def _create_directory(path: str) -> None:
    try:
        _create_parents(os.path.dirname(path))
        os.mkdir(path, 0o770)
    except FileExistsError:
        # Another caller created it.
        return
    # Root and the user of the service share it by its group. mkdir(2) applies the umask and ignores the setgid bit.
    os.chmod(path, 0o2770)  # noqa: S103


def _create_parents(path: str) -> None:
    """Create missing parent directories that only their owner can write, with any umask."""
    if path and not os.path.isdir(path):
        _create_parents(os.path.dirname(path))
        with suppress(FileExistsError):
            os.mkdir(path, 0o755)
            os.chmod(path, 0o755)  # noqa: S103


def _open(name: str) -> io.FileIO:
    """Open the file of a lock; create it if it is missing. It is writable for the group with any umask.

    fasteners locks an open file. If it opened the file itself, it would follow a planted link.
    """
    # O_NONBLOCK: if another process holds a lease on the file, open(2) would wait up to 45 s (fcntl(2)).
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        # Another caller may create it in between.
        for create in (0, os.O_CREAT | os.O_EXCL, 0):
            with suppress(FileNotFoundError, FileExistsError):
                return _checked(io.FileIO(os.open(name, flags | create, 0o660), "r+"), create)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    except BlockingIOError as error:
        raise LockTimeout from error
    except OSError as error:
        if error.errno in NOT_REGULAR:
            raise PreconditionError(f"cannot lock ports: {name} is not a regular file; remove it") from error
        raise _unusable(name, error) from error


def _checked(file: io.FileIO, is_new: int) -> io.FileIO:
    try:
        if is_new:
            os.fchmod(file.fileno(), 0o660)
        elif not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            # fcntl(2) locks a fifo as well. A device can have side effects.
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    except OSError:
        file.close()
        raise
    return file


def _unusable(path: str, error: OSError) -> PreconditionError:
    remedy = (
        "run as root or as the service's user, or set [hybridvif] lock_path to a directory that all callers of this "
        "host can write"
    )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = (
            "raise the limit of open files (ulimit -n, or LimitNOFILE= under systemd), or change fewer ports in one "
            "call: each has its own lock"
        )
    return PreconditionError(f"cannot lock ports with {path}: {error.strerror}; {remedy}")
