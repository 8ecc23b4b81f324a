"""Neutron's Open vSwitch agent, simulated: the events of a plug, its columns and its security groups."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from hybridvif import Port, check, plug, plug_all
from hybridvif.model.state import Update, changes_of
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_repair import DRIFTS, QBR, QVB, QVO, Drift
from tests.osvif.conftest import Nova, StartNova
from tests.support.sizes import FULL

# The command of its interface monitor (neutron/agent/common/ovsdb_monitor.py).
MONITOR = (
    "ovsdb-client --format=json monitor unix:/run/openvswitch/db.sock Open_vSwitch Interface name,ofport,external_ids"
)


@contextmanager
def monitored(lab: Lab, path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the list of events about qvo that the agent gets in the block: one row per change."""
    events: list[dict[str, Any]] = []
    with path.open("w") as out, lab.box.popen(MONITOR.split(), stdout=out) as client:
        try:
            assert until(lambda: "br-int" in path.read_text())
            before = len(path.read_text().splitlines())
            yield events
            lab.sh("ip link add hvend type veth peer name hvendp; ovs-vsctl add-port br-int hvend")
            assert until(lambda: "hvend" in path.read_text())
            lab.sh("ovs-vsctl del-port hvend; ip link delete hvend")
        finally:
            client.kill()
    for line in path.read_text().splitlines()[before:]:
        document = json.loads(line)
        events += [
            event
            for cells in document["data"]
            if (event := dict(zip(document["headings"], cells, strict=True)))["name"] == QVO
            and event["action"] in ("insert", "new", "delete")
        ]


@pytest.mark.parametrize("through", ["library", "os-vif"])
def test_plug_is_one_complete_event_for_the_agent(
    lab: Lab, ours: Nova, port: Port, tmp_path: Path, through: str
) -> None:
    with monitored(lab, tmp_path / "events") as events:
        if through == "library":
            plug(port, lab.host)
        else:
            assert ours.plug(port) == {"ok": True}
    assert events
    for event in events:
        ids = dict(event["external_ids"][1])
        assert (ids["iface-id"], ids["attached-mac"]) == (port.id, port.mac)
    assert [event["action"] for event in events].count("insert") == 1
    assert [event["action"] for event in events].count("delete") == 0
    # The agent handles a port as soon as it has an OpenFlow number.
    numbers = [event["ofport"] for event in events if isinstance(event["ofport"], int)]
    assert len(numbers) == 1
    assert numbers[0] > 0


def test_second_plug_is_no_event_for_the_agent(lab: Lab, ours: Nova, port: Port, tmp_path: Path) -> None:
    plug(port, lab.host)
    with monitored(lab, tmp_path / "events") as events:
        plug(port, lab.host)
        assert ours.plug(port) == {"ok": True}
    assert events == []


@pytest.mark.prove
@pytest.mark.parametrize(
    "drift", [drift for drift in DRIFTS if drift.row_stays][:: 1 if FULL else 6], ids=lambda drift: drift.sentence
)
def test_repair_keeps_columns_of_the_agent(lab: Lab, port: Port, drift: Drift) -> None:
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


# Neutron's hybrid firewall finds tap and qvb by name (neutron/agent/linux/iptables_firewall.py).


@pytest.mark.parametrize("way", ["in", "out"])
@pytest.mark.parametrize("device", ["tap", "qvb"])
@pytest.mark.parametrize(("everywhere", "on_qbr"), [(1, 0), (0, 1), (0, 0)])
def test_physdev_rule_applies_if_bridge_calls_iptables(
    lab: Lab, port: Port, device: str, way: str, everywhere: int, on_qbr: int
) -> None:
    other = make_port(2)
    plug_all([port, other], lab.host)
    name = {"tap": port.names.tap, "qvb": port.names.bridge_end}[device]
    calling = lab.sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables").strip()
    with lab.vm(port, 1) as vm, lab.vm(other, 2):
        try:
            lab.sh(
                f"echo {everywhere} > /proc/sys/net/bridge/bridge-nf-call-iptables; "
                f"ip link set {QBR} type bridge nf_call_iptables {on_qbr}; "
                f"iptables -A FORWARD -m physdev --physdev-{way} {name} --physdev-is-bridged -j DROP"
            )
            # hybridvif sets neither, so there is no drift.
            assert check(port, lab.host) == ()
            dropped = vm.ping("10.0.0.2", timeout=1).returncode != 0
            assert dropped is bool(everywhere or on_qbr)
            plug(port, lab.host)
            assert (vm.ping("10.0.0.2", timeout=1).returncode != 0) is dropped
            lab.sh("iptables -F FORWARD")
            assert vm.ping("10.0.0.2").returncode == 0
        finally:
            lab.sh(f"iptables -F FORWARD; echo {calling} > /proc/sys/net/bridge/bridge-nf-call-iptables")


@pytest.mark.parametrize("through", ["library", "os-vif"])
def test_physdev_rule_applies_with_call_iptables_of_port(
    lab: Lab, start_nova: StartNova, port: Port, through: str
) -> None:
    other = make_port(2)
    calling = lab.sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables").strip()
    lab.sh("echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables")
    try:
        if through == "library":
            plug_all([replace(plugged, call_iptables=True) for plugged in (port, other)], lab.host)
        else:
            nova = start_nova(answer_to_ovs="true", call_iptables="true")
            assert [nova.plug(plugged) for plugged in (port, other)] == [{"ok": True}] * 2
        assert lab.link(QBR)["linkinfo"]["info_data"]["nf_call_ip6tables"] == 1
        with lab.vm(port, 1) as vm, lab.vm(other, 2):
            assert vm.ping("10.0.0.2").returncode == 0
            lab.sh(f"iptables -A FORWARD -m physdev --physdev-in {port.names.tap} --physdev-is-bridged -j DROP")
            assert vm.ping("10.0.0.2", timeout=1).returncode != 0
            lab.sh(f"ip link set {QBR} type bridge nf_call_iptables 0")
            (step,) = check(replace(port, call_iptables=True), lab.host)
            assert isinstance(step, Update)
            assert changes_of(step) == {"nf_call_iptables": True}
    finally:
        lab.sh(f"iptables -F FORWARD; echo {calling} > /proc/sys/net/bridge/bridge-nf-call-iptables")


def test_device_names_are_those_of_the_firewall(port: Port) -> None:
    assert (port.names.tap, QVB) == (f"tap{port.id}"[:14], f"qvb{port.id}"[:14])


# Neutron's trunk driver wires a trunk when an Interface with the name of its bridge is inserted, and only then
# (neutron/services/trunk/drivers/openvswitch/agent/ovsdb_handler.py).

TRUNK = "tbr-fd57e5c0-8"
SUBPORT_TAG = 50
TRUNKS = {
    "answer_to_ovs": "true",
    "integration_bridges": "br-int,tbr-*",
    "create_bridges": "br-int,tbr-*",
    "remove_trunk_bridges": "true",
}
"""As in docs/osvif.md."""


class TrunkAgent:
    """The agent of one trunk. On events of Interface rows, it writes the rows of Neutron 29."""

    def __init__(self, lab: Lab, parent: Port, subport: Port, path: Path) -> None:
        self._lab, self._parent, self._subport = lab, parent, subport
        self._path, self._read, self._marks = path, 0, 0
        self.wired = 0
        self._client: Popen[str] | None = None

    def __enter__(self) -> TrunkAgent:
        with self._path.open("w") as out:
            self._client = self._lab.box.popen(MONITOR.split(), stdout=out)
        assert until(lambda: "br-int" in self._path.read_text())
        self.react()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._client is not None
        self._client.kill()
        self._client.wait()

    def react(self) -> None:
        """Handle all events up to now."""
        self._marks += 1
        mark = f"hvmark{self._marks}"
        self._lab.sh(f"ovs-vsctl add-port br-int {mark} -- set Interface {mark} type=internal")
        assert until(lambda: mark in self._path.read_text())
        self._lab.sh(f"ovs-vsctl del-port {mark}")
        lines = self._path.read_text().splitlines()
        for document in map(json.loads, lines[self._read :]):
            for cells in document["data"]:
                event = dict(zip(document["headings"], cells, strict=True))
                match event["action"], event["name"]:
                    case "insert", name if name.startswith("tbr-"):
                        self._wire()
                    case "delete", name if name == self._parent.names.switch_end:
                        self._unwire()
        self._read = len(lines)

    def _wire(self) -> None:
        self.wired += 1
        for port, kind, tag, here in ((self._parent, "t", 0, 1), (self._subport, "s", SUBPORT_TAG, 2)):
            inner, outer = (f"{kind}p{end}-{port.id}"[:15] for end in "ti")
            ids = f"external_ids:attached-mac={json.dumps(port.mac)} external_ids:iface-id={port.id}"
            self._lab.sh(
                f"ovs-vsctl add-port br-int {outer} -- set Interface {outer} type=patch options:peer={inner} {ids} "
                f"-- add-port {TRUNK} {inner} vlan_mode=access tag={tag} "
                f"-- set Interface {inner} type=patch options:peer={outer} {ids}; "
                f"ovs-vsctl set Port {outer} tag={here} other_config:tag={here}"
            )
        self._lab.sh(
            f"ovs-vsctl set Interface {self._parent.names.switch_end} external_ids:trunk_id=fd57e5c0-89bf-4027 "
            f"external_ids:subport_ids='[\"{self._subport.id}\"]'"
        )

    def _unwire(self) -> None:
        """Remove the patch ports of the subport and, as the agent does, only the br-int end of the parent's."""
        ends = [f"sp{end}-{self._subport.id}"[:15] for end in "ti"] + [f"tpi-{self._parent.id}"[:15]]
        self._lab.sh(" -- ".join(["ovs-vsctl", *(f"--if-exists del-port {name}" for name in ends)]))


TAGGED = r"""
import socket, struct, sys
mac, tag = bytes.fromhex(sys.argv[1].replace(":", "")), int(sys.argv[4])
own, other = map(socket.inet_aton, sys.argv[2:4])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("eth0", 0))
wire.settimeout(1)
ask = struct.pack("!HHHHHBBH", 0x8100, tag, 0x0806, 1, 0x0800, 6, 4, 1) + mac + own + bytes(6) + other
for _ in range(5):
    wire.send(b"\xff" * 6 + mac + ask)
    try:
        while True:
            frame = wire.recv(2000)
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2" and frame[28:32] == other:
                sys.exit(0)
    except TimeoutError:
        pass
sys.exit("no answer")
"""
"""Send an ARP request from a VLAN of the VM without a VLAN device. The kernel removes the tag of the response."""


@pytest.mark.parametrize("switch", ["ovsdb", "ovsdbapp", "ovs-vsctl"])
def test_trunk_is_wired_at_every_boot(lab: Lab, start_nova: StartNova, tmp_path: Path, switch: str) -> None:
    nova = start_nova(**TRUNKS, switch_executor=switch)
    parent, subport = make_port(bridge=TRUNK), make_port(4)
    peers = [make_port(2), make_port(3)]
    assert [nova.plug(peer) for peer in peers] == [{"ok": True}] * 2
    for tag, peer in enumerate(peers, 1):
        lab.sh(f"ovs-vsctl set Port {peer.names.switch_end} tag={tag}")
    before = lab.sh("ovs-vsctl list-br")
    with TrunkAgent(lab, parent, subport, tmp_path / "events") as agent, lab.vm(peers[0], 2), lab.vm(peers[1], 3):
        for boot in (1, 2, 3):
            assert nova.plug(parent) == {"ok": True}
            agent.react()
            assert agent.wired == boot
            with lab.vm(parent, 1) as vm:
                assert vm.ping("10.0.0.2").returncode == 0
                tagged = [sys.executable, "-c", TAGGED, subport.mac, "10.0.0.9", "10.0.0.3", str(SUBPORT_TAG)]
                assert vm.run(tagged, check=False).returncode == 0
                # After a restart of nova-compute, a plug keeps the rows of the agent.
                assert nova.plug(parent) == {"ok": True}
                assert vm.ping("10.0.0.2").returncode == 0
            assert nova.unplug(parent) == {"ok": True}
            assert lab.sh("ovs-vsctl list-br") == before
            agent.react()
    assert not lab.sh("ovs-vsctl list-ports br-int | grep -E '^(tp|sp)' || true")


def test_foreign_port_keeps_trunk_bridge(lab: Lab, start_nova: StartNova) -> None:
    nova, parent = start_nova(**TRUNKS), make_port(bridge=TRUNK)
    assert nova.plug(parent) == {"ok": True}
    lab.sh(f"ovs-vsctl add-port {TRUNK} eth-other -- set Interface eth-other type=internal")
    assert nova.unplug(parent) == {"ok": True}
    assert lab.sh(f"ovs-vsctl list-ports {TRUNK}") == "eth-other\n"
