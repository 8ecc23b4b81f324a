"""A pytest plugin for tests of code that uses hybridvif.

recording_host   a simulated host in memory: no root, no daemon, no kernel; state, steps, fail()
sandbox          a sandbox with a real kernel and a real Open vSwitch, one per session
sandboxed_host   a Host connected to the sandbox; only the privileged daemon runs inside

A test is skipped if no sandbox can be created. With HYBRIDVIF_TEST_NO_SKIP set, it fails instead.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from hybridvif.client.host import Host
    from hybridvif.executors.recording import RecordingHost
    from hybridvif.testing.sandbox.box import Sandbox

__all__ = [
    "connected",
    "lacking",
    "recording_host",
    "sandbox",
    "sandboxed_host",
]
NO_SKIP = "HYBRIDVIF_TEST_NO_SKIP"


def lacking(reason: str) -> NoReturn:
    """Skip this test, or fail it if HYBRIDVIF_TEST_NO_SKIP is set."""
    if os.environ.get(NO_SKIP):
        pytest.fail(f"{NO_SKIP} is set, and this cannot be tested here: {reason}")
    pytest.skip(reason)


@contextlib.contextmanager
def connected(box: Sandbox, directory: Path, **options: object) -> Iterator[Host]:
    """Connect to the host of a sandbox. The calling process stays in its own namespaces.

    directory: for the configuration and the locks, outside of the sandbox's /run. options: options of [hybridvif].
    """
    from hybridvif import connect

    directory = directory.absolute()  # the working directory of the daemon differs
    config = directory / "hybridvif.conf"
    lines = {"lock_path": directory / "locks", **options}
    # Not the script hybridvif-privsep-helper: an environment with system site packages may lack it. -P: root runs this,
    # and other users may be able to write to the working directory.
    helper = [sys.executable, "-P", "-m", "hybridvif.privileged.helper"]
    command = shlex.join(box.entering([*helper, "--config-file", str(config)]))
    config.write_text(
        "[hybridvif]\n"
        + "".join(f"{name} = {value}\n" for name, value in lines.items())
        + f"[hybridvif_privileged]\nhelper_command = {command.replace('$', '$$')}\n",
        encoding="utf-8",
    )
    with connect([str(config)]) as host:
        yield host


@pytest.fixture
def recording_host() -> RecordingHost:
    """Create a simulated host in memory. Every step succeeds unless fail() is called."""
    from hybridvif.executors.recording import RecordingHost

    return RecordingHost()


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """Create a sandbox with Open vSwitch."""
    from hybridvif.testing.sandbox.box import Sandbox
    from hybridvif.testing.sandbox.missing import SandboxError

    try:
        box = Sandbox()
    except SandboxError as error:
        lacking(str(error))
    with box:
        yield box


@pytest.fixture
def sandboxed_host(sandbox: Sandbox, tmp_path: Path) -> Iterator[Host]:
    """Connect to the host of the sandbox, with the default executors."""
    with connected(sandbox, tmp_path) as host:
        yield host
