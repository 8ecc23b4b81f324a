"""File descriptors and signals: what must hold before the command does anything, and while it writes its answer."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def secure() -> None:
    """Have descriptors 0 to 2 open, and have every character writable.

    A command started with one of them closed (`>&-`) would otherwise get it as its next socket, and hand that to the
    privileged daemon as its standard output.
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
    """Set what this process has inherited from its parent, and what would break it.

    A SIGCHLD that is ignored loses the exit codes of programs. A signal that is blocked ends nothing. A umask without
    the owner's bits makes directories that their own owner cannot use. Signals that are ignored stay so, as for nohup.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(os.umask(0o077) & 0o077)


class _Interrupts:
    """The signals that came."""

    count = 0
    deferred = False

    def take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The handler. Python calls it in the main thread, whichever thread the signal came to."""
        self.count += 1
        if not self.deferred:
            raise KeyboardInterrupt


_interrupts = _Interrupts()


@contextmanager
def interruptible(*, ends: bool) -> Iterator[None]:
    """SIGINT and SIGTERM end the command tidily, both as a KeyboardInterrupt.

    ends: the process ends with it, so that a signal that comes still later must not change the exit code.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        # What was ignored when the command was started, as by nohup, stays so.
        before = {number: was for number in _SIGNALS if (was := signal.getsignal(number)) is not signal.SIG_IGN}
    _interrupts.count = 0
    try:
        for number in before:
            signal.signal(number, _interrupts.take)
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, signal.SIG_IGN if ends else was)


def was_interrupted() -> bool:
    """Whether a signal came. Some libraries swallow a KeyboardInterrupt while they are imported, and fail later."""
    return _interrupts.count > 0


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals wait: a document is written whole or not at all, and then the command is over in any case."""
    _interrupts.deferred = True
    try:
        yield
    finally:
        _interrupts.deferred = False


def write(stream: IO[str], text: str) -> OSError | None:
    """Write and flush; what went wrong. That the reader has gone, as with `| head`, is its good right."""
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError) as error:
        _hang_up(stream)
        return error if isinstance(error, OSError) and not isinstance(error, BrokenPipeError) else None
    return None


def flush() -> None:
    """Before the process ends, so that nothing is left to fail then."""
    for stream in (sys.stdout, sys.stderr):
        write(stream, "")


def _hang_up(stream: IO[str]) -> None:
    """Whoever read the stream has gone: what is still buffered goes nowhere, quietly."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):
        pass
    finally:
        os.close(nowhere)
