"""Safe reading of files in a directory that a less privileged user can write.

Such a user can put a fifo there that blocks open(2), a link to another place, a device, or an endless file.
"""

from __future__ import annotations

import os
import stat


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
