"""First-seen times of orphans, in a file next to the locks.

Neither a link nor a row has a creation time. So each orphan gets a time when it is first seen, and keeps it. The times
are those of the monotonic clock, stored with the boot id. A reboot therefore resets them, and a change of the system
clock does not affect them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import time
from collections.abc import Collection, Mapping

from hybridvif.engine import locks
from hybridvif.model.errors import PreconditionError

FILE = "remains.json"
LIMIT = 4 * 1024 * 1024
"""Maximum size of the file in bytes: about 30,000 orphans."""
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
LOG = logging.getLogger(__name__)


def seconds_since_first_seen(signs: Collection[str], path: str, deadline: float) -> dict[str, float]:
    """Return the age of each orphan in seconds, by its fingerprint; 0 for a new one. Forget all others.

    path: the lock directory. Raises PreconditionError if it cannot be used, locks.LockTimeout.
    """
    with locks.holding((FILE,), path, deadline):
        now, boot = time.monotonic(), boot_id()
        known = _read(os.path.join(path, FILE), boot, now)
        since = {sign: known.get(sign, now) for sign in signs}
        if since != known:
            _write(os.path.join(path, FILE), boot, since)
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
        return _decoded(read(name, LIMIT), boot, now)
    except FileNotFoundError:
        return {}
    except (Unfit, PermissionError, ValueError, RecursionError) as error:
        LOG.error("%s is ignored, and the ages of orphans start again: %s", name, error)  # noqa: TRY400  # no traceback
        return {}


def _decoded(content: bytes, boot: str, now: float) -> dict[str, float]:
    """Return the times of a file; {} for another boot. Raises ValueError, RecursionError for other content."""
    match json.loads(content.decode()):
        case {"boot": str(boot_of_file), "since": dict(since)}:
            pass
        case _:
            raise ValueError("it lacks the boot or the times")
    if boot_of_file != boot:
        return {}
    # The comparison precedes float(), which fails for an integer of 400 digits. It is false for NaN.
    if not all(type(seen) in (int, float) and 0 <= seen <= now for seen in since.values()):
        raise ValueError("a time in it is not between the boot and now")
    return {sign: float(seen) for sign, seen in since.items()}


def _write(name: str, boot: str, since: Mapping[str, float]) -> None:
    temporary = f"{name}.part"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        # Writable for the group with any umask, as the locks are. O_EXCL and O_NOFOLLOW refuse a planted link.
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o660)
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o660)
            json.dump({"boot": boot, "since": dict(since)}, file)
        os.replace(temporary, name)
    except OSError as error:
        reason = f"{error.strerror}; run as root or as the service's user"
        if isinstance(error, IsADirectoryError):
            reason = f"it or {temporary} is a directory; remove it"
        raise PreconditionError(
            f"cannot store first-seen times in {name}: {reason}, "
            "or set [hybridvif] lock_path to a directory that all callers of this host can write"
        ) from error


# -- the last reconcile ------------------------------------------------------------------------------------------------

RECONCILED = "reconciled"
"""An empty file. Its time of change is that of the last reconcile."""


def note_reconcile(path: str) -> None:
    """Store the time of a reconcile in the lock directory. It is for monitoring only, so an error is ignored."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        fd = os.open(os.path.join(path, RECONCILED), flags, 0o660)
        try:
            os.utime(fd)
        finally:
            os.close(fd)


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
    # O_NONBLOCK: open(2) would wait for a fifo or a lease. O_NOCTTY: it would adopt a terminal.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
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
