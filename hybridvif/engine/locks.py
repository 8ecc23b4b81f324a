"""The lock directory: locks of ports across the threads and processes of a host, and first-seen times of orphans.

The key of a lock is the 11 characters in the names of the port's devices, so ports with the same names share a lock.
All keys share 1,024 files, so their number is bounded. A bulk call takes its locks in ascending order, which excludes a
deadlock.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import logging
import os
import stat
import struct
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from hybridvif.model.errors import HybridVifError, PreconditionError

BUCKETS = 1024
DELAY, MAX_DELAY = 0.0002, 0.005
"""Polling interval in seconds for a lock of another process. The default of fasteners is 10 to 100 ms."""
NOT_REGULAR = (errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENODEV, errno.ENXIO)
"""Errors if something else than a file has the name of a lock: a directory, a link, a device or a socket."""
_FLOCK = "hhqqi"
"""struct flock of fcntl(2): type, whence, start, length, pid."""
_SAFELY = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""Flags to open a file in a directory that others can write: no link is followed, no terminal adopted.

O_NONBLOCK: open(2) would wait for a fifo, and up to 45 s if another process holds a lease on the file (fcntl(2))."""
FIRST_SEEN = "remains.json"
"""The file of the first-seen times."""
MAX_FIRST_SEEN = 4 * 1024 * 1024
"""Maximum size of that file in bytes: about 30,000 orphans."""
RECONCILED = "reconciled"
"""An empty file. Its time of change is that of the last reconcile."""
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
LOG = logging.getLogger(__name__)

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
        descriptor = os.open(_name_of(bucket, path), os.O_RDONLY | _SAFELY)
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
    # Not looked up again: a child that is forked inside the block has new locks.
    lock, name = _threads[bucket], _name_of(bucket, path)
    if not lock.acquire(timeout=max(deadline - time.monotonic(), 0)):
        raise LockTimeout
    try:
        with _open(name) as file:
            _lock(file, name, deadline)
            # Closing the file releases the lock, in this process and if it dies.
            yield
    finally:
        lock.release()


def _lock(file: io.FileIO, name: str, deadline: float) -> None:
    """Lock an open file. A free lock is acquired even after the deadline."""
    # Late: the import takes as long as all of ours, and doctor needs no lock.
    from oslo_concurrency import lockutils

    lock, delay = lockutils.external_lock("port", lock_path=os.path.dirname(name)), DELAY
    lock.lockfile = file
    while True:
        try:
            lock.trylock()
            return
        except (BlockingIOError, PermissionError):
            pass
        except OSError as error:
            raise _unusable(name, error) from error
        if time.monotonic() >= deadline:
            raise LockTimeout
        # A signal handler of the program may raise here, also an OSError.
        time.sleep(min(delay, max(deadline - time.monotonic(), 0)))
        delay = min(delay + DELAY, MAX_DELAY)


def _require_directory(path: str) -> None:
    """Create the lock directory if it is missing. Raises PreconditionError if another user owns it."""
    try:
        try:
            os.lstat(path)
        except FileNotFoundError:
            _create_directory(path)
        check_owners(path)
    except OSError as error:
        raise _unusable(path, error) from error


def check_owners(path: str) -> None:
    """Raise PreconditionError if another user owns the lock directory, and OSError if it is missing."""
    # The owner of a symbolic link can point it elsewhere, so lstat() and stat() both count.
    owners = {os.lstat(path).st_uid, os.stat(path).st_uid} - {0, os.geteuid()}
    if owners:
        # All users can write to /run/lock. The owner could hold our locks, or plant links for root to follow.
        raise PreconditionError(
            f"the lock directory {path} belongs to user {min(owners)}, who is neither root nor this caller; "
            f"if that is a mistake, remove it or give it to root: chown root {path}"
        )


def _create_directory(path: str, mode: int = 0o2770) -> None:
    """Create a directory with any umask, and its missing parents, which only their owner can write.

    Root and the user of the service share the lock directory by its group.
    """
    parent = os.path.dirname(path)
    if parent and not os.path.isdir(parent):
        _create_directory(parent, 0o755)
    # Another caller may create it first. mkdir(2) applies the umask and ignores the setgid bit.
    with suppress(FileExistsError):
        os.mkdir(path, mode & 0o777)
        os.chmod(path, mode)


def _open(name: str) -> io.FileIO:
    """Open the file of a lock; create it if it is missing. It is writable for the group with any umask.

    fasteners locks an open file. If it opened the file itself, it would follow a planted link.
    """
    try:
        # Another caller may create it in between.
        for create in (0, os.O_CREAT | os.O_EXCL, 0):
            with suppress(FileNotFoundError, FileExistsError):
                return _checked(io.FileIO(os.open(name, os.O_RDWR | _SAFELY | create, 0o660), "r+"), create)
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


def _unusable(path: str, error: OSError, purpose: str = "lock ports with") -> PreconditionError:
    reason = f"{error.strerror}; run as root or as the service's user"
    if isinstance(error, IsADirectoryError):
        reason = f"it or {path}.part is a directory; remove it"
    remedy = "or set [hybridvif] lock_path to a directory that all callers of this host can write"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        reason = f"{error.strerror}; raise the limit of open files (ulimit -n, or LimitNOFILE= under systemd)"
        remedy = "or change fewer ports in one call: each has its own lock"
    return PreconditionError(f"cannot {purpose} {path}: {reason}, {remedy}")


# -- first-seen times --------------------------------------------------------------------------------------------------

# Neither a link nor a row has a creation time. So each orphan gets a time when it is first seen, and keeps it. The
# times are those of the monotonic clock, stored with the boot id. A reboot therefore resets them, and a change of the
# system clock does not affect them.


def seconds_since_first_seen(signs: Collection[str], path: str, deadline: float) -> dict[str, float]:
    """Return the age of each orphan in seconds, by its fingerprint; 0 for a new one. Forget all others.

    path: the lock directory. Raises PreconditionError if it cannot be used, LockTimeout.
    """
    with holding((FIRST_SEEN,), path, deadline):
        now, boot = time.monotonic(), boot_id()
        known = _read(os.path.join(path, FIRST_SEEN), boot, now)
        since = {sign: known.get(sign, now) for sign in signs}
        if since != known:
            _write(os.path.join(path, FIRST_SEEN), boot, since)
    return {sign: now - first for sign, first in since.items()}


def boot_id() -> str:
    """Return the id of this boot. Raises PreconditionError if it cannot be read."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        raise PreconditionError(
            f"cannot read {_BOOT_ID}, which identifies this boot: {error.strerror}; "
            "mount a whole /proc (under systemd: ProcSubset=all)"
        ) from error


def _read(name: str, boot: str, now: float) -> dict[str, float]:
    """Return the times stored since this boot; {} with one log message if any of them is not valid.

    Other users can write to the lock directory. Their files must not make an orphan look older than it is.
    """
    try:
        match json.loads(read(name, MAX_FIRST_SEEN).decode()):
            case {"boot": str(boot_of_file), "since": dict()} if boot_of_file != boot:
                return {}
            case {"boot": str(), "since": dict(since)} if all(_is_past(seen, now) for seen in since.values()):
                return {sign: float(seen) for sign, seen in since.items()}
        raise ValueError("it lacks the boot or the times, or a time in it is not between the boot and now")
    except FileNotFoundError:
        return {}
    except (Unfit, PermissionError, ValueError, RecursionError) as error:
        LOG.error("%s is ignored, and the ages of orphans start again: %s", name, error)  # noqa: TRY400  # no traceback
        return {}


def _is_past(seen: object, now: float) -> bool:
    # The comparison precedes float(), which fails for an integer of 400 digits. It is false for NaN.
    return isinstance(seen, int | float) and not isinstance(seen, bool) and 0 <= seen <= now


def _write(name: str, boot: str, since: Mapping[str, float]) -> None:
    temporary = f"{name}.part"
    try:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        # Writable for the group with any umask, as the locks are. O_EXCL refuses a planted link.
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, 0o660)
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o660)
            json.dump({"boot": boot, "since": dict(since)}, file)
        os.replace(temporary, name)
    except OSError as error:
        raise _unusable(name, error, "store first-seen times in") from error


def note_reconcile(path: str) -> None:
    """Store the time of a reconcile in the lock directory. It is for monitoring only, so an error is ignored."""
    with suppress(OSError):
        descriptor = os.open(os.path.join(path, RECONCILED), os.O_WRONLY | os.O_CREAT | _SAFELY, 0o660)
        with io.FileIO(descriptor, "w") as file:
            os.utime(file.fileno())


def last_reconcile(path: str) -> float | None:
    """Return the time of the last reconcile in seconds since the epoch; None if none is known."""
    try:
        return os.lstat(os.path.join(path, RECONCILED)).st_mtime
    except OSError:
        return None


# -- a directory of others ---------------------------------------------------------------------------------------------


class Unfit(Exception):
    """The file must not be used. The text is the reason."""


def read(path: str, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes, without blocking and without following a link.

    Raises FileNotFoundError, PermissionError. Raises Unfit for another kind of file, a file that is too large, or one
    that another user may have put there.
    """
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, os.O_RDONLY | _SAFELY)) as file:
            if reason := _objection(os.fstat(file.fileno()), os.stat(os.path.dirname(path) or ".")):
                raise Unfit(reason)
            content = file.read(limit + 1)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        raise Unfit(f"it cannot be read as a regular file ({error.strerror})") from error
    if len(content) > limit:
        raise Unfit(f"it has more than {limit} bytes")
    return content


def _objection(status: os.stat_result, directory: os.stat_result) -> str:
    """Return the reason not to use a file in a shared directory, in a few words; empty if there is none."""
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    if status.st_nlink > 1:
        return f"it has {status.st_nlink} names, so it may be a file of another user"
    if status.st_mode & stat.S_IWOTH:
        return "everybody can write it"
    if directory.st_mode & stat.S_IWOTH and status.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {status.st_uid}, in a directory in which everybody can write"
    return ""
