"""Ports plugged by os-vif and by hybridvif on one host: one state, adopted without a lost packet, clean both ways."""

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
from hybridvif.sandbox import Vm
from tests.functional.conftest import INSTANCE, Lab, make_port, until
from tests.functional.test_repair import DRIFTS, QBR, QVB, QVO
from tests.osvif.conftest import FULL, Nova, StartNova, configuration
from tests.prove.figures import note

ADDITIONS = {
    QBR: {"address", "ifalias", "inet6_addr_gen_mode", "forward_delay", "mcast_snooping", "mtu", "arp", "rp_filter"},
    QVB: {"ifalias", "inet6_addr_gen_mode", "arp", "rp_filter", "disable_ipv6"},
    QVO: {"ifalias", "inet6_addr_gen_mode", "arp", "rp_filter", "disable_ipv6"},
    # The identity, where it is not the iface-id itself.
    "row": {"external_ids:hybridvif-port-id"},
}
"""What differs after our plug from what os-vif leaves: all of it is set by us and not by os-vif."""
COUNTERS = {"ifindex", "link_index", "address", "bridge_id", "root_id", "designated_root", "designated_bridge"}


def facts_of(lab: Lab) -> dict[str, dict[str, Any]]:
    """Everything that the kernel and OVSDB say of one port, but for what no two devices share."""
    told: dict[str, dict[str, Any]] = {}
    for name in (QBR, QVB, QVO):
        link = lab.link(name)
        more = link.pop("linkinfo")
        flat = {**link, **more.get("info_data", {}), **more.get("info_slave_data", {}), "kind": more["info_kind"]}
        flat["arp"] = "NOARP" not in flat["flags"]
        flat["flags"] = sorted({*flat["flags"]} - {"NOARP"})
        ipv4 = ("arp_ignore", "arp_announce", "rp_filter", "forwarding", "proxy_arp")
        for family, key in (("ipv6", "disable_ipv6"), *(("ipv4", key) for key in ipv4)):
            flat[key] = lab.sh(f"cat /proc/sys/net/{family}/conf/{name}/{key}").strip()
        dull = COUNTERS - ({"address"} if name == QBR else set())
        told[name] = {key: value for key, value in flat.items() if key not in dull and "timer" not in key}
    row, port = lab.row(QVO), lab.row(QVO, "Port")
    keep = ("name", "type", "options", "other_config", "error", "mtu", "mtu_request", "admin_state")
    told["row"] = {key: row[key] for key in keep} | {
        f"port {key}": port[key] for key in ("tag", "trunks", "vlan_mode", "qos", "other_config", "external_ids")
    }
    told["row"] |= {f"external_ids:{key}": value for key, value in row["external_ids"][1]}
    told["row"]["bridge"] = lab.sh(f"ovs-vsctl port-to-br {QVO}").strip()
    return told


def differing(
    lab: Lab,
    novas: list[Nova],
    port: Port,
    becomes: int = 1500,
    before: Callable[[Nova], dict[str, Any]] | None = None,
    **more: Any,
) -> dict[str, set[str]]:
    """In what the states differ that these leave, each after a plug of its own, what we add apart.

    becomes: the MTU. before: what plugs the port first, so that this is a plug of a port that is there.
    """
    states = []
    for nova in novas:
        if before is not None:
            assert before(nova)["ok"]
        assert nova.plug(port, **{"mtu": becomes, **more})["ok"]
        assert until(lambda: facts_of(lab)["row"]["mtu"] == becomes)
        assert until(lambda: lab.link(QBR)["operstate"] == "UP")
        states.append(facts_of(lab))
        assert nova.unplug(port, **more)["ok"]
    # MTU of an os-vif bridge follows its members, so it is the same once there are some.
    return {
        name: {key for key in {*old, *states[1][name]} if old.get(key) != states[1][name].get(key)} - ADDITIONS[name]
        for name, old in states[0].items()
    }


NO_DIFFERENCE: dict[str, set[str]] = {name: set() for name in ADDITIONS}


@pytest.mark.parametrize("mtu", [1500, 1400, 9000])
def test_the_state_after_our_plug_is_os_vifs_but_for_what_we_add(
    lab: Lab, ours: Nova, theirs: Nova, port: Port, mtu: int
) -> None:
    assert differing(lab, [theirs, ours], port, mtu) == NO_DIFFERENCE


@pytest.mark.parametrize("mtu", [1400, 9000])
def test_a_port_plugged_again_with_another_mtu_is_as_os_vifs(
    lab: Lab, ours: Nova, theirs: Nova, port: Port, mtu: int
) -> None:
    assert differing(lab, [theirs, ours], port, mtu, lambda nova: nova.plug(port)) == NO_DIFFERENCE


def test_a_port_of_another_interface_id_is_as_os_vifs(lab: Lab, ours: Nova, theirs: Nova, port: Port) -> None:
    assert differing(lab, [theirs, ours], port, interface_id=make_port(9).id) == NO_DIFFERENCE


def test_a_port_of_a_network_without_an_mtu_is_as_os_vifs(lab: Lab, start_nova: StartNova, port: Port) -> None:
    sized: dict[str, object] = {"network_device_mtu": 1420}
    novas = [start_nova(os_vif=sized), start_nova(os_vif=sized, answer_to_ovs="true")]
    assert differing(lab, novas, port, 1420, mtu=None) == NO_DIFFERENCE


@pytest.mark.parametrize(
    "option", [{"per_port_bridge": "true"}, {"ovsdb_interface": "vsctl"}], ids=lambda option: next(iter(option))
)
def test_no_option_that_os_vif_has_for_other_ports_makes_a_difference(
    lab: Lab, start_nova: StartNova, port: Port, option: dict[str, object]
) -> None:
    novas = [start_nova(os_vif=option), start_nova(os_vif=option, answer_to_ovs="true")]
    assert differing(lab, novas, port) == NO_DIFFERENCE


def test_a_port_made_over_to_another_firewall_stays_as_os_vif_leaves_it(
    lab: Lab, ours: Nova, theirs: Nova, port: Port
) -> None:
    before = lab.snapshot()
    assert differing(lab, [theirs, ours], port, 1500, lambda _: theirs.plug(port), kind="ovs") == NO_DIFFERENCE
    assert lab.snapshot() == before


def test_an_isolated_port_is_as_os_vifs(lab: Lab, start_nova: StartNova, port: Port) -> None:
    isolating: dict[str, object] = {"isolate_vif": "true"}
    novas = [start_nova(os_vif=isolating), start_nova(os_vif=isolating, answer_to_ovs="true")]
    assert differing(lab, novas, port) == NO_DIFFERENCE
    for nova in novas:
        assert nova.plug(port)["ok"]
        assert [lab.row(QVO, "Port")[key] for key in ("tag", "vlan_mode", "trunks")] == [4095, "trunk", 4095]
        # The agent wires it, and from then on it is left alone.
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
def test_a_port_of_a_trunk_is_as_os_vifs_and_so_is_its_bridge(
    lab: Lab, start_nova: StartNova, port: Port, isolate: str
) -> None:
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
    # Either takes away what the other made.
    assert novas[0].unplug(port, bridge="tbr-1")["ok"]
    assert lab.snapshot() == before


def test_a_missing_integration_bridge_is_made_as_os_vif_makes_it(lab: Lab, start_nova: StartNova, port: Port) -> None:
    novas = [start_nova(), start_nova(answer_to_ovs="true", **TRUNKS)]
    assert differing(lab, novas, port, bridge="br-made") == NO_DIFFERENCE
    columns = "name,datapath_type,fail_mode,protocols,external_ids,other_config"
    made = [lab.sh(f"ovs-vsctl --columns={columns} list Bridge br-made; ovs-vsctl del-br br-made")]
    assert novas[1].plug(port, bridge="br-made")["ok"]
    made.append(lab.sh(f"ovs-vsctl --columns={columns} list Bridge br-made"))
    assert made[0] == made[1]
    # Of a bridge that lives os-vif would change the datapath type.
    assert novas[1].plug(make_port(2), datapath_type="system")["ok"]
    assert lab.sh("ovs-vsctl get Bridge br-int datapath_type").strip() == "netdev"


def qos_of(lab: Lab, name: str = QVO) -> list[Any]:
    """The type of the QoS row that a port holds, and all that says whose it is; and how many QoS rows there are."""
    (row,) = json.loads(lab.sh(f"ovs-vsctl --format=json find Port name={name}"))["data"]
    held = lab.sh(f"ovs-vsctl get Port {name} qos").strip()
    count = len(lab.sh("ovs-vsctl --bare --columns=_uuid list QoS").split())
    if held == "[]":
        return ["none", count]
    assert row
    return [*lab.sh(f"ovs-vsctl get QoS {held} type external_ids other_config queues").splitlines(), count]


# On a bridge of the kernel's datapath, since os-vif makes a QoS on no other; the rows need no kernel.
SYSTEM = {"bridge": "br-sys", "datapath_type": "system"}


def test_a_port_with_a_qos_is_as_os_vifs_and_either_takes_away_the_others(
    lab: Lab, start_nova: StartNova, port: Port
) -> None:
    queued: dict[str, object] = {"default_qos_type": "linux-fq_codel"}
    theirs = start_nova(os_vif=queued)
    ours = start_nova(os_vif=queued, answer_to_ovs="true", integration_bridges="br-int,br-sys")
    theirs.plug(port, **SYSTEM)
    wanted = qos_of(lab)
    assert wanted[-1] == 1
    # Ours goes with it, though it was os-vif that made it, and of whatever type.
    lab.sh("ovs-vsctl set QoS $(ovs-vsctl --bare --columns=_uuid list QoS) external_ids:_type=linux-noop")
    assert ours.unplug(port, **SYSTEM) == {"ok": True}
    assert lab.sh("ovs-vsctl list QoS") == ""
    # On a bridge that is there: a plug that Open vSwitch does not take is taken back.
    library = replace(port, qos_type="linux-fq_codel")
    assert plug(library, lab.host).ok
    assert qos_of(lab) == wanted
    theirs.unplug(port, **{**SYSTEM, "bridge": "br-int"})
    assert lab.sh("ovs-vsctl list QoS") == ""


def test_a_port_of_the_kernels_datapath_has_the_rows_that_os_vif_makes(
    lab: Lab, start_nova: StartNova, port: Port
) -> None:
    queued: dict[str, object] = {"default_qos_type": "linux-fq_codel"}
    # What ovs-vswitchd makes of it, and where: ours is on a bridge that it takes ports of.
    apart = {"error", "mtu", "admin_state", "bridge", "port qos"}
    told = []
    novas = [start_nova(os_vif=queued), start_nova(os_vif=queued, answer_to_ovs="true")]
    for nova, bridge in zip(novas, ("br-sys", "br-int"), strict=True):
        nova.plug(port, bridge=bridge, datapath_type="system")
        facts = facts_of(lab)["row"]
        told.append([{key: value for key, value in facts.items() if key not in apart}, qos_of(lab)])
        lab.sweep()
        lab.sh("ovs-vsctl --all destroy QoS")
    assert told[0] == told[1]


def test_through_os_vif_a_userspace_datapath_gets_no_qos(lab: Lab, start_nova: StartNova, port: Port) -> None:
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


def test_a_port_plugged_by_us_is_unplugged_by_os_vif_clean(lab: Lab, ours: Nova, theirs: Nova, port: Port) -> None:
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
# What os-vif changes in a plug, in its order; a kill can come before each of them.
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
def test_a_plug_of_os_vifs_that_was_killed_is_brought_to_its_end(lab: Lab, ours: Nova, port: Port, done: int) -> None:
    lab.sh("\n".join(KILL_POINTS[:done]) or "true")
    assert ours.plug(port) == {"ok": True}
    assert check(port, lab.host) == ()
    assert ours.plug(make_port(2)) == {"ok": True}
    with lab.vm(port, 1) as one, lab.vm(make_port(2), 2):
        assert one.ping("10.0.0.2").returncode == 0


@pytest.mark.parametrize("done", range(0, len(KILL_POINTS), 5))
def test_a_plug_of_os_vifs_that_was_killed_can_be_unplugged(lab: Lab, ours: Nova, port: Port, done: int) -> None:
    before = lab.snapshot()
    lab.sh("\n".join(KILL_POINTS[:done]) or "true")
    assert ours.unplug(port) == {"ok": True}
    assert lab.snapshot() == before


# Adoption, with traffic on the port all the while.

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
def traffic(lab: Lab, left: Vm, right: Vm) -> Iterator[dict[str, int]]:
    """A ping every 10 ms and a TCP stream from one VM to another; afterwards what was sent and what was lost."""
    told: dict[str, int] = {}

    def start(vm: Vm, argv: list[str]) -> Any:
        return lab.box.popen(["nsenter", f"--net=/run/netns/{vm.namespace}", *argv], stdin=PIPE, stdout=PIPE)

    server = start(right, ["python3", "-c", SERVER])
    assert server.stdout.readline() == "up\n"
    client = start(left, ["python3", "-c", CLIENT])
    assert client.stdout.readline() == "up\n"
    ping = start(left, ["ping", "-q", "-n", "-i", "0.01", "10.0.0.2"])
    assert "PING" in ping.stdout.readline()
    try:
        yield told
        told["bytes"] = int(client.communicate("\n", timeout=20)[0])
        assert int(server.communicate(timeout=20)[0]) == told["bytes"]
    finally:
        for process in (server, client, ping):
            with process:
                process.kill()
    # What is still on its way arrives: until then it counts as lost.
    until(lambda: lost(left, right) == {"lost pings": 0, "lost segments": 0}, 2)
    told |= lost(left, right) | {"pings": counters(left, "Icmp")["OutEchos"]}


def lost(left: Vm, right: Vm) -> dict[str, int]:
    """What one VM sent and the other did not get, by the VMs' own counters; TCP would send it again and hide it."""
    segments = 0
    for sender, receiver in ((left, right), (right, left)):
        sent = counters(sender, "Tcp")
        segments += sent["OutSegs"] + sent["RetransSegs"] - counters(receiver, "Tcp")["InSegs"]
    icmp = counters(left, "Icmp")
    return {"lost pings": icmp["OutEchos"] - icmp["InEchoReps"], "lost segments": segments}


def counters(vm: Vm, protocol: str) -> dict[str, int]:
    """The rows of /proc/net/snmp."""
    names, values = (
        line.split()[1:]
        for line in vm.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
        if line.startswith(f"{protocol}:")
    )
    return dict(zip(names, map(int, values), strict=True))


def agents_words(lab: Lab) -> dict[str, Any]:
    """What is the agent's or Open vSwitch's own, and must outlive whatever we do."""
    row, port = lab.row(QVO), lab.row(QVO, "Port")
    told = {key: row[key] for key in ("_uuid", "ofport", "other_config")}
    return told | {f"port {key}": port[key] for key in ("_uuid", "tag", "other_config")}


CUTTING = {"master", "up", "peer_up", "absent", "stp", "bridge", "type", "realized", "bridge_port"}
HARMLESS = [
    drift
    for drift in DRIFTS
    if drift.named not in (f"{QVB} mtu", f"{QVB} peer_mtu")
    and drift.named.split()[1] not in CUTTING
    and not ("mtu 1200" in drift.befalls and QBR not in drift.befalls)
]
"""Drifts that do not cut traffic by themselves."""


@pytest.mark.prove
@pytest.mark.parametrize("plugin", ["hybridvif", "ovs"])
def test_adoption_plugs_and_repairs_lose_not_one_packet(
    lab: Lab, ours: Nova, theirs: Nova, port: Port, plugin: str
) -> None:
    other = make_port(2)
    for one in (port, other):
        assert theirs.plug(one)["ok"]
    for name in (QVO, other.names.switch_end):
        lab.sh(f"ovs-vsctl set Port {name} tag=7 other_config:net_uuid=x -- set Interface {name} other_config:a=b")
    before, drifts = agents_words(lab), HARMLESS[:: 1 if FULL else 4]
    with lab.vm(port, 1) as left, lab.vm(other, 2) as right:
        assert left.ping("10.0.0.2").returncode == 0
        with traffic(lab, left, right) as told:
            for one in (port, other):
                assert check(one, lab.host) != ()
                assert ours.plug(one, plugin) == {"ok": True}
                assert check(one, lab.host) == ()
            for nova, name in ((ours, plugin), (theirs, "ovs"), (ours, plugin)):
                assert nova.plug(port, name) == {"ok": True}
                assert check(port, lab.host) == ()
            for drift in drifts:
                lab.sh(drift.befalls)
                assert until(lambda: check(port, lab.host) != (), 1), drift.sentence
                assert ours.plug(port, plugin) == {"ok": True}
                assert check(port, lab.host) == ()
            assert until(lambda: counters(left, "Icmp")["OutEchos"] > 100, 60)
    assert agents_words(lab) == before
    assert told["bytes"] > 0
    note("traffic-osvif-api", case=plugin, pings=told["pings"], kilobytes=told["bytes"] // 1000, repairs=len(drifts),
         lost_pings=told["lost pings"], lost_segments=told["lost segments"])  # fmt: skip
    assert (told["lost pings"], told["lost segments"]) == (0, 0), told


def test_a_whole_host_is_adopted_port_by_port_and_what_is_not_hybrid_is_left(
    lab: Lab, start_nova: StartNova, tmp_path: Path
) -> None:
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
        """All but our key and what ovs-vswitchd counts."""
        lab.sh(f"ovs-vsctl remove Interface {other.names.switch_end} external_ids hybridvif-port-id")
        columns = {"Interface": "_uuid,name,type,options,external_ids,ofport,other_config,mtu_request"}
        tables = ("Bridge", "Port", "Interface")
        return {
            table: lab.sh(f"ovs-vsctl {f'--columns={columns[table]}' if table in columns else ''} list {table}")
            for table in tables
        }

    def hybridvif(*words: str) -> dict[str, Any]:
        done = lab.box.run([*command, *words, "-f", "json"], check=False)
        return {**json.loads(done.stdout), "said": done.stderr}

    config = configuration(tmp_path, {"answer_to_ovs": "true", **TRUNKS}, os_vif)
    command = [sys.executable, "-W", "ignore", "-m", "hybridvif", "--config-file", str(config)]
    plugged, links = rows(), lab.links()
    assert until(lambda: all(lab.link(port.names.bridge)["operstate"] == "UP" for port in ports[:3]))
    seen = lab.snapshot()
    dry = hybridvif("adopt", "--dry-run")
    assert lab.snapshot() == seen
    done = hybridvif("adopt")
    for told in (dry, done):
        assert [one["port"] for one in told["ports"]] == [plain.id, trunk.id]
        assert [one["key"] for one in told["skipped"]] == [other.id[:11], vhost_user.id[:11]]
        assert f"has the iface-id {make_port(99).id}" in told["skipped"][0]["reason"]
        assert told["skipped"][1]["reason"].startswith("it is a vhost-user port")
    assert all(check(port, lab.host) == () for port in (plain, replace(trunk, bridge="tbr-1")))
    # What nothing tells the id of, os-vif's caller knows.
    for port, more in zip(ports, kinds, strict=True):
        assert ours.plug(port, **more) == {"ok": True}
    states = {one["port"]: one["state"] for one in hybridvif("list")["ports"]}
    # Without DPDK ovs-vswitchd has not taken the last one.
    assert states == dict.fromkeys([port.id for port in (plain, trunk, other)], "in-order") | {vhost_user.id: "drift"}
    assert (rows(), lab.links()) == (plugged, links)
    for port, more in zip(ports, kinds, strict=True):
        assert theirs.unplug(port, **more)["ok"]
    assert lab.snapshot() == before


def test_a_loss_would_be_seen(lab: Lab, port: Port) -> None:
    other = make_port(2)
    plug(port, lab.host)
    plug(other, lab.host)
    with lab.vm(port, 1) as left, lab.vm(other, 2) as right:
        assert left.ping("10.0.0.2").returncode == 0
        with traffic(lab, left, right) as told:
            lab.sh(f"ip link set {QVB} nomaster; sleep 1; ip link set {QVB} master {QBR}; sleep 1")
    assert told["lost pings"] > 0
    assert told["lost segments"] > 0
