"""watch: each change of links and rows is seen soon, none is lost, and nothing runs while nothing changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hybridvif import Event, Watch, plug, plug_all, unplug_all
from tests.functional.conftest import EXECUTORS, Lab, make_port, require_tun, until
from tests.functional.test_boundary import daemons
from tests.support.schemas import validate

LATE = 30.0
"""Seconds that a loaded host gets. A host without load shows a change within half a second."""
PORT = make_port()
NAMES = PORT.names


class Seen:
    """A watch in a thread, with the time of each event."""

    def __init__(self, lab: Lab, *port_ids: str) -> None:
        self.events: list[tuple[float, Event]] = []
        self._watch, self._ends = Watch(lab.host, port_ids), False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends:
            found = self._watch.wait(time.monotonic() + 1)
            self.events += [(time.monotonic(), event) for event in found]

    def has(self, name: str, attribute: str | None, after: object) -> bool:
        return any((event.name, event.attribute, event.after) == (name, attribute, after) for _, event in self.events)

    def close(self) -> None:
        self._ends = True
        self._thread.join()


@contextmanager
def watched(lab: Lab, *port_ids: str) -> Iterator[Seen]:
    seen = Seen(lab, *port_ids)
    try:
        yield seen
    finally:
        seen.close()


B, V, ROW, T = NAMES.bridge, NAMES.bridge_end, NAMES.switch_end, NAMES.tap
CHANGES: dict[str, tuple[str, str, str | None, object]] = {
    "mtu": (f"ip link set {B} mtu 1400", B, "mtu", 1400),
    "down": (f"ip link set {V} down", V, "up", False),
    "alias": (f"ip link set {B} alias x", B, "alias", "x"),
    "group": (f"ip link set {V} group 5", V, "group", 5),
    "ageing": (f"ip link set {B} type bridge ageing_time 3000", B, "ageing", 3000),
    "ageing by sysfs": (f"echo 700 > /sys/class/net/{B}/bridge/ageing_time", B, "ageing", 700),
    "stp": (f"ip link set {B} type bridge stp_state 1", B, "stp", True),
    "snooping": (f"ip link set {B} type bridge mcast_snooping 1", B, "multicast_snooping", True),
    "promisc": (f"ip link set {V} promisc off", V, "promisc", False),
    "out of its bridge": (f"ip link set {V} nomaster", V, "master", ""),
    "IPv6": (f"echo 0 > /proc/sys/net/ipv6/conf/{B}/disable_ipv6", B, "disable_ipv6", False),
    "generation of addresses": (f"ip link set {B} addrgenmode eui64", B, "addr_gen_mode", "eui64"),
    "ARP": (f"ip link set {V} arp on", V, "host_ip", "ARP on"),
    "forwarding": (f"echo 1 > /proc/sys/net/ipv4/conf/{V}/forwarding", V, "host_ip", "forwarding 1"),
    "reverse path": (f"echo 0 > /proc/sys/net/ipv4/conf/{V}/rp_filter", V, "host_ip", "rp_filter 0"),
    "address": (f"ip address add 10.9.9.9/24 dev {B}", B, "host_ip", "address 10.9.9.9/24"),
    "isolated": (f"bridge link set dev {V} isolated on", V, "bridge_port", "isolated on"),
    "pair deleted": (f"ip link delete {V}", V, None, "absent"),
    "iface-id": (f"ovs-vsctl set Interface {ROW} external_ids:iface-id=x", ROW, "iface_id", "x"),
    "tag": (f"ovs-vsctl set Port {ROW} tag=7", ROW, "tag", 7),
    "row deleted": (f"ovs-vsctl del-port {ROW}", ROW, None, "absent"),
    "row replaced": (f"ovs-vsctl set Interface {ROW} type=internal", ROW, None, "absent"),
}


@pytest.mark.parametrize(("command", "name", "attribute", "after"), CHANGES.values(), ids=CHANGES)
def test_change_by_another_tool_is_seen(
    lab: Lab, command: str, name: str, attribute: str | None, after: object
) -> None:
    assert plug(PORT, lab.host).ok
    with watched(lab) as seen:
        lab.sh(command)
        assert until(lambda: seen.has(name, attribute, after), LATE), [event for _, event in seen.events]


def test_vm_that_starts_and_stops_is_seen(lab: Lab) -> None:
    require_tun()
    assert plug(PORT, lab.host).ok
    with watched(lab, PORT.id) as seen:
        with lab.vm(PORT, 1):
            assert until(lambda: seen.has(T, "carrier", True), LATE)
        assert until(lambda: seen.has(T, "carrier", False), LATE)


def test_no_change_of_many_is_lost(lab: Lab) -> None:
    """Each port gets another MTU and another tag, faster than each could be observed by itself."""
    ports = [make_port(number) for number in range(1, 16)]
    assert all(report.ok for report in plug_all(ports, lab.host))
    with watched(lab) as seen:
        lines = [f"ip link set {port.names.bridge} mtu {1300 + index}" for index, port in enumerate(ports)]
        lines += [
            f"ovs-vsctl --no-wait set Port {port.names.switch_end} tag={9 + index}" for index, port in enumerate(ports)
        ]
        lab.sh("\n".join(lines))
        for index, port in enumerate(ports):
            assert until(lambda: seen.has(port.names.bridge, "mtu", 1300 + index), LATE)  # noqa: B023
            assert until(lambda: seen.has(port.names.switch_end, "tag", 9 + index), LATE)  # noqa: B023


def test_ports_plugged_and_unplugged_at_once_are_seen(lab: Lab) -> None:
    ports = [make_port(number) for number in range(1, 101)]
    with watched(lab) as seen:
        plug_all(ports, lab.host)
        for port in ports:
            assert until(lambda: seen.has(port.names.switch_end, None, "present"), LATE)  # noqa: B023
        unplug_all([port.id for port in ports], lab.host)
        for port in ports:
            assert until(lambda: seen.has(port.names.bridge, None, "absent"), LATE)  # noqa: B023


def test_storm_of_foreign_links_is_survived(lab: Lab) -> None:
    assert plug(PORT, lab.host).ok
    with watched(lab) as seen:
        lab.sh(
            "for i in $(seq 150); do ip link add storm type veth peer name storm2; ip link delete storm; done; "
            f"ip link set {B} mtu 1400"
        )
        assert until(lambda: seen.has(B, "mtu", 1400), LATE)


def test_change_while_the_daemon_is_dead_is_seen(lab: Lab) -> None:
    assert plug(PORT, lab.host).ok
    with watched(lab) as seen:
        for number in range(1, 4):
            (pid,) = daemons(lab.box)
            os.kill(pid, signal.SIGKILL)
            lab.sh(f"ip link set {B} mtu {1400 + number}")
            assert until(lambda: seen.has(B, "mtu", 1400 + number), LATE)  # noqa: B023
        assert [event for _, event in seen.events if event.kind == "host"] == []


def test_restart_of_ovsdb_is_two_events_and_loses_no_change(lab: Lab) -> None:
    assert plug(PORT, lab.host).ok
    with watched(lab) as seen:
        lab.box.kill("ovsdb-server")
        try:
            assert until(lambda: any(event.kind == "host" and event.after for _, event in seen.events), LATE)
            lab.sh(f"ip link set {B} mtu 1400")
        finally:
            lab.box.start("ovsdb-server")
        assert until(lambda: seen.has(B, "mtu", 1400), LATE)
        assert [bool(event.after) for _, event in seen.events if event.kind == "host"] == [True, False]


def test_other_requests_are_served_while_watch_requests_wait(lab: Lab) -> None:
    with watched(lab), watched(lab), watched(lab), watched(lab):
        assert plug(PORT, lab.host).ok


# -- the command -------------------------------------------------------------------------------------------------------


class Command:
    """hybridvif watch in the sandbox of a lab."""

    def __init__(self, lab: Lab, directory: Path, *words: str) -> None:
        self.lab, self.output = lab, directory / "watch.out"
        config = directory / "watch.conf"
        options = {"lock_path": lab.host.settings.lock_path, "deadline": 10, **EXECUTORS}
        lines = "".join(f"{name} = {value}\n" for name, value in options.items())
        config.write_text(f"[hybridvif]\n{lines}", encoding="utf-8")
        argv = [sys.executable, "-P", "-m", "hybridvif", "watch", "--config-file", str(config), "-f", "json", *words]
        self._file = self.output.open("w")
        self.process = lab.box.popen(argv, stdout=self._file, stderr=subprocess.STDOUT)
        assert until(lambda: bool(self.events("watching")), 30), self.output.read_text()

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = self.output.read_text(encoding="utf-8").splitlines()
        return [document for line in lines if (document := validate(json.loads(line)))["event"] == kind]

    def stop(self, number: int = signal.SIGINT) -> int:
        self.lab.box.send_signal(self.process, number)
        return self.process.wait(LATE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._file.close()


@contextmanager
def command(lab: Lab, directory: Path, *words: str) -> Iterator[Command]:
    started = Command(lab, directory, *words)
    try:
        yield started
    finally:
        started.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_command_and_its_daemon(lab: Lab, tmp_path: Path, number: int) -> None:
    before = set(daemons(lab.box))
    with command(lab, tmp_path) as watch:
        assert len({*daemons(lab.box)} - before) == 1
        assert watch.stop(number) == 130
        assert until(lambda: {*daemons(lab.box)} == before, LATE)
        assert len(watch.output.read_text().splitlines()) == 1


def test_killed_command_leaves_no_daemon(lab: Lab, tmp_path: Path) -> None:
    before = set(daemons(lab.box))
    with command(lab, tmp_path) as watch:
        watch.stop(signal.SIGKILL)
        assert until(lambda: {*daemons(lab.box)} == before, LATE)


def wakeups(pid: int) -> int:
    """Return how often the threads of a process went to sleep, and so woke up."""
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith("voluntary"))


def test_nothing_runs_while_nothing_changes(lab: Lab, tmp_path: Path) -> None:
    before = set(daemons(lab.box))
    assert plug(PORT, lab.host).ok
    with command(lab, tmp_path) as watch:
        (daemon,) = {*daemons(lab.box)} - before
        (client,) = [
            int(pid) for pid in Path(f"/proc/{watch.process.pid}/task/{watch.process.pid}/children").read_text().split()
        ]
        # ovs-vswitchd may still report on the new port.
        time.sleep(3)
        counted = wakeups(daemon), wakeups(client)
        time.sleep(10)
        assert (wakeups(daemon), wakeups(client)) == counted
        lab.sh(f"ip link set {B} mtu 1400")
        assert until(lambda: bool(watch.events("change")), LATE)


def test_repair_against_a_tool_that_undoes_it_is_limited(lab: Lab, tmp_path: Path) -> None:
    assert plug(PORT, lab.host).ok
    with command(lab, tmp_path, "--repair", "--limit", "2") as watch:
        lab.sh(
            f"end=$(($(date +%s) + 12)); while [ $(date +%s) -lt $end ]; do ip link set {B} mtu 1400; sleep 0.2; done"
        )
        assert until(lambda: bool(watch.events("limit")), LATE)
        assert [event["ok"] for event in watch.events("repair")] == [True, True]
        assert len(watch.events("limit")) == 1


def test_cut_off_vm_is_connected_again(lab: Lab, tmp_path: Path) -> None:
    require_tun()
    assert plug(PORT, lab.host).ok
    with lab.vm(PORT, 1), command(lab, tmp_path, "--repair") as watch:
        lab.sh(f"ip link delete {V}")
        assert until(lambda: any(event["ok"] for event in watch.events("repair")), 2 * LATE)
        assert until(lambda: watch.events("state")[-1]["after"] == "in-order", LATE)


def test_unplug_is_not_undone_by_repair(lab: Lab, tmp_path: Path) -> None:
    ports = [make_port(number) for number in range(1, 11)]
    plug_all(ports, lab.host)
    with command(lab, tmp_path, "--repair") as watch:
        unplug_all([port.id for port in ports], lab.host)
        # As os-vif does: one device after the other, without our lock.
        assert plug(PORT, lab.host).ok
        lab.sh(f"ip link set {V} nomaster; ip link delete {V}; sleep 2; ip link delete {B}; ovs-vsctl del-port {ROW}")
        time.sleep(2)
        assert watch.events("repair") == []
        assert not any(name.startswith("q") for name in lab.links())
