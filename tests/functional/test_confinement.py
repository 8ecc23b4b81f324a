"""Files that the daemon may open, tried from inside by an executor of a third party."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from hybridvif import check, plug, unplug
from hybridvif.client.host import Host
from hybridvif.privileged import privileges
from hybridvif.testing.pytest_plugin import connected, lacking
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab, make_port

PROBE = '''
import importlib
import os
import socket
from dataclasses import replace
from hybridvif.executors.netlink.executor import NetlinkExecutor

WRITTEN = {written!r}
READ = {read!r}
IMPORTED = {imported!r}
SIGNALLED = {signalled!r}
ABSTRACT = {abstract!r}

def signalled(pid):
    try:
        os.kill(pid, 0)
    except OSError as error:
        return f"{{pid}}: {{error.strerror}}"
    return f"{{pid}}: signalled"

def connected(name):
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect("\\0" + name)
    except OSError as error:
        return f"{{name}}: {{error.strerror}}"
    return f"{{name}}: connected"

def tried(path, flags):
    try:
        os.close(os.open(path, flags, 0o600))
    except OSError as error:
        return f"{{path}}: {{error.strerror}}"
    return f"{{path}}: opened"

def brought_in(name):
    try:
        importlib.import_module(name)
    except ImportError as error:
        return f"{{name}}: {{error}}"
    return f"{{name}}: imported"

class Probe(NetlinkExecutor):
    """Tells what it could open, and import."""

    programs = {programs!r}
    writes = {writes!r}

    def observe(self, names, deadline):
        seen = super().observe(names, deadline)
        said = [tried(path, os.O_WRONLY | os.O_CREAT) for path in WRITTEN]
        said += [tried(path, os.O_RDONLY) for path in READ]
        said += [brought_in(name) for name in IMPORTED]
        said += [signalled(pid or os.getpid()) for pid in SIGNALLED] + [connected(name) for name in ABSTRACT]
        return replace(seen, facts=replace(seen.facts, unchecked=tuple(said)))
'''
FORBIDDEN = "Permission denied"
Probe = Callable[..., list[str]]


@pytest.fixture
def probed(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Probe]:
    """Function that returns the daemon's results for opening these files."""
    installed = tmp_path / "installed"
    card = installed / "probe-1.dist-info"
    card.mkdir(parents=True)
    (card / "METADATA").write_text("Metadata-Version: 2.1\nName: probe\nVersion: 1\n")
    (card / "entry_points.txt").write_text("[hybridvif.link_executors]\nprobe = probe:Probe\n")
    monkeypatch.setenv("PYTHONPATH", str(installed))

    def probed(
        written: list[str],
        read: list[str],
        programs: tuple[str, ...] = (),
        writes: tuple[str, ...] = (),
        imported: Sequence[str] = (),
        signalled: Sequence[int] = (),
        abstract: Sequence[str] = (),
    ) -> list[str]:
        (installed / "probe.py").write_text(
            PROBE.format(
                written=written,
                read=read,
                programs=programs,
                writes=writes,
                imported=imported,
                signalled=signalled,
                abstract=abstract,
            )
        )
        (installed / "planted.py").write_text("raise SystemExit('it ran')\n")
        with connected(sandbox, tmp_path, deadline=10, link_executor="probe") as host:
            port = make_port()
            lines = host.observe(set(port.names), time.monotonic() + 10).facts.unchecked
            assert plug(port, host).ok
            assert check(port, host) == ()
            assert unplug(port.id, host).ok
            return [line.partition(": ")[2] for line in lines]

    yield probed
    Lab(sandbox, Host.__new__(Host)).sweep()


def test_the_daemon_writes_nowhere_but_to_the_networks_own_switches(probed: Probe, tmp_path: Path) -> None:
    if not privileges.landlock_version():
        lacking("this kernel has no Landlock")
    elsewhere = [
        "/etc/hybridvif-tried",
        f"{Path.home()}/tried",
        "/tmp/hybridvif-tried",
        "/run/tried",
        str(tmp_path / "x"),
    ]
    elsewhere += ["/etc/passwd", "/proc/sys/kernel/core_pattern", "/proc/self/oom_score_adj"]
    assert set(probed(elsewhere, [])) == {FORBIDDEN}
    legal = ["/proc/sys/net/ipv4/conf/lo/arp_ignore", "/dev/null", "/dev/net/tun"]
    assert probed([path for path in legal if os.path.exists(path)], []) == ["opened"] * 3


def test_the_daemon_reads_neither_a_home_nor_a_secret(probed: Probe, tmp_path: Path) -> None:
    if not privileges.landlock_version():
        lacking("this kernel has no Landlock")
    secret = tmp_path / "secret"
    secret.write_text("x")
    assert set(probed([], ["/etc/shadow", str(secret), "/etc/ssh", "/var/lib", "/root", "/"])) == {FORBIDDEN}
    assert probed([], ["/proc/self/status", "/etc/hosts"]) == ["opened"] * 2


def test_daemon_that_runs_programs_reads_all_and_writes_only_their_files(probed: Probe) -> None:
    """Its programs have the same limits."""
    if not privileges.landlock_version():
        lacking("this kernel has no Landlock")
    elsewhere = ["/etc/passwd", "/etc/cron.d/tried", f"{Path.home()}/tried", "/run/systemd/system/tried.service"]
    elsewhere += ["/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run"]
    forbidden = set(probed([path for path in elsewhere if Path(path).parent.exists()], [], ("ip",)))
    assert forbidden <= {FORBIDDEN, "No such file or directory", "Read-only file system"}
    assert FORBIDDEN in forbidden
    assert probed(["/tmp/hybridvif-tried"], ["/etc/shadow"], ("ip",)) == ["opened"] * 2


@pytest.mark.parametrize("programs", [(), ("ip",)], ids=["no program", "a program"])
def test_an_executor_writes_where_it_says_that_it_does(
    probed: Probe, sandbox: Sandbox, programs: tuple[str, ...]
) -> None:
    sandbox.run(["sh", "-ec", "mkdir -p /run/tried; touch /run/one"])
    written = ["/run/tried/new", "/run/one", "/run/other"]
    assert probed(written, [], programs, ("/run/tried", "/run/one")) == ["opened", "opened", FORBIDDEN]


def test_daemon_imports_no_planted_module_after_loading_executors(probed: Probe) -> None:
    """The planted module is in a directory of sys.path, beside the module of the executor. pyroute2 is installed."""
    results = probed([], [], imported=["planted", "colorsys", "pyroute2"])
    assert results == ["No module named 'planted'", "imported", "No module named 'pyroute2'"]


LISTEN = """
import socket, sys
one = socket.socket(socket.AF_UNIX)
one.bind("\\0hybridvif-tried")
one.listen()
print("listening", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("programs", [(), ("ip",)], ids=["no program", "a program"])
def test_daemon_signals_nobody_and_connects_to_no_abstract_socket(
    probed: Probe, sandbox: Sandbox, programs: tuple[str, ...]
) -> None:
    """As user 0 it could otherwise signal every process of root. It may signal its own."""
    if privileges.landlock_version() < 6:
        lacking("this kernel's Landlock has no scopes; they are in Linux 6.12 and later")
    command = [sys.executable, "-c", LISTEN]
    with sandbox.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "listening\n"
        results = probed([], [], programs, signalled=(1, 0), abstract=("hybridvif-tried",))
        stranger.kill()
    assert results == ["Operation not permitted", "signalled", "Operation not permitted"]
