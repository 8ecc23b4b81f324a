"""The start of the daemon before the first request, by a stand-in for the helper."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from oslo_config import cfg

from hybridvif import check, connect, plug
from hybridvif.client.host import NoResponse
from hybridvif.model.errors import PreconditionError
from hybridvif.privileged.context import Context, daemon_context
from hybridvif.privileged.launch import command_for
from tests.support.strategies import PORT

DAEMON = """
import os, socket, sys, time
import msgpack
open({count!r}, "a").write("x")
time.sleep({delay})
channel = socket.socket(socket.AF_UNIX)
channel.connect(sys.argv[-1])
if os.fork():
    os._exit(0)
unpacker = msgpack.Unpacker()
while received := channel.recv(4096):
    unpacker.feed(received)
    for name, _ in unpacker:
        channel.sendall(msgpack.packb((name, (2,))))
open({count!r}, "a").write("end")
"""

FORKING = """
import os, sys, time
from oslo_config import cfg
from hybridvif.privileged.context import daemon_context as context
cfg.CONF.set_override("helper_command", sys.argv[1], "hybridvif_privileged")
context.begin()
if not (pid := os.fork()):
    sys.exit()
os.waitpid(pid, 0)
if context.reach(time.monotonic() + 10).running:
    print("running")
context.stop()
"""


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """The context without a daemon."""
    yield daemon_context
    daemon_context.stop()
    cfg.CONF.clear_override("helper_command", "hybridvif_privileged")


@pytest.fixture
def count(tmp_path: Path) -> Path:
    return tmp_path / "count"


def start_by(count: Path, delay: float = 0.0, helper: str = DAEMON) -> None:
    script = count.parent / "helper.py"
    script.write_text(helper.format(count=str(count), delay=delay))
    cfg.CONF.set_override("helper_command", f"{sys.executable} -P {script}", "hybridvif_privileged")


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def test_first_request_waits_for_daemon_being_started(context: Context, count: Path) -> None:
    start_by(count, 0.3)
    began = time.monotonic()
    context.begin()
    assert time.monotonic() - began < 0.25
    channel = context.reach(soon())
    context.begin()
    assert context.reach(soon()) is channel
    assert count.read_text() == "x"


def test_failed_start_is_raised_once_and_then_retried(context: Context, count: Path) -> None:
    start_by(count, helper="raise SystemExit('no sudo')")
    context.begin()
    with pytest.raises(PreconditionError, match="no sudo"):
        context.reach(soon())
    start_by(count)
    assert context.reach(soon()).running


@pytest.mark.parametrize("free", range(5))
def test_too_few_open_files_for_the_start_have_their_own_remedy(
    context: Context, count: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """The remedy was to run as root, or to set TMPDIR, and the directory of the socket remained."""
    start_by(count)
    monkeypatch.setenv("TMPDIR", str(count.parent))
    next_file = os.dup(0)
    os.close(next_file)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_file + free, hard))
    try:
        with pytest.raises(PreconditionError, match="raise the limit of open files"):
            context.reach(soon())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [path.name for path in count.parent.iterdir()] == ["helper.py"]


@pytest.mark.parametrize("executable", [None, ""])
def test_program_that_embeds_python_starts_the_helper(monkeypatch: pytest.MonkeyPatch, executable: object) -> None:
    """Python leaves sys.executable empty, or None, if it does not know its executable."""
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert command_for("/socket", None, dict)[0].startswith(os.path.join(sys.prefix, "bin", ""))


def test_end_of_forked_child_does_not_disturb_start(context: Context, count: Path) -> None:
    """The child deleted the directory of the socket at its exit."""
    start_by(count, 0.5)
    program = [sys.executable, "-P", "-c", FORKING, context.conf.helper_command]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "running\n"), done.stderr


def test_daemon_that_starts_after_stop_gets_no_connection(context: Context, count: Path) -> None:
    start_by(count, 0.3)
    context.begin()
    context.stop()
    time.sleep(0.6)
    assert count.read_text() == "x"
    assert context.channel is None


def test_daemon_that_a_request_starts_during_stop_is_closed(context: Context, count: Path) -> None:
    """It ran until the end of the process, without a host."""
    start_by(count, 0.5)
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(context.reach, soon())
        while not count.exists():
            time.sleep(0.01)
        context.stop()
        with pytest.raises(PreconditionError, match="closed while its daemon started"):
            request.result()
    assert context.channel is None
    while not count.read_text().endswith("end"):
        time.sleep(0.01)


def test_closed_host_starts_no_daemon(context: Context, count: Path) -> None:
    """A plug started one, which ran until the end of the process."""
    host = connect()
    host.close()
    start_by(count)
    for call in (lambda: plug(PORT, host), lambda: check(PORT, host), host.begin):
        with pytest.raises(PreconditionError, match="this host is closed"):
            call()
    assert not count.exists()


def test_deadline_ends_the_wait_for_a_start(context: Context, count: Path) -> None:
    start_by(count, 5)
    began = time.monotonic()
    with pytest.raises((NoResponse, PreconditionError)):
        context.reach(soon(0.3))
    assert time.monotonic() - began < 1
    assert not [name for name in os.listdir("/tmp") if name == "privsep.sock"]
