"""Read files from a directory in which a less privileged user can write.

Such a user may have put there a fifo that blocks open(2), a link to somewhere else, a device, or an endless file.
"""

from __future__ import annotations

import os
import stat


class Unfit(Exception):
    """The file is not one to read; the text says why."""


def read(path: str, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes, without blocking and without following a link.

    Raises FileNotFoundError, PermissionError, and Unfit if it is another kind of file, too large, or of a user who
    could only write it because everybody can.
    """
    try:
        # O_NONBLOCK: for a fifo, and for a file with a lease, open(2) would wait. O_NOCTTY: for a terminal.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        raise Unfit(f"it cannot be opened as a regular file ({error.strerror})") from error
    try:
        found = os.fstat(fd)
        reason = objection(found, os.stat(os.path.dirname(path) or "."))
        if not reason and found.st_size > limit:
            reason = f"it has {found.st_size} bytes, and may have {limit}"
        if reason:
            raise Unfit(reason)
        return _read_all(fd, limit)
    finally:
        os.close(fd)


def objection(found: os.stat_result, directory: os.stat_result) -> str:
    """Return why a file in a shared directory must not be used, in a few words; empty if it may be."""
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file"
    if found.st_nlink > 1:
        return f"it has {found.st_nlink} names, so it may be a file of somebody else"
    if found.st_mode & stat.S_IWOTH:
        return "everybody can write it"
    if directory.st_mode & stat.S_IWOTH and found.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {found.st_uid}, in a directory in which everybody can write"
    return ""


def _read_all(fd: int, limit: int) -> bytes:
    """Read to the end; raises Unfit if the file grows beyond the limit meanwhile."""
    content = b""
    try:
        while piece := os.read(fd, limit + 1 - len(content)):
            content += piece
            if len(content) > limit:
                raise Unfit(f"it has more than {limit} bytes")
    except OSError as error:
        raise Unfit(f"it cannot be read ({error.strerror})") from error
    return content
