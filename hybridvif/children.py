"""Programs that are started, with exit codes that are never made up.

A process that ignores SIGCHLD, or has a handler that waits for any child, loses the exit codes of its children;
subprocess.Popen then reports 0, as for a success. The signal's disposition is the embedding program's own, so it is
not changed here: a lost code is reported as LOST.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

LOST = -255
"""The exit code of a program that ended in an unknown way; negative, as of one that a signal killed."""
WHY_LOST = (
    "its exit code is lost, because this process ignores SIGCHLD or waits for any child; set SIGCHLD to its default"
)


class Child(subprocess.Popen[str]):
    """A Popen that reports LOST where subprocess would report 0."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._reaping = threading.Lock()
        super().__init__(*args, **options)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code: -N for signal N, LOST if nobody knows. Raises TimeoutExpired."""
        if self.returncode is None:
            with suppress(ChildProcessError, ProcessLookupError):
                self._await_end(timeout)
            with self._reaping:
                if self.returncode is None:
                    self.returncode = self._reaped()
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def _await_end(self, timeout: float | None) -> None:
        # Before the pid is waited for: that of a lost child may be another process's by now.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            return
        descriptor = os.pidfd_open(self.pid)
        try:
            # Not poll(2) itself, which a program that runs on eventlet has not.
            with selectors.DefaultSelector() as selector:
                selector.register(descriptor, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        finally:
            os.close(descriptor)

    def _reaped(self) -> int:
        # Not by Popen.wait(), which makes a code up, and under eventlet polls.
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            return LOST
        return os.waitstatus_to_exitcode(status)


def run(
    argv: Sequence[str], *, input: str | None = None, timeout: float, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as subprocess.run does; the exit code may be LOST. Raises OSError, TimeoutExpired."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        pipes["stdin"] = subprocess.PIPE
    with Child(argv, env=env, text=True, **pipes) as child:
        try:
            out, err = child.communicate(input, timeout=timeout)
        except BaseException:
            child.kill()
            raise
    return subprocess.CompletedProcess(list(argv), child.returncode, out, err)
