"""Connect to the caller's socket, and to no other: the helper is root, and --privsep_sock_path is the caller's choice.

A path that leads to a socket which only root may use would otherwise get what the daemon sends. So the socket lies in a
private directory of the caller's, the caller owns both, and a process of the caller's listens there.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Mapping

from hybridvif.model.errors import PreconditionError
from hybridvif.privileged.ahead import STARTERS


def caller_of(environment: Mapping[str, str]) -> int | None:
    """Return the user who had this process started as root; None if that is not known.

    ahead.py removes these variables, so they are of the program that started the helper, not of an earlier one.
    """
    if os.getuid() != 0:
        return os.getuid()
    return next((int(uid) for name in STARTERS if (uid := environment.get(name, "")).isdecimal()), None)


def connect(path: str, caller: int | None) -> socket.socket:
    """Connect to the caller's socket.

    Raises PreconditionError if it is not the caller's own, or if nobody listens there.
    """
    try:
        return _connected(path, caller)
    except (OSError, _Refused) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise PreconditionError(
            f"refused: --privsep_sock_path {path}: {why}; it must be a socket on which the caller listens, in a "
            "directory of the caller's of mode 0700"
        ) from error


class _Refused(Exception):
    """Why the socket is not used."""


def _connected(path: str, caller: int | None) -> socket.socket:
    directory, name = os.path.split(path)
    if not os.path.isabs(path):
        raise _Refused("it is not an absolute path")
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        owner = _owner_of(os.fstat(place), caller)
        entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
        try:
            return _listening(entry, owner)
        finally:
            os.close(entry)
    finally:
        os.close(place)


def _owner_of(directory: os.stat_result, caller: int | None) -> int:
    if directory.st_mode & 0o077:
        raise _Refused(f"others may use its directory (mode {stat.S_IMODE(directory.st_mode):04o})")
    if caller is not None and directory.st_uid != caller:
        raise _Refused(f"its directory belongs to user {directory.st_uid}, and the caller is user {caller}")
    return directory.st_uid


def _listening(entry: int, owner: int) -> socket.socket:
    found = os.fstat(entry)
    if not stat.S_ISSOCK(found.st_mode):
        raise _Refused("it is not a socket")
    if found.st_uid != owner:
        raise _Refused(f"it belongs to user {found.st_uid}, and its directory to user {owner}")
    channel = socket.socket(socket.AF_UNIX)
    try:
        # The very socket that was looked at: by its name, the owner could have put a link there meanwhile.
        channel.connect(f"/proc/self/fd/{entry}")
        _, uid, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != owner:
            raise _Refused(f"user {uid} listens on it, and it belongs to user {owner}")
    except BaseException:
        channel.close()
        raise
    return channel
