"""The caller's side: how a process that is to become a sandbox is started."""

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
"""Where this very hybridvif is imported from: a checkout or a site-packages directory."""

# An interrupt while Python starts is no traceback: enter() holds it back until here.
_START = (
    "import signal, sys\n"
    "signal.getsignal(signal.SIGINT) == signal.SIG_IGN or signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])\n"
    "sys.path.append(sys.argv.pop(1))\n"
    "from hybridvif.testing.sandbox.outer import main; main()"
)


def command_line(command: Command) -> list[str]:
    """The command line of the process that becomes the sandbox.

    It is a process of its own, since a user namespace is refused to a process with threads (EINVAL); isolated (-I),
    since neither the caller's directory nor its PYTHON* variables may decide what is imported.
    """
    no_bytecode = ["-B"] if sys.flags.dont_write_bytecode else []
    return [sys.executable, "-I", *no_bytecode, "-c", _START, ROOT, command.to_json()]


def probe() -> tuple[Level, tuple[Requirement, ...]]:
    """Return the best level that this user can have here, and the requirements missing for a better one.

    Namespaces and a bridge in them are really made, and gone on return.
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
    """Replace this process by a sandbox that runs the command; its exit code becomes this one's, 128+n for signal n.

    An empty command is the user's shell, with a greeting. What is missing for a better level is said on stderr unless
    quiet. Where no sandbox, or not one of the level wanted, can be had, the exit code is 5 and stderr says why.
    """
    shell = os.environ.get("SHELL") or "bash"
    command = Command(argv=tuple(argv) or (shell,), level=level, greet=not argv, quiet=quiet)
    sys.stdout.flush()
    sys.stderr.flush()
    line = command_line(command)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.execv(line[0], line)
