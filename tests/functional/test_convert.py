"""Conversion under a running stand-in: rows, packets, silent switch, filters, attacks and the calls of os-vif."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from hybridvif import (
    HybridVifError,
    Port,
    PortRunning,
    Refused,
    Report,
    check,
    convert,
    convert_all,
    gc,
    plug,
    plug_all,
    unplug,
    unplug_all,
)
from hybridvif.model.parts import Tap
from hybridvif.model.report import Outcome, Result, Status
from hybridvif.model.state import Create, Replace, Step, Update
from hybridvif.testing.sandbox.box import Vm
from tests.functional.conftest import Lab, make_port, until
from tests.support.likeness import differences, likeness
from tests.support.schemas import validate

PORT, PEER = make_port(1), make_port(2)
NAMES = PORT.names
CARRIED = {
    "Port": ("tag", "trunks", "vlan_mode", "other_config", "external_ids", "qos"),
    "Interface": ("ofport", "other_config", "external_ids", "ingress_policing_rate", "ofport_request"),
}
OTHERS_WROTE = (
    f"ovs-vsctl --id=@q create QoS type=linux-noop external_ids:own=theirs "
    f"-- set Port {NAMES.switch_end} tag=7 qos=@q external_ids:own=theirs "
    f'\'other_config={{net_uuid=u,"a b"="=c, d"}}\' -- set Port {PEER.names.switch_end} tag=7 '
    f"-- set Interface {NAMES.switch_end} external_ids:own=theirs ingress_policing_rate=100000"
)


@pytest.fixture
def vm(lab: Lab) -> Iterator[Vm]:
    """A stand-in on PORT, beside another one on PEER."""
    plug_all([PORT, PEER], lab.host)
    with lab.vm(PORT, 1) as vm, lab.vm(PEER, 2):
        lab.sh(OTHERS_WROTE)
        assert until(lambda: vm.ping("10.0.0.2").returncode == 0)
        yield vm
    # Of tests with other ports in this sandbox, some count the QoS rows.
    lab.sweep()
    lab.sh("ovs-vsctl -- --all destroy QoS")


def carried(lab: Lab, name: str) -> dict[str, Any]:
    """Return all that a conversion must carry over, without our own key."""
    rows = {table: lab.row(name, table) for table in CARRIED}
    found = {f"{table} {column}": rows[table][column] for table in CARRIED for column in CARRIED[table]}
    ids = dict(found["Interface external_ids"][1])
    return found | {"Interface external_ids": {key: ids[key] for key in ids if key != "hybridvif-port-id"}}


@contextmanager
def pings(vm: Vm, lab: Lab, lost: int) -> Iterator[None]:
    """Ping every 10 ms while the context lasts, and permit so many lost replies."""
    argv = ["nsenter", f"--net=/run/netns/{vm.namespace}", "ping", "-q", "-i", "0.01", "-W", "2", "10.0.0.2"]
    with lab.box.popen(argv, stdout=subprocess.PIPE) as ping:
        time.sleep(0.3)
        try:
            yield
            time.sleep(0.3)
        finally:
            lab.sh("pkill -INT -x ping")
            output = ping.communicate(timeout=30)[0]
    sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", output).groups())  # type: ignore[union-attr]
    assert sent > 20
    assert sent - received <= lost, output


def tried(call: Any) -> Report:
    """Return the report of a call that may fail."""
    try:
        report: Report = call()
    except HybridVifError as error:
        assert error.report is not None, error
        return error.report
    return report


@pytest.mark.alone
def test_port_goes_native_and_back_under_its_vm(lab: Lab, vm: Vm) -> None:
    before, whole = carried(lab, NAMES.switch_end), likeness(lab)
    # A busy machine may lose more than a quiet one.
    with pings(vm, lab, lost=30):
        report = convert(PORT.id, lab.host, unfiltered=True)
    assert (report.status, report.changed, report.code) == (Status.DONE, True, "")
    assert carried(lab, NAMES.tap) == before
    assert lab.link(NAMES.bridge) == lab.link(NAMES.bridge_end) == lab.row(NAMES.switch_end) == {}
    assert lab.link(NAMES.tap).get("master") in (None, "ovs-system")
    assert convert(PORT.id, lab.host, unfiltered=True).changed is False
    assert vm.ping("10.0.0.2").returncode == 0

    with pings(vm, lab, lost=30):
        assert convert(PORT.id, lab.host, "hybrid", unfiltered=True).ok
    assert carried(lab, NAMES.switch_end) == before
    # The host's IP stack stays off on the tap.
    changed = [line for line in differences(whole, likeness(lab)) if not line.startswith(f"link {NAMES.tap}:")]
    assert changed == []
    assert check(PORT, lab.host) == ()
    assert vm.ping("10.0.0.2").returncode == 0


def test_host_does_not_receive_from_a_tap_that_left_its_bridge(lab: Lab, vm: Vm) -> None:
    lab.sh(f"sysctl -qw net.ipv6.conf.{NAMES.tap}.disable_ipv6=0")
    convert(PORT.id, lab.host, unfiltered=True)
    assert "NOARP" in lab.link(NAMES.tap)["flags"]
    assert lab.sh(f"sysctl -n net.ipv6.conf.{NAMES.tap}.disable_ipv6").strip() == "1"
    assert vm.ping("10.0.0.2").returncode == 0


def test_calls_of_a_hybrid_port_spare_a_converted_vm(lab: Lab, vm: Vm) -> None:
    convert(PORT.id, lab.host, unfiltered=True)
    snapshot = lab.snapshot()
    report = plug(PORT, lab.host)
    assert (report.changed, report.code) == (False, "runs-natively")
    assert check(PORT, lab.host) == ()
    with pytest.raises(PortRunning):
        unplug(PORT.id, lab.host)
    assert gc(lab.host, older_than=0) == []
    assert lab.snapshot() == snapshot
    vm.shut_down()
    # libvirt leaves the row, because it plugged a Linux bridge.
    assert lab.row(NAMES.tap)
    assert unplug(PORT.id, lab.host).changed
    assert lab.row(NAMES.tap) == {}


def test_vm_that_starts_as_hybrid_again_is_plugged_so(lab: Lab, vm: Vm) -> None:
    convert(PORT.id, lab.host, unfiltered=True)
    vm.shut_down()
    assert plug(PORT, lab.host).changed
    assert lab.row(NAMES.tap) == {}
    assert check(PORT, lab.host) == ()
    with lab.vm(PORT, 1) as again:
        lab.sh(f"ovs-vsctl set Port {NAMES.switch_end} tag=7")
        assert until(lambda: again.ping("10.0.0.2").returncode == 0)


@pytest.mark.parametrize("to", ["native", "hybrid"])
def test_silent_switch_leaves_the_vm_on_its_path(lab: Lab, vm: Vm, to: str) -> None:
    if to == "hybrid":
        convert(PORT.id, lab.host, unfiltered=True)
    before = likeness(lab)
    (pid,) = lab.sh("pidof ovs-vswitchd").split()
    lab.sh(f"kill -{signal.SIGSTOP.value} {pid}")
    try:
        report = tried(lambda: convert(PORT.id, lab.host, to, unfiltered=True))
        assert report.status is Status.ROLLED_BACK, report
        assert not [outcome for outcome in report.outcomes if isinstance(outcome.step, Replace) and is_done(outcome)]
    finally:
        lab.sh(f"kill -{signal.SIGCONT.value} {pid}")
    assert until(lambda: vm.ping("10.0.0.2").returncode == 0)
    assert differences(before, likeness(lab)) == []
    assert convert(PORT.id, lab.host, to, unfiltered=True).changed


def is_done(outcome: Outcome) -> bool:
    return outcome.result in (Result.DONE, Result.CONFIGURED)


@pytest.mark.parametrize("stage", range(1, 6))
@pytest.mark.parametrize("to", ["native", "hybrid"])
def test_interrupted_conversion_is_ended_by_any_call(lab: Lab, vm: Vm, to: str, stage: int) -> None:
    """The first steps are carried out, as by a daemon that was killed before the next one."""
    back = {"native": "hybrid", "hybrid": "native"}[to]
    if to == "hybrid":
        convert(PORT.id, lab.host, unfiltered=True)
    whole = [outcome.step for outcome in convert(PORT.id, lab.host, to, unfiltered=True).outcomes]
    calls: dict[str, Callable[[], Report]] = {
        "convert": lambda: convert(PORT.id, lab.host, to, unfiltered=True),
        "plug": lambda: plug(PORT, lab.host),
        "back": lambda: convert(PORT.id, lab.host, back, unfiltered=True),
    }
    for name, call in calls.items():
        convert(PORT.id, lab.host, back, unfiltered=True)
        interrupt(lab, whole[:stage])
        report = call()
        assert report.ok, (name, report)
        assert until(lambda: vm.ping("10.0.0.2").returncode == 0), name
        rows = [lab.row(row) for row in (NAMES.tap, NAMES.switch_end)]
        assert not any("hybridvif-converting" in str(row) for row in rows), name
    vm.shut_down()
    interrupt(lab, whole[:stage])
    assert unplug(PORT.id, lab.host).ok
    assert lab.row(NAMES.tap) == lab.row(NAMES.switch_end) == lab.link(NAMES.bridge) == {}


def interrupt(lab: Lab, steps: list[Step]) -> None:
    """Carry out the first steps of a conversion only. The daemon takes no tap out of its bridge without the rest."""
    if not any(isinstance(step, Replace) for step in steps):
        lab.sh(
            "".join(f"ip link set {step.part.name} nomaster || true\n" for step in steps if isinstance(step.part, Tap))
        )
        steps = [step for step in steps if not isinstance(step.part, Tap)]
    apply(lab, steps)


def apply(lab: Lab, steps: list[Step]) -> list[Outcome]:
    """Send these steps as one plan, without the engine."""
    (outcomes,) = lab.host.apply([steps], time.monotonic() + 10)
    return list(outcomes)


# Attacks: the daemon itself refuses, and nothing changes.


def test_daemon_refuses_conversions_that_no_port_asked_for(lab: Lab, vm: Vm) -> None:
    steps = [outcome.step for outcome in convert(PORT.id, lab.host, unfiltered=True).outcomes]
    convert(PORT.id, lab.host, "hybrid", unfiltered=True)
    mark, leave, replacement, *_ = steps
    assert isinstance(mark, Update)
    assert isinstance(leave, Update)
    assert isinstance(replacement, Replace)
    native, row = replacement.after, replacement.before
    other = f"{PORT.id[:-1]}f"
    lab.sh("ovs-vsctl add-br br-foreign -- set Bridge br-foreign datapath_type=netdev")
    snapshot = lab.snapshot()
    attacks: dict[str, list[Step]] = {
        "a tap out of its bridge": [leave],
        "a native row from nothing": [Create(replace(native, converting=""))],
        "without the mark": [replacement],
        "another's id": [mark, Replace(row, replace(native, port_id=other))],
        "another's row": [mark, Replace(replace(row, iface_id=other), replace(native, iface_id=other, port_id=other))],
        "other ids": [mark, Replace(row, replace(native, iface_id=other))],
        "another bridge": [mark, Replace(row, replace(native, bridge="br-foreign"))],
        "another's tap": [mark, Replace(row, replace(native, name=PEER.names.tap))],
        "another's row and tap": [
            Replace(replace(row, name=PEER.names.switch_end), replace(native, name=PEER.names.tap)),
        ],
        "a row for itself": [mark, Replace(row, row)],
        "a placeholder": [mark, Replace(row, replace(native, type="patch"))],
    }
    for name, attack in attacks.items():
        try:
            results = {outcome.result for outcome in apply(lab, attack)[-1:]}
            undo: list[Step] = [Update(row, replace(row, converting=""))] if len(attack) > 1 else []
            assert results <= {Result.REFUSED, Result.FAILED}, name
            apply(lab, undo) if lab.row(NAMES.switch_end)["external_ids"][1] != [] else None
        except Refused:
            pass
        assert lab.snapshot() == snapshot, name


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        ("ovs-vsctl remove Interface TAP external_ids hybridvif-port-id", "a tap without our key"),
        ("ovs-vsctl set Interface TAP external_ids:hybridvif-port-id=OTHER", "a tap of another port"),
        ("ovs-vsctl add-br br-foreign -- set Bridge br-foreign datapath_type=netdev; UUID", "a foreign bridge"),
    ],
)
def test_foreign_native_row_is_not_converted(lab: Lab, vm: Vm, theirs: str, reason: str) -> None:
    convert(PORT.id, lab.host, unfiltered=True)
    steps = [outcome.step for outcome in convert(PORT.id, lab.host, "hybrid", unfiltered=True).outcomes]
    convert(PORT.id, lab.host, unfiltered=True)
    move = f"p=$(ovs-vsctl get Port {NAMES.tap} _uuid); ovs-vsctl remove Bridge br-int ports $p "
    move += "-- add Bridge br-foreign ports $p"
    script = theirs.replace("TAP", NAMES.tap).replace("OTHER", f"{PORT.id[:-1]}f").replace("UUID", move)
    lab.sh(script)
    snapshot = lab.snapshot()
    with pytest.raises(Refused):
        convert(PORT.id, lab.host, "hybrid", unfiltered=True)
    outcomes = apply(lab, steps)
    assert {outcome.result for outcome in outcomes} == {Result.REFUSED}, (reason, outcomes)
    assert lab.snapshot() == snapshot


def test_tap_in_a_foreign_bridge_is_not_converted(lab: Lab, vm: Vm) -> None:
    steps = [outcome.step for outcome in convert(PORT.id, lab.host, unfiltered=True).outcomes]
    convert(PORT.id, lab.host, "hybrid", unfiltered=True)
    lab.sh(f"ip link add hvforeign type bridge; ip link set {NAMES.tap} master hvforeign")
    snapshot = lab.snapshot()
    assert {outcome.result for outcome in apply(lab, steps)} == {Result.REFUSED}
    assert lab.snapshot() == snapshot


# The filters, and the command.


def command(lab: Lab, *words: str) -> dict[str, Any]:
    """Return the answer of the command inside of the sandbox, with its exit code."""
    argv = [sys.executable, "-P", "-m", "hybridvif", *words, "-f", "json"]
    done = lab.box.run(argv, check=False)
    return {**validate(json.loads(done.stdout)), "exit_code": done.returncode}


def test_port_without_an_openflow_firewall_is_refused_by_the_command(lab: Lab, vm: Vm) -> None:
    lab.sh("for file in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do [ ! -e $file ] || echo 0 > $file; done")
    snapshot = lab.snapshot()
    answer = command(lab, "convert", PORT.id, "--to", "native")
    assert (answer["exit_code"], answer["error"]["code"]) == (6, "unfiltered")
    assert "set firewall_driver = openvswitch" in answer["error"]["message"]
    assert lab.snapshot() == snapshot
    number = lab.row(NAMES.switch_end)["ofport"]
    # As Neutron's firewall does for each port (initialize_port_flows).
    lab.sh(f"ovs-ofctl add-flow br-int 'table=60,priority=100,in_port={number},actions=NORMAL'")
    assert command(lab, "plan", "convert", PORT.id, "--to", "native")["summary"]["update"] == 2
    assert lab.snapshot() == snapshot
    answer = command(lab, "convert", "--all", "--to", "native")
    assert (answer["exit_code"], answer["summary"]) == (6, {"done": 1, "refused": 1})
    answer = command(lab, "convert", PORT.id, "--to", "hybrid")
    assert (answer["exit_code"], answer["error"]["code"]) == (6, "unfiltered")
    shown = command(lab, "list")["ports"]
    assert [(port["port"], port["state"], port["bridge"]) for port in shown] == [
        (PORT.id, "in-order", "br-int"),
        (PEER.id, "in-order", "br-int"),
    ]
    assert command(lab, "check", PORT.id)["in_order"]
    assert command(lab, "adopt")["skipped"] == []
    assert command(lab, "convert", PORT.id, "--to", "hybrid", "--unfiltered")["exit_code"] == 0


def test_shell_script_of_a_plan_converts_as_well(lab: Lab, vm: Vm) -> None:
    before, whole = carried(lab, NAMES.switch_end), likeness(lab)
    for to, name in (("native", NAMES.tap), ("hybrid", NAMES.switch_end)):
        argv = [sys.executable, "-P", "-m", "hybridvif", "plan", "convert", PORT.id, "--to", to, "--unfiltered"]
        lab.box.run(["sh", "-ec", lab.box.run([*argv, "-f", "shell"]).stdout])
        assert carried(lab, name) == before
        assert until(lambda: vm.ping("10.0.0.2").returncode == 0)
        assert convert(PORT.id, lab.host, to, unfiltered=True).changed is False
    changed = [line for line in differences(whole, likeness(lab)) if not line.startswith(f"link {NAMES.tap}:")]
    assert changed == []


def test_twenty_ports_are_converted_at_once(lab: Lab) -> None:
    ports = [make_port(number) for number in range(1, 21)]
    plug_all(ports, lab.host)
    with standing_in(lab, ports):
        for to in ("native", "hybrid"):
            reports = convert_all([port.id for port in ports], lab.host, to, unfiltered=True)
            assert [report.status for report in reports] == [Status.DONE] * len(ports)
    assert all(report.ok for report in unplug_all([port.id for port in ports], lab.host))


@contextmanager
def standing_in(lab: Lab, ports: list[Port]) -> Iterator[None]:
    script = "".join(
        f"ip link add {port.names.tap} type veth peer name hv{number}; ip link set hv{number} up; "
        f"ip link set {port.names.tap} up master {port.names.bridge}\n"
        for number, port in enumerate(ports)
    )
    lab.sh(script)
    try:
        yield
    finally:
        lab.sh("".join(f"ip link delete {port.names.tap}\n" for port in ports))
