"""Conversions: the daemon killed before each change, and all ports of a host at once, under running stand-ins."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest

from hybridvif import Report, convert, convert_all, plug, plug_all, unplug, unplug_all
from hybridvif.model.report import Status
from hybridvif.testing.sandbox.box import Sandbox, Vm
from tests.faults.conftest import PAIRS, lab_of, report_of
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_boundary import daemons
from tests.support import stand_ins
from tests.support.figures import note
from tests.support.sizes import FULL
from tests.support.strace import attached, counted, counting, killed, killing_at, require_strace

PORT, PEER = make_port(1), make_port(2)
NAMES = PORT.names
BACK = {"native": "hybrid", "hybrid": "native"}
HARMLESS = {"setsockopt", "bind"}
"""Calls on sockets of the daemon's own, which change nothing that outlives it."""

pytestmark = pytest.mark.prove


@contextmanager
def running(box: Sandbox, directory: Path, link: str, switch: str) -> Iterator[tuple[Lab, Vm]]:
    """Yield a host with a VM on PORT and another one. Its daemon uses one thread, because strace counts by thread."""
    with lab_of(box, directory, link_executor=link, switch_executor=switch, deadline=60) as lab:
        with (directory / "hybridvif.conf").open("a", encoding="utf-8") as config:
            config.write("thread_pool_size = 1\n")
        plug_all([PORT, PEER], lab.host)
        with lab.vm(PORT, 1) as vm, lab.vm(PEER, 2):
            yield lab, vm


def converted(lab: Lab, to: str) -> Report:
    return report_of(lambda: convert(PORT.id, lab.host, to, unfiltered=True))


def warm(lab: Lab) -> int:
    """Return the pid of a daemon that has already worked, so that its start is not traced."""
    for _ in range(2):
        lab.host.observe(set(NAMES), time.monotonic() + 10)
    (pid,) = daemons(lab.box)
    return pid


def is_native(lab: Lab) -> bool:
    """Return True if the tap is in the switch, False if it is in qbr, by the tools of the host."""
    in_switch = [bool(lab.row(name)) for name in (NAMES.switch_end, NAMES.tap)]
    assert in_switch.count(True) == 1
    assert in_switch[1] or lab.link(NAMES.tap).get("master") == NAMES.bridge
    return in_switch[1]


@pytest.mark.parametrize("to", ["native", "hybrid"])
@pytest.mark.parametrize(("link", "switch"), PAIRS if FULL else PAIRS[:1])
def test_daemon_killed_in_a_conversion_is_repaired_by_any_call(
    sandbox: Sandbox, tmp_path: Path, link: str, switch: str, to: str
) -> None:
    require_strace()
    log, counts, faults = tmp_path / "log", Counter[str](), list[str]()
    with running(sandbox, tmp_path / "lab", link, switch) as (lab, vm):
        converted(lab, BACK[to])
        with attached(warm(lab), counting(), log):
            assert converted(lab, to).ok
        points = counted(log)
        kind = max(points, key=lambda kind: points[kind])
        places = [(kind, number) for kind in points.keys() - HARMLESS for number in range(1, points[kind] + 1)]
        if not FULL:
            places = [(kind, points[kind] // 3), (kind, points[kind] * 2 // 3)]
        for (kind, number), then in zip(places, cycle(("convert", "plug", "unplug"))):
            where = f"{to}, killed at {kind} {number}, {then}"
            # ovs-vswitchd may still be at work for the last call, and a conversion refuses what changes.
            assert until(lambda: converted(lab, BACK[to]).ok), where
            with attached(warm(lab), killing_at(number, kind), log):
                report = converted(lab, to)
            counts["kills"] += killed(log)
            counts["false_ok"] += report.ok and is_native(lab) is not (to == "native")
            found = [f"{where}: {fault}" for fault in ended(lab, vm, to, then)]
            counts["wrong"] += bool(found)
            faults += found
    note("conversion-kills", {"wrong": 0, "false_ok": 0} | counts, case=f"{to} {link} {switch}")
    assert faults == []
    assert counts["kills"] > 0
    assert counts["false_ok"] == 0


def ended(lab: Lab, vm: Vm, to: str, then: str) -> Iterator[str]:
    """Call again after a kill, and yield what is wrong then."""
    if then == "unplug":
        # The VM ends first, as before each unplug of Nova.
        vm.shut_down()
        report = report_of(lambda: unplug(PORT.id, lab.host))
        rest = [name for name in NAMES if lab.link(name) or lab.row(name)]
        if not report.ok or rest:
            yield f"{report.status.value} {report.reason}, left over {rest}"
        plug(PORT, lab.host)
        vm.boot()
        return
    report = converted(lab, to) if then == "convert" else report_of(lambda: plug(PORT, lab.host))
    if not report.ok:
        yield f"{report.status.value} {report.reason}"
    if then == "convert" and is_native(lab) is not (to == "native"):
        yield "it is not converted"
    if not until(lambda: vm.ping("10.0.0.2").returncode == 0):
        yield "the VM is cut off"
    if any("hybridvif-converting" in str(lab.row(name)) for name in (NAMES.switch_end, NAMES.tap)):
        yield "the mark is left over"


@pytest.mark.parametrize("switch", ["ovsdb", "ovs-vsctl"] if FULL else ["ovsdb"])
def test_all_ports_of_a_host_are_converted_under_their_vms(sandbox: Sandbox, tmp_path: Path, switch: str) -> None:
    ports = [make_port(number) for number in range(1, (300 if FULL else 30) + 1)]
    port_ids = [port.id for port in ports]
    with lab_of(sandbox, tmp_path / "lab", switch_executor=switch, deadline=60) as lab:
        started = time.monotonic()
        assert all(report.ok for report in plug_all(ports, lab.host))
        seconds = {"plug": time.monotonic() - started}
        gaps: dict[str, float] = {}
        lab.sh(f"ovs-vsctl add-port br-int {stand_ins.SINK} -- set Interface {stand_ins.SINK} type=internal")
        lab.sh(f"ip link set {stand_ins.SINK} up")
        argv = [sys.executable, "-P", stand_ins.__file__, "50"]
        for to in ("native", "hybrid"):
            with lab.box.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as vms:
                assert vms.stdin is not None
                assert vms.stdout is not None
                vms.stdin.write(" ".join(port.names.tap for port in ports) + "\n")
                vms.stdin.flush()
                assert vms.stdout.readline() == "ready\n"
                script = "".join(f"ip link set {port.names.tap} up master {port.names.bridge}\n" for port in ports)
                lab.sh(script)
                if to == "hybrid":
                    convert_all(port_ids, lab.host, unfiltered=True)
                vms.stdin.write("measure\n")
                vms.stdin.flush()
                time.sleep(2)
                started = time.monotonic()
                reports = convert_all(port_ids, lab.host, to, unfiltered=True)
                seconds[to] = time.monotonic() - started
                time.sleep(1)
                vms.stdin.close()
                measured = json.loads(vms.stdout.read())
            assert [report.status for report in reports] == [Status.DONE] * len(ports)
            gaps[to] = max(measured.values())
            if to == "native":
                unplug_all(port_ids, lab.host)
                assert all(report.ok for report in plug_all(ports, lab.host))
        started = time.monotonic()
        assert all(report.ok for report in unplug_all(port_ids, lab.host))
        seconds["unplug"] = time.monotonic() - started
    counts = {f"longest_{name}_s": round(value, 2) for name, value in seconds.items()}
    counts |= {f"longest_gap_to_{to}_s": round(gap, 2) for to, gap in gaps.items()}
    note("conversion-all", counts, case=switch, longest_ports=len(ports))
    # A machine under load is slower. The figures are in the note.
    assert max(gaps.values()) < 30
