"""Start the helper, and wait for its daemon to connect to a socket.

The daemon takes longer to start than its client takes to import oslo's libraries. So the command line starts the daemon
first (cli/headstart.py), and channel.py takes it over. This module imports the standard library only.
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
"""The variables that sudo and pkexec always set to the user id of their caller."""
CONTEXT = f"{__package__}.context.daemon_context"
LONGEST_DIRECTORY = 107 - len("/hybridvif-xxxxxxxx/privsep.sock")
_PREFIX = "hybridvif-"


def temporary_directories() -> list[str]:
    """Return the candidate directories for the socket, best first.

    These are the directories of tempfile, except the working directory, where others may write, and long paths.
    """
    configured = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    paths = [path for path in (*configured, "/tmp", "/var/tmp", "/usr/tmp") if path]  # noqa: S108
    with contextlib.suppress(FileNotFoundError):
        paths = [os.path.abspath(path) for path in paths]
    # The path of a socket has at most 107 bytes (unix(7)).
    fitting = (path for path in paths if os.path.isabs(path) and len(os.fsencode(path)) <= LONGEST_DIRECTORY)
    return list(dict.fromkeys(fitting))


def private_directory() -> str:
    """Create a directory of mode 0700 for the socket. Raises PreconditionError if that is not possible anywhere."""
    reasons = []
    for parent in temporary_directories():
        try:
            return _create_in(parent)
        except OSError as error:
            reasons.append(f"{parent} ({error.strerror})")
    raise PreconditionError(
        f"no temporary directory can be used: {', '.join(reasons)}; set TMPDIR to a directory that this user can write"
    )


def _create_in(parent: str) -> str:
    # Not by tempfile, which takes 5 ms to import.
    path = os.path.join(parent, f"{_PREFIX}{os.urandom(4).hex()}")
    os.mkdir(path, 0o700)
    # The umask may lack even the owner's bits.
    os.chmod(path, 0o700)
    return path


@contextlib.contextmanager
def within_limits() -> Iterator[None]:
    """Raise PreconditionError if a thread or a process cannot be started."""
    try:
        yield
    except (RuntimeError, BlockingIOError) as error:
        # Raised by threading and by fork(2), and if a thread that did not start is joined.
        if isinstance(error, RuntimeError) and "thread" not in str(error):
            raise
        limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        hint = "" if limit == resource.RLIM_INFINITY else f" (RLIMIT_NPROC is {limit})"
        raise PreconditionError(
            f"no more processes or threads can be started{hint}; raise the limit of this user (ulimit -u, or TasksMax= "
            "and LimitNPROC= under systemd)"
        ) from error


class Awaited:
    """A listening socket in a private directory, and the helper whose daemon connects to it."""

    def __init__(self, private_directory: Callable[[], str] = private_directory) -> None:
        self._private = self.path = ""
        self.listener = socket.socket(socket.AF_UNIX)
        # A thread may still wait for the daemon when the process exits.
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
        """Start the helper without waiting for it. Raises OSError, PreconditionError."""
        self.command = command
        # Both streams: oslo.log writes to stdout, and the client's own stdout may be a document.
        with within_limits():
            self.helper = Child(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="backslashreplace",
                # The user of an earlier sudo does not start the helper (peer.py).
                env={name: value for name, value in os.environ.items() if name not in STARTERS},
            )
        return self.helper

    def close(self) -> None:
        """Close the listening socket and delete the directory. A daemon that has connected gets EOF and exits."""
        atexit.unregister(self.close)
        self.listener.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        with contextlib.suppress(OSError):
            os.rmdir(self._private)

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def command_of(path: str, options: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the default command that starts the daemon; with sudo unless this user is root.

    options: config_file and config_dir of the client, so that both sides read the same configuration. The paths are
    absolute (config_files.py), because the daemon changes its working directory.
    """
    command = helper_found()
    if os.geteuid() != 0:
        command = ["sudo", "--non-interactive", *(command or [HELPER])]
    elif not command:
        # A virtual environment with borrowed libraries has no scripts. -P: do not import from the working directory.
        command = [sys.executable, "-P", "-m", f"{__package__}.helper"]
    for option, values in options.items():
        for value in values:
            command += [f"--{option.replace('_', '-')}", value]
    return [*command, "--privsep_context", CONTEXT, "--privsep_sock_path", path]


def helper_found() -> list[str]:
    """Return the console script beside this interpreter; empty if it does not exist."""
    path = os.path.join(os.path.dirname(sys.executable), HELPER)
    return [path] if os.path.exists(path) else []


_begun: list[Awaited] = []
"""The helper that was started early and is not in use yet: one, or none."""


def begin(command: Callable[[str], list[str]]) -> None:
    """Start the helper early. Errors are ignored: the regular start meets them again, and reports them.

    command: returns the command for a path of the socket.
    """
    with contextlib.suppress(OSError, PreconditionError), contextlib.ExitStack() as stack:
        awaited = Awaited(lambda: _create_in(temporary_directories()[0]))
        stack.callback(_end, awaited)
        awaited.start(command(awaited.path))
        stack.pop_all()
        _begun.append(awaited)


def taken(command: Callable[[str], list[str]]) -> Awaited | None:
    """Return the helper that was started early, if by the same command. The caller closes it. None: there is none."""
    awaited = _pop()
    if awaited is not None and awaited.command != command(awaited.path):
        _end(awaited)
        return None
    return awaited


def discard() -> None:
    """End a helper that was started early and is not in use."""
    awaited = _pop()
    if awaited is not None:
        _end(awaited)


def _pop() -> Awaited | None:
    # Atomically: two threads may call taken() and discard().
    with contextlib.suppress(IndexError):
        return _begun.pop()
    return None


def _end(awaited: Awaited) -> None:
    awaited.close()
    if awaited.helper is not None:
        with awaited.helper as helper:
            helper.kill()
