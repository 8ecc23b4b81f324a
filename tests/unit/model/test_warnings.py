"""Warnings about running VMs that are cut off, by the rules of model/warnings.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridvif import Port, desired_state
from hybridvif.model.parts import DEAD_VLAN, Tap
from hybridvif.model.planner import as_native
from hybridvif.model.state import NOTHING, Facts, HostState, LinkFact, PortFact
from hybridvif.model.warnings import TEXTS, Dropped, dropped_ofports, port_warnings

PORT = Port(
    id="5f2c0e1a-7b00-4c00-8000-000000000001",
    mac="fa:16:3e:aa:bb:cc",
    instance_id="0b1c2d3e-0000-4000-8000-000000000002",
)
QBR, _, QVO, TAP, _ = PORT.names
RUNNING = LinkFact(ifindex=7, kind="tun", up=True, carrier=True, master=QBR, mtu=1500)
STATE = desired_state(PORT).with_parts(Tap(name=TAP, master=QBR))
NATIVE = as_native(desired_state(PORT), PORT.id, NOTHING)
WIRED = PortFact(ofport=3)
DROPPED = {"br-int": {7}}


def facts_of(tap: LinkFact | None, fact: PortFact = WIRED, name: str = QVO) -> Facts:
    return Facts(links={} if tap is None else {TAP: tap}, ports={name: fact})


def codes(facts: Facts, state: HostState = STATE, dropped: Dropped = DROPPED) -> list[str]:
    return [warning.code for warning in port_warnings(PORT, state, facts, dropped)]


def test_running_vm_in_order_has_no_warning() -> None:
    assert codes(facts_of(RUNNING)) == []
    assert codes(facts_of(RUNNING, PortFact(ofport=3, tag=5))) == []
    assert codes(facts_of(RUNNING._replace(master=""), name=TAP), NATIVE) == []


@pytest.mark.parametrize("tap", [None, RUNNING._replace(carrier=False, up=False, master="")])
def test_port_without_running_vm_has_no_warning(tap: LinkFact | None) -> None:
    """The port waits for its VM: before a start, and after a stop."""
    assert codes(facts_of(tap, PortFact(ofport=7, tag=DEAD_VLAN))) == []


@pytest.mark.parametrize(
    ("code", "facts"),
    [
        ("tap-outside", facts_of(RUNNING._replace(master=""))),
        ("tap-outside", facts_of(RUNNING._replace(master="virbr0"))),
        ("tap-down", facts_of(RUNNING._replace(up=False))),
        ("dead-vlan", facts_of(RUNNING, PortFact(ofport=3, tag=DEAD_VLAN))),
        ("flows-drop", facts_of(RUNNING, PortFact(ofport=7))),
        ("duplicate-iface-id", replace(facts_of(None), bearers={PORT.id: (QVO, "tap0")})),
    ],
)
def test_cut_off_vm_has_a_warning_with_a_remedy(code: str, facts: Facts) -> None:
    assert codes(facts) == [code]
    assert code in TEXTS
    (warning,) = port_warnings(PORT, STATE, facts, DROPPED)
    assert warning.text.startswith(f"port {PORT.id}: ")
    assert warning.text.count("; ") == 1


@pytest.mark.parametrize(
    ("other", "remedy"),
    [
        ("dup0", "remove the row that is not the port's: ovs-vsctl del-port dup0"),
        (TAP, f"remove the row that is not the port's: ovs-vsctl del-port {TAP}"),
        ("qvo91d3aa02-41", "see: hybridvif check qvo91d3aa02-41"),
        ("tap91d3aa02-41", "see: hybridvif check tap91d3aa02-41"),
    ],
)
def test_row_of_another_port_is_never_to_be_deleted(other: str, remedy: str) -> None:
    """Its iface-id may be wrong, and its VM runs."""
    facts = replace(facts_of(None), bearers={PORT.id: (QVO, other)})
    (warning,) = port_warnings(PORT, STATE, facts, DROPPED)
    assert warning.text.endswith(remedy)


def test_tap_in_the_switch_is_no_warning_because_it_is_a_conflict() -> None:
    facts = facts_of(RUNNING._replace(master=""))
    assert codes(replace(facts, ports={**facts.ports, TAP: PortFact(ofport=9)})) == []


def test_running_vm_without_row_has_no_warning_about_its_row() -> None:
    state = HostState(STATE.links)
    assert codes(facts_of(RUNNING, PortFact(ofport=7, tag=DEAD_VLAN)), state) == []


def test_converted_port_is_no_duplicate_of_itself() -> None:
    facts = replace(facts_of(None, name=TAP), bearers={PORT.id: ("dup0", TAP)})
    (warning,) = port_warnings(PORT, NATIVE, facts, DROPPED)
    assert "is also in dup0 of Open vSwitch" in warning.text
    assert codes(replace(facts, bearers={PORT.id: (TAP,)}), NATIVE) == []


def test_converted_port_in_dead_vlan_has_a_warning() -> None:
    facts = facts_of(RUNNING._replace(master=""), PortFact(ofport=3, tag=DEAD_VLAN), TAP)
    assert codes(facts, NATIVE) == ["dead-vlan"]


NEUTRON = """
 idle_timeout=100, send_flow_rem priority=65535,dl_vlan=4095 actions=drop
 priority=10,arp,in_port=5 actions=resubmit(,24)
 priority=9,in_port=5 actions=resubmit(,25)
 priority=2,in_port=1 actions=drop
 priority=2,in_port=5 actions=drop
 priority=3,in_port=1,dl_vlan=7 actions=mod_vlan_vid:1,NORMAL
 priority=0 actions=resubmit(,60)
OFPST_FLOW reply (OF1.5) (xid=0x2):
"""


@pytest.mark.parametrize(
    ("flows", "dropped"),
    [
        (" priority=0 actions=NORMAL", ""),
        (NEUTRON, ""),
        # The port is not wired: drop_port() of the agent.
        (f"{NEUTRON} priority=2,in_port=3 actions=drop", "3"),
        (" in_port=3 actions=drop\n priority=0 actions=NORMAL", "3"),
        (" in_port=3 actions=drop\n priority=40000 actions=NORMAL", ""),
        (" in_port=3 actions=drop\n priority=40000,arp,in_port=3 actions=NORMAL", "5"),
        (" in_port=3 actions=drop\n priority=40000,arp,in_port=5 actions=NORMAL", "3"),
        (" in_port=3 actions=drop\n priority=40000,arp actions=NORMAL", ""),
        (" in_port=3 actions=drop\n priority=40000,arp actions=drop", "3 5"),
        (" reset_counts actions=drop\n priority=0 actions=NORMAL", "3 5"),
        # A table without flows, as after a restart in fail_mode=secure.
        ("", "3 5"),
        (" in_port=5 actions=output:1", "3"),
    ],
)
def test_ports_of_which_the_flows_drop_every_packet(flows: str, dropped: str) -> None:
    assert dropped_ofports(flows, [3, 5]) == set(map(int, dropped.split()))
