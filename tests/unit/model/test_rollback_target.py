from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from hybridvif.model.parts import ForeignObject, ForeignPort, OvsPort, Tap, invalid_attributes
from hybridvif.model.planner import rollback_target
from hybridvif.model.port import VifType, desired_state
from hybridvif.model.settings import Settings
from hybridvif.model.state import NOTHING, HostState
from tests.support.strategies import (
    BRIDGE,
    NAMES,
    NATIVE,
    PORT,
    ROW,
    TAP,
    VETH,
    WIRING,
    ports,
    states_of,
    the,
)


def test_target_has_the_create_only_values_of_the_plug() -> None:
    desired = desired_state(replace(PORT, isolate=True, qos_type="linux-noop"))
    goal, lost = rollback_target(WIRING, desired)
    assert (goal.ports[ROW.name], lost) == (replace(ROW, isolated=True, qos_type="linux-noop"), ())
    on_a_trunk = WIRING.with_parts(replace(ROW, bridge="tbr-1"))
    assert rollback_target(on_a_trunk, desired_state(replace(PORT, isolate=True))) == (on_a_trunk, ())


def test_target_of_a_valid_state_is_the_state() -> None:
    for first in (NOTHING, WIRING, WIRING.without(VETH), WIRING.with_parts(replace(BRIDGE, mtu=1400, ageing=30000))):
        assert rollback_target(first, WIRING) == (first, ())


def test_target_keeps_desired_values_for_invalid_attributes() -> None:
    first = WIRING.with_parts(
        replace(BRIDGE, group=7, mtu=1400, addr_gen_mode="stable_secret"),
        replace(VETH, alias="uplink"),
        replace(ROW, attached_mac="?", bridge="br-ex"),
    )
    assert rollback_target(first, WIRING) == (
        WIRING.with_parts(replace(BRIDGE, mtu=1400), replace(ROW, bridge="br-ex")),
        (
            "qbr5f2c0e1a-7b: addr_gen_mode",
            "qbr5f2c0e1a-7b: group",
            "qvb5f2c0e1a-7b: alias",
            "qvo5f2c0e1a-7b: attached_mac",
        ),
    )


WEAK = {
    "stp": True,
    "multicast_snooping": True,
    "disable_ipv6": False,
    "addr_gen_mode": "eui64",
    "arp_ignore": 0,
    "arp_announce": 0,
    "host_ip": "forwarding 1",
}


@pytest.mark.parametrize(("name", "value"), WEAK.items())
def test_target_keeps_isolating_values(name: str, value: object) -> None:
    first = WIRING.with_parts(replace(BRIDGE, mtu=1400, **{name: value}))  # type: ignore[arg-type]
    goal, lost = rollback_target(first, WIRING)
    assert (goal, lost) == (WIRING.with_parts(replace(BRIDGE, mtu=1400)), (f"{BRIDGE.name}: {name}",))


def test_target_after_vhost_user_has_isolating_links() -> None:
    """The links of the hybrid port are recreated, and the desired state has no values for them."""
    bridge = replace(BRIDGE, mtu=1000, disable_ipv6=None, addr_gen_mode=None, host_ip="forwarding 1")
    veth = replace(VETH, host_ip="IPv6 on", bridge_port=None)
    goal, lost = rollback_target(
        HostState().with_parts(bridge, veth), desired_state(replace(PORT, vhostuser_mode="server"))
    )
    assert goal == HostState().with_parts(replace(BRIDGE, mtu=1000), VETH)
    assert lost == (f"{BRIDGE.name}: host_ip", f"{VETH.name}: host_ip")


def test_target_ignores_unchanged_attributes() -> None:
    first = WIRING.with_parts(replace(BRIDGE, group=7), replace(VETH, alias="uplink"))
    current = first.with_parts(replace(VETH, alias=PORT.id))
    goal, lost = rollback_target(first, WIRING, current)
    assert lost == ("qvb5f2c0e1a-7b: alias",)
    assert goal == first.with_parts(replace(VETH, alias=PORT.id))


def test_target_keeps_the_iptables_flags_that_the_host_requires() -> None:
    desired = desired_state(replace(PORT, call_iptables=True))
    first = desired.with_parts(replace(BRIDGE, nf_call_iptables=False, nf_call_ip6tables=True))
    assert rollback_target(first, desired, desired, Settings(call_iptables=True)) == (
        desired,
        ("qbr5f2c0e1a-7b: nf_call_iptables",),
    )
    assert rollback_target(first, desired, desired, Settings()) == (first, ())


def test_target_has_no_mtu_request_again_once_it_was_cleared() -> None:
    for request in (1400, PORT.mtu):
        first = WIRING.with_parts(replace(ROW, mtu_request=request))
        assert rollback_target(first, WIRING, WIRING, Settings()) == (WIRING, ("qvo5f2c0e1a-7b: mtu_request",))
        assert rollback_target(first, WIRING, first, Settings()) == (first, ())


def test_target_keeps_a_row_out_of_a_bridge_that_is_not_allowed() -> None:
    first = WIRING.with_parts(replace(ROW, bridge="br-ex"))
    assert rollback_target(first, WIRING, WIRING, Settings()) == (WIRING, ("qvo5f2c0e1a-7b: bridge",))
    assert rollback_target(first, WIRING, WIRING, Settings(integration_bridges=("br-int", "br-ex"))) == (first, ())


@pytest.mark.parametrize("iface_id", ["91d3aa02-4100-4c00-8000-000000000003", "vm-7"])
def test_target_has_no_ids_of_another_port(iface_id: str) -> None:
    port = replace(PORT, interface_id="91d3aa02-4100-4c00-8000-000000000003")
    wanted = the(OvsPort, desired_state(port))
    first = WIRING.with_parts(replace(ROW, iface_id=iface_id))
    goal, lost = rollback_target(first, desired_state(port))
    assert goal == WIRING.with_parts(wanted)
    assert "qvo5f2c0e1a-7b: port_id" in lost
    first = WIRING.with_parts(replace(ROW, iface_id="0b1c2d3e-0000-4000-8000-000000000003", attached_mac=""))
    assert rollback_target(first, WIRING) == (
        WIRING.with_parts(replace(ROW, attached_mac="")),
        ("qvo5f2c0e1a-7b: iface_id",),
    )


def test_target_leaves_tap_and_foreign_objects() -> None:
    first = HostState().with_parts(
        replace(TAP, master="virbr0"),
        ForeignObject(name=NAMES.bridge, what="a dummy link"),
        ForeignPort(name=NAMES.switch_end, what="a bond"),
    )
    assert rollback_target(first, WIRING) == (first, ())


def test_target_leaves_a_row_of_the_other_switch() -> None:
    first = HostState().with_parts(replace(ROW, iface_id="?"))
    assert rollback_target(first, desired_state(replace(PORT, vif_type=VifType.IVS))) == (first, ())


@given(st.data())
def test_target_has_the_parts_of_the_first_state(data: st.DataObject) -> None:
    port = data.draw(ports())
    first = data.draw(states_of(port))
    goal, lost = rollback_target(first, desired_state(port))
    assert [part.name for part in goal] == [part.name for part in first]
    assert len(set(lost)) == len(lost)
    assert all(invalid_attributes(part) == () for part in goal if not isinstance(part, Tap))


def test_target_leaves_out_a_native_row_that_is_gone() -> None:
    """Nothing can create it: it only replaces the row of a hybrid port."""
    first = HostState().with_parts(NATIVE, replace(TAP, master=""))
    goal, lost = rollback_target(first, WIRING, HostState().with_parts(replace(TAP, master="")))
    assert (goal, lost) == (HostState().with_parts(replace(TAP, master="")), (NATIVE.name,))
    goal, lost = rollback_target(first, WIRING, HostState().with_parts(ROW, replace(TAP, master="")))
    assert (NATIVE.name in goal.ports, lost) == (True, ())
