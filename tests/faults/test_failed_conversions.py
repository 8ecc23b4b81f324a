"""A conversion fails at one of its steps by a real cause: rolled back, typed, and the VM connected the old way.

Most causes appear inside of the call. A proxy in front of ovsdb-server makes them right before a transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hybridvif import Report, Status, convert, plug, plug_all
from hybridvif.model.settings import Settings
from hybridvif.testing.sandbox.box import Sandbox, Vm
from tests.faults.conftest import lab_of, report_of
from tests.functional.conftest import Lab, make_port, until
from tests.support.likeness import differences, likeness
from tests.support.ovsdb_proxy import OvsdbProxy
from tests.support.sizes import FULL

PORT, PEER = make_port(1), make_port(2)
NAMES = PORT.names
BACK = {"native": "hybrid", "hybrid": "native"}
NEW_ROW = {"native": NAMES.tap, "hybrid": NAMES.switch_end}

pytestmark = pytest.mark.prove


class Disturbance(OvsdbProxy):
    """Runs a script before the transactions of one step: mark, replace or clear."""

    def __init__(self, box: Sandbox, path: Path) -> None:
        super().__init__(box.run_dir / "openvswitch" / "db.sock", path, Settings())
        self._box = box
        self.prepare("", "")

    def prepare(self, step: str, script: str, undo: str = "", times: int = 1) -> None:
        """Set the script for the next call, and how often to run it. undo: it is run before the transaction after."""
        self._step, self._script, self._undo, self._times = step, script, undo, times
        self._has_replaced = self._must_undo = False
        self.count = 0

    def _judge_transaction(self, operations: list[Any]) -> None:
        replaces = any(operation["op"] == "insert" and operation["table"] == "Interface" for operation in operations)
        self._has_replaced |= replaces
        kind = "replace" if replaces else "clear" if self._has_replaced else "mark"
        if self._must_undo:
            self._run(self._undo)
            self._must_undo = False
        elif kind == self._step and self.count < self._times:
            self.count += 1
            self._run(self._script.replace("COUNT", str(self.count)))
            self._must_undo = bool(self._undo)

    def _run(self, script: str) -> None:
        self._box.run(["sh", "-ec", script])


@dataclass(frozen=True)
class Bench:
    """A VM on PORT beside another one, on a host whose OVSDB is behind the proxy."""

    lab: Lab
    vm: Vm
    proxy: Disturbance

    def converted(self, to: str, step: str = "", script: str = "", undo: str = "", times: int = 1) -> Report:
        """Convert with a disturbance. It must have happened."""
        self.proxy.prepare(step, script, undo, times)
        report = report_of(lambda: convert(PORT.id, self.lab.host, to, unfiltered=True))
        assert not step or self.proxy.count
        return report

    def sees_its_peer(self) -> bool:
        return until(lambda: self.vm.ping("10.0.0.2").returncode == 0, 20)


@contextmanager
def bench_of(
    sandbox: Sandbox, directory: Path, switch: str = "ovsdb", to: str = "native", deadline: int = 60
) -> Iterator[Bench]:
    options = {"switch_executor": switch, "deadline": deadline}
    with (
        closing(Disturbance(sandbox, directory / "ovsdb.sock")) as proxy,
        lab_of(sandbox, directory / "lab", ovsdb_connection=proxy.remote, **options) as lab,
    ):
        plug_all([PORT, PEER], lab.host)
        with lab.vm(PORT, 1) as vm, lab.vm(PEER, 2):
            bench = Bench(lab, vm, proxy)
            assert bench.sees_its_peer()
            assert bench.converted(BACK[to]).ok or to == "native"
            yield bench


def require_rolled_back(bench: Bench, report: Report, before: Any, to: str, reason: str) -> None:
    """Require a typed report, the state from before, a connected VM, and a conversion that works again."""
    assert report.status is Status.ROLLED_BACK, report
    assert reason in report.reason
    require_same(bench, before)
    assert bench.converted(to).changed
    assert bench.sees_its_peer()


def require_same(bench: Bench, before: Any) -> None:
    """Require the state from before and a connected VM. The host's IP stack stays off on a tap that left its bridge."""
    changed = [line for line in differences(before, likeness(bench.lab)) if not line.startswith(f"link {NAMES.tap}:")]
    assert changed == []
    assert bench.sees_its_peer()


SWITCHES = pytest.mark.parametrize("switch", ["ovsdb", "ovs-vsctl"] if FULL else ["ovsdb"])
TARGETS = pytest.mark.parametrize("to", ["native", "hybrid"])
CONTROL = "ovs-appctl -t ovsdb-server ovsdb-server"
READ_ONLY = f"{CONTROL}/set-active-ovsdb-server unix:/run/nobody; {CONTROL}/connect-active-ovsdb-server"
WRITABLE = f"{CONTROL}/disconnect-active-ovsdb-server"


@SWITCHES
@TARGETS
@pytest.mark.parametrize("step", ["mark", "replace", "clear"])
def test_refused_transaction_is_rolled_back(sandbox: Sandbox, tmp_path: Path, switch: str, to: str, step: str) -> None:
    """OVSDB is read-only for one transaction, as a server that has become a backup."""
    with bench_of(sandbox, tmp_path, switch, to) as bench:
        before = likeness(bench.lab)
        report = bench.converted(to, step, READ_ONLY, WRITABLE)
        bench.lab.sh(WRITABLE)
        require_rolled_back(bench, report, before, to, "not allowed")


@SWITCHES
def test_row_of_the_new_name_elsewhere_is_rolled_back(sandbox: Sandbox, tmp_path: Path, switch: str) -> None:
    """Another program adds it at the last moment, and OVSDB refuses a second one."""
    added = "ovs-vsctl --no-wait add-br br-own -- set Bridge br-own datapath_type=netdev -- add-port br-own "
    added += f"{NAMES.switch_end} -- set Interface {NAMES.switch_end} type=gre options:remote_ip=192.0.2.1"
    with bench_of(sandbox, tmp_path, switch, "hybrid") as bench:
        before = likeness(bench.lab)
        report = bench.converted("hybrid", "replace", added)
        bench.lab.sh("ovs-vsctl del-br br-own")
        require_rolled_back(bench, report, before, "hybrid", NAMES.switch_end)


@SWITCHES
def test_tap_that_another_program_plugs_stays_plugged(sandbox: Sandbox, tmp_path: Path, switch: str) -> None:
    """The VM has a path, so a second one by its Linux bridge is refused. Without that row, a plug ends it."""
    with bench_of(sandbox, tmp_path, switch) as bench:
        before = likeness(bench.lab)
        report = bench.converted("native", "replace", f"ovs-vsctl add-port br-int {NAMES.tap}")
        assert report.status is Status.INCOMPLETE, report
        assert f"remove it: ovs-vsctl del-port {NAMES.tap}" in report.reason
        assert bench.sees_its_peer()
        bench.lab.sh(f"ovs-vsctl del-port {NAMES.tap}")
        assert report_of(lambda: plug(PORT, bench.lab.host)).changed
        require_same(bench, before)


@TARGETS
def test_rows_that_always_change_are_rolled_back(sandbox: Sandbox, tmp_path: Path, to: str) -> None:
    """The wait operations of each transaction fail. A single change is taken over."""
    row = NEW_ROW[BACK[to]]
    change = f"ovs-vsctl --no-wait set Interface {row} external_ids:other=COUNT"
    with bench_of(sandbox, tmp_path, to=to) as bench:
        report = bench.converted(to, "replace", change, times=1000)
        assert report.status is Status.ROLLED_BACK, report
        assert "others keep changing the same rows" in report.reason
        assert bench.sees_its_peer()
        assert bench.converted(to, "replace", change).changed
        assert ["other", "1"] in bench.lab.row(NEW_ROW[to])["external_ids"][1]
        assert bench.sees_its_peer()


@SWITCHES
@TARGETS
@pytest.mark.parametrize("step", ["replace", "clear"])
def test_switch_that_falls_silent_leaves_a_path(
    sandbox: Sandbox, tmp_path: Path, switch: str, to: str, step: str
) -> None:
    """It is rolled back to hybrid. With all rows and links of the new path in place, the VM is on that path."""
    with bench_of(sandbox, tmp_path, switch, to, deadline=20) as bench:
        before = likeness(bench.lab)
        inside = bench.lab.sh("pidof ovs-vswitchd").strip()
        try:
            report = bench.converted(to, step, f"kill -STOP {inside}")
        finally:
            sandbox.resume("ovs-vswitchd")
        if (to, step) == ("native", "replace"):
            require_rolled_back(bench, report, before, to, "ovs-vswitchd")
        else:
            # What the report says, and what ovs-vswitchd does once it works again.
            assert report.status is (Status.CONFIGURED if step == "replace" else Status.DONE), report
            assert bench.lab.row(NEW_ROW[to])
            assert bench.sees_its_peer()
            assert not bench.converted(to).changed


@SWITCHES
def test_busy_tap_is_rolled_back(sandbox: Sandbox, tmp_path: Path, switch: str) -> None:
    """The kernel adds no device with a macvlan to a bridge (EBUSY)."""
    with bench_of(sandbox, tmp_path, switch, "hybrid") as bench:
        before = likeness(bench.lab)
        report = bench.converted("hybrid", "replace", f"ip link add hvbusy link {NAMES.tap} type macvlan")
        bench.lab.sh("ip link delete hvbusy")
        require_rolled_back(bench, report, before, "hybrid", "EBUSY")


def test_tap_that_another_bridge_took_stays_there(sandbox: Sandbox, tmp_path: Path) -> None:
    with bench_of(sandbox, tmp_path) as bench:
        before = likeness(bench.lab)
        taken = f"ip link add hvown up type bridge; ip link set {NAMES.tap} master hvown"
        report = bench.converted("native", "mark", taken)
        assert not report.ok
        assert "hvown" in report.reason
        assert bench.lab.link(NAMES.tap)["master"] == "hvown"
        bench.lab.sh(f"ip link set {NAMES.tap} master {NAMES.bridge}; ip link delete hvown")
        assert differences(before, likeness(bench.lab)) == []
        assert bench.sees_its_peer()


def test_name_that_was_taken_meanwhile_is_rolled_back(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program creates a device named qbr after the last look at the host."""
    with bench_of(sandbox, tmp_path, to="hybrid") as bench:
        before, host = likeness(bench.lab), bench.lab.host

        class Late:
            settings, observe, locked = host.settings, host.observe, host.locked

            def apply(self, *arguments: Any) -> Any:
                bench.lab.box.run(
                    ["ip", "link", "add", NAMES.bridge, "type", "veth", "peer", "name", "hvown"], check=False
                )
                return host.apply(*arguments)

        report = report_of(lambda: convert(PORT.id, Late(), "hybrid", unfiltered=True))  # type: ignore[arg-type]
        bench.lab.sh(f"ip link delete {NAMES.bridge}")
        assert not report.ok
        assert NAMES.bridge in report.reason
        assert differences(before, likeness(bench.lab)) == []
        assert bench.sees_its_peer()
