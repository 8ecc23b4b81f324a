"""The output of `hybridvif plan -f shell`, run by hand, and the list of the executors."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from hybridvif import ConfigurationError, HostState, Port, Status, VifType, desired_state, plug, plug_all
from hybridvif.executors.side_effects import qos_id_of
from hybridvif.model.parts import OvsPort
from hybridvif.model.settings import Settings
from hybridvif.model.state import NOTHING, agree
from hybridvif.testing.pytest_plugin import connected
from tests.functional.conftest import Lab, make_port

HYBRIDVIF = [sys.executable, "-m", "hybridvif"]


def printed(lab: Lab, *words: str, config: Path | None = None) -> str:
    options = ["--config-file", str(config)] if config else []
    return lab.box.run([*HYBRIDVIF, *options, "plan", *words, "-f", "shell"]).stdout


def besides(lab: Lab, *words: str, config: Path) -> set[tuple[str, str, str]]:
    """Return the bridges and QoS rows of the same plan."""
    done = lab.box.run([*HYBRIDVIF, "--config-file", str(config), "plan", *words, "-f", "json"])
    entries = [entry for port in json.loads(done.stdout)["ports"] for entry in port["besides"]]
    return {(entry["verb"], entry["kind"], entry["name"]) for entry in entries}


def seen(lab: Lab, port: Port) -> HostState:
    return lab.host.observe(set(port.names), time.monotonic() + 10).state


@pytest.mark.parametrize("mtu", [1500, 1000])
def test_a_plan_run_by_hand_plugs_and_unplugs(lab: Lab, mtu: int) -> None:
    port = make_port(mtu=mtu)
    before = lab.snapshot()
    words = ("plug", port.id, "--mac", port.mac, "--instance", port.instance_id, "--mtu", str(mtu))

    lab.sh(printed(lab, *words))

    assert agree(seen(lab, port), desired_state(port))
    assert printed(lab, *words) == ""
    lab.sh(printed(lab, "unplug", port.id))
    assert seen(lab, port) == NOTHING
    assert lab.snapshot() == before


def test_plan_run_by_hand_creates_and_deletes_side_effects(lab: Lab, tmp_path: Path) -> None:
    config = tmp_path / "trunks.conf"
    config.write_text(
        "[hybridvif]\nintegration_bridges = br-int,tbr-*\ncreate_bridges = tbr-*\nremove_trunk_bridges = true\n"
        "default_qos_type = linux-noop\n"
    )
    ports = [make_port(number, bridge="tbr-1", datapath_type="netdev") for number in (1, 2)]
    listed = tmp_path / "ports.json"
    fields = ("id", "mac", "instance_id", "bridge", "datapath_type")
    listed.write_text(json.dumps([{name: getattr(port, name) for name in fields} for port in ports]))
    lab.sh("ovs-vsctl --all destroy QoS")
    before = lab.snapshot()
    lab.sh(f"ovs-vsctl create QoS type=linux-noop external_ids:id={qos_id_of(ports[0].names.switch_end)}")

    rows = {("qos", port.names.switch_end) for port in ports}
    assert besides(lab, "plug", "-F", str(listed), config=config) == {
        ("create", *row) for row in {("ovs-bridge", "tbr-1"), *rows}
    }
    lab.sh(printed(lab, "plug", "-F", str(listed), config=config))

    for port in ports:
        assert agree(seen(lab, port), desired_state(port.on(Settings(default_qos_type="linux-noop"))))
        assert lab.row(port.names.switch_end, "Port")["qos"] != ["set", []]
    assert len(lab.sh("ovs-vsctl --bare --columns=_uuid list QoS").split()) == 2
    assert printed(lab, "plug", "-F", str(listed), config=config) == ""
    assert besides(lab, "plug", "-F", str(listed), config=config) == set()
    assert besides(lab, "unplug", "-F", str(listed), config=config) == {
        ("delete", *row) for row in {("ovs-bridge", "tbr-1"), *rows}
    }
    # Another port has begun to use one QoS row, so it stays.
    lab.sh(
        "ip link add hvend type veth peer name hvendp; "
        f"ovs-vsctl add-port br-int hvend -- set Port hvend qos=$(ovs-vsctl get Port {ports[1].names.switch_end} qos)"
    )
    lab.sh(printed(lab, "unplug", ports[0].id, config=config))
    assert "tbr-1" in lab.sh("ovs-vsctl list-br").split()
    # Neutron's patch ports are deleted with their bridge, and another port in it keeps the bridge.
    lab.sh(
        "ovs-vsctl --no-wait add-port tbr-1 tpt-1 -- set Interface tpt-1 type=patch options:peer=tpi-1 "
        "-- add-port tbr-1 spt-2 -- set Interface spt-2 type=internal"
    )
    lab.sh(printed(lab, "unplug", ports[1].id, config=config))
    assert set(lab.sh("ovs-vsctl list-ports tbr-1").split()) == {"tpt-1", "spt-2"}
    lab.sh("ovs-vsctl set Interface spt-2 type=patch options:peer=spi-2")
    lab.sh(
        f"ovs-vsctl --no-wait add-port tbr-1 {ports[1].names.switch_end} -- add-bond tbr-1 tpt-3 tpt-3 spt-4 "
        "-- set Interface tpt-3 type=patch options:peer=tpi-3 -- set Interface spt-4 type=patch options:peer=spi-4"
    )
    lab.sh(printed(lab, "unplug", ports[1].id, config=config))
    assert set(lab.sh("ovs-vsctl list-ports tbr-1").split()) == {"tpt-1", "spt-2", "tpt-3"}
    lab.sh(f"ovs-vsctl --no-wait del-port tpt-3 -- add-port tbr-1 {ports[1].names.switch_end}")
    lab.sh(printed(lab, "unplug", ports[1].id, config=config))
    assert "tbr-1" not in lab.sh("ovs-vsctl list-br").split()
    assert lab.row("hvend", "Port")["qos"][0] == "uuid"
    lab.sh("ovs-vsctl del-port hvend; ovs-vsctl --all destroy QoS; ip link delete hvend")
    assert lab.snapshot() == before


@pytest.mark.parametrize(
    "befalls",
    [
        "ip link delete qvb00000001-7b",
        "ip link set qvb00000001-7b nomaster mtu 1300 promisc off",
        "ip link set qbr00000001-7b down type bridge ageing_time 3000 mcast_snooping 1 stp_state 1",
        "ovs-vsctl clear Interface qvo00000001-7b external_ids",
        "ip link set qbr00000001-7b mtu 1000",
    ],
)
def test_a_repair_run_by_hand_repairs(lab: Lab, port: Port, befalls: str) -> None:
    plug(port, lab.host)
    lab.sh(befalls)

    lab.sh(printed(lab, "plug", port.id, "--mac", port.mac, "--instance", port.instance_id))

    assert agree(seen(lab, port), desired_state(port))


def test_the_installed_executors_are_listed_with_what_they_need(lab: Lab) -> None:
    found = json.loads(lab.box.run([*HYBRIDVIF, "executors", "-f", "json"]).stdout)["executors"]
    by_name = {(executor["role"], executor["name"]): executor for executor in found}
    assert {("link", "iproute2-netlink"), ("link", "subprocess-brctl"), ("link", "recording")} <= by_name.keys()
    assert {("switch", "ovsdb"), ("switch", "ovs-vsctl"), ("switch", "ivs-ctl")} <= by_name.keys()
    assert by_name["link", "iproute2-netlink"]["configured"]
    assert by_name["link", "subprocess-brctl"]["programs"] == ["brctl", "ip"]
    assert any("ivs-ctl" in sentence for sentence in by_name["switch", "ivs-ctl"]["missing"])
    assert by_name["switch", "ovsdb"]["origin"].startswith("hybridvif ")


def test_port_of_unconfigured_switch_fails_alone_before_any_step(lab: Lab) -> None:
    before = lab.snapshot()
    reports = plug_all([make_port(1, vif_type=VifType.IVS), make_port(2)], lab.host)
    assert [report.status for report in reports] == [Status.PRECONDITION, Status.DONE]
    assert "does not serve ivs-port" in reports[0].reason
    assert not lab.link(make_port(1).names.bridge)
    assert before != lab.snapshot()


def test_a_second_connection_with_other_executors_is_refused(lab: Lab, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="close"),
        connected(lab.box, tmp_path, link_executor="subprocess-brctl"),
    ):
        pass


def test_a_row_parked_by_hand_is_seen_as_parked(lab: Lab, port: Port) -> None:
    plug(port, lab.host)
    lab.sh(f"ovs-vsctl set Interface {port.names.switch_end} type=patch options:peer=nobody")
    row = seen(lab, port).ports[port.names.switch_end]
    assert isinstance(row, OvsPort)
    assert (row.type, row.realized) == ("patch", False)
