"""The helper on its way: started, and the daemon behind it awaited on a socket, before anything of oslo's is imported.

To come up takes the daemon longer than anything that its caller does, most of which is to import oslo's libraries. So
a process of our own starts it first (cli/headstart.py); channel.py takes over what was started, or starts it itself.
The standard library alone is imported here.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from hybridvif.children import Child
from hybridvif.model.errors import PreconditionError

HELPER = "hybridvif-privsep-helper"
STARTERS = ("SUDO_UID", "PKEXEC_UID")
"""What programs that make a command root's set to the user id of their caller, whatever its environment says."""
CONTEXT = f"{__package__}.context.daemon_context"
LONGEST_PLACE = 107 - len("/hybridvif-xxxxxxxx/privsep.sock")
_PREFIX = "hybridvif-"


def temporary_directories() -> list[str]:
    """Return the places for the socket, best first.

    As tempfile has them, less the working directory, in which others may write, and names too long for a socket's.
    """
    named = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    places = [place for place in (*named, "/tmp", "/var/tmp", "/usr/tmp") if place]  # noqa: S108
    with contextlib.suppress(FileNotFoundError):
        places = [os.path.abspath(place) for place in places]
    # The name of a socket has 107 bytes at most (unix(7)); a TMPDIR may be longer.
    fitting = (place for place in places if os.path.isabs(place) and len(os.fsencode(place)) <= LONGEST_PLACE)
    return list(dict.fromkeys(fitting))


def private_directory() -> str:
    """Make a directory of mode 0700: the daemon connects to us, so there is nothing privileged to attack here.

    Raises PreconditionError if it can be made nowhere.
    """
    reasons = []
    for place in temporary_directories():
        try:
            return _made_in(place)
        except OSError as error:
            reasons.append(f"{place} ({error.strerror})")
    raise PreconditionError(
        f"no temporary directory can be used: {', '.join(reasons)}; set TMPDIR to a directory that this user can write"
    )


def _private_directory_at_once() -> str:
    """Make the like where the first place for it will do. Raises OSError."""
    return _made_in(temporary_directories()[0])


def _made_in(place: str) -> str:
    # Not by tempfile, which takes 5 ms to import.
    path = os.path.join(place, f"{_PREFIX}{os.urandom(4).hex()}")
    os.mkdir(path, 0o700)
    # The umask may lack even the owner's bits.
    os.chmod(path, 0o700)
    return path


@contextlib.contextmanager
def within_limits() -> Iterator[None]:
    """Turn a thread or a process that cannot be started into a PreconditionError."""
    try:
        yield
    except (RuntimeError, BlockingIOError) as error:
        # Of threading, and of fork(2). A thread that did not start cannot be joined either.
        if isinstance(error, RuntimeError) and "thread" not in str(error):
            raise
        limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        told = "" if limit == resource.RLIM_INFINITY else f" (RLIMIT_NPROC is {limit})"
        raise PreconditionError(
            f"no more processes or threads can be started{told}; raise the limit of this user (ulimit -u, or TasksMax= "
            "and LimitNPROC= under systemd)"
        ) from error


class Awaited:
    """A socket on which a daemon is to call, in a directory of its own, and the helper that starts the daemon."""

    def __init__(self, private_directory: Callable[[], str] = private_directory) -> None:
        self._private = self.path = ""
        self.listener = socket.socket(socket.AF_UNIX)
        # A thread may still wait for the daemon when the process ends.
        atexit.register(self.close)
        try:
            self._private = private_directory()
            self.path = os.path.join(self._private, "privsep.sock")
            self.listener.bind(self.path)
            self.listener.listen(1)
        except OSError as error:
            self.close()
            raise PreconditionError(
                f"no socket can be made in {self._private or 'a temporary directory'}: {error.strerror}; "
                "set TMPDIR to a directory that this user can write"
            ) from error
        except BaseException:
            self.close()
            raise
        self.command: list[str] = []
        self.helper: Child | None = None

    def start(self, command: list[str]) -> Child:
        """Start the helper, and do not wait for anything. Raises OSError, PreconditionError."""
        self.command = command
        # Both streams: oslo.log writes to stdout, and the caller's own stdout may be a document.
        with within_limits():
            self.helper = self._started(command)
        return self.helper

    @staticmethod
    def _started(command: list[str]) -> Child:
        return Child(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            # Who became root by sudo before that is not who starts the helper (peer.py).
            env={name: value for name, value in os.environ.items() if name not in STARTERS},
        )

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
    Their names are absolute (configfiles.py), because the daemon's working directory is another one.
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
    with contextlib.suppress(OSError, PreconditionError), contextlib.ExitStack() as made:
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
