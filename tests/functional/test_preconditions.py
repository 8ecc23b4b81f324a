"""Missing preconditions: one sentence with the remedy, by the deadline, without any change."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from hybridvif import (
    Host,
    NotReady,
    PlugFailed,
    PreconditionError,
    Status,
    UnplugFailed,
    check,
    connect,
    plug,
    plug_all,
    unplug,
)
from hybridvif.client.host import NoResponse
from hybridvif.testing.pytest_plugin import lacking
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab, make_port

pytestmark = pytest.mark.alone

PORT = make_port()
HELPER = str(Path(sys.executable).parent / "hybridvif-privsep-helper")
SILENT = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[-1]); time.sleep({seconds})"
SLACK = 0.5
"""Permitted seconds of a call beyond its deadline: a quarter of one, and as much for a busy machine."""
Connect = Callable[..., AbstractContextManager[Host]]


@pytest.fixture
def lab(sandbox: Sandbox) -> Iterator[Lab]:
    """A host without a connection; each test connects in its own way."""
    lab = Lab(sandbox, Host.__new__(Host))
    yield lab
    lab.sweep()


@pytest.fixture
def connected_by(sandbox: Sandbox, tmp_path: Path) -> Connect:
    """Connect by a helper command."""

    @contextmanager
    def connected_by(
        helper: list[str] | None = None, *, inside: list[str] | None = None, **options: object
    ) -> Iterator[Host]:
        config = tmp_path / "hybridvif.conf"
        command = helper or sandbox.entering([*(inside or []), HELPER, "--config-file", str(config)])
        lines = {"lock_path": tmp_path / "locks", "deadline": 5, **options}
        config.write_text(
            "[hybridvif]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
            + f"[hybridvif_privileged]\nhelper_command = {shlex.join(command).replace('$', '$$')}\n"
        )
        with connect([str(config)]) as host:
            yield host

    return connected_by


def common_message(host: Host, lab: Lab, *, seconds: float = 5.0, once: bool = False) -> str:
    """Return the common message of plug, unplug, check and a bulk call, without any change or delay.

    once: only that of plug, if each of them waits for its deadline.
    """
    before = lab.snapshot()
    started = time.monotonic()
    with pytest.raises(NotReady) as plugging:
        plug(PORT, host)
    assert time.monotonic() - started < seconds + SLACK
    assert isinstance(plugging.value, PlugFailed)
    assert plugging.value.report is not None
    assert plugging.value.report.status is Status.PRECONDITION
    assert not plugging.value.report.changed
    sentence = str(plugging.value)
    if not once:
        with pytest.raises(NotReady) as unplugging:
            unplug(PORT.id, host)
        assert isinstance(unplugging.value, UnplugFailed)
        with pytest.raises(PreconditionError) as checking:
            check(PORT, host)
        reports = plug_all([PORT, make_port(2)], host)
        assert {report.status for report in reports} == {Status.PRECONDITION}
        messages = {str(unplugging.value), str(checking.value)} | {report.reason for report in reports}
        assert messages == {sentence}
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert "  " not in sentence
    assert not sentence.endswith(".")
    assert lab.snapshot() == before
    return sentence


# Open vSwitch.


@pytest.mark.parametrize("executor", ["ovsdb", "ovs-vsctl"])
def test_no_socket_of_ovsdb(lab: Lab, connected_by: Connect, executor: str) -> None:
    with connected_by(switch_executor=executor, ovsdb_connection="unix:/run/openvswitch/absent.sock") as host:
        sentence = common_message(host, lab)
    assert "unix:/run/openvswitch/absent.sock" in sentence
    assert "systemctl start openvswitch-switch" in sentence
    assert "[hybridvif] ovsdb_connection" in sentence


def test_a_socket_that_nobody_listens_on(lab: Lab, connected_by: Connect) -> None:
    lab.sh("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/run/openvswitch/dead.sock\")'")
    with connected_by(ovsdb_connection="unix:/run/openvswitch/dead.sock") as host:
        assert "Connection refused" in common_message(host, lab)


def test_a_server_of_another_database(lab: Lab, connected_by: Connect) -> None:
    schema = '{"name": "Other", "version": "1.0.0", "tables": {"T": {"columns": {"c": {"type": "string"}}}}}'
    lab.sh(
        f"echo '{schema}' > /run/openvswitch/other.ovsschema; "
        "ovsdb-tool create /run/openvswitch/other.db /run/openvswitch/other.ovsschema; "
        "ovsdb-server /run/openvswitch/other.db --remote=punix:/run/openvswitch/other.sock "
        "--pidfile=/run/openvswitch/other.pid --unixctl=/run/openvswitch/other.ctl --detach --no-chdir 2>/dev/null"
    )
    with connected_by(ovsdb_connection="unix:/run/openvswitch/other.sock") as host:
        sentence = common_message(host, lab)
    lab.sh("kill $(cat /run/openvswitch/other.pid)")
    assert "has no database Open_vSwitch" in sentence


def test_a_program_that_is_not_installed(lab: Lab, connected_by: Connect, tmp_path: Path) -> None:
    with connected_by(link_executor="subprocess-brctl", program_path=tmp_path) as host:
        sentence = common_message(host, lab)
    assert "brctl is not installed" in sentence
    assert "apt-get install bridge-utils" in sentence


def test_an_executor_that_is_misspelt(lab: Lab, connected_by: Connect) -> None:
    with connected_by(link_executor="netlnik") as host:
        sentence = common_message(host, lab)
    assert "[hybridvif] link_executor" in sentence
    assert "iproute2-netlink" in sentence


# The daemon.


def remedied(sentence: str) -> str:
    """Return a message about the daemon, whose remedy is always the same."""
    assert "privileged daemon" in sentence
    assert "run as root, or set [hybridvif_privileged] helper_command" in sentence
    return sentence


def test_a_helper_that_does_not_exist(lab: Lab, connected_by: Connect) -> None:
    with connected_by(["/no/such/helper"]) as host:
        assert "'/no/such/helper' is not installed" in remedied(common_message(host, lab, seconds=1))


def test_a_helper_that_may_not_be_run(lab: Lab, connected_by: Connect, tmp_path: Path) -> None:
    (tmp_path / "helper").write_text("")
    with connected_by([str(tmp_path / "helper")]) as host:
        remedied(common_message(host, lab, seconds=1))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo sudo: a password is required >&2; exit 1", "sudo: a password is required"),
        ("exit 3", "the helper ended with code 3"),
        ("kill -9 $$", "the helper ended with code -9"),
    ],
)
def test_a_helper_that_fails_is_quoted(lab: Lab, connected_by: Connect, script: str, why: str) -> None:
    with connected_by(["sh", "-c", script]) as host:
        assert why in remedied(common_message(host, lab, seconds=1))


def test_a_helper_that_hangs(lab: Lab, connected_by: Connect) -> None:
    with connected_by(["sh", "-c", "sleep 60"], deadline=0.5) as host:
        assert "did not end by the deadline" in remedied(common_message(host, lab, seconds=0.5, once=True))


def test_no_caller_waits_beyond_its_deadline_for_helper_of_another(connected_by: Connect) -> None:
    with connected_by(["sh", "-c", "sleep 60"]) as host, ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        patient = pool.submit(host.observe, set(PORT.names), started + 1.5)
        time.sleep(0.1)
        with pytest.raises(NoResponse):
            host.observe(set(PORT.names), started + 0.5)
        with (
            pytest.raises(NoResponse, match="another caller is still starting"),
            host.locked([PORT.id[:11]], started + 0.6),
        ):
            pass
        assert time.monotonic() - started < 0.5 + SLACK
        with pytest.raises(PreconditionError):
            patient.result()


def test_a_helper_whose_child_hangs_with_its_output(lab: Lab, connected_by: Connect) -> None:
    with connected_by(["sh", "-c", "sleep 5 & exit 1"], deadline=0.5) as host:
        assert "ended with code 1" in remedied(common_message(host, lab, seconds=0.5))


def test_a_helper_that_ends_and_leaves_no_daemon(lab: Lab, connected_by: Connect) -> None:
    with connected_by(["true"], deadline=0.5) as host:
        assert "did not connect by the deadline" in remedied(common_message(host, lab, seconds=0.5, once=True))


@pytest.mark.parametrize("seconds", [0, 4], ids=["hangs up", "says nothing"])
def test_a_daemon_that_connects_and(lab: Lab, connected_by: Connect, seconds: int) -> None:
    script = f'{shlex.join([sys.executable, "-c", SILENT.format(seconds=seconds)])} "$@" </dev/null >/dev/null 2>&1 &'
    with connected_by(["sh", "-c", script, "sh"], deadline=0.7) as host:
        remedied(common_message(host, lab, seconds=0.7, once=True))


def test_a_daemon_that_is_killed_as_it_starts_is_started_again(lab: Lab, connected_by: Connect, tmp_path: Path) -> None:
    count = tmp_path / "count"
    hangs_up = shlex.join([sys.executable, "-c", SILENT.format(seconds=0)])
    real = shlex.join(lab.box.entering([HELPER, "--config-file", str(tmp_path / "hybridvif.conf")]))
    script = (
        f'echo >> {count}; case $(wc -l < {count}) in 1) kill -9 $$;; 2) {hangs_up} "$@";; *) exec {real} "$@";; esac'
    )
    with connected_by(["sh", "-c", script, "sh"]) as host:
        assert plug(PORT, host).ok
        assert unplug(PORT.id, host).ok
    assert count.read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("without", "reason"),
    [
        (["setpriv", "--bounding-set=-net_admin"], "CAP_NET_ADMIN"),
        (["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], "the caller is user 65534"),
    ],
    ids=["root without the capability", "an ordinary user"],
)
def test_no_capability_to_administer_networks(
    lab: Lab, connected_by: Connect, tmp_path: Path, without: list[str], reason: str
) -> None:
    if "--reuid=65534" in without and os.geteuid() != 0:
        lacking("a user namespace of an ordinary user has nobody else to become; run as root")
    for directory in (tmp_path, *tmp_path.parents):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(0o755)
    with connected_by(inside=without) as host:
        sentence = remedied(common_message(host, lab))
    assert reason in sentence


def test_what_failed_once_is_tried_anew_and_leaves_nothing_running(
    lab: Lab, connected_by: Connect, tmp_path: Path
) -> None:
    threads = threading.active_count()
    flag = tmp_path / "flag"
    real = shlex.join(lab.box.entering([HELPER, "--config-file", str(tmp_path / "hybridvif.conf")]))
    with connected_by(["sh", "-c", f'test -e {flag} || exit 1; exec {real} "$@"', "sh"]) as host:
        common_message(host, lab, seconds=1)
        flag.touch()
        assert plug(PORT, host).ok
        assert unplug(PORT.id, host).ok
    deadline = time.monotonic() + 2
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads


# The kernel.


def test_a_proc_that_cannot_be_written_leaves_nothing_behind(lab: Lab, connected_by: Connect) -> None:
    before = lab.snapshot()
    lab.sh("mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys")
    try:
        with connected_by() as host, pytest.raises(PlugFailed, match=r"/proc/sys is read-only here") as caught:
            plug(PORT, host)
    finally:
        lab.sh("umount /proc/sys")
    assert caught.value.report is not None
    assert caught.value.report.status is Status.ROLLED_BACK
    assert caught.value.report.leftovers == ()
    assert lab.snapshot() == before
