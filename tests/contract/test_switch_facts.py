"""Every switch executor observes the same parts and facts in each state of a port's row."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from hybridvif.executors.ovsdb.executor import OvsdbExecutor
from hybridvif.executors.ovsdbapp_executor import ReplicaExecutor
from hybridvif.executors.vsctl import VsctlExecutor
from hybridvif.model.state import Observed
from hybridvif.testing.contract.bench import PATIENCE, PORT, SETTLING_TIME, Worker
from hybridvif.testing.sandbox.box import Sandbox

EXECUTORS: tuple[Any, ...] = (OvsdbExecutor, ReplicaExecutor, VsctlExecutor)
QBR, QVB, QVO, TAP, VHU = PORT.names
ADD = f"ovs-vsctl add-port br-int {QVO}"
QUIET = f"ovs-vsctl --no-wait add-port br-int {QVO}"
DEVICE = f"ip link add {QVB} type veth peer name {QVO}; ip link set {QVB} up; ip link set {QVO} up"
IDS = "external_ids:iface-id={0} external_ids:attached-mac=x external_ids:other=theirs"
STATES: dict[str, str] = {
    "absent": "",
    "plugged": f"{DEVICE}; {ADD} -- set Interface {QVO} {IDS.format(PORT.id)}",
    "bare": f"{DEVICE}; {ADD}",
    "tagged": f"{DEVICE}; {ADD} tag=7",
    "tagged 0": f"{DEVICE}; {ADD} tag=0 vlan_mode=access",
    "isolated": f"{DEVICE}; {ADD} tag=4095 vlan_mode=trunk trunks=4095",
    "trunks": f"{DEVICE}; {ADD} trunks=1,2,3",
    "on another bridge": f"{DEVICE}; ovs-vsctl add-port br-untyped {QVO}",
    "on a bridge of the kernel's": f"{DEVICE}; ovs-vsctl --no-wait add-port br-sys {QVO}",
    "no device": f"{ADD} || true",
    "device that is gone": f"{DEVICE}; {ADD}; ip link delete {QVB}",
    "device made anew": f"{DEVICE}; {ADD}; ip link delete {QVB}; {DEVICE}",
    "parked": f"{DEVICE}; {ADD} -- set Interface {QVO} type=patch options:peer=nobody || true",
    "freed": f"{DEVICE}; {ADD} -- set Interface {QVO} type=patch options:peer=nobody || true; "
    f"ovs-vsctl set Interface {QVO} type=system -- clear Interface {QVO} options",
    "internal": f"{ADD} -- set Interface {QVO} type=internal",
    "vxlan": f"{ADD} -- set Interface {QVO} type=vxlan options:remote_ip=10.0.0.1",
    "unknown type": f"{ADD} -- set Interface {QVO} type=nothing || true",
    "mtu requested": f"{DEVICE}; {ADD} -- set Interface {QVO} mtu_request=1400",
    "port number requested": f"{DEVICE}; {ADD} -- set Interface {QVO} ofport_request=77",
    "bond": f"ovs-vsctl --no-wait add-bond br-int {QVO} {QVO} hvother",
    "in a bond of another name": f"ovs-vsctl --no-wait add-bond br-int hvbond {QVO} hvother",
    "alone in a port of another name": f"ovs-vsctl --no-wait add-bond br-int hvbond {QVO} hvother "
    "-- --id=@other get Interface hvother -- remove Port hvbond interfaces @other",
    "a port without its interface": f"ovs-vsctl --no-wait add-bond br-int {QVO} hvone hvother",
    "fake bridge": f"ovs-vsctl --no-wait add-br {QVO} br-int 9",
    "a bridge of its own": f"ovs-vsctl --no-wait add-br {QVO}",
    "vhost-user": f"ovs-vsctl add-port br-int {VHU} -- set Interface {VHU} type=dpdkvhostuserclient "
    f"options:vhost-server-path=/var/run/openvswitch/{VHU} mtu_request=1400 || true",
    "vhost-user elsewhere": f"ovs-vsctl --no-wait add-port br-int {VHU} -- set Interface {VHU} type=dpdkvhostuser "
    f"options:vhost-server-path=/x",
    "both kinds": f"{DEVICE}; {ADD}; ovs-vsctl --no-wait add-port br-int {VHU}",
    "row of a tap": f"ip tuntap add {TAP} mode tap; ovs-vsctl --no-wait add-port br-int {TAP}",
    "row of a bridge": f"ovs-vsctl --no-wait add-port br-int {QBR}",
    "odd ids": f'{QUIET} -- set Interface {QVO} \'external_ids:iface-id="a\\"b\\\\\\\\c, d=e"\' '
    '\'external_ids:vm-uuid="\u00e9\u4e2d\U0001f600"\' \'external_ids:""=""\'',
    "version": "ovs-vsctl clear Open_vSwitch . ovs_version",
    "an error of two words": f"{DEVICE}; {ADD}; ovs-vsctl --no-wait set Interface {QVO} 'error=\"two  words\"'",
    "an error of before": f"{DEVICE}; {ADD}; ovs-vsctl --no-wait set Interface {QVO} 'error=\"No usable peer\"'",
}


@pytest.fixture(scope="module")
def workers(sandbox: Sandbox) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(Worker(make, sandbox, {"integration_bridges": ("br-int", "br-untyped")}))
            for make in EXECUTORS
        ]


SWEEP = (
    f"ovs-vsctl set Open_vSwitch . ovs_version=3.1.0; ovs-vsctl --if-exists del-br {QVO}; "
    "for b in br-untyped br-sys; do ovs-vsctl --if-exists del-br $b; done; "
    "for p in $(ovs-vsctl list-ports br-int); do ovs-vsctl --if-exists del-port $p; done; "
    f"for l in {QVB} {TAP}; do ip link delete $l 2>/dev/null || true; done; ovs-vsctl --all destroy QoS; "
    "ovs-vsctl --no-wait add-br br-untyped -- add-br br-sys -- set Bridge br-sys datapath_type=system "
    "-- set Bridge br-untyped datapath_type=netdev"
)


@pytest.fixture
def clean(sandbox: Sandbox) -> Iterator[None]:
    sandbox.run(["sh", "-ec", SWEEP])
    yield
    sandbox.run(["sh", "-ec", f"{SWEEP}; ovs-vsctl del-br br-untyped -- del-br br-sys"])


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("script", STATES.values(), ids=STATES)
def test_switch_executors_see_same_parts_and_facts(sandbox: Sandbox, workers: list[Worker], script: str) -> None:
    # It returns when ovs-vswitchd has applied its configuration once more.
    settle = "ovs-vsctl set Open_vSwitch . external_ids:settled=$(date +%N) || true"
    sandbox.run(["sh", "-ec", f"{script or 'true'}\n{settle}"])
    many = {f"{prefix}{number:08x}-7b" for number in range(9) for prefix in ("qvo", "vhu")}

    def observed(names: set[str] | None) -> list[Observed]:
        return [worker.observe(names, time.monotonic() + PATIENCE) for worker in workers]

    for names in (set(PORT.names), {QVO}, {*PORT.names, *many}, None, set()):
        # ovs-vswitchd writes ofport and error after it has acknowledged a configuration.
        end = time.monotonic() + SETTLING_TIME
        while (seen := observed(names)) != seen[:1] * len(seen):
            assert time.monotonic() < end, f"asked for {names and len(names)}: {seen}"
