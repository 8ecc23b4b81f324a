"""trace on a port whose VM sends and receives: each of many ways to stop its packets, and ports in order."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from subprocess import DEVNULL, PIPE
from typing import Any

import pytest

from hybridvif import Port, convert, plug_all
from hybridvif.model.trace import PASSING
from hybridvif.testing.pytest_plugin import lacking
from hybridvif.testing.sandbox.box import Vm
from hybridvif.testing.sandbox.missing import program
from tests.functional.conftest import Lab, make_port, require_tun, until

SECONDS = "2"
TAG = 5
NO_ANSWER = 7
"""The exit code after which a call is to be repeated."""


@dataclass
class Network:
    """Two ports in one VLAN whose VMs ping each other all the time."""

    lab: Lab
    port: Port
    vms: Sequence[Vm]

    def sh(self, script: str) -> None:
        names = self.port.names
        devices = {"tap": names.tap, "qbr": names.bridge, "qvb": names.bridge_end, "qvo": names.switch_end}
        self.lab.sh(
            script.format(
                **devices, mac=self.port.mac, id=self.port.id, vm=self.vms[0].namespace, peer=self.vms[1].namespace
            )
        )

    def trace(self, *words: str, exit_code: int, seconds: str = SECONDS) -> dict[str, Any]:
        line = ["hybridvif", "trace", self.port.id, "--seconds", seconds, "-f", "json", *words]
        done = self.lab.box.run(line, check=False)
        if done.returncode == NO_ANSWER:
            # Other tests may keep the kernel from answering the daemon.
            done = self.lab.box.run(line, check=False)
        assert done.returncode == exit_code, (done.stdout, done.stderr)
        return dict(json.loads(done.stdout))


@contextmanager
def pinging(lab: Lab, vm: Vm, address: str) -> Iterator[None]:
    """Ping from a VM all the time."""
    line = ["nsenter", f"--net=/run/netns/{vm.namespace}", "ping", "-q", "-n", "-i", "0.1", address]
    process = lab.box.popen(line, stdout=DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def network(lab: Lab) -> Iterator[Network]:
    """Two running VMs behind ports in order, with constant traffic."""
    ports = [make_port(1), make_port(2)]
    assert until(lambda: all(report.ok for report in plug_all(ports, lab.host)), 60.0)
    with ExitStack() as stack:
        vms = [stack.enter_context(lab.vm(port, number)) for number, port in enumerate(ports, start=1)]
        for port in ports:
            lab.sh(f"ovs-vsctl set port {port.names.switch_end} tag={TAG}")
        for vm, other, port in ((vms[0], "10.0.0.2", ports[1]), (vms[1], "10.0.0.1", ports[0])):
            vm.run(["ip", "neigh", "replace", other, "lladdr", port.mac, "dev", "eth0"])
        assert until(lambda: vms[0].ping("10.0.0.2").returncode == 0, 20.0)
        for vm, other in ((vms[0], "10.0.0.2"), (vms[1], "10.0.0.1")):
            stack.enter_context(pinging(lab, vm, other))
        yield Network(lab, ports[0], vms)
        lab.sh(
            """
            iptables -F FORWARD; iptables -P FORWARD ACCEPT; ebtables -F FORWARD || true
            iptables -F neutron-openvswi-o00000001-7 && iptables -X neutron-openvswi-o00000001-7 || true
            ovs-ofctl del-flows br-int; ovs-ofctl add-flow br-int priority=0,actions=normal
            for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do echo 1 > $f; done
            """
        )


CHANGE_ADDRESS = """
ip -n {vm} link set eth0 address fa:16:3e:99:99:99
while (ovs-appctl fdb/show br-int; ovs-appctl dpif/dump-flows br-int) | grep -Eq "src={mac}| {mac} "; do
    ovs-appctl dpctl/del-flows; ovs-appctl fdb/flush br-int; sleep 0.3
done
"""
"""The VM sends from another address, and the switch has forgotten the former one."""
FAULTS = {
    "tap down": ("ip link set {tap} down", "down", "tap", "it is down"),
    "qbr down": ("ip link set {qbr} down", "down", "qbr", "it is down"),
    "qvb down": ("ip link set {qvb} down", "down", "qvb", "it is down"),
    "qvo down": ("ip link set {qvo} down", "down", "qvo", "it is down"),
    "no VM": ("ip link delete {tap}", "missing", "tap", "no VM has the port open"),
    "VM without carrier": ("ip -n {vm} link set eth0 down", "no-carrier", "tap", "no running VM"),
    "tap in no bridge": ("ip link set {tap} nomaster", "apart", "tap", "in no bridge"),
    "qvb in no bridge": ("ip link set {qvb} nomaster", "apart", "qvb", "in no bridge"),
    "tap in another bridge": (
        "ip link add brx type bridge; ip link set {tap} master brx",
        "apart",
        "tap",
        "it is in brx",
    ),
    "pair deleted": ("ip link delete {qvb}", "missing", "qvb", "plug the port again"),
    "bridge deleted": ("ip link delete {qbr}", "missing", "qbr", "plug the port again"),
    "tap held back by STP": (
        """ip link set {qbr} type bridge forward_delay 3000 stp_state 1
        ip link set {tap} nomaster; ip link set {tap} master {qbr}""",
        "blocked",
        "tap",
        "state listening",
    ),
    "tap disabled in its bridge": ("bridge link set dev {tap} state 0", "blocked", "tap", "state disabled"),
    "qvb disabled in its bridge": ("bridge link set dev {qvb} state 0", "blocked", "qvb", "state disabled"),
    "both isolated": (
        "ip link set {tap} type bridge_slave isolated on; ip link set {qvb} type bridge_slave isolated on",
        "blocked",
        "tap",
        "isolated on",
    ),
    "tap with a larger MTU": (
        "ip link set {qvb} mtu 1450; ip link set {qvo} mtu 1450",
        "mtu",
        "tap",
        "its MTU is 1500, behind 1450 of qvb",
    ),
    "qvb with a smaller MTU": ("ip link set {qvb} mtu 1400", "mtu", "qvb", "its MTU is 1400, behind 1500 of tap"),
    "iptables from the VM": (
        "iptables -A FORWARD -m physdev --physdev-in {tap} -j DROP",
        "filtered",
        "qbr",
        "from the VM",
    ),
    "iptables to the VM": (
        "iptables -A FORWARD -m physdev --physdev-is-bridged --physdev-out {tap} -j DROP",
        "filtered",
        "qbr",
        "to the VM",
    ),
    "policy of iptables": ("iptables -P FORWARD DROP", "filtered", "qbr", "policy of FORWARD"),
    "chain of the agent": (
        """iptables -N neutron-openvswi-o00000001-7
        iptables -A neutron-openvswi-o00000001-7 -m comment --comment "Default drop" -j DROP
        iptables -A FORWARD -m physdev --physdev-in {tap} -j neutron-openvswi-o00000001-7""",
        "filtered",
        "qbr",
        "neutron-openvswi-o00000001-7",
    ),
    "ebtables": ("ebtables -A FORWARD -i {tap} -j DROP", "lost", "qbr", "such as ebtables"),
    "MAC of the VM on its tap": ("ip link set {tap} address {mac}", "mac-taken", "qbr", "itself"),
    "MAC of the VM pinned": ("bridge fdb replace {mac} dev {qvb} master static", "mac-taken", "qbr", "at qvb"),
    "dead VLAN": ("ovs-vsctl set port {qvo} tag=4095", "dead-vlan", "qvo", "has not wired the port"),
    "no flows": ("ovs-ofctl del-flows br-int", "flow-drop", "br-int", "No match"),
    "flow that drops": (
        "ovs-ofctl add-flow br-int priority=9,dl_src={mac},actions=drop",
        "flow-drop",
        "br-int",
        "priority 9",
    ),
    "flow to the VM that drops": (
        "ovs-ofctl add-flow br-int priority=9,dl_dst={mac},actions=drop",
        "flow-drop",
        "br-int",
        "it drops a frame to qvo",
    ),
    "row deleted": ("ovs-vsctl del-port {qvo}", "not-in-switch", "qvo", "no port of the switch"),
    "row of another type": ("ovs-vsctl set interface {qvo} type=nonsense", "foreign", "qvo", "its row is"),
    "row that is not accepted": (
        "ovs-vsctl set interface {qvo} type=patch",
        "not-accepted",
        "qvo",
        "has not accepted it",
    ),
    "second row with the iface-id": (
        "ovs-vsctl add-port br-int other -- set interface other type=internal external_ids:iface-id={id}",
        "duplicate",
        "qvo",
        "other of Open vSwitch has the same iface-id",
    ),
    "another VM with the MAC": ("ip -n {peer} link set eth0 address {mac}", "mac-elsewhere", "br-int", "also receives"),
    "VM with another MAC": (CHANGE_ADDRESS, "mac", "qvo", "the VM sends from fa:16:3e:99:99:99"),
}
"""The shell script of each fault, with the code, the hop and a part of the sentence that trace returns."""


FLOWS_OF_NEUTRON = """
port=$(ovs-vsctl get interface {qvo} ofport)
ovs-ofctl del-flows br-int
ovs-ofctl add-flows br-int - <<END
table=0,priority=65535,dl_vlan=4095,actions=drop
table=0,priority=10,arp,in_port=$port,actions=resubmit(,24)
table=0,priority=9,in_port=$port,actions=resubmit(,25)
table=0,priority=0,actions=resubmit(,60)
table=23,priority=0,actions=drop
table=24,priority=2,arp,in_port=$port,arp_spa=10.0.0.1,actions=resubmit(,25)
table=24,priority=0,actions=drop
table=25,priority=2,in_port=$port,dl_src={mac},actions=resubmit(,60)
table=60,priority=3,actions=normal
END
"""
"""Flows of Neutron's agent for a port with port security."""


def test_port_with_flows_of_port_security_raises_no_alarm(network: Network) -> None:
    network.sh(FLOWS_OF_NEUTRON)
    document = network.trace(exit_code=0)
    assert (document["code"], document["findings"]) == ("in-order", []), document
    assert (document["drops_from_vm"], document["drops_to_vm"]) == ("", "")


def test_address_that_port_security_drops_is_named(network: Network) -> None:
    network.sh(FLOWS_OF_NEUTRON + CHANGE_ADDRESS)
    document = network.trace(exit_code=3)
    assert (document["code"], document["hop"]) == ("mac", network.port.names.switch_end), document
    assert "the VM sends from fa:16:3e:99:99:99" in document["sentence"]


@pytest.mark.parametrize("fault", FAULTS)
def test_trace_names_hop_and_reason_of_a_fault(network: Network, fault: str) -> None:
    script, code, hop, words = FAULTS[fault]
    if "iptables" in script or "ebtables" in script:
        require_filter(network.lab, "ebtables" if "ebtables" in script else "iptables")
    network.sh(script)
    document = network.trace(exit_code=3)
    names = network.port.names
    devices = {"tap": names.tap, "qbr": names.bridge, "qvb": names.bridge_end, "qvo": names.switch_end}
    sentence = str(document["sentence"])
    assert (document["code"], document["hop"]) == (code, devices.get(hop, hop)), sentence
    assert devices.get(hop, hop) in sentence
    for short, name in devices.items():
        sentence = sentence.replace(name, short)
    assert words in sentence


def require_filter(lab: Lab, name: str) -> None:
    """Skip if this kernel cannot filter the packets of a bridge in a sandbox."""
    if program(name) is None:
        lacking(f"{name} is not installed; try: apt-get install {name}")
    script = "for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do echo 1 > $f; done"
    if name == "iptables" and lab.box.run(["sh", "-ec", script], check=False).returncode:
        lacking("br_netfilter is not loaded; try: modprobe br_netfilter")


@pytest.mark.parametrize(
    ("daemon", "code"), [("hung", "switch-hung"), ("killed", "switch-dead"), ("stopped", "switch-dead")]
)
def test_trace_reports_a_failed_vswitchd_in_time(network: Network, daemon: str, code: str) -> None:
    box = network.lab.box
    if daemon == "hung":
        box.pause("ovs-vswitchd")
    else:
        box.kill("ovs-vswitchd", signal.SIGTERM if daemon == "stopped" else signal.SIGKILL)
    try:
        document = network.trace(exit_code=3, seconds="0.5")
    finally:
        if daemon == "hung":
            box.resume("ovs-vswitchd")
        else:
            box.start("ovs-vswitchd")
    assert (document["code"], document["hop"]) == (code, "br-int"), document["sentence"]
    assert "ovs-vswitchd" in str(document["sentence"])


def test_trace_of_a_silent_guest_names_the_vm(network: Network) -> None:
    network.sh("tc -n {vm} qdisc replace dev eth0 root tbf rate 8bit burst 10 latency 1ms")
    document = network.trace(exit_code=0)
    assert (document["code"], document["hop"]) == ("silent", network.port.names.tap), document["sentence"]
    assert str(document["sentence"]).startswith("no packet leaves the VM: ")


HOLD_A_TAP = """
import sys
from tests.support.stand_ins import open_tap
tap = open_tap(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


def test_guest_that_takes_no_packets_is_named(network: Network) -> None:
    require_tun()
    network.vms[0].shut_down()
    line = [sys.executable, "-c", HOLD_A_TAP, network.port.names.tap]
    with network.lab.box.popen(line, stdin=PIPE, stdout=PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        network.sh("ip link set {tap} txqueuelen 2; ip link set {tap} master {qbr} up; sleep 1")
        document = network.trace(exit_code=3)
        holder.kill()
    assert (document["code"], document["hop"]) == ("guest-stuck", network.port.names.tap), document


def test_trace_of_a_port_in_order_raises_no_alarm(network: Network) -> None:
    document = network.trace(exit_code=0)
    assert (document["code"], document["hop"], document["findings"]) == ("in-order", "", []), document
    assert document["not_looked_at"] == []
    assert [hop["name"] for hop in document["hops"]] == [network.port.names[index] for index in (3, 0, 1, 2)]


def test_trace_of_a_native_port_in_order_raises_no_alarm(network: Network) -> None:
    assert convert(network.port.id, network.lab.host, unfiltered=True).ok
    document = network.trace(exit_code=0)
    assert (document["code"], [hop["name"] for hop in document["hops"]]) == ("in-order", [network.port.names.tap])


TRACE_ALL = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from hybridvif import connect, trace
with connect([]) as host, ThreadPoolExecutor(len(sys.argv)) as pool:
    traced = pool.map(lambda port_id: trace(port_id, host, seconds=3, generate={generate}), sys.argv[1:])
    print(json.dumps([[each.code, each.stops, each.sentence, *each.findings, *each.not_looked_at] for each in traced]))
"""


def test_trace_of_20_ports_in_order_raises_no_alarm(lab: Lab) -> None:
    ports = [make_port(number) for number in range(1, 21)]
    assert until(lambda: all(report.ok for report in plug_all(ports, lab.host)), 120.0)
    with ExitStack() as stack:
        vms = [stack.enter_context(lab.vm(port, number)) for number, port in enumerate(ports, start=1)]
        # Some share a VLAN, some are alone in theirs, and some have none.
        for number, port in enumerate(ports[:15]):
            lab.sh(f"ovs-vsctl set port {port.names.switch_end} tag={5 + max(number - 9, 0)}")
        for vm in vms[:5]:
            stack.enter_context(pinging(lab, vm, "10.0.0.10"))
        done = lab.box.python(TRACE_ALL.format(generate=False), *(port.id for port in ports), timeout=120)
    traced = json.loads(done.stdout)
    assert [sentence for _, stops, sentence, *more in traced if stops or more] == []
    assert {code for code, *_ in traced} <= PASSING
    assert [code for code, *_ in traced[:5]] == ["in-order"] * 5


# -- marked frames -----------------------------------------------------------------------------------------------------


def test_marked_frames_prove_a_chain_without_traffic(lab: Lab, port: Port) -> None:
    assert until(lambda: plug_all([port], lab.host)[0].ok, 60.0)
    with lab.vm(port, 1):
        before = lab.snapshot()
        line = ["hybridvif", "trace", port.id, "--seconds", "0", "--generate"]
        done = lab.box.run(line, check=False)
        assert done.returncode == 0, (done.stdout, done.stderr)
        marked = f"3 marked frames passed from {port.names.tap} to br-int"
        assert " ".join(done.stdout.split()).endswith(f"{marked}; the chain is in order")
        assert lab.snapshot() == before
        require_filter(lab, "ebtables")
        lab.sh(f"ebtables -A FORWARD -i {port.names.tap} -j DROP")
        try:
            done = lab.box.run(line, check=False)
        finally:
            lab.sh("ebtables -F FORWARD")
    assert done.returncode == 3, (done.stdout, done.stderr)
    assert f"3 marked frames from the VM enter {port.names.tap}, none of them leaves" in " ".join(done.stdout.split())


UNPRIVILEGED = """
import codecs, os, sys, time
from types import SimpleNamespace
from hybridvif import HybridVifError, connect, trace
codecs.lookup("ascii")
with connect([]) as daemon:
    observed = daemon.observe(None, time.monotonic() + 60)
    host = SimpleNamespace(settings=daemon.settings, observe=lambda names, deadline: observed)
    os.setgroups([])
    os.setgid(54321)
    os.setuid(54321)
    traced = trace(sys.argv[1], host, seconds=1)
    print(traced.code, len(traced.hops), *traced.not_looked_at, sep="\\n")
    try:
        trace(sys.argv[1], host, generate=True)
    except HybridVifError as error:
        print(error)
"""
"""The daemon serves only the user who started it, so its observation is from before. Nor may this user import."""


def test_caller_without_privileges_gets_the_rest_of_the_evidence(network: Network) -> None:
    done = network.lab.box.python(UNPRIVILEGED, network.port.id)
    code, hops, iptables, switch, refusal = done.stdout.splitlines()
    assert (code, hops) == ("in-order", "4")
    assert iptables.startswith("iptables: ")
    assert switch == "br-int: Permission denied for the management socket of ovs-vswitchd; run this as root"
    assert refusal == "--generate sends frames in the name of the VM; run it as root"


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["00000009-7b00-4c00-8000-000000000009"], "is not plugged here"),
        (["00000009-7b00-4c00-8000-000000000009", "--to", "gateway"], "neither an IPv4 address nor the MAC address"),
        (["00000009-7b00-4c00-8000-000000000009", "--seconds", "nan"], "is not a number from 0 to 3600"),
    ],
)
def test_bad_input_is_an_error(lab: Lab, words: list[str], message: str) -> None:
    done = lab.box.run(["hybridvif", "trace", *words], check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
