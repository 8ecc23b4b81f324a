"""reconcile and gc for a whole host, on a real kernel, checked by packets."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from hybridvif import Status, check, gc, plug, plug_all, reconcile, unplug
from tests.functional.conftest import INSTANCE, Lab, make_port, require_tun, until


@pytest.mark.parametrize("switch_restarts", [False, True], ids=["devices deleted", "host rebooted"])
def test_reconcile_restores_every_port_after_all_devices_are_lost(lab: Lab, switch_restarts: bool) -> None:
    ports = [make_port(number) for number in range(1, 9)]
    plug_all(ports, lab.host)
    if switch_restarts:
        lab.box.reboot()
    else:
        for port in ports:
            lab.sh(f"ip link delete {port.names.bridge_end}; ip link delete {port.names.bridge}")
    assert not lab.links() & {port.names.bridge for port in ports}

    done = reconcile(ports, lab.host, prune=True)

    assert [report.status for report in done.plugged] == [Status.DONE] * len(ports)
    assert done.pruned == ()
    with lab.vm(ports[0], 1) as vm, lab.vm(ports[7], 2):
        assert vm.ping("10.0.0.2").returncode == 0


def test_prune_leaves_what_runs_and_what_is_not_ours_and_takes_the_rest(lab: Lab) -> None:
    require_tun()
    kept, stopped, running, foreign = (make_port(number) for number in range(1, 5))
    plug_all([kept, stopped, running], lab.host)
    lab.sh(
        f"""
        ip link add {foreign.names.bridge} type bridge
        ip link add {foreign.names.bridge_end} type veth peer name {foreign.names.switch_end}
        ip link set {foreign.names.bridge_end} up master {foreign.names.bridge}
        ovs-vsctl add-port br-int {foreign.names.switch_end} -- set Interface {foreign.names.switch_end} \\
            external_ids:iface-id={foreign.id} external_ids:attached-mac={foreign.mac} external_ids:vm-uuid={INSTANCE}
        ip tuntap add {stopped.names.tap} mode tap; ip link set {stopped.names.tap} up master {stopped.names.bridge}
        """
    )
    with lab.vm(running, 1), lab.vm(kept, 2):
        before = lab.snapshot()
        rehearsed = reconcile([kept], lab.host, prune=True, dry_run=True)
        assert lab.snapshot() == before
        done = reconcile([kept], lab.host, prune=True)

    statuses = {stopped.id: Status.DONE, running.id: Status.REFUSED}
    assert {report.port_id: report.status for report in done.pruned} == statuses
    assert {report.port_id: report.status for report in rehearsed.pruned} == statuses
    assert {report.code for report in done.pruned if not report.ok} == {"port-running"}
    links = lab.links()
    assert {kept.names.bridge, running.names.bridge, foreign.names.bridge, foreign.names.bridge_end} <= links
    assert not {stopped.names.bridge, stopped.names.bridge_end} & links
    assert lab.row(foreign.names.switch_end)
    assert not lab.row(stopped.names.switch_end)


def test_remains_are_noted_then_removed_and_nothing_else_is_touched(lab: Lab) -> None:
    whole, half, running = make_port(1), make_port(2), make_port(3)
    keyed = replace(make_port(4), interface_id="aaaaaaaa-0000-4000-8000-000000000004")
    lone = make_port(5)
    plug_all([whole, half, running, keyed, lone], lab.host)
    lab.sh(
        f"""
        ovs-vsctl del-port {half.names.switch_end}
        ovs-vsctl del-port {running.names.switch_end}
        for p in {keyed.names.bridge_end} {lone.names.bridge_end}; do ip link delete $p; done
        for b in {keyed.names.bridge} {lone.names.bridge}; do ip link delete $b; done
        ip link add qbr00000006-7b type bridge
        """
    )
    with lab.vm(running, 1):
        before = lab.snapshot()
        first = gc(lab.host, older_than=0.3)
        assert {(orphan.remain.port_id, orphan.due, orphan.report) for orphan in first} == {
            (half.id, False, None),
            (keyed.id, False, None),
        }
        assert lab.snapshot() == before
        time.sleep(0.35)
        assert {orphan.due for orphan in gc(lab.host, older_than=0.3, dry_run=True)} == {True}
        assert lab.snapshot() == before

        second = gc(lab.host, older_than=0.3)

        assert {orphan.remain.port_id for orphan in second} == {half.id, keyed.id}
        assert all(orphan.report and orphan.report.ok for orphan in second)
        assert gc(lab.host, older_than=0) == []
        assert {running.names.bridge, running.names.tap, "qbr00000006-7b"} <= lab.links()
    assert not {half.names.bridge, half.names.bridge_end} & lab.links()
    assert not lab.row(keyed.names.switch_end)
    assert lab.row(lone.names.switch_end)
    assert check(whole, lab.host) == ()
    # Its VM has exited.
    assert {orphan.remain.port_id for orphan in gc(lab.host, older_than=0, unmarked=True)} == {running.id, lone.id}
    assert not lab.row(lone.names.switch_end)


def test_a_port_that_gc_has_taken_can_be_plugged_again(lab: Lab) -> None:
    port = make_port()
    plug(port, lab.host)
    lab.sh(f"ip link delete {port.names.bridge}")
    (found,) = gc(lab.host, older_than=0)
    assert found.report is not None
    assert found.report.ok
    assert plug(port, lab.host).ok
    assert gc(lab.host, older_than=0) == []


def test_unplug_is_refused_only_while_tap_has_carrier(lab: Lab) -> None:
    port = make_port()
    plug(port, lab.host)
    with lab.vm(port, 1):
        before = lab.snapshot()
        done = reconcile([], lab.host, prune=True)
        assert [report.code for report in done.pruned] == ["port-running"]
        assert lab.snapshot() == before
    require_tun()
    lab.sh(f"ip tuntap add {port.names.tap} mode tap; ip link set {port.names.tap} up master {port.names.bridge}")
    assert lab.link(port.names.tap)["operstate"] == "DOWN"
    assert unplug(port.id, lab.host).ok
    assert until(lambda: not lab.row(port.names.switch_end))
