"""Concurrent and repeated calls: races for one port, daemons killed under load, thousands of plugs and unplugs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, TimeoutError as Unanswered
from contextlib import suppress
from pathlib import Path

import pytest

from hybridvif import HybridVifError, NameCollision, Report, check, plug, plug_all, unplug
from tests.faults.conftest import report_of
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_boundary import daemons
from tests.support.figures import note
from tests.support.likeness import Likeness, differences, likeness
from tests.support.sizes import FULL

pytestmark = pytest.mark.prove
PORT = make_port()

RACER = """
import sys
from hybridvif import HybridVifError, connect, plug, unplug
from tests.functional.conftest import make_port
port = make_port()
with connect([sys.argv[1]]) as host:
    host.observe(set(port.names), __import__("time").monotonic() + 30)
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            (plug(port, host) if line == "plug\\n" else unplug(port.id, host))
            print("ok", flush=True)
        except HybridVifError as error:
            print(f"{error.code} {error}", flush=True)
"""


@pytest.mark.parametrize("racers", [2, 4, 8] if FULL else [3])
def test_callers_that_race_for_one_port_get_no_error(lab: Lab, tmp_path: Path, racers: int) -> None:
    """The model is a register: after a round it holds the result of some order of the calls."""
    rounds = 100 if FULL else 4
    empty = likeness(lab)
    plug(PORT, lab.host)
    whole = likeness(lab)
    errors, wrong = [], []
    command = [sys.executable, "-c", RACER, str(tmp_path / "lab" / "hybridvif.conf")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    programs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(racers)
    ]
    try:
        assert [program.stdout.readline() for program in programs if program.stdout] == ["ready\n"] * racers
        for number in range(rounds):
            verbs = ["plug" if (racer + number) % 3 or number % 5 == 0 else "unplug" for racer in range(racers)]
            for program, verb in zip(programs, verbs, strict=True):
                assert program.stdin
                program.stdin.write(f"{verb}\n")
                program.stdin.flush()
            answers = [program.stdout.readline().strip() for program in programs if program.stdout]
            errors += [answer for answer in answers if answer != "ok"]
            seen = likeness(lab)
            legal = [state for verb, state in (("plug", whole), ("unplug", empty)) if verb in verbs]
            wrong += [] if any(not differences(state, seen) for state in legal) else [differences(whole, seen)]
    finally:
        for program in programs:
            program.communicate(timeout=20)
    note("races", case=str(racers), rounds=rounds, calls=rounds * racers, errors=len(errors), wrong=len(wrong))
    assert errors == []
    assert wrong == []


WRITER = """
n=0
while [ -e "$0" ]; do
    ovs-vsctl --timeout=10 --no-wait add-port br-int "$1"
    ovs-vsctl --timeout=10 --no-wait del-port br-int "$1"
    n=$((n + 2))
done
ovs-vsctl --timeout=10 --no-wait add-port br-int "$1"
echo $n
"""


def test_others_who_change_same_bridge_neither_stop_plug_nor_suffer(lab: Lab, tmp_path: Path) -> None:
    times, names = 20 if FULL else 3, [f"other{number}" for number in range(4)]
    plug(PORT, lab.host)
    whole = likeness(lab)
    unplug(PORT.id, lab.host)
    empty = likeness(lab)
    storm = tmp_path / "storm"
    storm.touch()
    writers = [
        subprocess.Popen(lab.box.entering(["sh", "-ec", WRITER, str(storm), name]), stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    reports, wrong = [], []

    def go(call: Callable[[], Report], wanted: Likeness) -> None:
        reports.append(report_of(call))
        seen = likeness(lab)
        mine = {key: value for key, value in seen.items() if key.split()[1] not in names}
        wrong.extend(differences(wanted, mine))

    try:
        assert until(lambda: any(f"port {name}" in likeness(lab) for name in names))
        for _ in range(times):
            go(lambda: plug(PORT, lab.host), whole)
            go(lambda: unplug(PORT.id, lab.host), empty)
    finally:
        storm.unlink()
        writes = [writer.communicate(timeout=30)[0] for writer in writers]
    errors = [f"{report.status.value} {report.reason}" for report in reports if not report.ok]
    lost = [name for name in names if f"port {name}" not in likeness(lab)]
    made, retries = sum(int(count or 0) for count in writes), sum(report.retries for report in reports)
    note(
        "storm", calls=len(reports), writes=made, errors=len(errors), wrong=len(wrong), lost=len(lost), retries=retries
    )
    assert [writer.returncode for writer in writers] == [0] * len(names)
    assert (errors, wrong, lost) == ([], [], [])
    assert made > len(reports)


@pytest.mark.parametrize("callers", [1, 2, 8] if FULL else [8])
def test_nobody_hangs_when_the_daemon_is_killed_under_them(lab: Lab, callers: int) -> None:
    rounds = 20 if FULL else 1
    hung, longest = 0, 0.0
    ports = [make_port(number) for number in range(1, callers + 1)]

    def work(index: int) -> None:
        for number in range(2):
            with suppress(HybridVifError):
                plug(ports[index], lab.host) if number == 0 else unplug(ports[index].id, lab.host)

    with ThreadPoolExecutor(callers) as pool:
        for number in range(rounds):
            check(ports[0], lab.host)
            asked = [pool.submit(work, index) for index in range(callers)]
            time.sleep(0.002 + 0.004 * (number % 10))
            for pid in daemons(lab.box):
                os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            for future in asked:
                try:
                    future.result(timeout=30)
                except Unanswered:
                    hung += 1
            longest = max(longest, time.monotonic() - killed)
    for port in ports:
        assert plug(port, lab.host).ok
    note("daemon-killed", case=str(callers), rounds=rounds, hung=hung, longest_s=round(longest, 2))
    assert hung == 0


def memory(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def held(lab: Lab) -> Counter[str]:
    """Return the resources that a leak would increase, in the client and in the daemon."""
    (daemon,) = daemons(lab.box)
    counted: Counter[str] = Counter()
    for name, pid in (("caller", os.getpid()), ("daemon", daemon)):
        counted[f"{name}_fds"] = len(os.listdir(f"/proc/{pid}/fd"))
        counted[f"{name}_threads"] = len(os.listdir(f"/proc/{pid}/task"))
    return counted


def test_a_plug_and_an_unplug_leave_nothing_however_often(lab: Lab, tmp_path: Path) -> None:
    cycles, settling = (2000, 200) if FULL else (10, 5)
    with ThreadPoolExecutor(64) as pool:
        # So that the daemon has started all of its threads.
        list(pool.map(lambda _: lab.host.observe({PORT.names.tap}, time.monotonic() + 10), range(256)))
    # After that, because each of its 32 threads touches some 50 KB of stack at its first plan.
    for number in range(settling):
        plug(make_port(number + 1), lab.host)
        unplug(make_port(number + 1).id, lab.host)
    empty, before = likeness(lab), held(lab)
    (daemon,) = daemons(lab.box)
    was = (memory(os.getpid()), memory(daemon))
    for number in range(cycles):
        plug(make_port(number + 1), lab.host)
        unplug(make_port(number + 1).id, lab.host)
    # The thread of a delete lives until the kernel's grace period is over.
    until(lambda: held(lab) == before, 2)
    after, leftovers = held(lab), differences(empty, likeness(lab))
    grown = [now - then for now, then in zip((memory(os.getpid()), memory(daemon)), was, strict=True)]
    files = len(os.listdir(tmp_path / "lab" / "locks"))
    more = after - before
    note(
        "cycles",
        cycles=cycles,
        fds=more["caller_fds"] + more["daemon_fds"],
        threads=more["caller_threads"] + more["daemon_threads"],
        left=len(leftovers),
        longest_lock_files=files,
        longest_caller_mb=round(grown[0], 2),
        longest_daemon_mb=round(grown[1], 2),
    )
    assert leftovers == []
    assert files <= 1024
    assert more == Counter()
    if FULL:
        assert max(grown) <= 2


def test_second_port_with_same_names_is_refused_in_every_order(lab: Lab) -> None:
    twin = make_port(1, id="00000001-7bff-4fff-8fff-ffffffffffff")
    refused = changed = orders = 0
    calls = {
        "plug": lambda: plug(twin, lab.host),
        "unplug": lambda: unplug(twin.id, lab.host),
        "forced unplug": lambda: unplug(twin.id, lab.host, force=True),
    }
    for first, second in (("plug", "plug"), ("plug", "unplug"), ("unplug", "plug"), ("unplug", "unplug"),
                          ("forced unplug", "plug"), ("plug", "forced unplug")):  # fmt: skip
        plug(PORT, lab.host)
        before = lab.snapshot()
        orders += 1
        for name in (first, second):
            with pytest.raises(NameCollision):
                calls[name]()
            refused += 1
        changed += lab.snapshot() != before
        unplug(PORT.id, lab.host)
    note("collision", orders=orders, refused=refused, calls=2 * orders, changed=changed)
    assert (refused, changed) == (12, 0)


def test_a_bridge_keeps_its_mac_and_mtu_whoever_joins_and_leaves(lab: Lab) -> None:
    times = 1000 if FULL else 20
    plug(PORT, lab.host)
    bridge = PORT.names.bridge
    # One shell checks after each join and each leave, and prints all observed values.
    seen = lab.sh(
        f"""
        ip link add hvguest address 00:00:00:00:00:02 mtu 1400 type veth peer name hvpeer
        look() {{ cat /sys/class/net/{bridge}/address /sys/class/net/{bridge}/mtu | tr '\\n' ' '; echo; }}
        look
        for i in $(seq {times}); do
            ip link set hvguest master {bridge}; look
            ip link set hvguest nomaster; look
        done
        ip link delete hvguest
        """
    ).splitlines()
    changes = sum(values != seen[0] for values in seen)
    note("mac-and-mtu", times=times, looks=len(seen), changes=changes)
    assert len(seen) == 2 * times + 1
    assert changes == 0


def test_a_hundred_ports_in_order_raise_no_alarm(lab: Lab) -> None:
    ports = [make_port(number) for number in range(1, 101 if FULL else 21)]
    assert {report.reason for report in plug_all(ports, lab.host)} == {""}
    alarms = sum(check(port, lab.host) != () for port in ports)
    note("false-alarms", ports=len(ports), alarms=alarms)
    assert alarms == 0


def test_a_running_vm_is_not_cut_off(lab: Lab) -> None:
    plug(PORT, lab.host)
    with lab.vm(PORT, 1) as vm:
        with pytest.raises(HybridVifError) as caught:
            unplug(PORT.id, lab.host)
        assert caught.value.report
        code = caught.value.report.status.exit_code
        vm.run(["ip", "link", "set", "eth0", "down"])
        done = unplug(PORT.id, lab.host).ok
    note("running-vm", exit_code=code, done=done)
    assert (code, done) == (6, True)
