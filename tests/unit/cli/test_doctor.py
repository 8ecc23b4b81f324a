from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridvif.cli import host_checks
from hybridvif.cli.commands import doctor
from hybridvif.cli.commands.executors import installed
from hybridvif.cli.host_checks import FAIL, INFO, PASS, CheckResult, check
from hybridvif.model.errors import PreconditionError
from hybridvif.model.settings import Settings
from hybridvif.model.state import Facts
from tests.support.answers import text_of

FIREWALL = host_checks.Firewall(None, "this user cannot read iptables")


class Vswitchd:
    """A fake ovs-vswitchd that answers or hangs on its control socket."""

    def __init__(self, directory: Path, answer: bytes) -> None:
        (directory / "ovs-vswitchd.pid").write_text("42\n")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "ovs-vswitchd.42.ctl"))
        self._listener.listen()
        self._answer = answer
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        connection.recv(4096)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for start in range(0, len(self._answer), 7):
                connection.sendall(self._answer[start : start + 7])
        connection.close()
        self._listener.close()


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """Return a directory with a short path: sockets are limited to 108 characters."""
    with tempfile.TemporaryDirectory(prefix="hybridvif-") as name:
        yield Path(name)


def test_doctor_exits_with_0_or_5() -> None:
    good = [CheckResult("python", PASS, "3.11"), CheckResult("ipv6", INFO, "there")]
    assert doctor.answer_of(good).exit_code == 0
    assert doctor.answer_of([*good, CheckResult("switch", FAIL, "none", "start it")]).exit_code == 5


def test_doctor_prints_result_and_remedy_on_two_lines() -> None:
    def without_switch() -> Any:
        raise PreconditionError("there is none; start one")

    text = text_of(doctor.answer_of([CheckResult("python", PASS, "3.11"), check("switch", without_switch)]))
    assert text.splitlines() == [
        "  pass  python  3.11",
        "  FAIL  switch  there is none",
        "          try: start one",
        "1 of 2 failed.",
    ]


def test_doctor_document_has_every_result() -> None:
    answer = doctor.answer_of([CheckResult("switch", FAIL, "none", "start it")])
    assert answer.document == {
        "command": "doctor",
        "ok": False,
        "findings": [{"name": "switch", "verdict": "fail", "text": "none", "remedy": "start it"}],
    }


def test_doctor_passes_a_responding_vswitchd(run_dir: Path) -> None:
    Vswitchd(run_dir, b'{"id":0,"result":"ovs-vswitchd (Open vSwitch) 3.1.0\\nDPDK","error":null}')
    assert doctor.vswitchd(f"unix:{run_dir}/db.sock") == (PASS, "answers: ovs-vswitchd (Open vSwitch) 3.1.0")


def test_doctor_fails_a_missing_or_broken_vswitchd(run_dir: Path) -> None:
    assert doctor.vswitchd(f"unix:{run_dir}/db.sock")[0] == FAIL
    (run_dir / "ovs-vswitchd.pid").write_text("42\n")
    assert doctor.vswitchd(f"unix:{run_dir}/db.sock")[0] == FAIL
    Vswitchd(run_dir, b"")
    assert doctor.vswitchd(f"unix:{run_dir}/db.sock")[0] == FAIL
    assert doctor.vswitchd("tcp:127.0.0.1:6640")[0] == INFO


@pytest.mark.parametrize("kind", ["fifo", "device", "link", "path", "long"])
def test_doctor_is_not_blocked_by_a_foreign_pid_file(run_dir: Path, kind: str) -> None:
    """Open vSwitch may run as its own user, who can write to this directory."""
    file = run_dir / "ovs-vswitchd.pid"
    match kind:
        case "fifo":
            os.mkfifo(file)
        case "device" | "link":
            file.symlink_to("/dev/zero" if kind == "device" else "/proc/self/stat")
        case _:
            file.write_text("../../other" if kind == "path" else "4" * 100_000)
    assert doctor.vswitchd(f"unix:{run_dir}/db.sock")[0] == FAIL


@pytest.mark.parametrize("answer", [b"[" * 60_000, b"[]", b'{"result": 1', b'{"result": ""}', b" " * 100_000])
def test_doctor_fails_an_invalid_control_response_in_time(run_dir: Path, answer: bytes) -> None:
    Vswitchd(run_dir, answer)
    assert doctor.vswitchd(f"unix:{run_dir}/db.sock")[0] == FAIL


def test_doctor_fails_recording_executors() -> None:
    for executors in installed(Settings()).values():
        verdict, text, _ = doctor.executor("recording", executors)
        assert verdict == FAIL
        assert "SIMULATED" in text


def test_doctor_fails_an_executor_that_is_not_installed() -> None:
    executors = installed(Settings())
    verdict, text, *_ = doctor.executor(Settings().link_executor, executors["link"])
    assert verdict == PASS
    assert "NetlinkExecutor" in text
    verdict, text, remedy = doctor.executor("ovsbd", executors["switch"])
    assert (verdict, text) == (FAIL, "'ovsbd' is not installed")
    assert "ovsdb, ovsdbapp, recording" in remedy


def test_doctor_fails_a_missing_integration_bridge() -> None:
    settings = Settings(integration_bridges=("br-int", "br-no"), ovsdb_connection="unix:/tmp/none/db.sock")
    *_, there, missing = doctor.switch(settings, Facts(switches={"br-int": "netdev"}))
    assert there == CheckResult("bridge br-int", PASS, "exists, datapath netdev")
    assert (missing.verdict, missing.text) == ("fail", "does not exist")
    assert missing.remedy.endswith("ovs-vsctl --db=unix:/tmp/none/db.sock add-br br-no")


def test_doctor_accepts_a_missing_bridge_of_create_bridges() -> None:
    settings = Settings(integration_bridges=("br-int", "tbr-*"), create_bridges=("br-int",))
    *_, missing = doctor.switch(settings, Facts())
    assert (missing.name, missing.verdict) == ("bridge br-int", "info")


def test_doctor_fails_unknown_options(tmp_path: Path) -> None:
    """oslo.config ignores them, so a misspelled option had no effect and doctor was content."""
    file = tmp_path / "hybridvif.conf"
    file.write_text(
        "[hybridvif]\ndeadline = 7\nlock_pathh = /x\nzebra = 1\n"
        "[hybridvif_privileged]\nuser = hybridvif\nthread-pool-size = 4\n[DEFAULT]\ndebug = true\n"
    )
    verdict, text, *_ = doctor.options([str(file)])
    assert verdict == FAIL
    assert text == (
        f"unknown options: [hybridvif] lock_pathh in {file} (did you mean lock_path?), [hybridvif] zebra in {file}"
    )
    file.write_text("[hybridvif]\ndeadline = 7\n")
    assert doctor.options([str(file)]) == (PASS, str(file))
    assert doctor.options([]) == (PASS, "no file, so the defaults")


def test_doctor_fails_an_executor_without_its_program(tmp_path: Path) -> None:
    executors = installed(Settings(program_path=str(tmp_path)))
    assert doctor.executor("subprocess-brctl", executors["link"]) == (
        FAIL,
        f"subprocess-brctl: brctl is not in {tmp_path}",
        "install it: apt-get install bridge-utils",
    )
    verdict, text, remedy = doctor.executor("ivs-ctl", executors["switch"])
    assert (verdict, remedy) == (FAIL, "install it")
    assert "ivs-ctl is not in" in text


def test_doctor_checks_the_lock_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert doctor.lock_path(str(tmp_path))[0] == PASS
    assert doctor.lock_path(str(tmp_path / "a" / "b"))[1].endswith("(will be made)")
    assert doctor.lock_path(str(tmp_path / "file"))[0] == FAIL


def test_doctor_refuses_a_lock_path_of_another_user(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        # The gate runs it as root, too.
        pytest.skip("only root can give a directory away")
    directory, link = tmp_path / "theirs", tmp_path / "link"
    directory.mkdir()
    link.symlink_to(directory)
    os.chown(directory, 12345, 12345)
    for path in (directory, link):
        verdict, text, remedy = doctor.lock_path(str(path))
        assert (verdict, text.partition(",")[0]) == (FAIL, f"the lock directory {path} belongs to user 12345")
        assert remedy.endswith(f"chown root {path}")


def test_doctor_checks_the_helper_command() -> None:
    (bad,) = host_checks.helper_findings("no-such-program --flag")
    assert (bad.name, bad.verdict) == ("no-such-program", "fail")
    assert all(result.name in ("hybridvif-privsep-helper", "sudo") for result in host_checks.helper_findings(None))


def test_system_checks_return_results_without_privileges(tmp_path: Path) -> None:
    results = [
        *(check(kind, host_checks.kernel_kind, kind) for kind in ("bridge", "veth")),
        check("bridge-nf", host_checks.bridge_nf, tmp_path, False, FIREWALL, ()),
        check("capability", host_checks.capability),
        check("/proc/sys", host_checks.proc_sys),
    ]
    assert all(result.text for result in results)
    assert all(result.remedy for result in results if result.verdict == FAIL)
    assert host_checks.libraries()[0] == PASS


def test_doctor_reports_that_security_groups_do_not_apply(tmp_path: Path) -> None:
    switch = tmp_path / "bridge-nf-call-iptables"
    assert "modprobe br_netfilter" in host_checks.bridge_nf(switch, True, FIREWALL, ())[2]
    switch.write_text("0\n")
    _, text, remedy = host_checks.bridge_nf(switch, False, FIREWALL, ())
    assert "security groups silently do not apply" in text
    assert remedy.endswith("sysctl -w net.bridge.bridge-nf-call-iptables=1")
    assert "each qbr calls iptables by itself" in host_checks.bridge_nf(switch, True, FIREWALL, ())[1]
    switch.write_text("1\n")
    assert [len(host_checks.bridge_nf(switch, option, FIREWALL, ())) for option in (True, False)] == [2, 2]


def test_doctor_leaves_no_open_files() -> None:
    before = os.listdir("/proc/self/fd")
    host_checks.capability()
    assert os.listdir("/proc/self/fd") == before
