"""A running VM that is cut off on a real host: list, show and check report it, and no port in order."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from subprocess import PIPE
from typing import Any

import pytest

from hybridvif import Port, plug_all
from hybridvif.model.settings import Settings
from tests.functional.conftest import Lab, make_port, require_tun, until

CUTS = {
    "tap-outside": ("ip link set {tap} nomaster", "ip link set {tap} master {qbr}"),
    "dead-vlan": ("ovs-vsctl set Port {qvo} tag=4095", "ovs-vsctl clear Port {qvo} tag"),
    "flows-drop": (
        "ovs-ofctl add-flow br-int priority=2,in_port={number},actions=drop",
        "ovs-ofctl --strict del-flows br-int priority=2,in_port={number}",
    ),
}
"""By code: the commands that cut a port off, and that connect it again."""

HOLDER = """
import fcntl, os, struct, sys
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack("16sH22x", sys.argv[1].encode(), 0x1002))
print("holds", flush=True)
sys.stdin.readline()
"""
"""A stand-in for QEMU: it holds a tap open until it reads a line."""


def answers(lab: Lab, port: Port) -> list[dict[str, Any]]:
    commands = (("list",), ("show",), ("check", port.id))
    argv = [sys.executable, "-P", "-m", "hybridvif"]
    return [json.loads(lab.box.run([*argv, *words, "-f", "json"]).stdout) for words in commands]


def codes(lab: Lab, port: Port) -> list[list[str]]:
    """Return the codes of the warnings about a port in each answer."""
    return [
        [warning["code"] for own in answer["ports"] if own["port"] == port.id for warning in own["warnings"]]
        for answer in answers(lab, port)
    ]


def commands_for(lab: Lab, port: Port) -> Callable[[str], str]:
    number = lab.row(port.names.switch_end)["ofport"]
    names = port.names
    return lambda text: text.format(tap=names.tap, qbr=names.bridge, qvo=names.switch_end, number=number)


@pytest.mark.parametrize("code", CUTS)
def test_cut_off_vm_is_a_warning_until_it_is_connected(code: str, lab: Lab) -> None:
    port, other = ports = [make_port(1), make_port(2)]
    plug_all(ports, lab.host)
    cut, mend = map(commands_for(lab, port), CUTS[code])
    with lab.vm(port, 1) as vm, lab.vm(other, 2):
        assert until(lambda: vm.ping("10.0.0.2").returncode == 0)
        assert codes(lab, port) == [[], [], []]
        lab.sh(cut)
        assert codes(lab, port) == [[code], [code], [code]]
        assert codes(lab, other) == [[], [], []]
        assert vm.ping("10.0.0.2", timeout=1).returncode != 0
        lab.sh(mend)
        assert codes(lab, port) == [[], [], []]
        assert until(lambda: vm.ping("10.0.0.2").returncode == 0)


def test_tap_that_is_down_under_its_vm_is_a_warning(lab: Lab) -> None:
    """A stand-in with a veth has no carrier then, and a tap that a process holds open has."""
    require_tun()
    port = make_port()
    plug_all([port], lab.host)
    tap = port.names.tap
    lab.sh(f"ip tuntap add {tap} mode tap; ip link set {tap} master {port.names.bridge} up")
    with lab.box.popen([sys.executable, "-c", HOLDER, tap], stdin=PIPE, stdout=PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        assert codes(lab, port) == [[], [], []]
        lab.sh(f"ip link set {tap} down")
        assert codes(lab, port) == [["tap-down"]] * 3
        lab.sh(f"ip link set {tap} up")
        assert codes(lab, port) == [[], [], []]
        holder.communicate("\n")


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("kill -STOP {pid}", "ovs-ofctl had no answer within 3.0 s, so ovs-vswitchd may hang"),
        ("mv {run}/br-int.mgmt {run}/away", "ovs-vswitchd does not run"),
    ],
)
def test_silent_switch_is_a_warning_of_list(script: str, sentence: str, lab: Lab) -> None:
    port = make_port()
    plug_all([port], lab.host)
    run = "/var/run/openvswitch"
    pid = lab.sh(f"cat {run}/ovs-vswitchd.pid").strip()
    lab.sh(script.format(pid=pid, run=run))
    try:
        for answer in answers(lab, port):
            (warning,) = answer["warnings"]
            assert sentence in warning
    finally:
        lab.sh(f"kill -CONT {pid}; [ -e {run}/br-int.mgmt ] || mv {run}/away {run}/br-int.mgmt")


HOLD = """
import sys, time
from hybridvif.engine.locks import holding
with holding(sys.argv[2:], sys.argv[1], time.monotonic() + 5):
    print("holds", flush=True)
    sys.stdin.readline()
"""


def test_port_whose_lock_is_held_is_busy_and_no_difference(lab: Lab) -> None:
    """During a bulk plug, list called hundreds of ports half, drift or orphan."""
    port, other = make_port(1), make_port(2)
    plug_all([port, other], lab.host)
    lab.sh(f"ip link delete {port.names.bridge}")
    argv = [sys.executable, "-P", "-m", "hybridvif"]
    states = {False: {port.id: "orphan", other.id: "in-order"}, True: {port.id: "busy", other.id: "in-order"}}
    keys = [port.id[:11], other.id[:11]]
    hold = [sys.executable, "-P", "-c", HOLD, Settings().lock_path, *keys]
    with lab.box.popen(hold, stdin=PIPE, stdout=PIPE) as holder:
        for is_held in (True, False):
            assert is_held is False or (holder.stdout and holder.stdout.readline() == "holds\n")
            listed = json.loads(lab.box.run([*argv, "list", "-f", "json"]).stdout)["ports"]
            assert {own["port"]: own["state"] for own in listed} == states[is_held]
            checked = lab.box.run([*argv, "check", "--all", "-f", "json"], check=False)
            summary = json.loads(checked.stdout)["summary"]
            assert (checked.returncode, summary["busy"], summary["drift"]) == ((0, 1, 0) if is_held else (3, 0, 1))
            shown = lab.box.run([*argv, "show", port.id]).stdout
            assert ("busy: another caller is at work on it" in shown, "fix: " in shown) == (is_held, not is_held)
            if is_held:
                holder.communicate("\n")
