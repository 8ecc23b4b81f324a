"""The real command on a throw-away host: effects, output and exit codes."""

from __future__ import annotations

import fcntl
import json
import re
import signal
import sys
import termios
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen
from typing import Any

import pytest

from hybridvif import Port, check
from hybridvif.cli.ports import options_of
from hybridvif.testing.pytest_plugin import lacking
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_boundary import daemons
from tests.support.schemas import validate, validate_as

STRANGER = 54321
"""Id of a user and group that exist on no host."""
SIGNALLED_AT = (0.05, 0.3, 0.55)
"""Seconds after the command has read its ports: during loading, the daemon's start, the plug, and the output."""


@pytest.fixture
def cli(lab: Lab) -> Command:
    """The command, on an empty host."""
    return Command(lab)


class Command:
    """`hybridvif` inside the sandbox."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def __call__(self, *words: str, exit_code: int = 0, stdin: str | None = None) -> CompletedProcess[str]:
        done = self.lab.box.run(["hybridvif", *words], check=False, input=stdin)
        assert done.returncode == exit_code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def document(self, *words: str, exit_code: int = 0, stdin: str | None = None) -> Any:
        """Return the one document that is all of stdout."""
        return validate(json.loads(self(*words, "-f", "json", exit_code=exit_code, stdin=stdin).stdout))

    def plug(self, *ports: Port) -> None:
        self("plug", "-F", "-", stdin=file_of(ports))


def file_of(ports: Sequence[Port]) -> str:
    return json.dumps(
        [{"id": port.id, "mac": port.mac, "instance_id": port.instance_id, "mtu": port.mtu} for port in ports]
    )


def feed(process: Popen[str], text: str) -> None:
    """Write the whole stdin of a command, and return when the command reads it, so that its handlers are set."""
    stdin, process.stdin = process.stdin, None
    assert stdin is not None
    with stdin:
        stdin.write(text)
        stdin.flush()
        assert until(lambda: not any(fcntl.ioctl(stdin, termios.FIONREAD, bytes(4))), 60)


def test_a_port_is_plugged_listed_shown_checked_and_unplugged(cli: Command, lab: Lab, port: Port) -> None:
    before = lab.snapshot()
    plugged = cli("plug", *options_of(port))
    assert (plugged.stdout, plugged.stderr) == (f"{port.id}  plugged\n", "")
    assert check(port, lab.host) == ()

    again = cli("plug", *options_of(port))
    assert (again.stdout, again.stderr) == (f"{port.id}  was in order, nothing written\n", "")
    assert cli("list", "-f", "value", "-c", "port", "-c", "mtu", "-c", "state").stdout == f"{port.id} 1500 in-order\n"
    with lab.vm(port, 1):
        shown = cli("show").stdout
        assert re.match(r"br-int \(ovs( \S+)?, (netdev|dummy)\)\n", shown)
        for name in set(port.names) - {port.names.vhost_user}:
            assert name in shown
        assert f"+-- {port.names.tap}  up" in shown
        assert "in order" in shown
        assert "port-running" in cli("unplug", port.id, "-f", "json", exit_code=6).stdout
    assert "in order\n" in cli("check", *options_of(port), "--bridge", "br-int").stdout.replace(
        " as far as checked", ""
    )

    unplugged = cli("unplug", port.id)
    assert (unplugged.stdout, unplugged.stderr) == (f"{port.id}  unplugged\n", "")
    assert cli("unplug", port.id).stdout == f"{port.id}  was not there, nothing written\n"
    assert lab.snapshot() == before


def test_a_dry_run_writes_nothing_and_says_what_plan_says(cli: Command, lab: Lab, port: Port) -> None:
    before = lab.snapshot()
    planned = cli("plan", "plug", *options_of(port))
    assert planned.stdout == cli("plug", *options_of(port), "--dry-run").stdout
    assert planned.stdout.endswith("Plan: 3 to create, 0 to change, 0 to delete.\n")
    cli("plan", "plug", *options_of(port), "--detailed-exitcode", exit_code=3)
    assert lab.snapshot() == before
    cli.plug(port)
    before = lab.snapshot()
    cli("plan", "plug", port.id, "--detailed-exitcode")
    assert cli("plan", "unplug", port.id).stdout == cli("unplug", port.id, "--dry-run").stdout
    assert lab.snapshot() == before


def test_doctor_reports_a_full_lock_path_and_the_right_executor(cli: Command, lab: Lab, tmp_path: Path) -> None:
    config = tmp_path / "full.conf"
    config.write_text(
        "[hybridvif]\nlock_path = /run/hvfull\nlink_executor = subprocess-brctl\nprogram_path = /run/hvfull\n"
    )
    lab.sh("mkdir -p /run/hvfull; mount -t tmpfs -o size=4096 hvfull /run/hvfull")
    lab.sh("head -c 4096 /dev/zero >/run/hvfull/file")
    try:
        findings = cli.document("doctor", "--config-file", str(config), exit_code=5)["findings"]
    finally:
        lab.sh("umount /run/hvfull; rmdir /run/hvfull")
    failed = {finding["name"]: finding for finding in findings if finding["verdict"] == "fail"}
    assert "cannot hold a new file: No space left on device" in failed["lock_path"]["text"]
    assert "df /run/hvfull" in failed["lock_path"]["remedy"]
    assert "brctl" in failed["link executor"]["text"]
    assert "switch" not in failed


def test_every_dry_run_has_one_convention_of_exit_codes(cli: Command, lab: Lab, tmp_path: Path) -> None:
    """0 with or without changes; with --detailed-exitcode 3 if there are any. Only gc and check need no option."""
    port, file = make_port(mtu=1450), tmp_path / "ports.json"
    file.write_text(file_of([port]), encoding="utf-8")
    dry_runs = [
        ("plug", "-F", str(file), "--dry-run"),
        ("plan", "plug", "-F", str(file)),
        ("reconcile", "-F", str(file), "--dry-run"),
        ("adopt", "--dry-run"),
    ]
    cli.plug(port)
    for words in dry_runs:
        cli(*words, "--detailed-exitcode")
    cli("check", "-F", str(file))
    cli("check", "--all")
    cli("gc", "--dry-run", "--detailed-exitcode")
    # Without our tags, adopt has something to do. The link executors change an alias only by our plans.
    lab.sh(f"ip link set {port.names.bridge} alias ''; ip link set {port.names.bridge_end} nomaster")
    for words in dry_runs:
        cli(*words)
        cli(*words, "--detailed-exitcode", exit_code=3)
    cli("unplug", port.id, "--dry-run")
    cli("unplug", port.id, "--dry-run", "--detailed-exitcode", exit_code=3)
    cli("check", "-F", str(file), exit_code=3)
    assert cli.document("check", "--all", exit_code=3)["summary"]["drift"] == 1
    lab.sh(f"ip link delete {port.names.bridge}")
    cli("gc", "--dry-run", exit_code=3)
    cli("gc", "--dry-run", "--detailed-exitcode", exit_code=3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("ip link set {names.bridge_end} nomaster", "{names.bridge_end}: master none -> {names.bridge}"),
        ("ip link set {names.switch_end} promisc off", "{names.bridge_end}: qvo promisc off -> on"),
        ("ip link delete {names.bridge}", "Linux bridge {names.bridge} is missing"),
        (
            "ovs-vsctl remove interface {names.switch_end} external_ids attached-mac",
            "{names.switch_end}: attached-mac none -> {mac}",
        ),
    ],
)
def test_drift_is_named_shown_and_mended(damage: str, message: str, cli: Command, lab: Lab, port: Port) -> None:
    cli.plug(port)
    names = {"names": port.names, "mac": port.mac}
    lab.sh(damage.format(**names))
    sentence = message.format(**names)
    assert f"  {sentence}\n" in cli("check", *options_of(port), exit_code=3).stdout
    document = cli.document("check", *options_of(port), exit_code=3)
    assert document["in_order"] is False
    assert document["ports"][0]["drift"]
    shown = cli("show", port.id).stdout
    assert "DRIFT: " in shown
    assert f"fix: hybridvif plug {port.id} " in shown
    assert cli("list", "-f", "value", "-c", "state").stdout.strip() in ("drift", "orphan")
    assert "repaired: " in cli("plug", *options_of(port)).stdout
    assert check(port, lab.host) == ()


def test_documents_of_a_host_with_a_vm_follow_the_schemas(cli: Command, lab: Lab) -> None:
    """A conversion, an adoption, dry runs and errors; the other tests validate all else that they read."""
    port, other = make_port(1), make_port(2)
    cli.document("plug", "-F", "-", "--dry-run", stdin=file_of([port, other]))
    cli.document("plug", "-F", "-", stdin=file_of([port, other]))
    with lab.vm(port, 1):
        for name in ("show", "list", "doctor", "executors"):
            assert cli.document(name)["command"] == name
        to_native = ["convert", port.id, "--to", "native"]
        assert cli.document(*to_native, exit_code=6)["error"]["code"] == "unfiltered"
        assert cli.document(*to_native, "--unfiltered", "--dry-run")["command"] == "plan"
        cli.document(*to_native, "--unfiltered")
        cli.document("show", port.id)
        cli.document("convert", port.id, "--to", "hybrid")
    lab.sh(f"for n in {' '.join(port.names[:4])}; do ip link set $n alias '' 2>/dev/null || true; done")
    cli.document("adopt", "--dry-run")
    cli.document("adopt")
    cli.document("reconcile", "-F", "-", "--prune", "--dry-run", stdin=file_of([port]))
    cli.document("reconcile", "-F", "-", "--prune", stdin=file_of([port]))
    cli.document("gc", "--dry-run")
    cli.document("gc")
    assert cli.document("show", other.id, exit_code=2)["error"]["code"] == "invalid-input"
    cli.document("unplug", port.id)


def test_trace_of_a_plug_nests_and_joins_both_processes(cli: Command, port: Port, tmp_path: Path) -> None:
    """By the rules of the format: spans of a thread nest, and each track has a name."""
    file = tmp_path / "trace.json"
    cli("plug", *options_of(port), "--trace-file", str(file))
    document = json.loads(file.read_text())
    validate_as("trace-file", document)
    spans = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert {event["pid"] for event in document["traceEvents"] if event["name"] == "process_name"} == {1, 2}
    for pair in combinations(spans, 2):
        if len({(event["pid"], event["tid"]) for event in pair}) == 1:
            # They are apart, or one is within the other. Times are rounded to a tenth of a microsecond.
            (start, end), (begin, finish) = ((event["ts"], event["ts"] + event["dur"]) for event in pair)
            overlap = min(end, finish) - max(start, begin)
            assert overlap < 0.2 or overlap > min(end - start, finish - begin) - 0.2
    names = {pid: [event["name"] for event in spans if event["pid"] == pid] for pid in (1, 2)}
    assert {"plug", "start the daemon", "lock", "observe", "apply"} <= set(names[1])
    assert {"request", "observe link", "observe switch", "authorize", "apply link", "apply switch"} <= set(names[2])
    sent = [event for event in spans if event["name"] in ("observe", "apply")]
    requests = [event for event in spans if event["name"] == "request"]
    for ours, theirs in zip(sent, requests, strict=True):
        assert ours["ts"] <= theirs["ts"] <= theirs["ts"] + theirs["dur"] <= ours["ts"] + ours["dur"]


def test_many_ports_come_from_a_file_and_end_in_one_document(cli: Command, lab: Lab) -> None:
    ports = [make_port(number) for number in range(1, 6)]
    before = lab.links()
    document = cli.document("plug", "-F", "-", stdin=file_of(ports))
    assert [(item["port"], item["status"]) for item in document["ports"]] == [(item.id, "done") for item in ports]
    assert document["summary"] == {"done": 5}
    assert [item["state"] for item in cli.document("list")["ports"]] == ["in-order"] * 5
    lines = cli("unplug", *(item.id for item in ports)).stdout.splitlines()
    assert lines[-1] == "5 ports: 5 changed."
    assert lab.links() == before


def test_bad_input_changes_nothing(cli: Command, lab: Lab, port: Port) -> None:
    before = lab.snapshot()
    twice = file_of([port, port])
    assert "entry 2" in cli("plug", "-F", "-", stdin=twice, exit_code=2).stderr
    cli("plug", *options_of(port), "--mtu", "67", exit_code=2)
    error = cli.document("plug", *options_of(port), "--bridge", "br-typo", exit_code=5)["error"]
    assert error["code"] == "bridge-missing"
    lab.sh("ovs-vsctl add-br br-foreign -- set bridge br-foreign datapath_type=netdev")
    assert "br-foreign" in cli("plug", *options_of(port), "--bridge", "br-foreign", exit_code=6).stderr
    lab.sh("ovs-vsctl del-br br-foreign")
    assert lab.snapshot() == before


def test_without_ovsdb_or_helper_it_is_a_precondition_with_its_remedy(cli: Command, port: Port, tmp_path: Path) -> None:
    for option, message in (
        ("[hybridvif]\novsdb_connection = unix:/run/none/db.sock\n", "cannot reach OVSDB at unix:/run/none/db.sock"),
        ("[hybridvif_privileged]\nhelper_command = /no/helper\n", "cannot start the privileged daemon"),
    ):
        config = tmp_path / "hybridvif.conf"
        config.write_text(option)
        for words in (["plug", *options_of(port)], ["list"], ["check", port.id], ["unplug", port.id]):
            stderr = cli(*words, "--config-file", str(config), exit_code=5).stderr
            assert stderr.startswith(f"error: {message}")
            assert "\n  try: " in stderr
            assert stderr.endswith("\n  see: hybridvif doctor\n")
        assert "FAIL" in cli("doctor", "--config-file", str(config), exit_code=5).stdout


def test_a_command_that_ends_before_its_daemon_is_up_leaves_nothing_behind(
    cli: Command, lab: Lab, port: Port, tmp_path: Path
) -> None:
    config = tmp_path / "hybridvif.conf"
    config.write_text("[hybridvif]\ndeadline = soon\n")
    for words, code in (
        (["plug", *options_of(port), "--config-file", str(config)], 5),
        (["plug", *options_of(port), "--config-file", str(tmp_path / "none")], 5),
        (["plug", *options_of(port), "--mtu", "67"], 2),
        (["plug", *options_of(port), "--no-such-option"], 2),
        (["unplug"], 2),
    ):
        cli(*words, exit_code=code)
        # The daemon of the lab's own connection stays.
        assert until(lambda: len(daemons(lab.box)) <= 1, 2)
        assert "hybridvif-" not in lab.sh("ls $TMPDIR")


def test_an_ordinary_user_may_plan_and_ask_the_doctor(cli: Command, lab: Lab, port: Port) -> None:
    user = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    # Only the right to read all files: the Python of these tests may be in a closed home directory.
    user += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    # By a shell, which has lost all of root's capabilities.
    if lab.box.run([*user, "sh", "-c", 'exec "$0" -c "import hybridvif"', sys.executable], check=False).returncode:
        lacking("another user cannot be had here, or cannot run this Python")
    planned = lab.box.run([*user, "hybridvif", "plan", "plug", *options_of(port)])
    assert "Plan: 3 to create" in planned.stdout
    assert "this host could not be observed" in planned.stderr
    for words, code in ((["plug", *options_of(port)], 5), (["plan", "unplug", port.id], 5), (["doctor"], 5)):
        done = lab.box.run([*user, "hybridvif", *words], check=False)
        assert done.returncode == code
        assert "Traceback" not in done.stderr


def test_the_doctor_passes_a_good_host_and_names_a_hung_switch(cli: Command, lab: Lab) -> None:
    found = {finding["name"]: finding for finding in cli.document("doctor")["findings"]}
    assert found["bridge br-int"]["verdict"] == "pass"
    assert found["daemon"]["verdict"] == "pass"
    lab.box.pause("ovs-vswitchd")
    try:
        document = cli.document("doctor", exit_code=5)
    finally:
        lab.box.resume("ovs-vswitchd")
    assert [finding["name"] for finding in document["findings"] if finding["verdict"] == "fail"] == ["ovs-vswitchd"]


def test_doctor_names_a_link_executor_that_is_not_installed(cli: Command, tmp_path: Path) -> None:
    config = tmp_path / "hybridvif.conf"
    config.write_text("[hybridvif]\nlink_executor = nonesuch\n")
    document = cli.document("doctor", "--config-file", str(config), exit_code=5)
    failed = [finding for finding in document["findings"] if finding["verdict"] == "fail"]
    assert all("nonesuch" in finding["text"] for finding in failed)
    assert failed


def test_what_is_simulated_is_said_to_be(cli: Command, lab: Lab, port: Port, tmp_path: Path) -> None:
    before = lab.snapshot()
    config = tmp_path / "hybridvif.conf"
    config.write_text("[hybridvif]\nlink_executor = recording\nswitch_executor = recording\n")
    done = cli("plug", *options_of(port), "--config-file", str(config), "-f", "json")
    assert json.loads(done.stdout)["simulated"] is True
    assert "simulated: nothing was done on any real host" in done.stderr
    assert "SIMULATED" in cli("doctor", "--config-file", str(config), exit_code=5).stdout
    assert lab.snapshot() == before


def test_with_v_the_reasons_and_the_daemons_trail_are_told(cli: Command, port: Port) -> None:
    done = cli("-v", "plug", *options_of(port))
    assert "LP 1129055" in done.stdout
    assert f"create bridge {port.names.bridge}: done" in done.stderr
    assert "oslo" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_complete_document_or_none_and_converges(
    number: signal.Signals, cli: Command, lab: Lab, port: Port
) -> None:
    for seconds in SIGNALLED_AT:
        argv = ["hybridvif", "plug", "-F", "-", "-f", "json"]
        process = lab.box.popen(argv, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        feed(process, file_of([port]))
        time.sleep(seconds)
        lab.box.send_signal(process, number)
        stdout, stderr = process.communicate(timeout=20)
        assert process.returncode in (0, 130), stderr
        document = json.loads(stdout) if stdout else {}
        assert process.returncode == 0 or not stdout or "error" in document or "ports" in document
        assert "Traceback" not in stderr
        cli("plug", *options_of(port))
        assert check(port, lab.host) == ()
        cli("unplug", port.id)


def test_a_reader_that_leaves_is_no_error_and_the_work_is_done(cli: Command, lab: Lab, port: Port) -> None:
    words = " ".join(options_of(port))
    for redirection in ("| true", ">&- 2>&- <&-"):
        script = f"set -o pipefail; hybridvif plug {words} {redirection}"
        assert lab.box.run(["bash", "-c", script], check=False).stderr == ""
        assert until(lambda: check(port, lab.host) == ())
        cli("unplug", port.id)


def test_a_full_disk_under_stdout_is_said_and_is_the_exit_code_7(cli: Command, lab: Lab, port: Port) -> None:
    words = " ".join(options_of(port))
    done = lab.box.run(["sh", "-c", f"hybridvif plug {words} > /dev/full"], check=False)
    assert done.returncode == 7
    assert "No space left on device" in done.stderr
    assert check(port, lab.host) == ()


def test_planted_fifo_in_the_lock_directory_holds_up_no_gc(cli: Command, lab: Lab, port: Port) -> None:
    """A member of its group could otherwise hang root's gc, or make it delete new parts."""
    cli.plug(port)
    lab.sh(f"ip link delete {port.names.bridge_end}")
    cli("gc")
    directory = "/run/lock/hybridvif"
    for plants in (
        f"rm {directory}/remains.json; mkfifo {directory}/remains.json",
        f"sed -i 's/: [0-9.]*}}/: -1000000}}/' {directory}/remains.json; grep -q -- -1000000 {directory}/remains.json",
    ):
        lab.sh(plants)
        done = cli("gc")
        assert "removed from 3600 s on" in done.stdout
        assert done.stderr.count("remains.json is ignored") == 1
