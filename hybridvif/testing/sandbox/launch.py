"""The caller's side of a sandbox: start the process that becomes the sandbox."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import NoReturn

from hybridvif.testing.sandbox.capability import Level, Requirement
from hybridvif.testing.sandbox.commands import Command, Response

ROOT = str(Path(__file__).parents[3])
"""The directory from which hybridvif is imported: a checkout or site-packages."""

# enter() blocks SIGINT until here, so that an interrupt during the start of Python prints no traceback.
_START = (
    "import signal, sys\n"
    "signal.getsignal(signal.SIGINT) == signal.SIG_IGN or signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])\n"
    "sys.path.append(sys.argv.pop(1))\n"
    "from hybridvif.testing.sandbox.outer import main; main()"
)


def command_line(command: Command) -> list[str]:
    """Return the command line of the process that becomes the sandbox.

    A separate process is needed because a process with threads cannot create a user namespace (EINVAL). It is isolated
    (-I) from the caller's working directory and PYTHON* variables.
    """
    no_bytecode = ["-B"] if sys.flags.dont_write_bytecode else []
    return [sys.executable, "-I", *no_bytecode, "-c", _START, ROOT, command.to_json()]


def probe() -> tuple[Level, tuple[Requirement, ...]]:
    """Return the best level for this user on this host, and the missing requirements of a better one.

    Creates namespaces with a bridge, and deletes them again.
    """
    answers, their_answers = os.pipe()
    command = Command(probe=True, answers=their_answers)
    with (
        open(answers, encoding="utf-8") as reader,
        Popen(command_line(command), pass_fds=[their_answers], stdin=DEVNULL),
    ):
        os.close(their_answers)
        answer = Response.from_json(reader.read())
    return answer.level, answer.missing


def enter(argv: Sequence[str], *, level: Level | None = None, quiet: bool = False) -> NoReturn:
    """Replace this process by a sandbox that runs the command. The exit code is that of the command, or 128+n.

    An empty command means the user's shell, with a greeting. Missing requirements of a better level are printed to
    stderr unless quiet. The exit code is 5 if no sandbox of the level can be created.
    """
    shell = os.environ.get("SHELL") or "bash"
    command = Command(argv=tuple(argv) or (shell,), level=level, greet=not argv, quiet=quiet)
    sys.stdout.flush()
    sys.stderr.flush()
    line = command_line(command)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.execv(line[0], line)
