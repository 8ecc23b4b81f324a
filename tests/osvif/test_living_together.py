"""Ports plugged by os-vif and by hybridvif on one host: same state, adoption without loss, and clean unplugs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from hybridvif import Port, check, plug
from hybridvif.testing.sandbox.box import Vm
from tests.functional.conftest import INSTANCE, Lab, make_port, until
from tests.functional.test_repair import DRIFTS, QBR, QVB, QVO
from tests.osvif.conftest import Nova, StartNova, configuration
from tests.support.figures import note
from tests.support.sizes import FULL

ADDITIONS = {
    QBR: {"address", "ifalias", "inet6_addr_gen_mode", "forward_delay", "mcast_snooping", "mtu", "arp", "rp_filter"},
    QVB: {"ifalias", "inet6_addr_gen_mode", "arp", "rp_filter", "disable_ipv6"},
    QVO: {"ifalias", "inet6_addr_gen_mode", "arp", "rp_filter", "disable_ipv6"},
    # The port id, if the iface-id is another one.
    "row": {"external_ids:hybridvif-port-id"},
}
"""Attributes that differ between our plug and one of os-vif: we set them and os-vif does not."""
IPV4 = ("arp_ignore", "arp_announce", "rp_filter", "forwarding", "proxy_arp")
"""Settings of a device in /proc/sys/net/ipv4/conf."""
COUNTERS = {"ifindex", "link_index", "address", "bridge_id", "root_id", "designated_root", "designated_bridge"}


def facts_of(lab: Lab) -> dict[str, dict[str, Any]]:
    """Return all values of one port in the kernel and OVSDB, except those that are unique to a device."""
    facts: dict[str, dict[str, Any]] = {}
    for name in (QBR, QVB, QVO):
        link = lab.link(name)
        more = link.pop("linkinfo")
        flat = {**link, **more.get("info_data", {}), **more.get("info_slave_data", {}), "kind": more["info_kind"]}
        flat["arp"] = "NOARP" not in flat["flags"]
        flat["flags"] = sorted({*flat["flags"]} - {"NOARP"})
        settings = [f"ipv4/conf/{name}/{key}" for key in IPV4] + [f"ipv6/conf/{name}/disable_ipv6"]
        values = lab.sh("cd /proc/sys/net; cat " + " ".join(settings)).split()
        flat |= dict(zip((*IPV4, "disable_ipv6"), values, strict=True))
        unique = COUNTERS - ({"address"} if name == QBR else set())
        facts[name] = {key: value for key, value in flat.items() if key not in unique and "timer" not in key}
    row, port = lab.row(QVO), lab.row(QVO, "Port")
    keep = ("name", "type", "options", "other_config", "error", "mtu", "mtu_request", "admin_state")
    facts["row"] = {key: row[key] for key in keep} | {
        f"port {key}": port[key] for key in ("tag", "trunks", "vlan_mode", "qos", "other_config", "external_ids")
    }
    facts["row"] |= {f"external_ids:{key}": value for key, value in row["external_ids"][1]}
    facts["row"]["bridge"] = lab.sh(f"ovs-vsctl port-to-br {QVO}").strip()
    return facts


def differing(
    lab: Lab,
    novas: list[Nova],
    port: Port,
    becomes: int = 1500,
    before: Callable[[Nova], dict[str, Any]] | None = None,
    **more: Any,
) -> dict[str, set[str]]:
    """Return the differences between the states after a plug by each, without our additions.

    becomes: the MTU. before: a function that plugs the port first.
    """
    states = []
    for nova in novas:
        if before is not None:
            assert before(nova)["ok"]
        assert nova.plug(port, **{"mtu": becomes, **more})["ok"]
        assert until(lambda: lab.row(QVO)["mtu"] == becomes)
        assert until(lambda: lab.link(QBR)["operstate"] == "UP")
        states.append(facts_of(lab))
        assert nova.unplug(port, **more)["ok"]
    # The MTU of a bridge of os-vif follows its members.
    return {
        name: {key for key in {*old, *states[1][name]} if old.get(key) != states[1][name].get(key)} - ADDITIONS[name]
        for name, old in states[0].items()
    }


NO_DIFFERENCE: dict[str, set[str]] = {name: set() for name in ADDITIONS}


@pytest.mark.parametrize("mtu", [1500, 1400, 9000])
def test_plug_leaves_state_of_os_vif_with_additions(lab: Lab, ours: Nova, theirs: Nova, port: Port, mtu: int) -> None:
    assert differing(lab, [theirs, ours], port, mtu) == NO_DIFFERENCE


@pytest.mark.parametrize("mtu", [1400, 9000])
def test_second_plug_with_other_mtu_matches_os_vif(lab: Lab, ours: Nova, theirs: Nova, port: Port, mtu: int) -> None:
    assert differing(lab, [theirs, ours], port, mtu, lambda nova: nova.plug(port)) == NO_DIFFERENCE


def test_port_with_other_interface_id_matches_os_vif(lab: Lab, ours: Nova, theirs: Nova, port: Port) -> None:
    assert differing(lab, [theirs, ours], port, interface_id=make_port(9).id) == NO_DIFFERENCE


def test_port_of_network_without_mtu_matches_os_vif(lab: Lab, start_nova: StartNova, port: Port) -> None:
    sized: dict[str, object] = {"network_device_mtu": 1420}
    novas = [start_nova(os_vif=sized), start_nova(os_vif=sized, answer_to_ovs="true")]
    assert differing(lab, novas, port, 1420, mtu=None) == NO_DIFFERENCE


@pytest.mark.parametrize(
    "option", [{"per_port_bridge": "true"}, {"ovsdb_interface": "vsctl"}], ids=lambda option: next(iter(option))
)
def test_os_vif_option_for_other_ports_changes_nothing(
    lab: Lab, start_nova: StartNova, port: Port, option: dict[str, object]
) -> None:
    novas = [start_nova(os_vif=option), start_nova(os_vif=option, answer_to_ovs="true")]
    assert differing(lab, novas, port) == NO_DIFFERENCE


def test_port_moved_to_other_firewall_matches_os_vif(lab: Lab, ours: Nova, theirs: Nova, port: Port) -> None:
    before = lab.snapshot()
    assert differing(lab, [theirs, ours], port, 1500, lambda _: theirs.plug(port), kind="ovs") == NO_DIFFERENCE
    assert lab.snapshot() == before


def test_isolated_port_matches_os_vif(lab: Lab, start_nova: StartNova, port: Port) -> None:
    isolating: dict[str, object] = {"isolate_vif": "true"}
    novas = [start_nova(os_vif=isolating), start_nova(os_vif=isolating, answer_to_ovs="true")]
    assert differing(lab, novas, port) == NO_DIFFERENCE
    for nova in novas:
        assert nova.plug(port)["ok"]
        assert [lab.row(QVO, "Port")[key] for key in ("tag", "vlan_mode", "trunks")] == [4095, "trunk", 4095]
        # After the agent has wired the port, a plug keeps its columns.
        lab.sh(f"ovs-vsctl set Port {QVO} tag=7 -- clear Port {QVO} vlan_mode trunks")
        assert nova.plug(port)["ok"]
        assert lab.row(QVO, "Port")["tag"] == 7
        assert nova.unplug(port)["ok"]


TRUNKS: dict[str, object] = {
    "integration_bridges": "br-int,tbr-*,br-made",
    "create_bridges": "tbr-*,br-made",
    "remove_trunk_bridges": "true",
}


@pytest.mark.parametrize("isolate", ["true", "false"])
def test_port_of_trunk_and_its_bridge_match_os_vif(lab: Lab, start_nova: StartNova, port: Port, isolate: str) -> None:
    before = lab.snapshot()
    isolating: dict[str, object] = {"isolate_vif": isolate}
    novas = [start_nova(os_vif=isolating), start_nova(os_vif=isolating, answer_to_ovs="true", **TRUNKS)]
    assert differing(lab, novas, port, bridge="tbr-1") == NO_DIFFERENCE
    assert lab.snapshot() == before
    for nova in novas:
        assert nova.plug(port, bridge="tbr-1")["ok"]
        row = dict(lab.row(QVO)["external_ids"][1])
        assert row["bridge_name"] == "tbr-1"
        assert lab.sh("ovs-vsctl get Bridge tbr-1 datapath_type").strip() == "netdev"
    # os-vif removes what hybridvif created.
    assert novas[0].unplug(port, bridge="tbr-1")["ok"]
    assert lab.snapshot() == before


def test_created_integration_bridge_matches_os_vif(lab: Lab, start_nova: StartNova, port: Port) -> None:
    novas = [start_nova(), start_nova(answer_to_ovs="true", **TRUNKS)]
    assert differing(lab, novas, port, bridge="br-made") == NO_DIFFERENCE
    columns = "name,datapath_type,fail_mode,protocols,external_ids,other_config"
    made = [lab.sh(f"ovs-vsctl --columns={columns} list Bridge br-made; ovs-vsctl del-br br-made")]
    assert novas[1].plug(port, bridge="br-made")["ok"]
    made.append(lab.sh(f"ovs-vsctl --columns={columns} list Bridge br-made"))
    assert made[0] == made[1]
    # os-vif would change the datapath type of an existing bridge.
    assert novas[1].plug(make_port(2), datapath_type="system")["ok"]
    assert lab.sh("ovs-vsctl get Bridge br-int datapath_type").strip() == "netdev"


def qos_of(lab: Lab, name: str = QVO) -> list[Any]:
    """Return the columns of the QoS row of a port, and the number of QoS rows."""
    (row,) = json.loads(lab.sh(f"ovs-vsctl --format=json find Port name={name}"))["data"]
    held = lab.sh(f"ovs-vsctl get Port {name} qos").strip()
    count = len(lab.sh("ovs-vsctl --bare --columns=_uuid list QoS").split())
    if held == "[]":
        return ["none", count]
    assert row
    return [*lab.sh(f"ovs-vsctl get QoS {held} type external_ids other_config queues").splitlines(), count]


# os-vif creates a QoS row only on a bridge of the kernel datapath. The rows do not need the kernel module.
SYSTEM = {"bridge": "br-sys", "datapath_type": "system"}


def test_port_with_qos_matches_os_vif_and_is_removed_by_either(lab: Lab, start_nova: StartNova, port: Port) -> None:
    queued: dict[str, object] = {"default_qos_type": "linux-fq_codel"}
    theirs = start_nova(os_vif=queued)
    ours = start_nova(os_vif=queued, answer_to_ovs="true", integration_bridges="br-int,br-sys")
    theirs.plug(port, **SYSTEM)
    wanted = qos_of(lab)
    assert wanted[-1] == 1
    # An unplug by hybridvif deletes the QoS row of os-vif, of any type.
    lab.sh("ovs-vsctl set QoS $(ovs-vsctl --bare --columns=_uuid list QoS) external_ids:_type=linux-noop")
    assert ours.unplug(port, **SYSTEM) == {"ok": True}
    assert lab.sh("ovs-vsctl list QoS") == ""
    # On an existing bridge: a plug that Open vSwitch does not accept is rolled back.
    library = replace(port, qos_type="linux-fq_codel")
    assert plug(library, lab.host).ok
    assert qos_of(lab) == wanted
    theirs.unplug(port, **{**SYSTEM, "bridge": "br-int"})
    assert lab.sh("ovs-vsctl list QoS") == ""


def test_rows_of_port_on_kernel_datapath_match_os_vif(lab: Lab, start_nova: StartNova, port: Port) -> None:
    queued: dict[str, object] = {"default_qos_type": "linux-fq_codel"}
    # These columns depend on ovs-vswitchd and the bridge. Ours is on a bridge whose ports it accepts.
    apart = {"error", "mtu", "admin_state", "bridge", "port qos"}
    states = []
    novas = [start_nova(os_vif=queued), start_nova(os_vif=queued, answer_to_ovs="true")]
    for nova, bridge in zip(novas, ("br-sys", "br-int"), strict=True):
        nova.plug(port, bridge=bridge, datapath_type="system")
        facts = facts_of(lab)["row"]
        states.append([{key: value for key, value in facts.items() if key not in apart}, qos_of(lab)])
        lab.sweep()
        lab.sh("ovs-vsctl --all destroy QoS")
    assert states[0] == states[1]


def test_port_on_userspace_datapath_has_no_qos(lab: Lab, start_nova: StartNova, port: Port) -> None:
    queued: dict[str, object] = {"default_qos_type": "linux-fq_codel"}
    for nova in (start_nova(os_vif=queued), start_nova(os_vif=queued, answer_to_ovs="true")):
        assert nova.plug(port)["ok"]
        assert qos_of(lab) == ["none", 0]
        assert nova.unplug(port)["ok"]
    ours = start_nova(os_vif=queued, answer_to_ovs="true")
    assert ours.plug(port, datapath_type="system")["ok"]
    assert qos_of(lab)[0] == "linux-fq_codel"
    assert ours.unplug(port, datapath_type="system")["ok"]
    assert lab.sh("ovs-vsctl list QoS") == ""


def test_unplug_by_os_vif_removes_port_plugged_by_hybridvif(lab: Lab, ours: Nova, theirs: Nova, port: Port) -> None:
    before = lab.snapshot()
    assert ours.plug(port)["ok"]
    assert theirs.plug(port)["ok"]
    assert check(port, lab.host) == ()
    assert theirs.unplug(port)["ok"]
    assert lab.snapshot() == before


ADD_PORT = (
    f"ovs-vsctl add-port br-int {QVO} -- set Interface {QVO} external_ids:iface-id={make_port().id}"
    f" external_ids:iface-status=active external_ids:attached-mac={make_port().mac} external_ids:vm-uuid={INSTANCE}"
)
# The changes of a plug by os-vif, in order. A kill can precede each of them.
KILL_POINTS = [
    f"ip link add {QBR} type bridge ageing_time 0",
    f"echo 1 > /proc/sys/net/ipv6/conf/{QBR}/disable_ipv6",
    f"echo 1 > /proc/sys/net/ipv4/conf/{QBR}/arp_ignore",
    f"echo 2 > /proc/sys/net/ipv4/conf/{QBR}/arp_announce",
    f"ip link set {QBR} up",
    f"ip link add {QVB} type veth peer name {QVO}",
    f"ip link set {QVB} up",
    f"ip link set {QVB} promisc on",
    f"ip link set {QVB} mtu 1500",
    f"ip link set {QVO} up",
    f"ip link set {QVO} promisc on",
    f"ip link set {QVO} mtu 1500",
    f"ip link set {QVB} master {QBR}",
    "true  # the integration bridge",
    ADD_PORT,
    f"ip link set {QVO} mtu 1500  # again",
]


@pytest.mark.prove
@pytest.mark.parametrize("done", range(0, len(KILL_POINTS), 1 if FULL else 3))
def test_plug_completes_killed_plug_of_os_vif(lab: Lab, ours: Nova, port: Port, done: int) -> None:
    lab.sh("\n".join(KILL_POINTS[:done]) or "true")
    assert ours.plug(port) == {"ok": True}
    assert check(port, lab.host) == ()
    assert ours.plug(make_port(2)) == {"ok": True}
    with lab.vm(port, 1) as vm, lab.vm(make_port(2), 2):
        assert vm.ping("10.0.0.2").returncode == 0


@pytest.mark.parametrize("done", range(0, len(KILL_POINTS), 5))
def test_unplug_removes_killed_plug_of_os_vif(lab: Lab, ours: Nova, port: Port, done: int) -> None:
    before = lab.snapshot()
    lab.sh("\n".join(KILL_POINTS[:done]) or "true")
    assert ours.unplug(port) == {"ok": True}
    assert lab.snapshot() == before


# Adoption of ports with traffic.

SERVER = """
import socket, sys
server = socket.create_server(("10.0.0.2", 7000))
print("up", flush=True)
stream, _ = server.accept()
count = 0
while chunk := stream.recv(65536):
    count += len(chunk)
print(count, flush=True)
"""
CLIENT = """
import socket, sys, time, select
sent = 0
stream = socket.create_connection(("10.0.0.2", 7000), 20)
print("up", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    stream.sendall(bytes(2000)); sent += 2000
stream.close()
print(sent, flush=True)
"""


@contextmanager
def traffic(lab: Lab, vm: Vm, peer: Vm) -> Iterator[dict[str, int]]:
    """Send a ping every 10 ms and a TCP stream to a peer. After the block, the yielded mapping has the counts."""
    counts: dict[str, int] = {}

    def start(vm: Vm, argv: list[str]) -> Any:
        return lab.box.popen(["nsenter", f"--net=/run/netns/{vm.namespace}", *argv], stdin=PIPE, stdout=PIPE)

    server = start(peer, ["python3", "-c", SERVER])
    assert server.stdout.readline() == "up\n"
    client = start(vm, ["python3", "-c", CLIENT])
    assert client.stdout.readline() == "up\n"
    ping = start(vm, ["ping", "-q", "-n", "-i", "0.01", "10.0.0.2"])
    assert "PING" in ping.stdout.readline()
    try:
        yield counts
        counts["bytes"] = int(client.communicate("\n", timeout=20)[0])
        assert int(server.communicate(timeout=20)[0]) == counts["bytes"]
    finally:
        for process in (server, client, ping):
            with process:
                process.kill()
    # A packet that is still on its way counts as lost.
    until(lambda: lost(vm, peer) == {"lost pings": 0, "lost segments": 0}, 2)
    counts |= lost(vm, peer) | {"pings": counters(vm, "Icmp")["OutEchos"]}


def lost(vm: Vm, peer: Vm) -> dict[str, int]:
    """Return the number of lost packets by the counters of the VMs. TCP would hide a loss by a retransmission."""
    segments = 0
    for sender, receiver in ((vm, peer), (peer, vm)):
        sent = counters(sender, "Tcp")
        segments += sent["OutSegs"] + sent["RetransSegs"] - counters(receiver, "Tcp")["InSegs"]
    icmp = counters(vm, "Icmp")
    return {"lost pings": icmp["OutEchos"] - icmp["InEchoReps"], "lost segments": segments}


def counters(vm: Vm, protocol: str) -> dict[str, int]:
    """Return the counters of a protocol in /proc/net/snmp."""
    names, values = (
        line.split()[1:]
        for line in vm.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
        if line.startswith(f"{protocol}:")
    )
    return dict(zip(names, map(int, values), strict=True))


def agent_columns(lab: Lab) -> dict[str, Any]:
    """Return the columns of the agent and of Open vSwitch, which must not change."""
    row, port = lab.row(QVO), lab.row(QVO, "Port")
    columns = {key: row[key] for key in ("_uuid", "ofport", "other_config")}
    return columns | {f"port {key}": port[key] for key in ("_uuid", "tag", "other_config")}


CUTTING = {"master", "up", "peer_up", "absent", "stp", "bridge", "type", "realized", "bridge_port", "mtu_request"}
HARMLESS = [
    drift
    for drift in DRIFTS
    if drift.named not in (f"{QVB} mtu", f"{QVB} peer_mtu")
    and drift.named.split()[1] not in CUTTING
    and not ("mtu 1200" in drift.befalls and QBR not in drift.befalls)
]
"""Drifts that do not interrupt traffic."""


@pytest.mark.prove
@pytest.mark.parametrize("plugin", ["hybridvif", "ovs"])
def test_adoption_and_repairs_lose_no_packet(lab: Lab, ours: Nova, theirs: Nova, port: Port, plugin: str) -> None:
    other = make_port(2)
    for plugged in (port, other):
        assert theirs.plug(plugged)["ok"]
    for name in (QVO, other.names.switch_end):
        lab.sh(f"ovs-vsctl set Port {name} tag=7 other_config:net_uuid=x -- set Interface {name} other_config:a=b")
    before, drifts = agent_columns(lab), HARMLESS[:: 1 if FULL else 4]
    with lab.vm(port, 1) as vm, lab.vm(other, 2) as peer:
        assert vm.ping("10.0.0.2").returncode == 0
        with traffic(lab, vm, peer) as counts:
            for plugged in (port, other):
                assert check(plugged, lab.host) != ()
                assert ours.plug(plugged, plugin) == {"ok": True}
                assert check(plugged, lab.host) == ()
            for nova, name in ((ours, plugin), (theirs, "ovs"), (ours, plugin)):
                assert nova.plug(port, name) == {"ok": True}
                assert check(port, lab.host) == ()
            for drift in drifts:
                lab.sh(drift.befalls)
                assert until(lambda: check(port, lab.host) != (), 1), drift.sentence
                assert ours.plug(port, plugin) == {"ok": True}
                assert check(port, lab.host) == ()
            assert until(lambda: counters(vm, "Icmp")["OutEchos"] > 100, 60)
    assert agent_columns(lab) == before
    assert counts["bytes"] > 0
    note("traffic-osvif-api", case=plugin, pings=counts["pings"], kilobytes=counts["bytes"] // 1000,
         repairs=len(drifts), lost_pings=counts["lost pings"], lost_segments=counts["lost segments"])  # fmt: skip
    assert (counts["lost pings"], counts["lost segments"]) == (0, 0), counts


def test_adopt_takes_over_hybrid_ports_and_keeps_others(lab: Lab, start_nova: StartNova, tmp_path: Path) -> None:
    os_vif: dict[str, object] = {"isolate_vif": "true"}
    theirs, ours = start_nova(os_vif=os_vif), start_nova(os_vif=os_vif, answer_to_ovs="true", **TRUNKS)
    kinds: list[dict[str, Any]] = [
        {},
        {"bridge": "tbr-1"},
        {"interface_id": make_port(99).id},
        {"kind": "ovs", "create_port": True, "create_tap": True},
        {"kind": "vhostuser", "mode": "server"},
    ]
    ports = [make_port(number, mtu=9000 - number) for number in range(1, 6)]
    plain, trunk, other, _, vhost_user = ports
    before = lab.snapshot()
    for port, more in zip(ports, kinds, strict=True):
        assert theirs.plug(port, **more)["ok"]
    lab.sh(f"ovs-vsctl set Port {plain.names.switch_end} tag=7 -- clear Port {plain.names.switch_end} vlan_mode trunks")

    def rows() -> dict[str, str]:
        """Return all rows without our key and without the counters of ovs-vswitchd."""
        lab.sh(f"ovs-vsctl remove Interface {other.names.switch_end} external_ids hybridvif-port-id")
        columns = {"Interface": "_uuid,name,type,options,external_ids,ofport,other_config,mtu_request"}
        tables = ("Bridge", "Port", "Interface")
        return {
            table: lab.sh(f"ovs-vsctl {f'--columns={columns[table]}' if table in columns else ''} list {table}")
            for table in tables
        }

    def hybridvif(*words: str) -> dict[str, Any]:
        done = lab.box.run([*command, *words, "-f", "json"], check=False)
        return {**json.loads(done.stdout), "stderr": done.stderr}

    config = configuration(tmp_path, {"answer_to_ovs": "true", **TRUNKS}, os_vif)
    command = [sys.executable, "-W", "ignore", "-m", "hybridvif", "--config-file", str(config)]
    plugged, links = rows(), lab.links()
    assert until(lambda: all(lab.link(port.names.bridge)["operstate"] == "UP" for port in ports[:3]))
    seen = lab.snapshot()
    dry = hybridvif("adopt", "--dry-run")
    assert lab.snapshot() == seen
    done = hybridvif("adopt")
    for document in (dry, done):
        assert [adopted["port"] for adopted in document["ports"]] == [plain.id, trunk.id]
        assert [skipped["key"] for skipped in document["skipped"]] == [other.id[:11], vhost_user.id[:11]]
        assert f"has the iface-id {make_port(99).id}" in document["skipped"][0]["reason"]
        assert document["skipped"][1]["reason"].startswith("it is a vhost-user port")
    assert all(check(port, lab.host) == () for port in (plain, replace(trunk, bridge="tbr-1")))
    # The rows do not contain the ids of the skipped ports. The caller of os-vif has them.
    for port, more in zip(ports, kinds, strict=True):
        assert ours.plug(port, **more) == {"ok": True}
    states = {listed["port"]: listed["state"] for listed in hybridvif("list")["ports"]}
    # Without DPDK, ovs-vswitchd does not accept the vhost-user port.
    assert states == dict.fromkeys([port.id for port in (plain, trunk, other)], "in-order") | {vhost_user.id: "drift"}
    assert (rows(), lab.links()) == (plugged, links)
    for port, more in zip(ports, kinds, strict=True):
        assert theirs.unplug(port, **more)["ok"]
    assert lab.snapshot() == before


def test_interrupted_traffic_is_counted_as_loss(lab: Lab, port: Port) -> None:
    other = make_port(2)
    plug(port, lab.host)
    plug(other, lab.host)
    with lab.vm(port, 1) as vm, lab.vm(other, 2) as peer:
        assert vm.ping("10.0.0.2").returncode == 0
        with traffic(lab, vm, peer) as counts:
            lab.sh(f"ip link set {QVB} nomaster; sleep 1; ip link set {QVB} master {QBR}; sleep 1")
    assert counts["lost pings"] > 0
    assert counts["lost segments"] > 0
