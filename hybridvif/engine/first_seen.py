"""Since when something has been seen: what the kernel and OVSDB do not keep, kept in a file beside the locks.

A link has no date of birth, and a row none either. So what is found is noted, with the time; what is found again has
been there since. The time is that of the running kernel and is noted with the id of its boot: after a reboot nothing
has been seen before, and no change of the clock makes anything older.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Collection, Mapping

from hybridvif.engine import locks, shared_files
from hybridvif.model.errors import PreconditionError

FILE = "remains.json"
LIMIT = 4 * 1024 * 1024
"""Bytes that the file may have, some 30,000 remains."""
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
LOG = logging.getLogger(__name__)


def seconds_since_first_seen(signs: Collection[str], path: str, deadline: float) -> dict[str, float]:
    """For how many seconds each has been noted; 0 for what is new. What is not among them is forgotten.

    path: the lock directory. Raises PreconditionError if it is of no use, locks.LockTimeout.
    """
    with locks.holding((FILE,), path, deadline):
        now, boot = time.monotonic(), boot_id()
        known = _read(os.path.join(path, FILE), boot, now)
        since = {sign: known.get(sign, now) for sign in signs}
        if since != known:
            _write(os.path.join(path, FILE), boot, since)
    return {sign: now - at for sign, at in since.items()}


def boot_id() -> str:
    """Return the id of this boot. Raises PreconditionError if it cannot be read."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        raise PreconditionError(
            f"cannot read {_BOOT_ID}, which tells this boot from others: {error.strerror}; "
            "mount a whole /proc (under systemd: ProcSubset=all)"
        ) from error


def _read(name: str, boot: str, now: float) -> dict[str, float]:
    """Return what was noted since this boot; {} with one warning if any of it cannot be true.

    Others can write in the lock directory: what they write there must not make anything older than it is.
    """
    try:
        return _decoded(shared_files.read(name, LIMIT), boot, now)
    except FileNotFoundError:
        return {}
    except (shared_files.Unfit, PermissionError, ValueError, RecursionError) as error:
        LOG.error("%s is ignored, and remains are noted anew: %s", name, error)  # noqa: TRY400  # no traceback
        return {}


def _decoded(content: bytes, boot: str, now: float) -> dict[str, float]:
    """Return the times of a file; {} if it is of another boot. Raises ValueError, RecursionError if it is not ours."""
    match json.loads(content.decode()):
        case {"boot": str(seconds_since_first_seen), "since": dict(since)}:
            pass
        case _:
            raise ValueError("it lacks the boot or the times")
    if seconds_since_first_seen != boot:
        return {}
    # Compared before they become floats, since an integer of 400 digits does not. Nothing compares with NaN.
    if not all(type(seen) in (int, float) and 0 <= seen <= now for seen in since.values()):
        raise ValueError("a time in it is not between the boot and now")
    return {sign: float(seen) for sign, seen in since.items()}


def _write(name: str, boot: str, since: Mapping[str, float]) -> None:
    beside = f"{name}.part"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        # For the group whatever the umask, as the locks are; and never through a link that somebody has planted.
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o660)
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o660)
            json.dump({"boot": boot, "since": dict(since)}, file)
        os.replace(beside, name)
    except IsADirectoryError as error:
        raise PreconditionError(
            f"cannot note remains in {name}: it or {beside} is a directory; remove it, "
            "or set [hybridvif] lock_path to a directory that all callers of this host can write"
        ) from error
    except OSError as error:
        raise PreconditionError(
            f"cannot note remains in {name}: {error.strerror}; run as root or as the service's user, "
            "or set [hybridvif] lock_path to a directory that all callers of this host can write"
        ) from error
