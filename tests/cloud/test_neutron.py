"""Ports of hybridvif under a real Neutron server and its agent, with the firewall iptables_hybrid."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridvif import Port, Status, check, plug, plug_all, reconcile, unplug, unplug_all
from tests.cloud.cloud import DEAD_VLAN, TRUNKS, Cloud
from tests.cloud.hosts import BIN, PATH, Watch, configure_link, note, passes, until
from tests.functional.conftest import INSTANCE, Lab
from tests.osvif.conftest import Nova, configuration
from tests.osvif.test_living_together import traffic

COUNT = 50
"""Ports of a reboot."""


class Pair:
    """Two wired ports with VMs. Their group allows ICMP, and nothing else."""

    def __init__(self, cloud: Cloud) -> None:
        created = [cloud.create_port() for _ in range(2)]
        self.cloud, self.ports = cloud, [port for port, _ in created]
        self.addresses = [f"10.0.0.{number}" for _, number in created]
        plugged = Watch()
        assert all(report.ok for report in plug_all(self.ports, cloud.lab.host))
        cloud.await_wired(*self.ports)
        note("plug-to-active", ports=2, seconds=plugged.seconds)
        self.vms = [cloud.lab.vm(port, number) for port, number in created]
        for vm in self.vms:
            vm.boot()
        self.denied = passes(self.vms[0], self.addresses[1])
        self.rule = cloud.allow("icmp")
        assert until(self.pings, 20)

    def delete(self) -> None:
        """Delete the ports and their VMs."""
        for vm in self.vms:
            vm.shut_down()
        assert all(report.ok for report in unplug_all([port.id for port in self.ports], self.cloud.lab.host))
        for port in self.ports:
            self.cloud.delete(port)

    @property
    def port(self) -> Port:
        """The first port."""
        return self.ports[0]

    def pings(self) -> bool:
        """Return True if the first VM reaches the second one, and the reverse."""
        pairs = zip(self.vms, reversed(self.addresses), strict=True)
        return all(vm.ping(address, timeout=1).returncode == 0 for vm, address in pairs)

    def is_in_order(self) -> bool:
        """Return True if both ports are wired, ICMP passes and TCP is dropped, in both directions."""
        pairs = zip(self.vms, reversed(self.addresses), strict=True)
        allowed = all(passes(vm, address) == {"icmp": True, "tcp": False} for vm, address in pairs)
        return allowed and all(map(self.cloud.is_wired, self.ports))


@pytest.fixture(scope="module")
def pair(cloud: Cloud) -> Iterator[Pair]:
    """Two ports for all tests that leave them in order."""
    pair = Pair(cloud)
    yield pair
    pair.delete()


@pytest.mark.sample
def test_security_group_is_judged_by_packets(cloud: Cloud, pair: Pair) -> None:
    assert pair.denied == {"icmp": False, "tcp": False}
    assert passes(pair.vms[0], pair.addresses[1]) == {"icmp": True, "tcp": False}
    tcp = cloud.allow("tcp")
    assert until(lambda: passes(pair.vms[0], pair.addresses[1]) == {"icmp": True, "tcp": True}, 20)
    cloud.forbid(tcp)
    assert until(lambda: passes(pair.vms[0], pair.addresses[1]) == {"icmp": True, "tcp": False}, 20)
    # Neutron drops packets with a foreign address.
    pair.vms[0].run(["ip", "address", "add", "10.0.0.250/24", "dev", "eth0"])
    spoofed = ["ping", "-n", "-c", "1", "-W", "1", "-I", "10.0.0.250", pair.addresses[1]]
    assert pair.vms[0].run(spoofed, check=False).returncode == 1
    pair.vms[0].run(["ip", "address", "delete", "10.0.0.250/24", "dev", "eth0"])


@pytest.mark.sample
def test_second_plug_does_not_wake_the_agent(cloud: Cloud, pair: Pair) -> None:
    rows = [cloud.lab.row(pair.port.names.switch_end, table) for table in ("Port", "Interface")]
    chains, mark = cloud.chains(pair.port), cloud.agent.await_quiet(pair.port)
    for _ in range(3):
        assert not plug(pair.port, cloud.lab.host).changed
    cloud.agent.await_rounds(mark)
    assert cloud.agent.since(mark, pair.port.id) == []
    after = [cloud.lab.row(pair.port.names.switch_end, table) for table in ("Port", "Interface")]
    for old, current in zip(rows, after, strict=True):
        assert {**current, "statistics": None} == {**old, "statistics": None}
    assert cloud.chains(pair.port) == chains
    assert pair.is_in_order()


QBR, QVB, QVO = "qbr{key}", "qvb{key}", "qvo{key}"
HARD_DRIFTS = {
    "veth pair deleted": f"ip link delete {QVB}",
    "switch end deleted": f"ip link delete {QVO}",
    "Linux bridge deleted": f"ip link delete {QBR}",
    "bridge and pair deleted": f"ip link delete {QBR}; ip link delete {QVB}",
    "row deleted": f"ovs-vsctl del-port {QVO}",
    "external_ids cleared": f"ovs-vsctl clear Interface {QVO} external_ids",
    "iface-id of nobody": f"ovs-vsctl set Interface {QVO} external_ids:iface-id=00000000-0000-4000-8000-000000000000",
    "row of other type": f"ovs-vsctl set Interface {QVO} type=patch options:peer=nobody",
    "qvo down": f"ip link set {QVO} down",
    "no master": f"ip link set {QVB} nomaster",
}


@pytest.mark.parametrize(
    ("drift", "agent_sees_it"),
    [
        pytest.param(drift, seen, marks=[pytest.mark.sample] if drift == "row deleted" and seen else [])
        for drift in HARD_DRIFTS
        for seen in (True, False)
    ],
)
def test_hard_drift_is_repaired_and_wired_again(cloud: Cloud, pair: Pair, drift: str, agent_sees_it: bool) -> None:
    """A drift is repaired after the agent has handled it, or before."""
    mark = cloud.agent.mark()
    cloud.lab.sh(HARD_DRIFTS[drift].format(key=pair.port.id[:11]))
    assert until(lambda: check(pair.port, cloud.lab.host) != (), 5)
    if agent_sees_it:
        cloud.agent.await_rounds(mark)
    repaired = Watch()
    assert plug(pair.port, cloud.lab.host).status is Status.DONE
    # libvirt does not put its tap back into a new bridge.
    pair.vms[0].attach(pair.port.names.bridge)
    assert until(pair.pings, 40), (cloud.tag(pair.port), cloud.neutron.status(pair.port.id))
    note("repair-to-ping", drift=drift, seconds=repaired.seconds, agent_first=str(agent_sees_it))
    assert until(pair.is_in_order, 40), (cloud.tag(pair.port), cloud.neutron.status(pair.port.id))
    # The agent does not write an attribute of ours.
    assert check(pair.port, cloud.lab.host) == ()


def test_restarted_agent_finds_ports_in_order(cloud: Cloud, pair: Pair) -> None:
    tags = [cloud.tag(port) for port in pair.ports]
    cloud.agent.kill()
    assert pair.pings()
    # A plug without an agent: nothing of the wiring is lost.
    assert plug(pair.port, cloud.lab.host).status is Status.DONE
    assert pair.pings()
    cloud.agent.start()
    assert until(pair.is_in_order, 40)
    assert [cloud.tag(port) for port in pair.ports] == tags


def test_port_plugged_without_agent_is_wired_at_its_start(cloud: Cloud, pair: Pair) -> None:
    cloud.agent.kill()
    cloud.lab.sh(f"ovs-vsctl del-port {pair.port.names.switch_end}")
    assert plug(pair.port, cloud.lab.host).status is Status.DONE
    assert cloud.tag(pair.port) == ["set", []]
    cloud.agent.start()
    assert until(pair.is_in_order, 40)


@pytest.mark.sample
def test_unplugged_port_is_down_and_leaves_nothing(cloud: Cloud) -> None:
    port, number = cloud.create_port()
    before = cloud.lab.links()
    assert plug(port, cloud.lab.host).ok
    cloud.await_wired(port)
    with cloud.lab.vm(port, number) as vm:
        vm.ping("10.0.0.1", timeout=1)
    assert cloud.chains(port)
    assert cloud.zones(port)
    assert unplug(port.id, cloud.lab.host).ok
    unplugged = Watch()
    assert until(lambda: cloud.neutron.status(port.id) == "DOWN", 20)
    assert until(lambda: not cloud.chains(port) and not cloud.zones(port), 20), cloud.chains(port)
    note("unplug-to-down", seconds=unplugged.seconds)
    assert cloud.lab.links() == before
    cloud.delete(port)


def test_isolated_port_is_silent_until_it_is_wired(cloud: Cloud, pair: Pair) -> None:
    port, number = cloud.create_port()
    isolated = replace(port, isolate=True)
    cloud.agent.kill()
    assert plug(isolated, cloud.lab.host).ok
    with cloud.lab.vm(port, number) as vm:
        assert cloud.tag(port) == DEAD_VLAN
        assert vm.ping(pair.addresses[0], timeout=1).returncode != 0
        cloud.agent.start()
        cloud.await_wired(port)
        assert until(lambda: vm.ping(pair.addresses[0], timeout=1).returncode == 0, 20)
        assert plug(isolated, cloud.lab.host).ok
        assert vm.ping(pair.addresses[0], timeout=1).returncode == 0
        row = cloud.lab.row(port.names.switch_end, "Port")
        assert [row["vlan_mode"], row["trunks"]] == [["set", []], ["set", []]]
    assert unplug(port.id, cloud.lab.host).ok
    cloud.delete(port)


@pytest.fixture
def osvif(cloud: Cloud, tmp_path: Path) -> Iterator[Nova]:
    """A program that plugs with os-vif's own plugin."""
    with closing(Nova(cloud.lab.box, configuration(tmp_path, {}, {}, name="theirs"))) as nova:
        yield nova


@pytest.fixture
def dropin(cloud: Cloud, tmp_path: Path) -> Iterator[Nova]:
    """A program that plugs with the drop-in."""
    options: dict[str, object] = {"answer_to_ovs": "true", **TRUNKS}
    with closing(Nova(cloud.lab.box, configuration(tmp_path, options, {}, name="ours"))) as nova:
        yield nova


def agent_columns(lab: Lab, port: Port) -> dict[str, Any]:
    """Return the columns of the agent and of Open vSwitch, which must not change."""
    row, port_row = (lab.row(port.names.switch_end, table) for table in ("Interface", "Port"))
    columns = {key: row[key] for key in ("_uuid", "ofport", "other_config")}
    return columns | {f"port {key}": port_row[key] for key in ("_uuid", "tag", "other_config")}


def test_adoption_beside_the_agent_loses_no_packet(cloud: Cloud, osvif: Nova, dropin: Nova, tmp_path: Path) -> None:
    """Ports plugged by os-vif and wired by the agent are adopted: by the command, then by the drop-in."""
    network, group = cloud.create_network("vlan", "10.0.0.0/24"), cloud.create_group()
    for protocol in ("icmp", "tcp"):
        cloud.allow(protocol, group)
    ports = [cloud.create_port(network, number, security_groups=[group])[0] for number in (1, 2)]
    for port in ports:
        assert osvif.plug(port)["ok"]
    cloud.await_wired(*ports)
    with cloud.lab.vm(ports[0], 1) as vm, cloud.lab.vm(ports[1], 2) as peer:
        assert vm.ping("10.0.0.2").returncode == 0
        mark = cloud.agent.await_quiet(*ports)
        with traffic(cloud.lab, vm, peer) as counts:
            columns = [agent_columns(cloud.lab, port) for port in ports]
            adopt = ["hybridvif", "--config-file", str(tmp_path / "ours.conf"), "adopt"]
            assert cloud.lab.box.run(adopt).returncode == 0
            for port in ports:
                assert check(port, cloud.lab.host) == ()
                assert dropin.plug(port) == {"ok": True}
            cloud.agent.await_rounds(mark)
        assert cloud.agent.since(mark, *(port.id for port in ports)) == []
        assert [agent_columns(cloud.lab, port) for port in ports] == columns
    note("adoption", pings=counts["pings"], lost_pings=counts["lost pings"], lost_segments=counts["lost segments"])
    assert (counts["lost pings"], counts["lost segments"]) == (0, 0)
    for port in ports:
        assert dropin.unplug(port) == {"ok": True}
        assert until(lambda port=port: cloud.neutron.status(port.id) == "DOWN", 20)  # type: ignore[misc]
        cloud.delete(port)


def test_trunk_with_subport_is_wired_and_removed(cloud: Cloud, pair: Pair) -> None:
    """The agent makes and deletes the patch ports of a trunk. The VM sees the subport as a VLAN of its own."""
    inner = cloud.create_network("vlan", "10.2.0.0/24")
    group = {"security_groups": [cloud.group]}
    parent = cloud.neutron.create("port", network_id=cloud.network["id"], **group)
    subport = cloud.neutron.create("port", network_id=inner["id"], **group)
    members = [{"port_id": subport["id"], "segmentation_type": "vlan", "segmentation_id": 50}]
    trunk = cloud.neutron.create("trunk", port_id=parent["id"], sub_ports=members)
    bound = {"binding:host_id": "compute1", "device_id": INSTANCE, "device_owner": "compute:nova"}
    parent = cloud.neutron.call("PUT", f"ports/{parent['id']}", {"port": bound})["port"]
    bridge = parent["binding:vif_details"]["bridge_name"]
    assert bridge.startswith("tbr-")
    port = Port(id=parent["id"], mac=parent["mac_address"], instance_id=INSTANCE, bridge=bridge, datapath_type="netdev")
    address = parent["fixed_ips"][0]["ip_address"]
    links, bridges = cloud.lab.links(), cloud.lab.sh("ovs-vsctl list-br")
    for _ in range(2):
        assert plug(port, cloud.lab.host).ok
        for member in (parent, subport):
            assert until(lambda member=member: cloud.neutron.status(member["id"]) == "ACTIVE", 40)  # type: ignore[misc]
        assert cloud.neutron.call("GET", f"trunks/{trunk['id']}")["trunk"]["status"] == "ACTIVE"
        assert check(port, cloud.lab.host) == ()
        assert not plug(port, cloud.lab.host).changed
        with cloud.lab.vm(port, int(address.rpartition(".")[2])) as vm:
            assert until(lambda vm=vm: vm.ping(pair.addresses[0], timeout=1).returncode == 0, 20)  # type: ignore[misc]
        assert unplug(port.id, cloud.lab.host).ok
        for member in (parent, subport):
            assert until(lambda member=member: cloud.neutron.status(member["id"]) == "DOWN", 20)  # type: ignore[misc]
        assert until(lambda: cloud.lab.sh("ovs-vsctl list-br") == bridges, 20)
        assert until(lambda: cloud.lab.links() == links, 10)
    # Neutron deletes no trunk whose parent is bound.
    released = {"binding:host_id": "", "device_id": "", "device_owner": ""}
    cloud.neutron.call("PUT", f"ports/{parent['id']}", {"port": released})
    cloud.neutron.call("DELETE", f"trunks/{trunk['id']}")
    for member in (parent, subport):
        cloud.neutron.call("DELETE", f"ports/{member['id']}")


def test_call_iptables_keeps_the_firewall_if_the_host_does_not(cloud: Cloud, pair: Pair) -> None:
    """Without bridge-nf-call-iptables the security groups are not applied. `call_iptables` of a port applies them."""
    setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    calling = cloud.lab.sh(f"cat {setting}").strip()
    (vm, _), (_, address) = pair.vms, pair.addresses
    try:
        cloud.lab.sh(f"echo 0 > {setting}")
        assert passes(vm, address) == {"icmp": True, "tcp": True}
        for port in pair.ports:
            assert plug(replace(port, call_iptables=True), cloud.lab.host).ok
        assert passes(vm, address) == {"icmp": True, "tcp": False}
    finally:
        cloud.lab.sh(f"echo {calling} > {setting}")
        for port in pair.ports:
            cloud.lab.sh(f"ip link set {port.names.bridge} type bridge nf_call_iptables 0 nf_call_ip6tables 0")
    assert pair.is_in_order()


# -- two hosts ---------------------------------------------------------------------------------------------------------


def convert_by_command(cloud: Cloud, *words: str) -> dict[str, Any]:
    """Convert inside of the host, whose flows the command reads itself. Return its answer with the exit code."""
    argv = [sys.executable, "-P", "-m", "hybridvif", "convert", *words, "-f", "json"]
    done = cloud.lab.box.run(argv, check=False)
    return {**json.loads(done.stdout), "exit_code": done.returncode}


def test_conversion_needs_the_openflow_firewall_of_the_agent(cloud: Cloud, pair: Pair) -> None:
    """The guide in docs/convert.md: another firewall of the agent, a canary, the host, and the way back."""
    ids, judged = [port.id for port in pair.ports], {"icmp": True, "tcp": False}
    pairs = list(zip(pair.vms, reversed(pair.addresses), strict=True))
    before = cloud.lab.snapshot()
    answer = convert_by_command(cloud, *ids, "--to", "native")
    assert (answer["exit_code"], answer["error"]["code"]) == (6, "unfiltered")
    assert cloud.lab.snapshot() == before
    cloud.agent.kill()
    # Otherwise its firewall adds them, Open vSwitch closes the connection, and on a busy machine the agent ends.
    cloud.lab.sh("ovs-vsctl add Bridge br-int protocols OpenFlow11 OpenFlow12")
    cloud.agent.start("openvswitch")
    assert until(lambda: convert_by_command(cloud, ids[0], "--to", "native")["exit_code"] == 0, 60)
    assert convert_by_command(cloud, "--all", "--to", "native")["exit_code"] == 0
    assert all(cloud.lab.row(port.names.tap) for port in pair.ports)
    for vm, address in pairs:
        assert until(lambda vm=vm, address=address: passes(vm, address) == judged, 30)  # type: ignore[misc]
    # A round of the agent later, it has found the new rows and wired them.
    cloud.agent.await_rounds(cloud.agent.mark())
    assert all(passes(vm, address) == judged for vm, address in pairs)
    assert all(cloud.neutron.status(port_id) == "ACTIVE" for port_id in ids)
    assert convert_by_command(cloud, "--all", "--to", "hybrid", "--unfiltered")["exit_code"] == 0
    cloud.agent.kill()
    cloud.agent.start()
    assert until(pair.is_in_order, 60)


@pytest.mark.sample
def test_ports_of_two_hosts_meet_over_vxlan(cloud: Cloud) -> None:
    second = cloud.second
    network, group = cloud.create_network("vxlan", "10.0.0.0/24"), cloud.create_group()
    near, _ = cloud.create_port(network, 1, security_groups=[group])
    far, _ = cloud.create_port(network, 2, "compute2", security_groups=[group])
    for lab, port in ((cloud.lab, near), (second, far)):
        lab.plug(port)
    for port in (near, far):
        assert until(lambda port=port: cloud.neutron.status(port.id) == "ACTIVE", 40)  # type: ignore[misc]
    with cloud.lab.vm(near, 1) as vm, second.vm(far, 2) as peer:
        assert passes(vm, "10.0.0.2") == {"icmp": False, "tcp": False}
        rule = cloud.allow("icmp", group)
        assert until(lambda: vm.ping("10.0.0.2", timeout=1).returncode == 0, 20)
        assert passes(vm, "10.0.0.2") == passes(peer, "10.0.0.1") == {"icmp": True, "tcp": False}
        # A full frame crosses the tunnel.
        size = ["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", str(network["mtu"] - 28), "10.0.0.2"]
        assert vm.run(size, check=False).returncode == 0
        cloud.forbid(rule)
        assert until(lambda: vm.ping("10.0.0.2", timeout=1).returncode != 0, 20)
    for lab, port in ((cloud.lab, near), (second, far)):
        lab.unplug(port)
        assert until(lambda port=port: cloud.neutron.status(port.id) == "DOWN", 20)  # type: ignore[misc]
        cloud.delete(port)


# -- a host that is restarted; the last tests, because they interrupt all ports ----------------------------------------


def test_reconcile_after_neutron_ovs_cleanup_wires_all_ports(cloud: Cloud, pair: Pair) -> None:
    """Deployments run neutron-ovs-cleanup when a host starts."""
    command = [str(BIN / "neutron-ovs-cleanup"), *cloud.agent.files]
    assert cloud.lab.box.run(command, env={"PATH": PATH}, timeout=120).returncode == 0
    assert cloud.tag(pair.port) is None
    done = reconcile(pair.ports, cloud.lab.host)
    assert all(report.status is Status.DONE for report in done.plugged)
    for vm, port in zip(pair.vms, pair.ports, strict=True):
        vm.attach(port.names.bridge)
    assert until(pair.is_in_order, 40)


@pytest.mark.parametrize("way", ["reconcile", "os-vif"])
def test_ports_are_active_again_after_a_reboot(cloud: Cloud, pair: Pair, osvif: Nova, way: str) -> None:
    """The rows stay, the devices go, and the agent keeps running."""
    more = [cloud.create_port()[0] for _ in range(COUNT - 2)]
    ports = [*pair.ports, *more]
    assert all(report.ok for report in plug_all(ports, cloud.lab.host))
    cloud.await_wired(*ports, seconds=90)
    for vm in pair.vms:
        vm.shut_down()
    cloud.lab.box.reboot()
    configure_link(cloud.lab, 1)
    rebooted, mark = Watch(), cloud.agent.mark()
    if way == "reconcile":
        assert all(report.status is Status.DONE for report in reconcile(ports, cloud.lab.host).plugged)
    else:
        for port in ports:
            assert osvif.plug(port)["ok"]
    plugged = rebooted.seconds
    assert until(lambda: cloud.agent.has_configured(mark, *ports), 120)
    cloud.await_wired(*ports, seconds=120)
    note("reboot-to-active", way=way, ports=COUNT, plugged=plugged, active=rebooted.seconds)
    for vm in pair.vms:
        vm.boot()
    assert until(pair.is_in_order, 60)
    assert all(report.ok for report in unplug_all([port.id for port in more], cloud.lab.host))
    for port in more:
        cloud.delete(port)
