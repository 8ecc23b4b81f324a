"""The caller's side of a sandbox: start the process that becomes it, and exchange one message each way.

caller --Command, as an argument--> process --Response, one JSON line on stdout--> caller
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from hybridvif.testing.sandbox.missing import Requirement, SandboxError, search_path

ROOT = str(Path(__file__).parents[3])
"""The directory from which hybridvif is imported: a checkout or site-packages."""
PROMISE = "links, Open vSwitch with br-int (netdev datapath), packets"
"""A short description of a sandbox."""
OWN_DIRECTORY = "/run/hybridvif-sandbox"
"""The directory for files of the sandbox, in its own /run."""
PROGRAMS = f"{OWN_DIRECTORY}/bin"
TEMPORARY = f"{OWN_DIRECTORY}/temporary"

# enter() blocks SIGINT until here, so that an interrupt during the start of Python prints no traceback.
_START = (
    "import signal, sys\n"
    "signal.getsignal(signal.SIGINT) == signal.SIG_IGN or signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])\n"
    "sys.path.append(sys.argv.pop(1))\n"
    "from hybridvif.testing.sandbox.process import main; main()"
)


class Command(NamedTuple):
    """The kind of sandbox, and the program to run in it."""

    argv: Sequence[str] = ()
    """The program to run, in the foreground. If it is empty, the caller gets a Response."""
    caller: int = 0
    """The pid of the caller. Without argv, the sandbox ends with it and with its stdin."""
    switch: bool = True
    """True to start Open vSwitch."""
    probe: bool = False
    """True to report only the unmet requirement."""
    greet: bool = False
    """True to print a description, and how to leave, to stderr."""
    quiet: bool = False
    """True to omit the missing requirements on stderr."""


class Response(NamedTuple):
    """The outcome of the setup."""

    unmet: Requirement | None = None
    """The requirement without which no sandbox is possible."""
    missing: tuple[Requirement, ...] = ()
    """The unmet requirements without which a sandbox does less."""
    pid: int = 0
    """The pid of the first process, in the pid namespace of the caller."""

    @classmethod
    def from_json(cls, text: bytes) -> Response:
        """Decode the line. Raises SandboxError if the sandbox ended before it wrote one."""
        if not text.endswith(b"\n"):
            raise SandboxError("the sandbox died before it was ready; see its last words on stderr and try again")
        unmet, missing, pid = json.loads(text)
        return cls(Requirement(*unmet) if unmet else None, tuple(Requirement(*item) for item in missing), pid)


def command_line(command: Command) -> list[str]:
    """Return the command line of the process that becomes the sandbox.

    A separate process is needed because a process with threads cannot create a user namespace (EINVAL). It is isolated
    (-I) from the caller's working directory and PYTHON* variables.
    """
    no_bytecode = ["-B"] if sys.flags.dont_write_bytecode else []
    return [sys.executable, "-I", *no_bytecode, "-c", _START, ROOT, json.dumps(command)]


def probe() -> Requirement | None:
    """Return the first requirement of a sandbox that this host does not meet for this user; None: it meets all.

    Creates namespaces with a bridge, and deletes them again.
    """
    line = command_line(Command(probe=True, caller=os.getpid()))
    ran = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    return Response.from_json(ran.stdout).unmet


def enter(argv: Sequence[str], *, quiet: bool = False) -> NoReturn:
    """Replace this process by a sandbox that runs the command. The exit code is that of the command, or 128+n.

    An empty command means the user's shell, with a greeting. Missing optional requirements are printed to stderr unless
    quiet. The exit code is 5 if no sandbox can be created.
    """
    shell = os.environ.get("SHELL") or "bash"
    line = command_line(Command(argv=argv or [shell], greet=not argv, quiet=quiet))
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.execv(line[0], line)


def here() -> bool:
    """Return True inside a sandbox."""
    return os.path.isdir(OWN_DIRECTORY)


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's environment without OVS_* variables, with a PATH to all required programs.

    `hybridvif` in this PATH is the one that created the sandbox, installed or not, in a virtualenv or not.
    """
    kept = {name: value for name, value in base.items() if not name.startswith("OVS_")}
    path = [PROGRAMS, *search_path(kept).split(":"), os.path.dirname(sys.executable)]
    kept["PATH"] = ":".join(dict.fromkeys(path))
    # A checkout only: a site-packages directory in PYTHONPATH would come before the standard library.
    own = [] if os.path.basename(ROOT) in ("site-packages", "dist-packages") else [ROOT]
    if own or "PYTHONPATH" in kept:
        # An empty element means the working directory.
        kept["PYTHONPATH"] = ":".join(dict.fromkeys(filter(None, [*own, *kept.get("PYTHONPATH", "").split(":")])))
    kept["TMPDIR"] = TEMPORARY  # temporary files are deleted with the sandbox
    kept["debian_chroot"] = "sandbox"  # Debian's and Ubuntu's bashrc show it in the prompt
    return kept


def working_directory() -> str | None:
    """Return the working directory of this process; None if it has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
