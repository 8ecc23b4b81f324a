"""The Open vSwitch of a sandbox: its database, its two daemons and br-int.

A Runner runs the commands, so that a sandbox and a test outside of it can share this module.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from subprocess import CalledProcessError, CompletedProcess, TimeoutExpired
from typing import Literal

from hybridvif import children
from hybridvif.testing.sandbox import missing
from hybridvif.testing.sandbox.missing import SandboxError

Daemon = Literal["ovsdb-server", "ovs-vswitchd"]
DAEMONS: tuple[Daemon, ...] = ("ovsdb-server", "ovs-vswitchd")

RUN_DIRECTORY = "/run/openvswitch"
"""The default run directory of Open vSwitch programs, also known as /var/run/openvswitch."""
DATABASE = f"{RUN_DIRECTORY}/conf.db"
SOCKET = f"{RUN_DIRECTORY}/db.sock"

_START_TIMEOUT = 20.0


Runner = Callable[..., CompletedProcess[str]]
"""A function that runs a command, with the parameters and errors of run_here(): also Sandbox.run()."""


def run_here(
    argv: Sequence[str], *, check: bool = True, input: str | None = None, timeout: float = 60.0
) -> CompletedProcess[str]:
    """Run a command in the namespaces of this process. Raises as checked(), and TimeoutExpired."""
    return checked(argv, children.run(argv, input=input, timeout=timeout), check=check)


def checked(argv: Sequence[str], completed: CompletedProcess[str], *, check: bool) -> CompletedProcess[str]:
    """Return an ended program. Raises SandboxError if its exit code is lost, CalledProcessError if it is not 0."""
    if completed.returncode == children.LOST:
        raise SandboxError(f"{argv[0]} ended, and {children.WHY_LOST}")
    if check and completed.returncode != 0:
        error = CalledProcessError(completed.returncode, list(argv), completed.stdout, completed.stderr)
        error.add_note(completed.stderr)
        raise error
    return completed


def start_switch(runner: Runner, *, schema: str | None = None, database: str = DATABASE) -> None:
    """Create a database with br-int and start both daemons. On return br-int is up.

    schema: an older schema. database: another path. Raises SandboxError.
    """
    _checked(runner, [_path("ovsdb-tool"), "create", database, schema or missing.schema() or ""])
    start_daemon(runner, "ovsdb-server", database=database)
    # One transaction before ovs-vswitchd starts: a bridge that is "system" for a moment never comes up without the
    # kernel module.
    identity = [f"external_ids:system-id={uuid.uuid4()}", "external_ids:hostname=sandbox"]
    # On a real host ovs-ctl writes the version.
    version = runner([_path("ovs-vsctl"), "--version"]).stdout.split("\n")[0].split()[-1]
    root = ["set", "Open_vSwitch", ".", *identity, f"ovs_version={version}"]
    bridge = ["add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev"]
    _checked(runner, [_path("ovs-vsctl"), "--no-wait", "--timeout=10", *root, "--", *bridge])
    start_daemon(runner, "ovs-vswitchd")


def start_daemon(runner: Runner, name: Daemon, *, database: str = DATABASE, timeout: float = _START_TIMEOUT) -> None:
    """Start one daemon. On return it serves. Raises SandboxError."""
    own = {
        "ovsdb-server": [database, f"--remote=punix:{SOCKET}", "--remote=db:Open_vSwitch,Open_vSwitch,manager_options"],
        "ovs-vswitchd": [f"unix:{SOCKET}"],
    }[name]
    logs = [f"--log-file={log_file(name)}", "-vconsole:off", "-vsyslog:off"]
    _checked(runner, [_path(name), *own, f"--pidfile={pid_file(name)}", *logs, "--detach", "--no-chdir"], timeout)


def pid_file(name: Daemon) -> str:
    """Return the path of a daemon's pid file. The pid is that of the sandbox's pid namespace."""
    return f"{RUN_DIRECTORY}/{name}.pid"


def log_file(name: Daemon) -> str:
    """Return the path of a daemon's log file."""
    return f"{RUN_DIRECTORY}/{name}.log"


def _checked(runner: Runner, argv: Sequence[str], timeout: float = _START_TIMEOUT) -> None:
    name = os.path.basename(argv[0])
    try:
        runner(argv, check=True, timeout=timeout)
    except (CalledProcessError, TimeoutExpired) as error:
        log = runner(["tail", "-n", "1", f"{RUN_DIRECTORY}/{name}.log"], check=False).stdout
        last = (log.strip().splitlines() or ["no output"])[-1]
        if isinstance(error, TimeoutExpired):
            text = f"{name} was not ready in {timeout:g} s; the last line of its log: {last}"
        else:
            text = f"{name} failed: {(error.stderr.strip().splitlines() or [last])[-1]}"
        raise SandboxError(text) from error


def _path(name: str) -> str:
    path = missing.program(name)
    if path is None:
        raise SandboxError(f"{name} is not installed; install Open vSwitch")
    return path
