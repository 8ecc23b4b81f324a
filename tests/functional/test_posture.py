"""Privileges of the daemon and of its programs, read from /proc, and the exit of the daemon."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from hybridvif import Host, PreconditionError, check, desired_state, plug, unplug
from hybridvif.model.report import Result
from hybridvif.model.state import Create
from hybridvif.privileged import main
from hybridvif.privileged.context import daemon_context
from hybridvif.testing.pytest_plugin import connected, lacking
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_boundary import daemons, status_of

PORT = make_port()
ROOT = Path(__file__).parents[2]
NET_ADMIN = f"{1 << 12:016x}"
NONE = f"{0:016x}"
CONTEXT = ["--privsep_context", "hybridvif.privileged.context.daemon_context"]
SOCKET = ["--privsep_sock_path", "/nowhere/privsep.sock"]
Connect = Callable[..., AbstractContextManager[Lab]]


@pytest.fixture
def joined(sandbox: Sandbox, tmp_path: Path) -> Iterator[Connect]:
    """Connect with these options."""

    @contextmanager
    def joined(**options: object) -> Iterator[Lab]:
        with connected(sandbox, tmp_path, deadline=10, **options) as host:
            yield Lab(sandbox, host)

    yield joined
    Lab(sandbox, Host.__new__(Host)).sweep()


def started(lab: Lab) -> int:
    lab.host.observe(set(PORT.names), time.monotonic() + 10)
    (pid,) = daemons(lab.box)
    return pid


def threads_of(pid: int) -> Iterator[dict[str, str]]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())


def test_every_thread_of_daemon_has_one_capability_and_gains_none(joined: Connect) -> None:
    with joined() as lab:
        pid = started(lab)
        threads = list(threads_of(pid))
        assert len(threads) > 1
        for status in threads:
            held = {name: status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs")}
            assert held == {
                "CapEff": NET_ADMIN,
                "CapPrm": NET_ADMIN,
                "CapBnd": NET_ADMIN,
                "CapInh": NONE,
                "CapAmb": NONE,
                "NoNewPrivs": "1",
            }
            assert status["Umask"] == "0077"


def test_the_daemon_keeps_nothing_of_who_started_it(
    joined: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    leaked = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        with joined() as lab:
            pid = started(lab)
            assert os.getsid(pid) == pid
            targets = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
            assert str(tmp_path) not in targets
            assert [target for target in targets if target == "/dev/null"] == ["/dev/null"] * 2
            # The rest: the channel, the pipe of its standard error, the sockets of the two executors, and what libuuid
            # opens for itself where somebody asks it for a time-based id.
            rest = {target for target in targets if target not in ("/dev/null", "/var/lib/libuuid/clock.txt")}
            assert {target.partition(":")[0] for target in rest} <= {"socket", "pipe", "anon_inode"}
    finally:
        os.close(leaked)


SPY = """#!/bin/sh
cat /proc/self/status > {seen}
exec /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin {real} "$@"
"""


@pytest.fixture
def spied(tmp_path: Path) -> tuple[Path, Path]:
    """A program_path whose programs record their own status, and the directory of the records."""
    seen = tmp_path / "seen"
    seen.mkdir(mode=0o777)
    seen.chmod(0o777)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, real in (("brctl", "/usr/sbin/brctl"), ("ip", "/usr/sbin/ip"), ("ovs-vsctl", "/usr/bin/ovs-vsctl")):
        script = programs / name
        script.write_text(SPY.format(seen=seen / name, real=real))
        script.chmod(0o755)
    return programs, seen


def test_a_program_that_the_daemon_runs_has_no_more_than_the_daemon(joined: Connect, spied: tuple[Path, Path]) -> None:
    programs, seen = spied
    with joined(
        link_executor="subprocess-brctl",
        switch_executor="ovs-vsctl",
        program_path=f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin",
    ) as lab:
        assert plug(PORT, lab.host).ok
        assert check(PORT, lab.host) == ()
        assert unplug(PORT.id, lab.host).ok
    assert {path.name for path in seen.iterdir()} == {"brctl", "ip", "ovs-vsctl"}
    for path in seen.iterdir():
        status = dict(line.split(":\t", 1) for line in path.read_text().splitlines())
        assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {NET_ADMIN}
        assert status["NoNewPrivs"] == "1"


@contextmanager
def readable_by_all(lab: Lab) -> Iterator[None]:
    """Make this Python readable for every user of the sandbox, even below root's home."""
    paths = list(dict.fromkeys([sys.base_prefix, sys.prefix, str(ROOT)]))
    hidden = {
        str(above) for path in paths for above in reversed(Path(path).parents) if not above.stat().st_mode & 0o001
    }
    outermost = [path for path in sorted(hidden) if not any(str(above) in hidden for above in Path(path).parents)]
    kept = [path for path in paths if any(Path(path).is_relative_to(above) for above in outermost)]
    for number, path in enumerate(kept):
        lab.sh(f"mkdir -p /run/kept{number}; mount --rbind {path} /run/kept{number}")
    for path in outermost:
        lab.sh(f"mount -t tmpfs -o mode=0755 none {path}")
    for number, path in enumerate(kept):
        lab.sh(f"mkdir -p {path}; mount --rbind /run/kept{number} {path}")
    try:
        yield
    finally:
        for path in [*outermost, *(f"/run/kept{number}" for number in range(len(kept)))]:
            lab.sh(f"umount -l {path}")


@pytest.mark.parametrize("executor", ["iproute2-netlink", "subprocess-brctl"])
def test_an_ordinary_user_with_the_one_capability_plugs_as_root_does(
    sandbox: Sandbox, tmp_path: Path, executor: str
) -> None:
    if os.geteuid() != 0:
        lacking("only root may become another user, and give the socket to its group; run as root")
    lab = Lab(sandbox, Host.__new__(Host))
    socket = lab.sh("echo /run/openvswitch/db.sock").strip()
    lab.sh(f"chmod 0755 /run/openvswitch; chgrp nogroup {socket}; chmod 0770 {socket}")
    try:
        with readable_by_all(lab), connected(sandbox, tmp_path, deadline=10, link_executor=executor) as host:
            # An option of the daemon's own section, which `connected` writes last.
            with (tmp_path / "hybridvif.conf").open("a") as config:
                config.write("user = nobody\ngroup = nogroup\n")
            lab.host = host
            pid = started(lab)
            status = status_of(pid)
            assert set(status["Uid"].split()) == {"65534"}
            assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {NET_ADMIN}
            assert plug(PORT, host).ok
            assert check(PORT, host) == ()
            assert unplug(PORT.id, host).ok
    finally:
        lab.sh(f"chmod 0750 {socket}; chgrp root {socket}")
        lab.sweep()


# Options of the daemon's starter.


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [*CONTEXT],
        [*SOCKET],
        [*CONTEXT, *SOCKET, *SOCKET],
        [*CONTEXT, *CONTEXT, *SOCKET],
        ["--privsep_context", "os.system", *SOCKET],
        ["--privsep_context=oslo_privsep.tests.testctx.context", *SOCKET],
        [*CONTEXT, *SOCKET, "--log-config-append", "/tmp/log.conf"],
        [*CONTEXT, *SOCKET, "--log_config_append=/tmp/log.conf"],
        [*CONTEXT, *SOCKET, "--log-file", "/etc/passwd"],
        [*CONTEXT, *SOCKET, "--log-dir=/etc"],
        [*CONTEXT, *SOCKET, "--use-syslog"],
        [*CONTEXT, *SOCKET, "--debug"],
        [*CONTEXT, *SOCKET, "-d"],
        [*CONTEXT, *SOCKET, "--config-f", "x"],
        [*CONTEXT, *SOCKET, "--config-file"],
        [*CONTEXT, *SOCKET, "--config-file", "--debug"],
        [*CONTEXT, *SOCKET, "--", "x"],
        [*CONTEXT, *SOCKET, "x"],
        [*CONTEXT, *SOCKET, "--help"],
    ],
    ids=" ".join,
)
def test_the_starter_takes_the_arguments_of_our_context_and_no_others(arguments: list[str]) -> None:
    with pytest.raises(PreconditionError, match="^refused: "):
        main.options_of(arguments)
    assert main.options_of([*CONTEXT, *SOCKET, "--config-file", "/etc/h.conf", "--config-dir=/etc/h.d"])


def test_the_installed_starter_refuses_before_it_does_anything(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "hybridvif-privsep-helper"
    done = subprocess.run(
        [script, *CONTEXT, *SOCKET, "--log-file", tmp_path / "log"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("refused: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# Exit of the daemon.


def test_when_the_caller_hangs_up_what_is_queued_is_never_begun(joined: Connect, tmp_path: Path) -> None:
    """Steps that start after the client has exited would undo the work of its successor."""
    late = make_port(2)
    with joined() as lab, ThreadPoolExecutor(2) as pool:
        with (tmp_path / "hybridvif.conf").open("a") as config:
            config.write("thread_pool_size = 1\n")
        pid = started(lab)
        until_late = time.monotonic() + 20
        lab.box.pause("ovs-vswitchd")
        try:
            first = pool.submit(
                lab.host.apply, [[Create(desired_state(PORT).ports[PORT.names.switch_end])]], until_late
            )
            assert until(lambda: lab.row(PORT.names.switch_end) != {})
            bridge = Create(desired_state(late).links[late.names.bridge])
            second = pool.submit(lab.host.apply, [[bridge]], until_late)
            time.sleep(0.2)
            daemon_context.stop()
            assert until(lambda: daemons(lab.box) == [], 2), pid
            answers = [outcomes[0].result for future in (first, second) for outcomes in future.result(10)]
            assert answers == [Result.UNKNOWN, Result.UNKNOWN]
        finally:
            lab.box.resume("ovs-vswitchd")
        assert late.names.bridge not in lab.links()


def test_when_the_caller_hangs_up_the_programs_end_as_well(joined: Connect, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    slow = programs / "ivs-ctl"
    slow.write_text("#!/bin/sh\nsleep 61\n")
    slow.chmod(0o755)
    with joined(switch_executor="ivs-ctl", program_path=f"{programs}:/usr/sbin:/usr/bin:/bin") as lab:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(lab.host.observe, set(PORT.names), time.monotonic() + 20)
            assert until(lambda: lab.sh("pgrep -fx 'sleep 61' || true") != "")
            lab.host.close()
            with pytest.raises(PreconditionError, match="closed"):
                asked.result(10)
        assert until(lambda: lab.sh("pgrep -fx 'sleep 61' || true") == "", 2)
        assert daemons(lab.box) == []


def test_nobody_of_the_same_user_and_capability_may_look_into_the_daemon(sandbox: Sandbox, tmp_path: Path) -> None:
    """The daemon is not dumpable. The control is a dumpable process that is otherwise like it."""
    if os.geteuid() != 0:
        lacking("only root can become a process with that one capability; run as root")
    alike = ["setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all"]

    def may_look_into(pid: int) -> bool:
        return subprocess.run([*alike, "cat", f"/proc/{pid}/environ"], capture_output=True, check=False).returncode == 0

    lab = Lab(sandbox, Host.__new__(Host))
    with connected(sandbox, tmp_path) as host, subprocess.Popen([*alike, "sleep", "30"]) as dumpable:
        lab.host = host
        try:
            assert until(lambda: may_look_into(dumpable.pid))
            assert not may_look_into(started(lab))
        finally:
            dumpable.kill()
