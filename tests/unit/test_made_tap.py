"""A tap that was made ahead of its VM: made, kept in order and removed with the port; libvirt's own is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hybridvif import (
    Create,
    Delete,
    NameCollision,
    PlugFailed,
    PortRunning,
    Refused,
    Status,
    UnplugFailed,
    Update,
    check,
    gc,
    plug,
    reconcile,
    unplug,
)
from hybridvif.executors.linkstate import Device, observed
from hybridvif.executors.recording import RecordingHost
from hybridvif.executors.script import script_lines
from hybridvif.parts import ANYBODY, NOTHING, HostState, MadeTap, Tap, agree
from hybridvif.planner import keeping_its_tap, plan
from hybridvif.port import MAX_MTU, MAX_TAP_MTU
from hybridvif.privileged.identification import needs_proof, permit_found
from hybridvif.steps import Objection, objection, simulate
from hybridvif.wiring import tap_mac_of, wiring_of
from tests.unit.strategies import BRIDGE, MADE_TAP, NAMES, PORT, ROW, TAP, TAPPED, VETH, WIRING

WHOLE = wiring_of(TAPPED)
OTHER = PORT.id[:-1] + "9"
TUN = Device(
    index=7,
    name=NAMES.tap,
    kind="tun",
    up=True,
    promisc=False,
    carrier=False,
    mtu=1500,
    mac="fe:16:3e:aa:bb:cc",
    alias=PORT.id,
    group=0,
    master="",
    peer="",
    host_ip="off",
    owner=0,
)
LOOSE = replace(MADE_TAP, master="", bridge_port=None)
"""The tap in no bridge."""


def host_of(state: HostState) -> RecordingHost:
    return RecordingHost(state)


def test_it_is_made_after_the_veth_pair_and_before_the_switch_port_and_goes_with_the_port() -> None:
    host = host_of(NOTHING)
    assert plug(TAPPED, host).ok
    assert [step.part for step in host.steps] == [BRIDGE, VETH, MADE_TAP, ROW]
    assert host.state == WHOLE
    host.steps.clear()
    assert not plug(TAPPED, host).changed
    assert unplug(PORT.id, host).ok
    assert host.state == NOTHING
    assert [step.part.name for step in host.steps] == [ROW.name, VETH.name, MADE_TAP.name, BRIDGE.name]


def test_a_plug_that_asks_for_no_tap_keeps_one_that_was_made_and_puts_it_in_order() -> None:
    drifted = replace(MADE_TAP, up=False, master="", group=7, mtu=1400, mac="fe:16:3e:00:00:01")
    big = wiring_of(replace(PORT, mtu=MAX_MTU))
    assert keeping_its_tap(HostState().having(drifted), WIRING, NAMES) == WIRING.having(
        replace(MADE_TAP, mac="fe:16:3e:00:00:01")
    )
    assert keeping_its_tap(HostState().having(drifted), big, NAMES).links[NAMES.tap] == replace(
        MADE_TAP, mac="fe:16:3e:00:00:01", mtu=MAX_TAP_MTU
    )
    # What is wished for is wished for; what the VM has of its own is not ours; and without a bridge there is no place.
    assert keeping_its_tap(HostState().having(drifted), WHOLE, NAMES) is WHOLE
    assert keeping_its_tap(HostState().having(TAP), WIRING, NAMES) is WIRING
    assert keeping_its_tap(HostState().having(drifted), NOTHING, NAMES) is NOTHING


def test_its_mac_address_is_not_the_vms() -> None:
    assert MADE_TAP.mac == tap_mac_of(PORT.mac) == "fe:16:3e:aa:bb:cc"
    assert tap_mac_of("fe:16:3e:aa:bb:cc") == "f2:16:3e:aa:bb:cc"


@pytest.mark.parametrize(
    "drift", [{"mac": "02:00:00:00:00:01"}, {"mtu": 1400}, {"up": False}, {"master": ""}, {"group": 7}], ids=str
)
def test_its_drift_is_mended_alone(drift: dict[str, Any]) -> None:
    host = host_of(WHOLE.having(replace(MADE_TAP, **drift)))
    mending = (Update(replace(MADE_TAP, **drift), MADE_TAP),)
    assert check(TAPPED, host) == mending
    plug(TAPPED, host)
    assert tuple(host.steps) == mending


def test_who_plugs_again_without_asking_for_it_keeps_it_in_order() -> None:
    host = host_of(WHOLE)
    assert not plug(PORT, host).changed
    host.state = WHOLE.having(replace(MADE_TAP, master="", up=False))
    assert plug(replace(PORT, mtu=1400), host).ok
    assert host.state.links[NAMES.tap] == replace(MADE_TAP, mtu=1400)
    host.state = WHOLE.lacking(BRIDGE).having(replace(MADE_TAP, master=""), replace(VETH, master=""))
    assert reconcile([PORT], host).plugged[0].ok
    assert host.state == WHOLE


def test_a_tap_that_was_not_made_here_is_used_as_it_is() -> None:
    host = host_of(WIRING.having(TAP))
    assert not plug(TAPPED, host).changed
    assert check(TAPPED, host) == ()
    host = host_of(NOTHING.having(replace(TAP, master="")))
    plug(TAPPED, host)
    assert host.state == WIRING.having(TAP)
    unplug(PORT.id, host)
    assert host.state == NOTHING.having(replace(TAP, master=""))


def test_one_that_a_vm_holds_stops_an_unplug_wherever_it_is() -> None:
    for master in (NAMES.bridge, ""):
        host = host_of(WHOLE.having(replace(MADE_TAP, master=master)))
        host.simulation.carrier.add(NAMES.tap)
        with pytest.raises(PortRunning):
            unplug(PORT.id, host)
        assert unplug(PORT.id, host, force=True).ok
        assert host.state == NOTHING


def test_it_goes_where_its_port_is_bound_as_vhost_user_but_from_no_vm_that_holds_it() -> None:
    bound = replace(PORT, vhostuser_mode="server")
    host = host_of(WHOLE)
    host.simulation.carrier.add(NAMES.tap)
    for refused in (plug, check):
        with pytest.raises(PortRunning, match="refused to plug it as a vhost-user port, since tap"):
            refused(bound, host)
    assert host.state == WHOLE
    host.simulation.carrier.clear()
    assert plug(bound, host).ok
    assert agree(host.state, wiring_of(bound))
    assert plug(TAPPED, host).ok
    assert host.state == WHOLE


def test_a_plug_that_fails_takes_back_the_tap_that_it_made_and_no_other() -> None:
    for first in (NOTHING, WIRING.lacking(ROW), WHOLE.lacking(ROW)):
        host = host_of(first)
        host.fail(verb=Create, name=ROW.name)
        with pytest.raises(PlugFailed) as caught:
            plug(TAPPED, host)
        assert caught.value.report is not None
        assert caught.value.report.status is Status.ROLLED_BACK
        assert host.state == first


def test_one_that_cannot_be_removed_is_named() -> None:
    host = host_of(WHOLE)
    host.fail(verb=Delete, name=NAMES.tap)
    with pytest.raises(UnplugFailed) as caught:
        unplug(PORT.id, host)
    assert caught.value.report is not None
    assert caught.value.report.leftovers == (NAMES.tap,)
    assert list(host.state) == [LOOSE]


def test_one_that_is_left_alone_is_a_remain_unless_a_vm_holds_it() -> None:
    host = host_of(NOTHING.having(replace(MADE_TAP, master="")))
    host.simulation.carrier.add(NAMES.tap)
    assert gc(host, older_than=0) == []
    host.simulation.carrier.clear()
    gc(host, older_than=0)
    assert host.state == NOTHING


def test_one_of_another_port_of_the_same_names_is_that_ports() -> None:
    host = host_of(NOTHING.having(replace(MADE_TAP, alias=OTHER)))
    calls: list[Callable[[], object]] = [lambda: plug(TAPPED, host), lambda: unplug(PORT.id, host, force=True)]
    for refused in calls:
        with pytest.raises(NameCollision):
            refused()


def test_one_in_a_foreign_bridge_stops_every_plan() -> None:
    host = host_of(WHOLE.having(replace(MADE_TAP, master="virbr0")))
    calls: list[Callable[[], object]] = [lambda: plug(TAPPED, host), lambda: unplug(PORT.id, host)]
    for refused in calls:
        with pytest.raises(Refused, match="virbr0"):
            refused()


@pytest.mark.parametrize(
    ("step", "found"),
    [
        (Delete(MADE_TAP), TAP),
        (Update(replace(MADE_TAP, up=False), MADE_TAP), TAP),
        (Update(replace(TAP, master=""), TAP), replace(MADE_TAP, master="")),
    ],
)
def test_a_tap_that_has_changed_hands_meanwhile_is_left_alone(step: Any, found: Tap | MadeTap) -> None:
    state = WIRING.having(found)
    said = f"{NAMES.tap} is not the device any more that it was when it was observed"
    assert objection(state, step) == Objection(said, retry=True)


def test_the_daemon_takes_no_tap_for_a_ports_by_what_a_plan_says_of_it() -> None:
    for step in (Delete(MADE_TAP), Update(replace(MADE_TAP, up=False), MADE_TAP)):
        with pytest.raises(Refused, match="bears no mark"):
            permit_found([step], WIRING.having(TAP), {"br-int"}.__contains__)
        with pytest.raises(Refused, match="shares its first 11"):
            permit_found([step], WIRING.having(replace(MADE_TAP, alias=OTHER)), {"br-int"}.__contains__)
        permit_found([step], WHOLE, {"br-int"}.__contains__)
    assert needs_proof([Create(MADE_TAP)])
    assert needs_proof([Create(replace(VETH, master="")), Create(MADE_TAP)])
    assert not needs_proof([Create(BRIDGE), Create(VETH), Create(MADE_TAP)])


def test_of_its_queues_nothing_is_told_once_it_is_there() -> None:
    many = replace(TAPPED, multiqueue=True)
    (made,) = (part for part in wiring_of(many) if isinstance(part, MadeTap))
    assert made.multi_queue
    assert simulate(HostState({BRIDGE.name: BRIDGE}), Create(made)).links[NAMES.tap] == MADE_TAP
    assert plan(WHOLE, wiring_of(many)) == ()


@pytest.mark.parametrize(
    ("device", "part"),
    [
        (TUN, LOOSE),
        (replace(TUN, alias=OTHER), replace(LOOSE, alias=OTHER)),
        (replace(TUN, alias=""), replace(TAP, master="")),
        (replace(TUN, alias="guest"), replace(TAP, master="")),
        (replace(TUN, alias="91d3aa02-4100-4c00-8000-000000000003"), replace(TAP, master="")),
        (replace(TUN, kind="veth"), replace(TAP, master="")),
    ],
)
def test_it_is_known_by_its_kind_and_its_alias(device: Device, part: Tap | MadeTap) -> None:
    assert observed([device], None, {}).state == HostState().having(part)


def test_a_port_that_has_one_is_its_own_even_if_nothing_else_is_there() -> None:
    host = host_of(NOTHING.having(replace(MADE_TAP, master="")))
    assert unplug(PORT.id, host).changed


def test_as_command_lines() -> None:
    made = replace(MADE_TAP, multi_queue=True)
    tap, qbr = NAMES.tap, NAMES.bridge
    silent = [
        f"ip link set dev {tap} addrgenmode none || true",
        f"sysctl -q -w net/ipv4/conf/{tap}/forwarding=0",
        f"sysctl -q -w net/ipv4/conf/{tap}/proxy_arp=0",
        f"sysctl -q -w net/ipv4/conf/{tap}/rp_filter=1",
        f"sysctl -q -e -w net/ipv6/conf/{tap}/disable_ipv6=1",
    ]
    assert list(script_lines([[Create(made), Update(replace(LOOSE, mtu=1400), MADE_TAP)]])) == [
        f"ip tuntap add dev {tap} mode tap user 0 multi_queue",
        f"ip link set dev {tap} alias {PORT.id}",
        f"ip link set dev {tap} address fe:16:3e:aa:bb:cc mtu 1500 arp off",
        *silent,
        f"brctl addif {qbr} {tap}",
        f"ip link set dev {tap} up",
        f"ip link set dev {tap} mtu 1500 arp off",
        *silent,
        f"brctl addif {qbr} {tap}",
    ]
    bare = replace(LOOSE, up=False)
    assert len(list(script_lines([[Create(bare)]]))) == 8
    assert list(script_lines([[Delete(MADE_TAP), Update(MADE_TAP, bare)]])) == [
        f"ip link delete {tap} || true",
        f"ip link set dev {tap} down",
        f"brctl delif {qbr} {tap}",
    ]


def test_port_of_bridge_is_opened_by_what_closed_it() -> None:
    closed = replace(MADE_TAP, bridge_port="state disabled, flood off, isolated on")
    assert list(script_lines([[Update(closed, MADE_TAP)]])) == [
        f"ip link set dev {NAMES.tap} type bridge_slave flood on isolated off state 3"
    ]


def test_owner_is_set_when_no_vm_holds_it_and_told_until_then() -> None:
    free = WHOLE.having(replace(MADE_TAP, owner=ANYBODY))
    host = host_of(free)
    host.simulation.carrier.add(NAMES.tap)
    assert not plug(TAPPED, host).changed
    host.simulation.carrier.clear()
    assert plug(TAPPED, host).changed
    assert host.state == WHOLE
    held = replace(TUN, owner=ANYBODY, carrier=True)
    assert observed([held], None, {}).facts.unchecked == (f"{NAMES.tap}: owner, which is set when no VM holds it",)
    assert observed([replace(held, carrier=False)], None, {}).facts.unchecked == ()
