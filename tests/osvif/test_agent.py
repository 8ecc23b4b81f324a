"""Neutron's Open vSwitch agent, played: what it sees of a plug, what it owns, and its security groups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridvif import Port, check, plug, plug_all
from hybridvif.steps import Update, changes_of
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_repair import DRIFTS, QBR, QVB, QVO, Drift
from tests.osvif.conftest import FULL, Nova, StartNova

# As its interface monitor does (neutron/agent/common/ovsdb_monitor.py).
MONITOR = (
    "ovsdb-client --format=json monitor unix:/run/openvswitch/db.sock Open_vSwitch Interface name,ofport,external_ids"
)


@contextmanager
def monitored(lab: Lab, path: Path) -> Iterator[list[dict[str, Any]]]:
    """What the agent is told meanwhile about qvo: each a row as it is after a change."""
    told: list[dict[str, Any]] = []
    with path.open("w") as out, lab.box.popen(MONITOR.split(), stdout=out) as client:
        try:
            assert until(lambda: "br-int" in path.read_text())
            before = len(path.read_text().splitlines())
            yield told
            lab.sh("ip link add hvend type veth peer name hvendp; ovs-vsctl add-port br-int hvend")
            assert until(lambda: "hvend" in path.read_text())
            lab.sh("ovs-vsctl del-port hvend; ip link delete hvend")
        finally:
            client.kill()
    for line in path.read_text().splitlines()[before:]:
        document = json.loads(line)
        told += [
            event
            for cells in document["data"]
            if (event := dict(zip(document["headings"], cells, strict=True)))["name"] == QVO
            and event["action"] in ("insert", "new", "delete")
        ]


@pytest.mark.parametrize("through", ["library", "os-vif"])
def test_a_port_shows_up_complete_and_once(lab: Lab, ours: Nova, port: Port, tmp_path: Path, through: str) -> None:
    with monitored(lab, tmp_path / "told") as told:
        if through == "library":
            plug(port, lab.host)
        else:
            assert ours.plug(port) == {"ok": True}
    assert told
    for event in told:
        ids = dict(event["external_ids"][1])
        assert (ids["iface-id"], ids["attached-mac"]) == (port.id, port.mac)
    assert [event["action"] for event in told].count("insert") == 1
    assert [event["action"] for event in told].count("delete") == 0
    # The agent takes a port up when it has a number.
    numbers = [event["ofport"] for event in told if isinstance(event["ofport"], int)]
    assert len(numbers) == 1
    assert numbers[0] > 0


def test_a_second_plug_does_not_wake_the_agent(lab: Lab, ours: Nova, port: Port, tmp_path: Path) -> None:
    plug(port, lab.host)
    with monitored(lab, tmp_path / "told") as told:
        plug(port, lab.host)
        assert ours.plug(port) == {"ok": True}
    assert told == []


@pytest.mark.prove
@pytest.mark.parametrize(
    "drift", [one for one in DRIFTS if one.row_stays][:: 1 if FULL else 6], ids=lambda one: one.sentence
)
def test_no_repair_loses_what_the_agent_wrote(lab: Lab, port: Port, drift: Drift) -> None:
    plug(port, lab.host)
    lab.sh(f"ovs-vsctl set Port {QVO} tag=7 other_config:net_uuid=x -- set Interface {QVO} other_config:a=b")
    row, tagged = lab.row(QVO), lab.row(QVO, "Port")
    lab.sh(drift.befalls)
    plug(port, lab.host)
    assert check(port, lab.host) == ()
    assert lab.row(QVO, "Port") == tagged
    assert [lab.row(QVO)[key] for key in ("_uuid", "ofport", "other_config")] == [
        row[key] for key in ("_uuid", "ofport", "other_config")
    ]


# Neutron's hybrid firewall, which finds tap and qvb by name (neutron/agent/linux/iptables_firewall.py).


@pytest.mark.parametrize("way", ["in", "out"])
@pytest.mark.parametrize("device", ["tap", "qvb"])
@pytest.mark.parametrize(("everywhere", "on_qbr"), [(1, 0), (0, 1), (0, 0)])
def test_a_rule_by_physdev_holds_where_the_bridge_calls_iptables(
    lab: Lab, port: Port, device: str, way: str, everywhere: int, on_qbr: int
) -> None:
    other = make_port(2)
    plug_all([port, other], lab.host)
    name = {"tap": port.names.tap, "qvb": port.names.bridge_end}[device]
    calling = lab.sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables").strip()
    with lab.vm(port, 1) as left, lab.vm(other, 2):
        try:
            lab.sh(
                f"echo {everywhere} > /proc/sys/net/bridge/bridge-nf-call-iptables; "
                f"ip link set {QBR} type bridge nf_call_iptables {on_qbr}; "
                f"iptables -A FORWARD -m physdev --physdev-{way} {name} --physdev-is-bridged -j DROP"
            )
            # Neither is ours, so neither is drift.
            assert check(port, lab.host) == ()
            dropped = left.ping("10.0.0.2", timeout=1).returncode != 0
            assert dropped is bool(everywhere or on_qbr)
            plug(port, lab.host)
            assert (left.ping("10.0.0.2", timeout=1).returncode != 0) is dropped
            lab.sh("iptables -F FORWARD")
            assert left.ping("10.0.0.2").returncode == 0
        finally:
            lab.sh(f"iptables -F FORWARD; echo {calling} > /proc/sys/net/bridge/bridge-nf-call-iptables")


@pytest.mark.parametrize("through", ["library", "os-vif"])
def test_security_groups_hold_where_only_the_ports_own_bridge_calls_iptables(
    lab: Lab, start_nova: StartNova, port: Port, through: str
) -> None:
    other = make_port(2)
    calling = lab.sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables").strip()
    lab.sh("echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables")
    try:
        if through == "library":
            plug_all([replace(one, call_iptables=True) for one in (port, other)], lab.host)
        else:
            nova = start_nova(answer_to_ovs="true", call_iptables="true")
            assert [nova.plug(one) for one in (port, other)] == [{"ok": True}] * 2
        assert lab.link(QBR)["linkinfo"]["info_data"]["nf_call_ip6tables"] == 1
        with lab.vm(port, 1) as left, lab.vm(other, 2):
            assert left.ping("10.0.0.2").returncode == 0
            lab.sh(f"iptables -A FORWARD -m physdev --physdev-in {port.names.tap} --physdev-is-bridged -j DROP")
            assert left.ping("10.0.0.2", timeout=1).returncode != 0
            lab.sh(f"ip link set {QBR} type bridge nf_call_iptables 0")
            (step,) = check(replace(port, call_iptables=True), lab.host)
            assert isinstance(step, Update)
            assert changes_of(step) == {"nf_call_iptables": True}
    finally:
        lab.sh(f"iptables -F FORWARD; echo {calling} > /proc/sys/net/bridge/bridge-nf-call-iptables")


def test_the_names_that_the_firewall_builds_are_ours(port: Port) -> None:
    assert (port.names.tap, QVB) == (f"tap{port.id}"[:14], f"qvb{port.id}"[:14])
