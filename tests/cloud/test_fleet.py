"""The desired ports of a host from a real Neutron server: `ports --from-neutron` and `reconcile --from-neutron`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from subprocess import CompletedProcess
from typing import Any

import pytest

from hybridvif import Port, check, plug, plug_all, unplug_all
from hybridvif.cli.ports import PortRequest
from tests.cloud.cloud import Cloud
from tests.cloud.hosts import BIN, Machine, Service
from tests.cloud.networking import RELAY
from tests.functional.conftest import INSTANCE, make_port

API = "127.0.0.1:9696"
BOUND = {"binding:host_id": "compute1", "device_id": INSTANCE, "device_owner": "compute:nova"}
NOVA = """
import json, sys
from dataclasses import asdict
from unittest import mock
import os_vif.objects
from nova import config, objects
from nova.network import model, neutron, os_vif_util
from os_vif.objects import instance_info
from hybridvif.osvif import port_of
config.parse_args(["nova"], default_config_files=[])
objects.register_all()
os_vif.objects.register_all()
port, networks = json.load(sys.stdin)
with (
    mock.patch.object(neutron, "get_client"),
    mock.patch.object(neutron.API, "_get_physnet_tunneled_info", return_value=(None, False)),
):
    network, interface_id = neutron.API()._nw_info_build_network(None, port, networks, [])
vif = model.VIF(
    id=port["id"], address=port["mac_address"], network=network, type=port["binding:vif_type"],
    details=port["binding:vif_details"], devname=f"tap{port['id']}"[:14], ovs_interfaceid=interface_id,
    vnic_type="normal", profile={}, active=True, preserve_on_delete=False,
)
instance = instance_info.InstanceInfo(name="vm", uuid=port["device_id"])
print(json.dumps(asdict(port_of(os_vif_util.nova_to_osvif_vif(vif), instance, {})), default=str))
"""
"""A program that derives a Port from a port of Neutron's API as Nova and the drop-in do. Nova's client is patched."""


@pytest.fixture(scope="module", autouse=True)
def api(cloud: Cloud) -> None:
    """Offer the API on a TCP port of both hosts."""
    for lab in (cloud.lab, cloud.second):
        directory = cloud.neutron.directory
        relay = [sys.executable, str(RELAY), API, str(directory / "api.sock")]
        relayed = Service(lab, relay, directory / "log" / "relay-api.log")
        probe = ["bash", "-c", f"exec 3<>/dev/tcp/{API.replace(':', '/')}"]
        relayed.await_(lambda lab=lab, probe=probe: lab.box.run(probe, check=False).returncode == 0, 20)  # type: ignore[misc]


def hybridvif(lab: Machine, *words: str, input: str | None = None) -> CompletedProcess[str]:
    """Run the command with the cloud in its environment."""
    environment = {"OS_AUTH_TYPE": "none", "OS_ENDPOINT": f"http://{API}"}
    argv = [str(BIN / "hybridvif"), "--config-file", str(lab.config), *words]
    return lab.box.run(argv, check=False, env=environment, input=input)


def listed(lab: Machine, host: str = "compute1") -> tuple[dict[str, dict[str, Any]], str]:
    """Return the printed ports by their ids, and stderr."""
    done = hybridvif(lab, "ports", "--from-neutron", "--host", host)
    assert done.returncode == 0, done.stderr
    return {entry["id"]: entry for entry in json.loads(done.stdout)}, done.stderr


@pytest.fixture
def ports(cloud: Cloud) -> Iterator[list[Port]]:
    """Two ports that Neutron has bound to the host."""
    # The agent's bridge has the userspace datapath.
    created = [replace(cloud.create_port()[0], datapath_type="netdev", qos_type="none") for _ in range(2)]
    yield created
    unplug_all([port.id for port in created], cloud.lab.host)
    for port in created:
        cloud.delete(port)


def drift_from(cloud: Cloud, port: Port) -> None:
    """Give the row of a port values that its own devices do not contradict, and damage a device."""
    values = f"external_ids:attached-mac=fa:16:3e:ff:ff:ff external_ids:vm-uuid={port.id}"
    cloud.lab.sh(f"ovs-vsctl set Interface {port.names.switch_end} {values}")
    cloud.lab.sh(f"ip link set {port.names.bridge_end} nomaster")


@pytest.mark.sample
def test_missing_foreign_and_drifted_port_are_repaired_left_named(cloud: Cloud, ports: list[Port]) -> None:
    (missing, drifted), foreign = ports, make_port()
    host, lab = cloud.lab.host, cloud.lab
    assert all(report.ok for report in plug_all([drifted, foreign], host))
    drift_from(cloud, drifted)
    row = lab.row(foreign.names.switch_end)
    source = ["--from-neutron", "--host", "compute1"]
    preview = hybridvif(lab, "reconcile", *source, "--dry-run")
    assert "attached-mac fa:16:3e:ff:ff:ff -> " + drifted.mac in preview.stdout, preview
    assert lab.links().isdisjoint(missing.names)

    done = hybridvif(lab, "reconcile", *source)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()[:-1]) == sorted(
        [f"{missing.id}  plugged", f"{drifted.id}  repaired: 2 changed"]
    )
    assert done.stderr == f"warning: port {foreign.id}: left, because it is not desired here\n"
    assert [check(port, host) for port in (missing, drifted, foreign)] == [(), (), ()]
    after = lab.row(foreign.names.switch_end)
    assert {**after, "statistics": None} == {**row, "statistics": None}
    cloud.await_wired(missing, drifted)

    again = hybridvif(lab, "reconcile", *source, "-f", "json")
    assert again.returncode == 0, again
    document = json.loads(again.stdout)
    assert not any(report["changed"] for report in document["ports"])
    assert foreign.id in document["warnings"][0]
    pruned = hybridvif(lab, "reconcile", *source, "--prune")
    assert (pruned.returncode, pruned.stderr) == (0, "")
    assert f"{foreign.id}  unplugged" in pruned.stdout


def test_port_that_osvif_plugged_is_named_and_not_pruned(cloud: Cloud, ports: list[Port]) -> None:
    foreign = make_port(9)
    row = f"external_ids:iface-id={foreign.id} external_ids:attached-mac={foreign.mac}"
    names = foreign.names
    cloud.lab.sh(
        f"ip link add {names.bridge} type bridge;"
        f"ip link add {names.bridge_end} type veth peer name {names.switch_end};"
        f"ip link set {names.bridge_end} master {names.bridge};"
        f"ovs-vsctl add-port br-int {names.switch_end} -- set Interface {names.switch_end} {row}"
    )
    try:
        done = hybridvif(cloud.lab, "reconcile", "--from-neutron", "--host", "compute1", "--prune")
        assert done.returncode == 0, done.stderr
        assert done.stderr == f"warning: port {foreign.id}: left, because it is not desired here\n"
        assert names.bridge in cloud.lab.links()
    finally:
        cloud.lab.sh(
            f"ovs-vsctl del-port {names.switch_end}; ip link del {names.bridge_end}; ip link del {names.bridge}"
        )


def test_printed_ports_are_a_file_for_the_other_commands(cloud: Cloud, ports: list[Port]) -> None:
    printed = hybridvif(cloud.lab, "ports", "--from-neutron", "--host", "compute1").stdout
    assert plug(ports[0], cloud.lab.host).ok
    done = hybridvif(cloud.lab, "check", "-F", "-", "-f", "json", input=printed)
    assert done.returncode == 3
    states = {entry["port"]: entry["in_order"] for entry in json.loads(done.stdout)["ports"]}
    assert states == {ports[0].id: True, ports[1].id: False}


def test_port_has_the_fields_that_nova_and_osvif_derive(cloud: Cloud, ports: list[Port]) -> None:
    trunk, parent, subport = create_trunk(cloud)
    entries, errors = listed(cloud.lab)
    assert errors == ""
    assert set(entries) == {ports[0].id, ports[1].id, parent["id"]}
    networks = cloud.neutron.call("GET", "networks")["networks"]
    for port_id, entry in entries.items():
        port = cloud.neutron.call("GET", f"ports/{port_id}")["port"]
        derived = cloud.lab.box.run([sys.executable, "-P", "-c", NOVA], input=json.dumps([port, networks])).stdout
        ours = PortRequest(fields=entry).to_port()
        assert json.loads(derived) == json.loads(json.dumps(asdict(ours), default=str))
    assert entries[parent["id"]]["bridge"].startswith("tbr-")
    delete_trunk(cloud, trunk, parent, subport)


def create_trunk(cloud: Cloud) -> list[dict[str, Any]]:
    """Create a trunk whose parent is bound. Return the trunk, the parent and the subport."""
    parent, subport = (cloud.neutron.create("port", network_id=cloud.network["id"]) for _ in range(2))
    members = [{"port_id": subport["id"], "segmentation_type": "vlan", "segmentation_id": 50}]
    trunk = cloud.neutron.create("trunk", port_id=parent["id"], sub_ports=members)
    cloud.neutron.call("PUT", f"ports/{parent['id']}", {"port": BOUND})
    return [trunk, parent, subport]


def delete_trunk(cloud: Cloud, trunk: dict[str, Any], *members: dict[str, Any]) -> None:
    """Delete a trunk and its ports."""
    released = {"binding:host_id": "", "device_id": "", "device_owner": ""}
    cloud.neutron.call("PUT", f"ports/{members[0]['id']}", {"port": released})
    cloud.neutron.call("DELETE", f"trunks/{trunk['id']}")
    for member in members:
        cloud.neutron.call("DELETE", f"ports/{member['id']}")


def test_other_ports_of_the_host_are_omitted_or_named(cloud: Cloud, ports: list[Port]) -> None:
    fields = {"network_id": cloud.network["id"], "binding:host_id": "compute1"}
    dhcp = cloud.neutron.create("port", device_owner="network:dhcp", device_id="dhcp-x", **fields)
    nobody = cloud.neutron.create("port", **fields)
    strange = cloud.neutron.create("port", device_owner="compute:nova", device_id="a-vm", **fields)
    entries, errors = listed(cloud.lab)
    assert set(entries) == {port.id for port in ports}
    assert {line.split()[5] for line in errors.splitlines()} == {f"{port['id']}:" for port in (nobody, strange)}
    for port in (dhcp, nobody, strange):
        cloud.neutron.call("DELETE", f"ports/{port['id']}")


def test_unknown_host_is_an_error_and_a_host_without_ports_is_not(cloud: Cloud) -> None:
    assert listed(cloud.lab) == ({}, "")
    done = hybridvif(cloud.lab, "ports", "--from-neutron", "--host", "compute9")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_ports_of_several_pages_are_listed(cloud: Cloud) -> None:
    """The limit of a page is pagination_max_limit of this Neutron."""
    body = {"ports": [{"network_id": cloud.network["id"], **BOUND} for _ in range(45)]}
    created = [port["id"] for port in cloud.neutron.call("POST", "ports", body)["ports"]]
    first = cloud.neutron.call("GET", "ports?binding:host_id=compute1")
    assert (len(first["ports"]), first["ports_links"][0]["rel"]) == (20, "next")
    entries, _ = listed(cloud.lab)
    assert sorted(entries) == sorted(created)
    for port_id in created:
        cloud.neutron.call("DELETE", f"ports/{port_id}")


def test_port_of_a_live_migration_belongs_to_both_hosts(cloud: Cloud, ports: list[Port]) -> None:
    lab = cloud.second
    assert listed(lab, "compute2") == ({}, "")
    binding = {"binding": {"host": "compute2", "vnic_type": "normal", "profile": {}}}
    cloud.neutron.call("POST", f"ports/{ports[0].id}/bindings", binding)
    expected = PortRequest(fields=listed(lab, "compute1")[0][ports[0].id]).to_port()
    assert expected == ports[0]
    assert {port_id: PortRequest(fields=entry).to_port() for port_id, entry in listed(lab, "compute2")[0].items()} == {
        ports[0].id: ports[0]
    }
    cloud.neutron.call("PUT", f"ports/{ports[0].id}/bindings/compute2/activate")
    assert set(listed(lab, "compute2")[0]) == {ports[0].id}
