"""Child processes with correct exit codes.

A process that ignores SIGCHLD, or that waits for any child in a handler, loses the exit codes of its children.
subprocess.Popen then returns 0, as for success. The handler belongs to the embedding program, so this module does not
change it. It returns LOST for a lost code.
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
"""Exit code of a program whose real code is lost. It is negative, as after a signal."""
WHY_LOST = (
    "its exit code is lost, because this process ignores SIGCHLD or waits for any child; set SIGCHLD to its default"
)


class Child(subprocess.Popen[str]):
    """A Popen that returns LOST if the exit code is lost."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._reaping = threading.Lock()
        super().__init__(*args, **options)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code: -N after signal N, LOST if it is lost. Raises TimeoutExpired."""
        if self.returncode is None:
            with suppress(ChildProcessError, ProcessLookupError):
                self._await_end(timeout)
            with self._reaping:
                if self.returncode is None:
                    self.returncode = self._reap()
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code. None: the program is running."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def _await_end(self, timeout: float | None) -> None:
        # waitid(2) comes first and fails for a lost child, whose pid may belong to another process by now.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            return
        descriptor = os.pidfd_open(self.pid)
        try:
            # Not select.poll: eventlet removes it from the module select.
            with selectors.DefaultSelector() as selector:
                selector.register(descriptor, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        finally:
            os.close(descriptor)

    def _reap(self) -> int:
        # Not Popen.wait(): it returns 0 for a lost code, and under eventlet it polls.
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            return LOST
        return os.waitstatus_to_exitcode(status)


def run(
    argv: Sequence[str], *, input: str | None = None, timeout: float, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program, as subprocess.run() does. The exit code may be LOST. Raises OSError, TimeoutExpired."""
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
