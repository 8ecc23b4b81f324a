"""Fixtures for tests of code that plugs: yours and ours. A pytest plugin that loads nothing heavy.

recording_host   a host in memory: no root, no daemon, no kernel; state, steps, fail()
sandbox          a throw-away host with a real kernel and a real Open vSwitch (one a session)
sandboxed_host   that host, connected: the caller stays where it is, only the privileged daemon enters the sandbox

check_link_executor, check_switch_executor    the contract of an executor (testing.contract), for its author

Where a sandbox cannot be had the test is skipped with the reason; with HYBRIDVIF_TEST_NO_SKIP set it fails.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from hybridvif.client.host import Host
    from hybridvif.executors.recording import RecordingHost
    from hybridvif.testing.contract import check_link_executor, check_switch_executor
    from hybridvif.testing.sandbox import Sandbox

__all__ = [
    "check_link_executor",
    "check_switch_executor",
    "connected",
    "lacking",
    "recording_host",
    "sandbox",
    "sandboxed_host",
]
NO_SKIP = "HYBRIDVIF_TEST_NO_SKIP"


def __getattr__(name: str) -> Any:
    """The contract, loaded only where it is asked for: pytest loads this plugin in every run."""
    if name in ("check_link_executor", "check_switch_executor"):
        from hybridvif.testing import contract

        return getattr(contract, name)
    raise AttributeError(f"module 'hybridvif.testing.pytest_plugin' has no attribute {name!r}")


def lacking(reason: str) -> NoReturn:
    """Skip this test, or fail it where the environment says that nothing may be skipped."""
    if os.environ.get(NO_SKIP):
        pytest.fail(f"{NO_SKIP} is set, and this cannot be tested here: {reason}")
    pytest.skip(reason)


@contextlib.contextmanager
def connected(box: Sandbox, directory: Path, **options: object) -> Iterator[Host]:
    """A sandbox's host, connected with these options of [hybridvif]; the caller's own namespaces stay as they are.

    directory: where to keep the configuration and the locks, outside of the sandbox's /run.
    """
    from hybridvif import connect

    directory = directory.absolute()  # the daemon's working directory is another one
    config = directory / "hybridvif.conf"
    lines = {"lock_path": directory / "locks", **options}
    # Not the script hybridvif-privsep-helper: an environment that borrows its libraries has none. -P: it runs as root,
    # and the working directory may be one that others can write.
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
    """A host in memory, on which everything succeeds until told to fail."""
    from hybridvif.executors.recording import RecordingHost

    return RecordingHost()


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """A throw-away host with a real kernel and a real Open vSwitch, as good as this machine allows."""
    from hybridvif.testing.sandbox import Level, Sandbox, SandboxError, probe

    level, missing = probe()
    if level is Level.NONE:
        lacking("; ".join(f"{requirement.what}; try: {requirement.remedy}" for requirement in missing))
    try:
        box = Sandbox()
    except SandboxError as error:
        lacking(str(error))
    with box:
        yield box


@pytest.fixture
def sandboxed_host(sandbox: Sandbox, tmp_path: Path) -> Iterator[Host]:
    """A sandbox's host, connected; both executors are the default ones."""
    with connected(sandbox, tmp_path) as host:
        yield host
