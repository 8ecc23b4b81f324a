"""Connect to the caller's socket only, because the helper is root and the caller chooses --privsep_sock_path.

Otherwise the path could name a socket that only root may use, and its server would receive what the daemon sends. So
the socket is in a private directory, the caller owns both, and a process of the caller listens on it.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Mapping

from hybridvif.model.errors import PreconditionError

STARTERS = ("SUDO_UID", "PKEXEC_UID")
"""The variables that sudo and pkexec always set to the user id of their caller."""


def caller_of(environment: Mapping[str, str]) -> int | None:
    """Return the user who started this process as root; None if unknown.

    launch.py removes these variables, so only the program that started the helper can have set them.
    """
    if os.getuid() != 0:
        return os.getuid()
    return next((int(uid) for name in STARTERS if (uid := environment.get(name, "")).isdecimal()), None)


def connect(path: str, caller: int | None) -> socket.socket:
    """Connect to the caller's socket. Raises PreconditionError if it is not the caller's, or if nobody listens."""
    try:
        return _connect(path, caller)
    except (OSError, _Refused) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PreconditionError(
            f"refused: --privsep_sock_path: {reason}; it must be a socket on which the caller listens, in a directory "
            "of the caller's of mode 0700"
        ) from error


class _Refused(Exception):
    """The reason for which the socket is not used."""


def _connect(path: str, caller: int | None) -> socket.socket:
    directory, name = os.path.split(path)
    if not os.path.isabs(path):
        raise _Refused("it is not an absolute path")
    parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        owner = _owner_of(os.fstat(parent), caller)
        entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            return _connect_to(entry, owner)
        finally:
            os.close(entry)
    finally:
        os.close(parent)


def _owner_of(directory: os.stat_result, caller: int | None) -> int:
    if directory.st_mode & 0o077:
        raise _Refused(f"others may use its directory (mode {stat.S_IMODE(directory.st_mode):04o})")
    if caller is not None and directory.st_uid != caller:
        raise _Refused(f"its directory belongs to user {directory.st_uid}, and the caller is user {caller}")
    return directory.st_uid


def _connect_to(entry: int, owner: int) -> socket.socket:
    status = os.fstat(entry)
    if not stat.S_ISSOCK(status.st_mode):
        raise _Refused("it is not a socket")
    if status.st_uid != owner:
        raise _Refused(f"it belongs to user {status.st_uid}, and its directory to user {owner}")
    channel = socket.socket(socket.AF_UNIX)
    try:
        # By descriptor: the owner may have replaced the name by a link after the check.
        channel.connect(f"/proc/self/fd/{entry}")
        _, uid, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != owner:
            raise _Refused(f"user {uid} listens on it, and it belongs to user {owner}")
    except BaseException:
        channel.close()
        raise
    return channel
