"""Start the privileged daemon: a listening socket in a private directory, and a helper whose daemon connects to it."""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import resource
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from hybridvif.children import LOST, Child
from hybridvif.model.errors import PreconditionError
from hybridvif.privileged.channel import CONTEXT
from hybridvif.privileged.helper import STARTERS

LOG = logging.getLogger(__name__)
HELPER = "hybridvif-privsep-helper"
LONGEST_DIRECTORY = 107 - len("/hybridvif-xxxxxxxx/privsep.sock")
"""The path of a socket has at most 107 bytes (unix(7))."""
POLL = 0.05
"""Seconds between two looks at a helper whose daemon has not connected."""
LIMITS = (errno.EAGAIN, errno.EMFILE, errno.ENFILE)
"""Errors of a limit on processes or open files (within_limits)."""
_REMEDY = "run as root, or set [hybridvif_privileged] helper_command"


class EndedAtOnce(PreconditionError):
    """The daemon exited before its first message."""


def private_directory() -> str:
    """Create a directory of mode 0700 for the socket. Raises PreconditionError if that is not possible anywhere."""
    reasons = []
    for parent in temporary_directories():
        path = os.path.join(parent, f"hybridvif-{os.urandom(4).hex()}")
        try:
            # Not by tempfile, which takes 5 ms to import.
            os.mkdir(path, 0o700)
            # The umask may lack even the owner's bits.
            os.chmod(path, 0o700)
            return path
        except OSError as error:
            reasons.append(f"{parent} ({error.strerror})")
    raise PreconditionError(
        f"no temporary directory can be used: {', '.join(reasons)}; set TMPDIR to a directory that this user can write"
    )


def _delete(directory: str) -> None:
    """Delete the directory of a socket. shutil.rmtree would need two more open files."""
    for delete, path in ((os.unlink, os.path.join(directory, "privsep.sock")), (os.rmdir, directory)):
        with contextlib.suppress(OSError):
            delete(path)


def temporary_directories() -> list[str]:
    """Return the candidate directories for the socket, best first.

    These are the directories of tempfile, except the working directory, where others may write, and long paths.
    """
    configured = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    paths = [path for path in (*configured, "/tmp", "/var/tmp", "/usr/tmp") if path]  # noqa: S108
    with contextlib.suppress(FileNotFoundError):
        paths = [os.path.abspath(path) for path in paths]
    fitting = (path for path in paths if os.path.isabs(path) and len(os.fsencode(path)) <= LONGEST_DIRECTORY)
    return list(dict.fromkeys(fitting))


@contextlib.contextmanager
def within_limits() -> Iterator[None]:
    """Raise PreconditionError if a thread or a process cannot be started, or a file cannot be opened."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise PreconditionError(
                "no more files can be opened; raise the limit of open files (ulimit -n, or LimitNOFILE= under systemd)"
            ) from error
        # Raised by threading and by fork(2), and if a thread that did not start is joined.
        is_of_thread = isinstance(error, RuntimeError) and "thread" in str(error)
        if not is_of_thread and not isinstance(error, BlockingIOError):
            raise
        limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        hint = "" if limit == resource.RLIM_INFINITY else f" (RLIMIT_NPROC is {limit})"
        raise PreconditionError(
            f"no more processes or threads can be started{hint}; raise the limit of this user (ulimit -u, or TasksMax= "
            "and LimitNPROC= under systemd)"
        ) from error


def command_for(path: str, configured: str | None, options_of: Callable[[], Mapping[str, Sequence[str]]]) -> list[str]:
    """Return the configured helper command for a path of the socket. By default it uses sudo, unless this user is root.

    options_of: returns config_file and config_dir of the client, so that both sides read the same configuration. The
    paths are absolute (config.py), because the daemon changes its working directory.
    """
    arguments = ["--privsep_context", CONTEXT, "--privsep_sock_path", path]
    if configured:
        return [*shlex.split(configured), *arguments]
    # A program that embeds Python may have no executable.
    python = sys.executable or os.path.join(sys.prefix, "bin", "python3")
    script = os.path.join(os.path.dirname(python), HELPER)
    command = [script] if os.path.exists(script) else []
    if os.geteuid() != 0:
        command = ["sudo", "--non-interactive", *(command or [HELPER])]
    elif not command:
        # A virtual environment with borrowed libraries has no scripts. -P: do not import from the working directory.
        command = [python, "-P", "-m", f"{__package__}.helper"]
    for option, values in options_of().items():
        for value in values:
            command += [f"--{option.replace('_', '-')}", value]
    return [*command, *arguments]


class Launch(contextlib.ExitStack):
    """A started helper, and the socket to which its daemon connects. Close it afterwards.

    close() closes the socket and deletes its directory. A daemon that is not accepted gets EOF then, and exits.
    """

    def __init__(self, command_of: Callable[[str], list[str]]) -> None:
        """Start the helper without waiting for it. Raises PreconditionError.

        command_of: returns the command for a path of the socket.
        """
        super().__init__()
        self._last_line = ""
        directory = private_directory()
        self.callback(_delete, directory)
        # The process may exit while the daemon is awaited.
        atexit.register(self._close_at_exit, os.getpid())
        self.callback(atexit.unregister, self._close_at_exit)
        try:
            self.command = command_of(os.path.join(directory, "privsep.sock"))
            self.listener = self._listen(directory)
            self._start()
        except BaseException:
            self.close()
            raise

    def _close_at_exit(self, pid: int) -> None:
        # In a forked child, another thread of the parent still waits for the daemon.
        if os.getpid() == pid:
            self.close()

    def _listen(self, directory: str) -> socket.socket:
        try:
            listener = self.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(os.path.join(directory, "privsep.sock"))
            listener.listen(1)
            return listener
        except OSError as error:
            if error.errno in LIMITS:
                raise
            raise PreconditionError(
                f"no socket can be made in {directory}: {error.strerror}; set TMPDIR to a directory that this user can "
                "write"
            ) from error

    def _start(self) -> None:
        LOG.info("starting the privileged daemon: %s", shlex.join(self.command))
        try:
            # Both streams: oslo.log writes to stdout, and the client's own stdout may be a document.
            self.helper = Child(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="backslashreplace",
                env={name: value for name, value in os.environ.items() if _is_inherited(name)},
            )
        except OSError as error:
            if error.errno in LIMITS:
                raise
            is_missing = isinstance(error, FileNotFoundError)
            raise self.failure(f"{self.command[0]!r} is not installed" if is_missing else str(error)) from error
        self._reader = threading.Thread(target=self._read_output, name="hybridvif-helper", daemon=True)
        self._reader.start()

    def accept(self, deadline: float) -> socket.socket:
        """Wait until the daemon connects, and return its socket. Raises PreconditionError."""
        while True:
            code = self.helper.poll()
            self.listener.settimeout(max(min(deadline - time.monotonic(), POLL), 0.01))
            try:
                channel, _ = self.listener.accept()
                channel.settimeout(None)
                return channel
            except TimeoutError as error:
                if error.args != ("timed out",):
                    # Raised by a signal handler of the program.
                    raise
            except OSError as error:
                if error.errno in LIMITS:
                    raise
                raise self.failure(str(error)) from error
            if code not in (None, 0, LOST):
                raise self._ended(code)
            if time.monotonic() >= deadline:
                break
        if code is None:
            with contextlib.suppress(PermissionError, subprocess.TimeoutExpired):
                # sudo runs as root, so an ordinary user cannot kill it.
                self.helper.kill()
                self.helper.wait(1)
            raise self.failure("the helper did not end by the deadline (does it ask for a password?)")
        raise self.failure((code == LOST and self._last_line) or "it did not connect by the deadline")

    def _ended(self, code: int) -> PreconditionError:
        if code < 0:
            return self.failure(f"the helper ended with code {code}", EndedAtOnce)
        self._reader.join(0.05)
        return self.failure(self._last_line or f"the helper ended with code {code}")

    def lost(self, deadline: float) -> PreconditionError:
        """Return the error for a daemon that disconnected before its first message."""
        # A helper that cannot drop its privileges prints the reason and exits.
        self.wait(min(deadline, time.monotonic() + 1))
        code = self.helper.poll()
        return self._ended(code) if code and code > 0 else self.failure("it ended at once", EndedAtOnce)

    def failure(self, reason: str, kind: type[PreconditionError] = PreconditionError) -> PreconditionError:
        """Return an error with the remedy."""
        return kind(
            f"cannot start the privileged daemon: {reason} (helper_command = {shlex.join(self.command[:3])} ...); "
            f"{_REMEDY}; without root you can still look: hybridvif plan, hybridvif demo"
        )

    def wait(self, deadline: float) -> None:
        """Wait for the helper, which exits as soon as its daemon runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.helper.wait(max(deadline - time.monotonic(), 0.1))

    def _read_output(self) -> None:
        if (output := self.helper.stdout) is not None:
            with output:
                for line in filter(None, map(str.strip, output)):
                    self._last_line = line.rstrip(".")
                    LOG.info("privileged daemon: %s", line)
        self.helper.wait()


def _is_inherited(name: str) -> bool:
    """Return whether the helper gets this variable.

    The user of an earlier sudo does not start the helper (helper.py). Variables such as OS_PASSWORD are credentials of
    a cloud, but OS_GROUP__OPTION is an option of oslo.config.
    """
    return name not in STARTERS and (not name.startswith("OS_") or "__" in name)
