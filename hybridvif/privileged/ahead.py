"""The helper on its way: started, and the daemon behind it awaited on a socket, before anything of oslo's is imported.

To come up takes the daemon longer than anything that its caller does, most of which is to import oslo's libraries. So
a process of our own starts it first (cli/headstart.py); channel.py takes over what was started, or starts it itself.
The standard library alone is imported here.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

HELPER = "hybridvif-privsep-helper"
CONTEXT = f"{__package__}.context.daemon_context"
LONGEST_PLACE = 107 - len("/hybridvif-xxxxxxxx/privsep.sock")
_PREFIX = "hybridvif-"


def _private_directory() -> str:
    """A directory of mode 0700: the daemon connects to us, so there is nothing privileged to attack here."""
    import tempfile

    # The name of a socket has 107 bytes at most (unix(7)); a TMPDIR may be longer.
    short = len(os.fsencode(tempfile.gettempdir())) <= LONGEST_PLACE
    return tempfile.mkdtemp(prefix=_PREFIX, dir=None if short else "/tmp")  # noqa: S108


def _private_directory_at_once() -> str:
    """The like where the first place for it will do, without tempfile, which takes 5 ms to import. Raises OSError."""
    place = os.path.abspath(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108
    if len(os.fsencode(place)) > LONGEST_PLACE:
        place = "/tmp"  # noqa: S108
    path = os.path.join(place, f"{_PREFIX}{os.urandom(4).hex()}")
    os.mkdir(path, 0o700)
    return path


class Awaited:
    """A socket on which a daemon is to call, in a directory of its own, and the helper that starts the daemon."""

    def __init__(self, private_directory: Callable[[], str] = _private_directory) -> None:
        self._private = self.path = ""
        self.listener = socket.socket(socket.AF_UNIX)
        # A thread may still wait for the daemon when the process ends.
        atexit.register(self.close)
        try:
            self._private = private_directory()
            self.path = os.path.join(self._private, "privsep.sock")
            self.listener.bind(self.path)
            self.listener.listen(1)
        except BaseException:
            self.close()
            raise
        self.command: list[str] = []
        self.helper: subprocess.Popen[str] | None = None

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        """Start the helper, and do not wait for anything. Raises OSError."""
        self.command = command
        # Both streams: oslo.log writes to stdout, and the caller's own stdout may be a document.
        self.helper = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
        )
        return self.helper

    def close(self) -> None:
        """Await nobody any more; a daemon that has called and was not heard finds the line dead, and ends."""
        atexit.unregister(self.close)
        self.listener.close()
        for remove, what in ((os.unlink, self.path), (os.rmdir, self._private)):
            with contextlib.suppress(OSError):
                remove(what)

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def command_of(path: str, options: Mapping[str, Sequence[str]]) -> list[str]:
    """The command that starts the daemon where nothing else is configured. As root no sudo is needed.

    options: config_file and config_dir, what the program itself was configured with, so that both sides read the same.
    """
    command = helper_found()
    if os.geteuid() != 0:
        command = ["sudo", "--non-interactive", *(command or [HELPER])]
    elif not command:
        # An environment that borrows its libraries has no scripts. -P: not from the caller's working directory.
        command = [sys.executable, "-P", "-m", f"{__package__}.helper"]
    for option, values in options.items():
        for value in values:
            command += [f"--{option.replace('_', '-')}", value]
    return [*command, "--privsep_context", CONTEXT, "--privsep_sock_path", path]


def helper_found() -> list[str]:
    """Our console script beside this interpreter; empty if there is none."""
    beside = os.path.join(os.path.dirname(sys.executable), HELPER)
    return [beside] if os.path.exists(beside) else []


_begun: list[Awaited] = []
"""What was started ahead and nobody has taken yet: one, or none."""


def begin(command: Callable[[str], list[str]]) -> None:
    """Start the helper now, for whoever takes it. What hinders that is told to who starts it in due course.

    command: what starts it, by the path of the socket.
    """
    with contextlib.suppress(OSError), contextlib.ExitStack() as made:
        awaited = Awaited(_private_directory_at_once)
        made.callback(_end, awaited)
        awaited.start(command(awaited.path))
        made.pop_all()
        _begun.append(awaited)


def taken(command: Callable[[str], list[str]]) -> Awaited | None:
    """What was started ahead, if it was by the very command that would start it now; it is the caller's to close."""
    awaited = _pop()
    if awaited is not None and awaited.command != command(awaited.path):
        _end(awaited)
        return None
    return awaited


def discard() -> None:
    """End what was started ahead and nobody has taken."""
    awaited = _pop()
    if awaited is not None:
        _end(awaited)


def _pop() -> Awaited | None:
    # In one step: who takes it and who discards it may be two threads.
    with contextlib.suppress(IndexError):
        return _begun.pop()
    return None


def _end(awaited: Awaited) -> None:
    awaited.close()
    if awaited.helper is not None:
        with awaited.helper as helper:
            helper.kill()
