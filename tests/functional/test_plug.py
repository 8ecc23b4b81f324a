"""A real port on a real kernel and a real Open vSwitch: every attribute of a plugged port."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE

import pytest

from hybridvif import Port, Status, check, desired_state, plug, plug_all, unplug, unplug_all
from hybridvif.model.parts import Bridge
from hybridvif.model.state import agree
from tests.functional.conftest import INSTANCE, Lab, lines_of, make_port, until

TCP_SERVER = """
import socket
server = socket.create_server(("10.0.0.2", 7000))
print("up", flush=True)
server.settimeout(10)
stream, _ = server.accept()
stream.settimeout(10)
count = 0
while chunk := stream.recv(65536):
    count += len(chunk)
print(count, flush=True)
"""
TCP_CLIENT = """
import socket
with socket.create_connection(("10.0.0.2", 7000), 5) as stream:
    stream.sendall(bytes(200_000))
"""

_CLIENT = "ovsdb-client monitor unix:/run/openvswitch/db.sock Open_vSwitch"
MONITORS = {
    "kernel": "ip -o monitor link address",
    "interfaces": f"{_CLIENT} Interface name,type,options,external_ids,ofport",
    "ports": f"{_CLIENT} Port name,interfaces,tag,external_ids",
}


def sysctl(lab: Lab, family: str, device: str, name: str) -> str:
    return lab.sh(f"cat /proc/sys/net/{family}/conf/{device}/{name}").strip()


@pytest.mark.parametrize("mtu", [1500, 1450, 9000, 1280])
def test_a_plugged_port_is_what_the_table_says(lab: Lab, mtu: int) -> None:
    port = make_port(mtu=mtu)
    names = port.names

    report = plug(port, lab.host)

    assert report.status is Status.DONE
    assert report.changed
    assert not report.simulated
    bridge, near, far = lab.link(names.bridge), lab.link(names.bridge_end), lab.link(names.switch_end)
    options = bridge["linkinfo"]["info_data"]
    assert bridge["linkinfo"]["info_kind"] == "bridge"
    assert {options[key] for key in ("forward_delay", "ageing_time", "stp_state", "mcast_snooping")} == {0}
    assert bridge["inet6_addr_gen_mode"] == "none"
    assert sysctl(lab, "ipv6", names.bridge, "disable_ipv6") == "1"
    assert sysctl(lab, "ipv4", names.bridge, "arp_ignore") == "1"
    assert sysctl(lab, "ipv4", names.bridge, "arp_announce") == "2"
    assert lab.sh(f"cat /sys/class/net/{names.bridge}/addr_assign_type").strip() == "3"
    # Random: unicast, locally administered, and not derived from the port id.
    assert int(bridge["address"][:2], 16) & 3 == 2
    assert "00:00:00:01" not in bridge["address"]
    for name in (names.bridge, names.bridge_end, names.switch_end):
        assert "NOARP" in lab.link(name)["flags"]
        assert sysctl(lab, "ipv6", name, "disable_ipv6") == "1"
        values = [sysctl(lab, "ipv4", name, key) for key in ("forwarding", "proxy_arp", "rp_filter")]
        assert values == ["0", "0", "1"]
    assert near["master"] == names.bridge
    assert near["link"] == names.switch_end
    for link in (bridge, near, far):
        assert link["mtu"] == mtu
        assert "UP" in link["flags"]
        assert link["ifalias"] == port.id
    for link in (near, far):
        assert "PROMISC" in link["flags"]
    assert {bridge["group"], near["group"]} == {"default"}
    row = lab.row(names.switch_end)
    assert dict(row["external_ids"][1]) == {
        "iface-id": port.id,
        "iface-status": "active",
        "attached-mac": port.mac,
        "vm-uuid": INSTANCE,
    }
    assert row["type"] == ""
    assert row["ofport"] > 0
    assert lab.sh(f"ovs-vsctl port-to-br {names.switch_end}").strip() == "br-int"
    assert lab.row(names.switch_end, "Port")["tag"] == ["set", []]


def test_an_interface_id_of_its_own_is_written_beside_our_key(lab: Lab) -> None:
    other = "aaaaaaaa-0000-4000-8000-000000000001"
    port = make_port(interface_id=other)

    plug(port, lab.host)

    ids = dict(lab.row(port.names.switch_end)["external_ids"][1])
    assert (ids["iface-id"], ids["hybridvif-port-id"]) == (other, port.id)
    assert check(port, lab.host) == ()
    unplug(port.id, lab.host)
    assert lab.row(port.names.switch_end) == {}


def test_ping_and_tcp_cross_two_plugged_ports(lab: Lab) -> None:
    first, two = make_port(1), make_port(2)
    plug_all([first, two], lab.host)
    with lab.vm(first, 1) as vm, lab.vm(two, 2) as right:
        assert vm.ping("10.0.0.2", count=3).returncode == 0
        server = lab.box.popen(
            ["nsenter", f"--net=/run/netns/{right.namespace}", "python3", "-c", TCP_SERVER], stdout=PIPE
        )
        with server:
            assert server.stdout is not None
            assert server.stdout.readline() == "up\n"
            vm.run(["python3", "-c", TCP_CLIENT])
            assert server.stdout.readline() == "200000\n"


def test_a_second_plug_and_a_second_unplug_write_nothing(lab: Lab, port: Port, tmp_path: Path) -> None:
    def quiet_during(call: Callable[[], object]) -> list[str]:
        """Return the notifications of kernel and OVSDB during a call. Changes before and after it prove reception."""
        heard = {name: tmp_path / name for name in MONITORS}
        with ExitStack() as watching:
            for name, command in MONITORS.items():
                out = watching.enter_context(heard[name].open("w"))
                process = watching.enter_context(lab.box.popen(["sh", "-c", f"exec {command}"], stdout=out))
                watching.callback(process.kill)

            def mark(sign: str) -> None:
                was_heard = False
                for _ in range(5):
                    # Repeated if it came before the monitors listened.
                    lab.sh(f"ip link add {sign} type veth peer name {sign}p; ovs-vsctl add-port br-int {sign}")
                    was_heard = until(lambda: all(sign in path.read_text() for path in heard.values()), 2)
                    lab.sh(f"ovs-vsctl del-port {sign}; ip link delete {sign}")
                    if was_heard:
                        break
                assert was_heard
                # A response after the notification of the deletion comes after all earlier changes.
                assert until(lambda: f"Deleted {sign}" in re.sub(r"\d+: ", "", heard["kernel"].read_text()))

            mark("hvstart")
            time.sleep(0.3)
            before = {name: len(lines_of(path)) for name, path in heard.items()}
            number = lab.sh("ovs-vsctl get Open_vSwitch . next_cfg")
            call()
            assert lab.sh("ovs-vsctl get Open_vSwitch . next_cfg") == number
            time.sleep(0.3)
            after = {name: len(lines_of(path)) for name, path in heard.items()}
            mark("hvend")
        return [line for name, path in heard.items() for line in lines_of(path)[before[name] : after[name]]]

    plug(port, lab.host)
    # The kernel is busy with a new veth until IPv6 has checked its link-local addresses.
    assert until(lambda: "tentative" not in lab.sh("ip -6 address"))
    assert quiet_during(lambda: plug(port, lab.host)) == []
    assert quiet_during(lambda: check(port, lab.host)) == []
    unplug(port.id, lab.host)
    assert quiet_during(lambda: unplug(port.id, lab.host)) == []


def test_an_unplug_leaves_everything_as_it_was_before_the_plug(lab: Lab, port: Port) -> None:
    plug(make_port(99), lab.host)
    before, descriptors, threads = lab.snapshot(), len(os.listdir("/proc/self/fd")), threading.active_count()

    plug(port, lab.host)
    assert lab.snapshot() != before
    report = unplug(port.id, lab.host)

    assert report.changed
    assert lab.snapshot() == before
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads
    assert not unplug(port.id, lab.host).changed


def test_many_ports_at_once_each_have_a_report_in_their_order(lab: Lab) -> None:
    ports, before = [make_port(number) for number in range(1, 13)], lab.links()
    lab.sh(f"ip link add {ports[5].names.bridge} type veth peer name hvpeer")

    reports = plug_all(ports, lab.host)

    assert [report.port_id for report in reports] == [port.id for port in ports]
    assert [report.status for report in reports].count(Status.DONE) == 11
    assert (reports[5].status, reports[5].code) == (Status.REFUSED, "conflict")
    assert not reports[5].changed
    assert all(check(port, lab.host) == () for index, port in enumerate(ports) if index != 5)
    lab.sh(f"ip link delete {ports[5].names.bridge}")
    assert all(report.ok for report in unplug_all([port.id for port in ports], lab.host))
    assert lab.links() == before


def test_one_port_that_the_switch_refuses_does_not_cost_the_others_theirs(lab: Lab) -> None:
    ports = [make_port(number) for number in range(1, 6)]
    # A bond member of this name: the row cannot be added, whatever the links are.
    taken = ports[2].names.switch_end
    lab.sh(f"ovs-vsctl --timeout=5 --no-wait add-bond br-int hvbond {taken} hvother")

    reports = plug_all(ports, lab.host)

    assert [report.ok for report in reports] == [True, True, False, True, True]
    assert taken in reports[2].reason
    assert not lab.link(ports[2].names.bridge)


def test_a_port_whose_mtu_changed_gets_it_everywhere(lab: Lab, port: Port) -> None:
    plug(port, lab.host)
    lab.sh("ovs-vsctl set Port qvo00000001-7b tag=7; ovs-vsctl set Interface qvo00000001-7b other_config:a=b")
    before = lab.row(port.names.switch_end)

    report = plug(make_port(mtu=1400), lab.host)

    assert {step.step.part.name for step in report.outcomes} == {port.names.bridge, port.names.bridge_end}
    assert [lab.link(name)["mtu"] for name in list(port.names)[:3]] == [1400] * 3
    after = lab.row(port.names.switch_end)
    assert [after[key] for key in ("_uuid", "ofport", "other_config")] == [
        before[key] for key in ("_uuid", "ofport", "other_config")
    ]


def test_bridge_mac_and_mtu_do_not_follow_their_members(lab: Lab, port: Port) -> None:
    plug(port, lab.host)
    drawn = lab.link(port.names.bridge)["address"]
    for number in range(8):
        tap = port.names.tap
        lab.sh(
            f"ip link add {tap} address 02:00:00:00:00:{number:02x} mtu 1300 type veth peer name hvpeer; "
            f"ip link set {tap} master {port.names.bridge} up; "
            f"ip link set {port.names.bridge_end} nomaster; ip link delete {tap}"
        )
        bridge = lab.link(port.names.bridge)
        assert (bridge["address"], bridge["mtu"]) == (drawn, 1500)
        plug(port, lab.host)
    unplug(port.id, lab.host)
    plug(port, lab.host)
    assert lab.link(port.names.bridge)["address"] != drawn


def test_what_is_observed_by_name_and_by_grammar_agree(lab: Lab) -> None:
    ports = [make_port(number) for number in (1, 2, 3)]
    plug_all(ports, lab.host)
    everything = lab.host.observe(None, time.monotonic() + 5).state
    for port in ports:
        alone = lab.host.observe(set(port.names), time.monotonic() + 5).state
        assert agree(alone, desired_state(port))
        assert agree(everything.of(port.names), alone)
    assert len([part for part in everything if isinstance(part, Bridge)]) == 3
