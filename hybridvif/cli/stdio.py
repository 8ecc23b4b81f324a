"""Standard streams and signals of the command."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO

from hybridvif.model.errors import HybridVifError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class OutputLost(HybridVifError):
    """The output could not be written."""

    code = "output-lost"


def secure() -> None:
    """Open closed descriptors 0 to 2, and make every character writable.

    If a descriptor is closed (`>&-`), the next socket gets its number. The daemon would inherit it as standard output.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # it stays open to the end
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def own_process() -> None:
    """Reset inherited signal settings and the umask.

    An ignored SIGCHLD loses the exit codes of programs. A blocked signal cannot end the command. With a umask that
    masks the owner's bits, the owner cannot use new directories. Ignored SIGINT and SIGTERM stay ignored (nohup).
    """
    sys.unraisablehook = _write_unraisable
    signal.signal(signal.SIGALRM, _interrupts.take)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(os.umask(0o077) & 0o077)


def _write_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Write an error that Python drops. An interrupt in a callback, as of an import lock, comes again after it."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
    elif _interrupts.take in map(signal.getsignal, _SIGNALS):
        signal.setitimer(signal.ITIMER_REAL, 0.01)


class _Interrupts:
    """The signal handler, with the count of received signals."""

    count = 0
    deferred = False

    def take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Handle a signal. Python calls this in the main thread."""
        self.count += 1
        if not self.deferred:
            raise KeyboardInterrupt


_interrupts = _Interrupts()


@contextmanager
def interruptible(*, ends: bool) -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM.

    ends: ignore both signals afterwards, so that a late one does not change the exit code of the process.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        # Signals ignored by the parent, as by nohup, stay ignored.
        before = {number: was for number in _SIGNALS if (was := signal.getsignal(number)) is not signal.SIG_IGN}
    _interrupts.count = 0
    try:
        for number in before:
            signal.signal(number, _interrupts.take)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, was in before.items():
            signal.signal(number, signal.SIG_IGN if ends else was)


def forget_interrupt() -> None:
    """Clear the mark of an interrupt inside of exec(), as of an import of dataclasses.

    Python ends by SIGINT if the mark is set, although the interrupt was handled (Modules/main.c, exit_sigint). It
    clears the mark when it executes source text (Python/pythonrun.c, run_eval_code_obj).
    """
    exec("")  # noqa: S102


def was_interrupted() -> bool:
    """Return True after a signal. Some libraries swallow a KeyboardInterrupt during import and fail later."""
    return _interrupts.count > 0


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer signals, so that a document is written whole. The command ends right afterwards."""
    _interrupts.deferred = True
    try:
        yield
    finally:
        _interrupts.deferred = False


def write(stream: IO[str], text: str) -> OSError | None:
    """Write and flush. Return the error, after which the stream discards its output; None if there was none."""
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError) as error:
        _discard(stream)
        return error if isinstance(error, OSError) else None
    return None


def print_text(text: str) -> None:
    """Write to stdout. Raises BrokenPipeError, as of `| head`, and OutputLost."""
    error = write(sys.stdout, text)
    if isinstance(error, BrokenPipeError):
        raise error
    if error is not None:
        raise OutputLost(f"the output could not be written to stdout: {error.strerror}; what was done is done")


def flush() -> None:
    """Flush both streams, so that Python has nothing to flush when the process ends."""
    for stream in (sys.stdout, sys.stderr):
        write(stream, "")


def _discard(stream: IO[str]) -> None:
    """Redirect a stream to /dev/null, so that its buffer is discarded without an error."""
    with open(os.devnull, "wb") as nowhere, suppress(OSError, ValueError):
        os.dup2(nowhere.fileno(), stream.fileno())
