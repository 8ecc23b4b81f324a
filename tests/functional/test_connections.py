"""Connections come and go: one daemon for each, from any program, and no daemon remains."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib.metadata import requires
from pathlib import Path

import pytest

from hybridvif import ConfigurationError, Host, check, plug, unplug
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_boundary import CAP_NET_ADMIN, SOON, daemons, standing_still

PORT = make_port()
NAMES = PORT.names


def test_the_daemon_ends_with_the_last_connection_and_another_can_follow(sandbox: Sandbox, tmp_path: Path) -> None:
    first, two = tmp_path / "one", tmp_path / "two"
    first.mkdir()
    two.mkdir()
    # The daemons of earlier tests exit a moment after their connections.
    assert until(lambda: not daemons(sandbox))
    before = daemons(sandbox)
    with connected(sandbox, first) as host:
        plug(PORT, host)
        (pid,) = set(daemons(sandbox)) - set(before)
        with pytest.raises(ConfigurationError), connected(sandbox, two):
            pass
        assert check(PORT, host) == ()
    assert until(lambda: pid not in daemons(sandbox), 2)
    with connected(sandbox, two) as host:
        assert unplug(PORT.id, host).ok
    assert until(lambda: not set(daemons(sandbox)) - set(before), 2)


def test_a_hung_daemon_does_not_keep_anybody_from_closing(sandbox: Sandbox, tmp_path: Path) -> None:
    # The daemons of earlier tests exit a moment after their connections.
    assert until(lambda: not daemons(sandbox))
    before = daemons(sandbox)
    with ExitStack() as hanging:
        with connected(sandbox, tmp_path) as host:
            host.observe(set(NAMES), time.monotonic() + SOON)
            (pid,) = set(daemons(sandbox)) - set(before)
            hanging.enter_context(standing_still(pid))
            started = time.monotonic()
        assert time.monotonic() - started < 2
    assert until(lambda: not set(daemons(sandbox)) - set(before), 2)


CALLER = """
import sys, threading, time
from hybridvif import Port, connect, plug, unplug
def work(number, host):
    port = Port(id=f"{number:08x}-7b00-4c00-8000-00000000{number:04x}", mac=f"fa:16:3e:00:00:{number:02x}",
                instance_id="0b1c2d3e-0000-4000-8000-000000000002")
    while True:
        plug(port, host)
        unplug(port.id, host)
host = connect([sys.argv[1]])
host.observe((), time.monotonic() + 20)
for number in range(1, 49):
    threading.Thread(target=work, args=(number, host), daemon=True).start()
print("at work", flush=True)
time.sleep(60)
"""
"""More callers than the daemon has threads, so that requests are always queued."""


def test_after_its_caller_was_killed_the_daemon_starts_no_step(sandbox: Sandbox, tmp_path: Path) -> None:
    lab = Lab(sandbox, None)  # type: ignore[arg-type]
    assert until(lambda: not daemons(sandbox))
    with connected(sandbox, tmp_path):
        config = str(tmp_path / "hybridvif.conf")
    with subprocess.Popen([sys.executable, "-c", CALLER, config], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        try:
            assert caller.stdout.readline() == "at work\n"
            assert until(lambda: len(lab.links()) > 8)
        finally:
            caller.kill()
            caller.wait()
    # Running kernel operations finish in their own time. The queued ones would take much longer.
    assert until(lambda: not daemons(sandbox), 1.5)
    time.sleep(0.5)
    # Steps create and delete devices and rows. ovs-vswitchd continues with the committed ones.
    remaining = lab.links(), lab.sh("ovs-vsctl list-ports br-int")
    time.sleep(1)
    assert (lab.links(), lab.sh("ovs-vsctl list-ports br-int")) == remaining
    lab.sweep()


SPY = """#!/bin/sh
grep -E '^Cap(Eff|Prm)' /proc/self/status >> {said}
exec {program} "$@"
"""


def test_a_program_that_the_daemon_runs_may_no_more_than_the_daemon(sandbox: Sandbox, tmp_path: Path) -> None:
    """It is user 0, and so would regain every capability with the first program that it runs."""
    output = tmp_path / "said"
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ip", "brctl"):
        spy = programs / name
        spy.write_text(SPY.format(said=output, program=shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")))
        spy.chmod(0o755)
    path = f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"
    with connected(sandbox, tmp_path, link_executor="subprocess-brctl", program_path=path) as host:
        assert plug(PORT, host).ok
        assert unplug(PORT.id, host).ok
    lines = output.read_text().splitlines()
    assert len(lines) > 10
    assert {int(line.split()[1], 16) for line in lines} == {CAP_NET_ADMIN}


# Other kinds of programs.


EVENT_LOOP = """
import asyncio, sys
async def program():
    from hybridvif import RecordingHost, connect, plug
    from tests.functional.conftest import make_port
    assert plug(make_port(), RecordingHost()).ok
    with connect(sys.argv[1:]) as host:
        report = await asyncio.to_thread(plug, make_port(), host)
        print(report.status.value, plug(make_port(), host).changed)
asyncio.run(program())
"""
EVENTLET = """
import eventlet
eventlet.monkey_patch()
import sys
from hybridvif import RecordingHost, connect, plug, unplug
from tests.functional.conftest import make_port
assert plug(make_port(), RecordingHost()).ok
with connect(sys.argv[1:]) as host:
    ports = [make_port(number) for number in range(1, 6)]
    reports = list(eventlet.GreenPool().imap(lambda port: plug(port, host), ports))
    print(*{report.status.value for report in reports}, unplug(ports[0].id, host).changed)
"""


def run_program(code: str, box: Sandbox, directory: Path, **options: object) -> str:
    """Return the output of a program that has its own connection."""
    with connected(box, directory, **options):
        pass  # only for its configuration file
    command = [sys.executable, "-c", code, str(directory / "hybridvif.conf")]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=30).stdout


def test_a_program_can_start_inside_an_event_loop(sandbox: Sandbox, tmp_path: Path) -> None:
    assert run_program(EVENT_LOOP, sandbox, tmp_path) == "done False\n"
    with connected(sandbox, tmp_path) as host:
        unplug(PORT.id, host)


@pytest.mark.skipif(
    importlib.util.find_spec("eventlet") is None, reason="eventlet is not installed, and nothing needs it"
)
def test_a_program_can_run_on_eventlet(sandbox: Sandbox, tmp_path: Path) -> None:
    assert run_program(EVENTLET, sandbox, tmp_path) == "done True\n"
    Lab(sandbox, Host.__new__(Host)).sweep()


RELATIVE = """
import os, sys
from oslo_config import cfg
place, parsed, started, *arguments = sys.argv[1:]
os.chdir(place)
cfg.CONF(arguments, project="program", default_config_files=[], default_config_dirs=[])
os.chdir(parsed)
from hybridvif import connect, plug, unplug
from tests.functional.conftest import make_port
port = make_port(bridge="br-relative", datapath_type="netdev")
with connect() as host:
    os.chdir(started)
    print(plug(port, host).status.value, unplug(port.id, host).status.value)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        "--config-file sub/hybridvif.conf",
        "--config-file ./sub/../sub/hybridvif.conf --config-file empty.conf",
        "--config-dir sub",
        "--config-dir empty --config-dir sub --config-dir empty",
    ],
)
@pytest.mark.parametrize("moved", ["nowhere", "before connect", "before plug"])
def test_daemon_reads_the_file_that_the_program_read(
    sandbox: Sandbox, tmp_path: Path, arguments: str, moved: str
) -> None:
    """The daemon permits the bridge only if it has read the file."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.conf").touch()
    text = f"lock_path = {tmp_path}/locks\nintegration_bridges = br-relative\ncreate_bridges = br-relative\n"
    (tmp_path / "sub" / "hybridvif.conf").write_text(f"[hybridvif]\n{text}")
    here = str(tmp_path)
    places = {"nowhere": [here, here], "before connect": ["/", "/"], "before plug": [here, "/"]}[moved]
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n{RELATIVE}"
    done = sandbox.python(code, here, *places, *arguments.split(), check=False)
    Lab(sandbox, Host.__new__(Host)).sweep()
    sandbox.run(["ovs-vsctl", "--if-exists", "del-br", "br-relative"])
    assert done.stdout == "done done\n", done.stderr


FORBIDDING = """
import sys
class Forbidding:
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in ("eventlet", "greenlet", "rich"):
            raise ImportError(f"{fullname} is forbidden in this program")
sys.meta_path.insert(0, Forbidding())
"""
"""Like nova-compute in its default mode (nova/monkey_patch.py), and for other unused modules."""
without_eventlet = pytest.mark.skipif(
    any(line.startswith("eventlet") and "extra" not in line for line in requires("oslo.privsep") or ()),
    reason="this oslo.privsep imports eventlet in any case; tests/unit/test_eventlet.py has what is said of that",
)
PLUGGING = """
import sys
from hybridvif import connect, plug, unplug
from tests.functional.conftest import make_port
with connect(sys.argv[1:]) as host:
    print(plug(make_port(), host).status.value, plug(make_port(), host).changed, unplug(make_port().id, host).changed)
"""


@without_eventlet
def test_caller_that_forbids_eventlet_can_plug(sandbox: Sandbox, tmp_path: Path) -> None:
    assert run_program(FORBIDDING + PLUGGING, sandbox, tmp_path) == "done False True\n"


@without_eventlet
@pytest.mark.parametrize(("link", "switch"), [("iproute2-netlink", "ovsdb"), ("subprocess-brctl", "ovsdbapp")])
def test_helper_and_daemon_that_forbid_eventlet_can_plug(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str, switch: str
) -> None:
    # Python runs a sitecustomize at each start: in the client, and in the helper that forks the daemon.
    seen = tmp_path / "seen"
    program = f"{FORBIDDING}\nopen({str(seen)!r}, 'a').write(' '.join(sys.orig_argv) + chr(10))\n"
    (tmp_path / "sitecustomize.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    executors = {"link_executor": link, "switch_executor": switch}
    assert run_program(PLUGGING, sandbox, tmp_path, **executors) == "done False True\n"
    started = seen.read_text()
    assert started.count("hybridvif.privileged.helper") == 1
    assert " -c " in started


@pytest.mark.parametrize(
    "call",
    ["connect(sys.argv[1:])", "await asyncio.to_thread(connect, sys.argv[1:])"],
    ids=["in the loop", "beside it"],
)
def test_a_loop_ends_also_where_eventlet_is_installed(sandbox: Sandbox, tmp_path: Path, call: str) -> None:
    # The end of a thread that imports eventlet first is no longer reported.
    code = EVENT_LOOP.replace("connect(sys.argv[1:])", call)
    assert run_program(code, sandbox, tmp_path) == "done False\n"
    Lab(sandbox, Host.__new__(Host)).sweep()


def test_a_temporary_directory_of_a_long_name_is_no_hindrance(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / ("x" * 90)
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    with connected(sandbox, tmp_path) as host:
        assert host.observe((), time.monotonic() + 20).facts.serves
