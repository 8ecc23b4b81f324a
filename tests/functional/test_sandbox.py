"""The sandbox: it starts, works, and disappears however it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen

import pytest

from hybridvif.testing.pytest_plugin import lacking
from hybridvif.testing.sandbox.box import Sandbox, Vm
from hybridvif.testing.sandbox.launch import ROOT, here, probe
from hybridvif.testing.sandbox.missing import SandboxError

WAITING = "echo up; while :; do sleep .01; done"
STRANGER = 54321
"""Id of a user and group that exist on no host."""
MACS = ("fa:16:3e:00:00:01", "fa:16:3e:00:00:02")
ADDRESSES = ("192.0.2.1", "192.0.2.2")
ENTER = "import sys; sys.path.append({root!r}); from hybridvif.testing.sandbox import enter; enter(sys.argv[1:])"
HOLD = (
    "import sys, time; sys.path.append({root!r}); from hybridvif.testing.sandbox import Sandbox\n"
    "box = Sandbox(); print(box.pid, box._outer.pid, flush=True); time.sleep(600)"
)


@pytest.fixture(autouse=True, scope="module")
def _best() -> None:
    if unmet := probe():
        lacking(f"no sandbox: {unmet}")


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    """One sandbox for all tests that do not change it."""
    with Sandbox() as box:
        yield box


@pytest.fixture
def fresh() -> Iterator[Sandbox]:
    """A sandbox of its own, for a test that changes it."""
    with Sandbox() as box:
        yield box


def namespaces(pid: int | str) -> dict[str, str]:
    return {path.name: os.readlink(path) for path in Path(f"/proc/{pid}/ns").iterdir()}


def entering(*argv: str) -> list[str]:
    """Return the command line of a program that enters a sandbox like `hybridvif sandbox`."""
    return [sys.executable, "-c", ENTER.format(root=ROOT), *argv]


def entered(*argv: str, input: str = "") -> CompletedProcess[str]:
    """Run a command in the same way as `hybridvif sandbox`."""
    return subprocess.run(entering(*argv), input=input, check=False, capture_output=True, text=True, timeout=30)


def first_line(process: Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def soon(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_dead(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def members(pid_namespace: str) -> list[int]:
    """Return the processes of a pid namespace, except those that wait to be reaped by the first process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/ns/pid"):
        try:
            if os.readlink(path) == pid_namespace and not is_dead(int(path.parts[2])):
                found.append(int(path.parts[2]))
        except OSError:  # it has exited, or belongs to another user
            continue
    return found


def plug_by_hand(box: Sandbox, key: str) -> None:
    """Plug by ip and ovs-vsctl only, to test the sandbox without hybridvif."""
    make_links_by_hand(box, key)
    box.run(["ovs-vsctl", "--timeout=10", "add-port", "br-int", f"qvo{key}"])


def make_links_by_hand(box: Sandbox, key: str) -> None:
    lines = [
        f"link add qbr{key} type bridge forward_delay 0 stp_state 0 mcast_snooping 0 ageing_time 0",
        f"link add qvb{key} type veth peer name qvo{key}",
        f"link set qvb{key} master qbr{key} promisc on up",
        f"link set qvo{key} promisc on up",
        f"link set qbr{key} up",
    ]
    box.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n")


def two_vms(box: Sandbox) -> tuple[Vm, Vm]:
    """Start two VMs, each behind a hybrid port."""
    vms = []
    for key, mac, address in zip(("00000000-01", "00000000-02"), MACS, ADDRESSES, strict=True):
        plug_by_hand(box, key)
        vms.append(Vm(f"tap{key}", mac, f"{address}/24", bridge=f"qbr{key}", runner=box.run))
        vms[-1].boot()
    return vms[0], vms[1]


def test_everything_is_where_it_is_on_any_host(box: Sandbox) -> None:
    assert "br-int" in box.run(["ovs-vsctl", "list-br"]).stdout
    assert box.run(["ip", "-brief", "link", "show", "lo"]).stdout.split()[1] in ("UNKNOWN", "UP")
    assert "eth" not in box.run(["ls", "/sys/class/net"]).stdout
    assert box.run(["sh", "-c", "command -v hybridvif"]).stdout.startswith("/run/")
    assert (box.run_dir / "openvswitch" / "db.sock").is_socket()


def test_the_callers_directory_environment_and_interpreter_are_kept(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OVS_RUNDIR", "/elsewhere")
    ran = box.python("import os, sys, hybridvif; print(os.getcwd(), sys.executable, os.getenv('OVS_RUNDIR'))")
    assert ran.stdout.split() == [str(tmp_path), sys.executable, "None"]
    assert box.run(["printenv", "X"], env={"X": "y"}).stdout == "y\n"


def test_a_failed_command_raises_with_its_last_words(box: Sandbox) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        box.run(["sh", "-c", "echo why >&2; exit 3"])
    assert caught.value.returncode == 3
    assert caught.value.__notes__ == ["why\n"]
    assert box.run(["false"], check=False).returncode == 1


def test_a_command_that_takes_too_long_is_dead_afterwards(box: Sandbox) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        box.run(["sleep", "4242"], timeout=0.2)
    assert soon(lambda: box.run(["pgrep", "-f", "sleep 4242"], check=False).returncode == 1)


def test_signals_reach_a_command_that_was_started_inside(box: Sandbox) -> None:
    process = box.popen(["sh", "-c", f"trap 'echo heard; exit 5' TERM; {WAITING}"], stdout=PIPE)
    assert first_line(process) == "up"
    box.send_signal(process, signal.SIGTERM)
    assert process.communicate(timeout=5)[0] == "heard\n"
    assert process.returncode == 5


def test_the_caller_stays_in_its_own_namespaces() -> None:
    before = namespaces("self")
    with Sandbox() as box:
        inside = namespaces(box.pid)
        assert namespaces("self") == before
        assert all(inside[kind] != before[kind] for kind in ("net", "mnt", "pid"))
    assert namespaces("self") == before
    assert not here()


def test_closing_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    mounts = Path("/proc/self/mountinfo").read_text()
    with Sandbox() as box:
        pid_namespace = namespaces(box.pid)["pid"]
        assert len(members(pid_namespace)) >= 3
        box.run(["mktemp"])
    assert members(pid_namespace) == []
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert list(tmp_path.iterdir()) == []
    box.close()


@pytest.mark.parametrize("victim", ["caller", "outer", "first"])
def test_it_is_gone_when_any_process_it_hangs_on_is_killed(victim: str) -> None:
    caller = Popen([sys.executable, "-c", HOLD.format(root=ROOT)], stdout=PIPE, text=True)
    first, outer = map(int, first_line(caller).split())
    pid_namespace = namespaces(first)["pid"]
    os.kill({"caller": caller.pid, "outer": outer, "first": first}[victim], signal.SIGKILL)
    try:
        assert soon(lambda: members(pid_namespace) == [])
        assert soon(lambda: is_dead(outer))
    finally:
        caller.kill()
        caller.communicate()


PYTEST_RUN = """
import os, time
def test_nothing(sandbox):
    child = os.fork()
    if child == 0:
        time.sleep(600)
    os.write(1, b"%d %d\\n" % (sandbox.pid, child))
    time.sleep(600)
"""


def test_sandbox_ends_with_a_killed_pytest_run(tmp_path: Path) -> None:
    """A process that the test has forked lives on, and holds open what it inherited."""
    (tmp_path / "test_held.py").write_text(PYTEST_RUN)
    argv = [sys.executable, "-P", "-m", "pytest", "-s", "-q", "-p", "no:cacheprovider", "test_held.py"]
    run = Popen(argv, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ROOT}, stdout=PIPE, text=True)
    first, child = map(int, first_line(run).split())
    pid_namespace = namespaces(first)["pid"]
    run.kill()
    try:
        assert soon(lambda: members(pid_namespace) == [])
    finally:
        os.kill(child, signal.SIGKILL)
        run.communicate()


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.15])
def test_sandbox_ends_with_a_caller_killed_during_its_start(seconds: float) -> None:
    caller = Popen([sys.executable, "-c", HOLD.format(root=ROOT)], stdout=PIPE, text=True)
    while not (started := children_of(caller.pid)):
        assert caller.poll() is None
    outer = started[0]
    time.sleep(seconds)
    first = children_of(outer)
    caller.kill()
    caller.communicate()
    assert soon(lambda: is_dead(outer) and all(map(is_dead, first)))


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_sandbox_ends_with_killed_caller_despite_living_forked_child() -> None:
    code = HOLD.format(root=ROOT).replace("time.sleep", "import os; os.write(1, b'%d\\n' % os.fork()); time.sleep")
    caller = Popen([sys.executable, "-c", code], stdout=PIPE, text=True)
    first, _ = map(int, first_line(caller).split())
    child = max(int(first_line(caller)), int(first_line(caller)))
    pid_namespace = namespaces(first)["pid"]
    caller.kill()
    try:
        assert soon(lambda: members(pid_namespace) == [])
        assert Path(f"/proc/{child}").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        caller.communicate()


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]
)
def test_the_commands_exit_code_is_the_sandboxs(script: str, code: int) -> None:
    assert entered("sh", "-c", script).returncode == code


def test_a_command_that_does_not_exist_is_127_and_one_sentence() -> None:
    ran = entered("no-such-program")
    assert ran.returncode == 127
    assert ran.stderr.splitlines()[-1].startswith("error: no-such-program cannot be run")


def test_input_and_output_pass_through() -> None:
    assert entered("cat", input="through and through").stdout == "through and through"


def test_a_process_left_behind_by_the_command_ends_with_it() -> None:
    ran = entered("sh", "-c", "sleep 4243 & readlink /proc/self/ns/pid")
    assert members(ran.stdout.strip()) == []


def test_a_signal_to_the_entered_process_reaches_the_command() -> None:
    process = Popen(entering("sh", "-c", f"trap 'exit 5' TERM; {WAITING}"), stdout=PIPE, text=True)
    assert first_line(process) == "up"
    process.terminate()
    process.communicate(timeout=5)
    assert process.returncode == 5


def test_killing_the_entered_process_ends_the_sandbox() -> None:
    process = Popen(entering("sh", "-c", "readlink /proc/self/ns/pid; exec sleep 4244"), stdout=PIPE, text=True)
    pid_namespace = first_line(process)
    process.kill()
    process.communicate()
    assert soon(lambda: members(pid_namespace) == [])


def test_control_c_reaches_the_command_and_not_the_sandbox() -> None:
    script = f"trap 'echo interrupted; exit 6' INT; {WAITING}"
    # A shell cannot trap a signal that it inherits as ignored, as the jobs of a script in the background do: sh(1).
    code = "import os, pty, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    code += "sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    argv = [sys.executable, "-c", code, *entering("sh", "-c", script)]
    with Popen(argv, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        limit = threading.Timer(30, process.kill)  # a lost interrupt fails the test and does not hang the run
        limit.start()
        while first_line(process) != "up":
            pass
        process.stdin.write("\x03")
        process.stdin.flush()
        output = process.stdout.read()
        limit.cancel()
        assert "interrupted" in output
    assert process.returncode == 6


def test_packets_cross_two_hybrid_ports(fresh: Sandbox) -> None:
    first, other = two_vms(fresh)
    ping = first.ping(ADDRESSES[1], count=2)
    assert ping.returncode == 0, ping.stdout + ping.stderr
    assert "2 received" in ping.stdout
    other.shut_down()
    assert first.ping(ADDRESSES[1], timeout=1).returncode != 0
    first.shut_down()
    assert "tap" not in fresh.run(["ip", "-brief", "link"]).stdout


def test_tcp_crosses_two_hybrid_ports(fresh: Sandbox) -> None:
    first, other = two_vms(fresh)
    serve = (
        "import socket; s = socket.create_server(('', 99)); print('up', flush=True); c, _ = s.accept()\n"
        "n = 0\nwhile d := c.recv(65536): n += len(d)\nprint(n)"
    )
    send = "import socket; c = socket.create_connection(('192.0.2.2', 99), 5); c.sendall(bytes(200_000))"
    server = fresh.popen(["ip", "netns", "exec", other.namespace, sys.executable, "-c", serve], stdout=PIPE)
    assert first_line(server) == "up"
    first.run([sys.executable, "-c", send], timeout=20)
    assert server.communicate(timeout=5)[0] == "200000\n"


def test_a_tap_may_come_before_its_bridge(box: Sandbox) -> None:
    with Vm("tap00000000-03", MACS[0], "192.0.2.3/24", runner=box.run) as vm:
        show = ["ip", "-json", "link", "show", vm.tap]
        assert "master" not in json.loads(box.run(show).stdout)[0]
        box.run(["ip", "link", "add", "qbr00000000-03", "type", "bridge"])
        vm.attach("qbr00000000-03")
        assert json.loads(box.run(show).stdout)[0]["master"] == "qbr00000000-03"
        box.run(["ip", "link", "delete", "qbr00000000-03"])


def test_a_paused_daemon_hangs_and_a_resumed_one_goes_on() -> None:
    with Sandbox() as box:
        box.pause("ovsdb-server")
        assert box.run(["ovs-vsctl", "--timeout=1", "show"], check=False).returncode != 0
        box.resume("ovsdb-server")
        box.run(["ovs-vsctl", "--timeout=5", "show"])
        box.pause("ovs-vswitchd")
        assert box.run(["ovs-vsctl", "--timeout=1", "add-br", "br-x"], check=False).returncode != 0
        box.resume("ovs-vswitchd")
        box.run(["ovs-vsctl", "--timeout=5", "del-br", "br-x"])


def test_a_killed_daemon_is_dead_until_started() -> None:
    with Sandbox() as box:
        for name in ("ovsdb-server", "ovs-vswitchd"):
            box.kill(name)
            with pytest.raises(SandboxError, match=f"{name} does not run"):
                box.daemon_pid(name)
            box.start(name)
            assert box.daemon_pid(name) > 0
        box.run(["ovs-vsctl", "--timeout=5", "add-br", "br-x", "--", "set", "bridge", "br-x", "datapath_type=netdev"])


def test_reboot_keeps_rows_and_recreated_links_carry_packets() -> None:
    with Sandbox() as box:
        vms = two_vms(box)
        box.reboot()
        assert box.run(["ovs-vsctl", "list-ports", "br-int"]).stdout.split() == ["qvo00000000-01", "qvo00000000-02"]
        assert not re.search("qbr|qvb|qvo|tap", box.run(["ip", "-brief", "link"]).stdout)
        for vm in vms:
            vm.shut_down()
            make_links_by_hand(box, vm.tap.removeprefix("tap"))
            vm.boot()
        # By hand links come up one after another under a row that vswitchd watches; whether it takes them by itself is
        # a race. Parked and freed, in two transactions, the rows are taken for certain. A device that vswitchd had
        # opened before it was up is set down again when it lets go of it, so it is set up last.
        for row in ("qvo00000000-01", "qvo00000000-02"):
            box.run(["ovs-vsctl", "set", "Interface", row, "type=patch", "options:peer=nobody"])
            box.run(["ovs-vsctl", "set", "Interface", row, 'type=""', "--", "clear", "Interface", row, "options"])
            box.run(["ip", "link", "set", row, "up"])
        assert vms[0].ping(ADDRESSES[1]).returncode == 0


def test_the_switch_can_be_started_later_on_another_database(tmp_path: Path) -> None:
    with Sandbox(ovs=False) as box:
        assert not (box.run_dir / "openvswitch" / "db.sock").exists()
        box.start_switch(database="/run/other.db")
        assert (box.run_dir / "other.db").exists()
        box.restart("ovsdb-server")
        assert box.run(["ovs-vsctl", "list-br"]).stdout == "br-int\n"


def test_a_host_without_namespaces_is_told_the_remedy() -> None:
    """A user namespace with limit 0 and without capabilities, as on a hardened host."""
    prepare = 'echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-sys_admin -- "$@"'
    argv = ["unshare", "--user", "--map-root-user", "sh", "-c", prepare, "sh"]
    code = f"import sys; sys.path.append({ROOT!r}); from hybridvif.testing.sandbox import *; print(probe())"
    ran = subprocess.run([*argv, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "this user may not make namespaces" in ran.stdout
    assert "sudo sysctl -w user.max_user_namespaces=" in ran.stdout
    ran = subprocess.run([*argv, *entering("true")], capture_output=True, text=True, check=False)
    assert ran.returncode == 5
    assert ran.stderr.startswith("error: ")
    assert "\n  try: sudo" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("is_open", [True, False], ids=["open tun", "closed tun"])
def test_ordinary_user_has_a_sandbox_or_the_remedy(tmp_path: Path, is_open: bool) -> None:
    if os.geteuid() != 0:
        lacking("only root can become another user; as an ordinary user all the other tests say the same")
    # env: setpriv itself still has root's capabilities when it searches for a program.
    become = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", "env"]
    pythons = (sys.executable, shutil.which("python3", path="/usr/local/bin:/usr/bin"))
    usable = [x for x in pythons if x and _works([*become, x, "-c", "import sys; assert sys.version_info >= (3, 11)"])]
    if not usable:
        lacking("no Python >= 3.11 that an ordinary user may run")
    code = (
        f"import sys; sys.path.append({ROOT!r})\n"
        "from hybridvif.testing.sandbox import Sandbox\n"
        "with Sandbox() as box:\n"
        "    print('had', box.run(['ovs-vsctl', 'list-br']).stdout, box.run(['id', '-u']).stdout)"
    )
    tun = tmp_path / "tun"
    tun.touch()
    tun.chmod(0o000)
    close = f"mount --bind {tun} /dev/net/tun; " if not is_open else ""
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f'{close}exec "$@"', "sh", *become, usable[0], "-B", "-c", code],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    if is_open:
        assert ran.stdout.split() == ["had", "br-int", "0"], ran.stderr
    else:
        assert "/dev/net/tun is closed to this user" in ran.stderr
        assert ran.stderr.strip().endswith("fix it with: sudo chmod 0666 /dev/net/tun")


def _works(argv: list[str]) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("level", ["packets", "none"])
def test_demo_at_each_level_keeps_its_promise_and_leaves_nothing(level: str) -> None:
    argv = [sys.executable, "-m", "hybridvif", "demo", "--level", level]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    if ran.returncode == 5:
        lacking(ran.stderr)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1].startswith("0 left over")
    assert ("3 received" in ran.stdout) is (level != "none")
