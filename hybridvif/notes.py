"""Since when something has been seen: what the kernel and OVSDB do not keep, kept in a file beside the locks.

A link has no date of birth, and a row none either. So what is found is noted, with the time; what is found again has
been there since. The time is that of the running kernel and is noted with the id of its boot: after a reboot nothing
has been seen before, and no change of the clock makes anything older.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Collection, Mapping

from hybridvif import locks
from hybridvif.errors import PreconditionError

FILE = "remains.json"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def noted(signs: Collection[str], path: str, deadline: float) -> dict[str, float]:
    """For how many seconds each has been noted; 0 for what is new. What is not among them is forgotten.

    path: the lock directory. Raises PreconditionError if it is of no use, locks.LockTimeout.
    """
    with locks.holding((FILE,), path, deadline):
        now, boot = time.monotonic(), _boot_id()
        known = _read(os.path.join(path, FILE), boot)
        since = {sign: min(known.get(sign, now), now) for sign in signs}
        if since != known:
            _write(os.path.join(path, FILE), boot, since)
    return {sign: now - at for sign, at in since.items()}


def _boot_id() -> str:
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


def _read(name: str, boot: str) -> dict[str, float]:
    """What was noted since this boot. A file that makes no sense says nothing: things are then noted anew."""
    try:
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="utf-8") as file:
            said = json.load(file)
    except (OSError, ValueError):
        return {}
    match said:
        case {"boot": str(of), "since": dict(since)} if of == boot:
            return {str(sign): float(at) for sign, at in since.items() if type(at) in (int, float)}
    return {}


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
    except OSError as error:
        raise PreconditionError(
            f"cannot note remains in {name}: {error.strerror}; run as root or as the service's user, "
            "or set [hybridvif] lock_path to a directory that all callers of this host can write"
        ) from error
