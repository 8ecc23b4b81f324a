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
from contextlib import ExitStack

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
        with ExitStack() as opened:
            return _connect(path, caller, opened)
    except OSError as error:
        raise _refused(error.strerror or "") from error


def _connect(path: str, caller: int | None, opened: ExitStack) -> socket.socket:
    directory, name = os.path.split(path)
    _require(os.path.isabs(path), "it is not an absolute path")
    parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    opened.callback(os.close, parent)
    status = os.fstat(parent)
    owner = status.st_uid
    _require(not status.st_mode & 0o077, f"others may use its directory (mode {stat.S_IMODE(status.st_mode):04o})")
    _require(caller in (None, owner), f"its directory belongs to user {owner}, and the caller is user {caller}")
    entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    opened.callback(os.close, entry)
    status = os.fstat(entry)
    _require(stat.S_ISSOCK(status.st_mode), "it is not a socket")
    _require(status.st_uid == owner, f"it belongs to user {status.st_uid}, and its directory to user {owner}")
    with socket.socket(socket.AF_UNIX) as channel:
        # By descriptor: the owner may have replaced the name by a link after the check.
        channel.connect(f"/proc/self/fd/{entry}")
        _, uid, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        _require(uid == owner, f"user {uid} listens on it, and it belongs to user {owner}")
        return socket.socket(fileno=channel.detach())


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise _refused(reason)


def _refused(reason: str) -> PreconditionError:
    return PreconditionError(
        f"refused: --privsep_sock_path: {reason}; it must be a socket on which the caller listens, in a directory of "
        "the caller's of mode 0700"
    )
