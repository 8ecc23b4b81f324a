"""Each kind of drift of a plugged port: reported by check, repaired by the next plug, checked by packets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from hybridvif import Port, Status, check, plug, plug_all, unplug
from hybridvif.model.parts import differences
from hybridvif.model.state import Create, Update
from hybridvif.testing.sandbox.box import Vm
from tests.functional.conftest import Lab, make_port, until
from tests.support.figures import note

SUB = "00000001-7b"
QBR, QVB, QVO = f"qbr{SUB}", f"qvb{SUB}", f"qvo{SUB}"
SET_ID = f"ovs-vsctl set Interface {QVO} external_ids"
DROP_ID = f"ovs-vsctl remove Interface {QVO} external_ids"


@dataclass(frozen=True)
class Drift:
    """A change of a port, and the drift that check must report."""

    befalls: str
    named: str
    row_stays: bool = True

    @property
    def sentence(self) -> str:
        return self.befalls.replace(SUB, "")


DRIFTS = [
    Drift(f"ip link set {QVB} nomaster", f"{QVB} master"),
    Drift(f"ip link set {QBR} down", f"{QBR} up"),
    Drift(f"ip link set {QVB} down", f"{QVB} up"),
    Drift(f"ip link set {QVO} down", f"{QVB} peer_up"),
    Drift(f"ip link delete {QBR}", f"{QBR} absent"),
    Drift(f"ip link delete {QVB}", f"{QVB} absent"),
    Drift(f"ip link delete {QVO}", f"{QVB} absent"),
    Drift(f"ip link set {QVB} mtu 1400", f"{QVB} mtu"),
    Drift(f"ip link set {QVO} mtu 1400", f"{QVB} peer_mtu"),
    Drift(f"ip link set {QBR} mtu 1400", f"{QBR} mtu"),
    Drift(f"ip link set {QVB} promisc off", f"{QVB} promisc"),
    Drift(f"ip link set {QVO} promisc off", f"{QVB} peer_promisc"),
    Drift(f"ip link set {QVB} alias ''", f"{QVB} alias"),
    Drift(f"ip link set {QVO} alias 'someone wrote here'", f"{QVB} peer_alias"),
    Drift(f"ip link set {QBR} alias ''", f"{QBR} alias"),
    Drift(f"ip link set {QBR} group 7", f"{QBR} group"),
    Drift(f"ip link set {QVB} group 7", f"{QVB} group"),
    Drift(f"ip link set {QBR} addrgenmode eui64", f"{QBR} addr_gen_mode"),
    Drift(f"ip link set {QBR} type bridge forward_delay 1500", f"{QBR} forward_delay"),
    Drift(f"ip link set {QBR} type bridge ageing_time 30000", f"{QBR} ageing"),
    Drift(f"ip link set {QBR} type bridge mcast_snooping 1", f"{QBR} multicast_snooping"),
    Drift(f"ip link set {QBR} type bridge stp_state 1", f"{QBR} stp"),
    Drift(f"echo 0 > /proc/sys/net/ipv6/conf/{QBR}/disable_ipv6", f"{QBR} disable_ipv6"),
    Drift(f"echo 0 > /proc/sys/net/ipv4/conf/{QBR}/arp_ignore", f"{QBR} arp_ignore"),
    Drift(f"echo 0 > /proc/sys/net/ipv4/conf/{QBR}/arp_announce", f"{QBR} arp_announce"),
    *(
        Drift(befalls.format(device), f"{QVB if device == QVO else device} {'peer_' * (device == QVO)}host_ip")
        for device in (QBR, QVB, QVO)
        for befalls in (
            "ip address add 192.0.2.1/24 dev {0}; ip address add 192.0.2.2/24 dev {0}",
            "ip link set {} arp on",
            "echo 1 > /proc/sys/net/ipv4/conf/{}/forwarding",
            "echo 1 > /proc/sys/net/ipv4/conf/{}/proxy_arp",
            "echo 0 > /proc/sys/net/ipv4/conf/{}/rp_filter",
        )
    ),
    *(
        Drift(befalls.format(device), f"{QVB} {'peer_' * (device == QVO)}host_ip")
        for device in (QVB, QVO)
        for befalls in (
            "echo 0 > /proc/sys/net/ipv6/conf/{}/disable_ipv6",
            "ip link set {} addrgenmode eui64",
            "ip link set {0} mtu 1200; ip link set {0} mtu 1500",
        )
    ),
    Drift(f"ip link set {QBR} mtu 1200; ip link set {QBR} mtu 1500", f"{QBR} disable_ipv6"),
    *(
        Drift(f"ip link set {QVB} type bridge_slave {flags}", f"{QVB} bridge_port")
        for flags in (
            "isolated on",
            "locked on",
            "flood off",
            "mcast_flood off",
            "bcast_flood off",
            "hairpin on",
            "neigh_suppress on",
            "guard on",
            "proxy_arp on",
        )
    ),
    Drift(f"bridge link set dev {QVB} state 0", f"{QVB} bridge_port"),
    Drift(f"ovs-vsctl del-port {QVO}", f"{QVO} absent", row_stays=False),
    Drift(
        "ovs-vsctl --may-exist add-br br-two "
        "-- set Bridge br-two datapath_type=$(ovs-vsctl get Bridge br-int datapath_type); "
        f"p=$(ovs-vsctl get Port {QVO} _uuid); "
        "ovs-vsctl remove Bridge br-int ports $p -- add Bridge br-two ports $p",
        f"{QVO} bridge",
    ),
    Drift(f"{SET_ID}:iface-id=aaaaaaaa-0000-4000-8000-000000000001", f"{QVO} iface_id"),
    Drift(f"{SET_ID}:iface-status=inactive", f"{QVO} iface_status"),
    Drift(f"{SET_ID}:attached-mac=fa:16:3e:ff:ff:ff", f"{QVO} attached_mac"),
    Drift(f"{SET_ID}:vm-uuid=aaaaaaaa-0000-4000-8000-000000000001", f"{QVO} vm_uuid"),
    Drift(f"{SET_ID}:hybridvif-port-id=aaaaaaaa-0000-4000-8000-000000000001", f"{QVO} port_id"),
    Drift(f"{DROP_ID} iface-id", f"{QVO} iface_id"),
    Drift(f"{DROP_ID} iface-status", f"{QVO} iface_status"),
    Drift(f"{DROP_ID} attached-mac", f"{QVO} attached_mac"),
    Drift(f"{DROP_ID} vm-uuid", f"{QVO} vm_uuid"),
    Drift(f"ovs-vsctl clear Interface {QVO} external_ids", f"{QVO} iface_id"),
    Drift(f"ovs-vsctl set Interface {QVO} type=patch options:peer=nobody", f"{QVO} type"),
    Drift(f"ovs-vsctl set Interface {QVO} mtu_request=1400", f"{QVO} mtu_request"),
    Drift(f"ip link delete {QVB}; ip link delete {QBR}", f"{QBR} absent"),
    Drift(
        f"ip link delete {QVB}; ip link add {QVB} type veth peer name {QVO}; ip link set {QVB} up master {QBR}; "
        f"ip link set {QVO} up",
        f"{QVO} realized",
    ),
]


@pytest.fixture
def vms(lab: Lab) -> Iterator[tuple[Vm, Vm]]:
    """Two plugged ports, each with a VM."""
    ports = [make_port(1), make_port(2)]
    plug_all(ports, lab.host)
    with lab.vm(ports[0], 1) as first, lab.vm(ports[1], 2) as two:
        assert first.ping("10.0.0.2").returncode == 0
        yield first, two


def named_by(steps: tuple[Any, ...]) -> set[str]:
    """Return the drift of a plan: "name attribute", or "name absent"."""
    named = set()
    for step in steps:
        if isinstance(step, Create):
            named.add(f"{step.part.name} absent")
        elif isinstance(step, Update):
            named |= {f"{step.part.name} {change.attribute}" for change in differences(step.before, step.after)}
    return named


def agent_values(lab: Lab) -> list[object]:
    interface, row = lab.row(QVO), lab.row(QVO, "Port")
    return [
        row["_uuid"],
        row["tag"],
        row["other_config"],
        interface["_uuid"],
        interface["ofport"],
        interface["other_config"],
    ]


@pytest.mark.parametrize("drift", DRIFTS, ids=lambda drift: drift.sentence[:70])
def test_a_drift_is_named_and_repaired_and_packets_pass(lab: Lab, vms: tuple[Vm, Vm], drift: Drift) -> None:
    port = make_port(1)
    lab.sh(
        f"ovs-vsctl set Port {QVO} tag=7 other_config:agent=here -- set Interface {QVO} other_config:agent=here "
        "-- set Port qvo00000002-7b tag=7"
    )
    assert until(lambda: vms[0].ping("10.0.0.2").returncode == 0)
    before = agent_values(lab)
    lab.sh(drift.befalls)
    time.sleep(0.1)

    assert drift.named in named_by(check(port, lab.host))
    report = plug(port, lab.host)

    assert report.status is Status.DONE
    assert report.changed
    assert check(port, lab.host) == ()
    if drift.row_stays:
        assert agent_values(lab) == before
    else:
        lab.sh(f"ovs-vsctl set Port {QVO} tag=7")
    assert vms[0].ping("10.0.0.2").returncode == 0
    assert vms[1].ping("10.0.0.1").returncode == 0


def test_a_repair_writes_only_what_had_drifted(lab: Lab, vms: tuple[Vm, Vm]) -> None:
    before = lab.snapshot()
    lab.sh(f"ip link set {QVO} mtu 1400")

    report = plug(make_port(1), lab.host)

    (outcome,) = report.outcomes
    assert isinstance(outcome.step, Update)
    assert named_by((outcome.step,)) == {f"{QVB} peer_mtu"}
    # The bridge has the least MTU of its ports, which ovs-vswitchd applies later.
    assert until(lambda: lab.snapshot() == before)


@pytest.mark.prove
@pytest.mark.parametrize("daemon_restarts", [False, True], ids=["vswitchd running", "host reboot"])
def test_when_all_devices_are_gone_the_rows_get_them_back(lab: Lab, daemon_restarts: bool) -> None:
    ports = [make_port(1), make_port(2)]
    plug_all(ports, lab.host)
    lab.sh(f"ovs-vsctl set Port {QVO} tag=7 -- set Port qvo00000002-7b tag=7 other_config:agent=here")
    rows = [(lab.row(port.names.switch_end, "Port"), lab.row(port.names.switch_end)) for port in ports]
    if daemon_restarts:
        lab.box.reboot()
    else:
        lab.sh("for l in $(ls /sys/class/net | grep ^q); do ip link delete $l 2>/dev/null || true; done")
    assert not {name for name in lab.links() if name.startswith("q")}
    assert all(check(port, lab.host) for port in ports)
    number = int(lab.sh("ovs-vsctl get Open_vSwitch . next_cfg"))

    reports = plug_all(ports, lab.host)

    assert [report.status for report in reports] == [Status.DONE] * 2
    # After a reboot ovs-vswitchd holds no deleted device, which it would have to release first.
    assert int(lab.sh("ovs-vsctl get Open_vSwitch . next_cfg")) == number + (1 if daemon_restarts else 2)
    for port, (row, interface) in zip(ports, rows, strict=True):
        after, now = lab.row(port.names.switch_end, "Port"), lab.row(port.names.switch_end)
        assert [after[key] for key in ("_uuid", "tag", "other_config")] == [
            row[key] for key in ("_uuid", "tag", "other_config")
        ]
        assert now["_uuid"] == interface["_uuid"]
    with lab.vm(ports[0], 1) as vm, lab.vm(ports[1], 2):
        crosses = vm.ping("10.0.0.2", count=2).returncode == 0
    note("recreated", case="host reboot" if daemon_restarts else "vswitchd running", times=1, crossed=crosses)
    assert crosses


def test_a_running_vms_tap_is_put_back_into_a_bridge_made_anew(lab: Lab, vms: tuple[Vm, Vm]) -> None:
    lab.sh(f"ip link delete {QBR}")
    assert vms[0].ping("10.0.0.2", timeout=1).returncode != 0

    plug(make_port(1), lab.host)

    assert lab.link(f"tap{SUB}")["master"] == QBR
    assert vms[0].ping("10.0.0.2").returncode == 0


def test_a_waiting_tap_is_left_to_libvirt_where_the_bridge_is_in_order(lab: Lab, port: Port) -> None:
    plug(port, lab.host)
    with lab.vm(port, 1, attached=False):
        lab.sh(f"ip link set {QVO} mtu 1400")
        plug(port, lab.host)
        assert "master" not in lab.link(port.names.tap)


@pytest.mark.alone
def test_a_ping_loses_nothing_while_a_port_is_plugged_again_and_repaired(lab: Lab, vms: tuple[Vm, Vm]) -> None:
    vm, _ = vms
    ping = lab.box.popen(
        [
            "nsenter",
            f"--net=/run/netns/{vm.namespace}",
            "ping",
            "-n",
            "-c",
            "150",
            "-i",
            "0.01",
            "-W",
            "1",
            "10.0.0.2",
        ],
        stdout=-1,
    )
    with ping:
        for befalls in (
            f"ip link set {QBR} type bridge ageing_time 30000",
            f"{DROP_ID} vm-uuid",
            f"ip link set {QBR} alias ''",
            f"echo 0 > /proc/sys/net/ipv4/conf/{QBR}/arp_ignore",
            f"for d in {QBR} {QVB} {QVO}; do ip link set $d arp on; done",
            f"for d in {QBR} {QVB} {QVO}; do echo 0 > /proc/sys/net/ipv4/conf/$d/rp_filter; done",
            f"for d in {QVB} {QVO}; do echo 0 > /proc/sys/net/ipv6/conf/$d/disable_ipv6; done",
            f"ip link set {QVB} type bridge_slave hairpin on",
        ):
            lab.sh(befalls)
            assert plug(make_port(1), lab.host).changed
            assert not plug(make_port(1), lab.host).changed
        assert ping.stdout is not None
        output = ping.stdout.read()
    assert " 0% packet loss" in output


def test_a_half_plugged_port_is_unplugged_whole(lab: Lab, port: Port) -> None:
    before = lab.snapshot()
    for befalls in (
        f"ip link delete {QVB}",
        f"ip link delete {QBR}",
        f"ovs-vsctl del-port {QVO}",
        f"ip link delete {QBR}; ip link delete {QVB}",
    ):
        plug(port, lab.host)
        lab.sh(befalls)
        assert unplug(port.id, lab.host).status is Status.DONE
        assert lab.snapshot() == before
