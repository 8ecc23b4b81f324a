"""Tests of the managed tap: created before its VM, kept in sync, deleted with the port."""

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
from hybridvif.executors.command_lines import script_lines
from hybridvif.executors.netlink.devices import Device, observed
from hybridvif.executors.recording import RecordingHost
from hybridvif.model.names import MAX_MTU, MAX_TAP_MTU
from hybridvif.model.parts import ANYBODY, ManagedTap, Tap
from hybridvif.model.planner import plan, with_existing_tap
from hybridvif.model.port import desired_state, tap_mac_of
from hybridvif.model.settings import Settings
from hybridvif.model.state import NOTHING, HostState, Objection, agree, objection, simulate
from hybridvif.privileged.authorize import permit_found
from tests.support.strategies import BRIDGE, MADE_TAP, NAMES, PORT, ROW, TAP, TAPPED, VETH, WIRING

WHOLE = desired_state(TAPPED)
OTHER = PORT.id[:-1] + "9"


def tun(*, kind: str = "tun", owner: int = 0, carrier: bool = False, alias: str = PORT.id) -> Device:
    """Return the tap as it is read."""
    values = {"up": True, "mtu": 1500, "mac": "fe:16:3e:aa:bb:cc", "alias": alias, "group": 0, "noarp": True}
    return Device(index=7, name=NAMES.tap, kind=kind, carrier=carrier, owner=owner, values=values)


LOOSE = replace(MADE_TAP, master="", bridge_port=None)
"""The tap in no bridge."""


def host_of(state: HostState) -> RecordingHost:
    return RecordingHost(state)


def test_tap_is_created_between_veth_and_row_and_deleted_with_the_port() -> None:
    host = host_of(NOTHING)
    assert plug(TAPPED, host).ok
    assert [step.part for step in host.steps] == [BRIDGE, VETH, MADE_TAP, ROW]
    assert host.state == WHOLE
    host.steps.clear()
    assert not plug(TAPPED, host).changed
    assert unplug(PORT.id, host).ok
    assert host.state == NOTHING
    assert [step.part.name for step in host.steps] == [ROW.name, VETH.name, MADE_TAP.name, BRIDGE.name]


def test_plug_without_create_tap_keeps_the_managed_tap_in_sync() -> None:
    drifted = replace(MADE_TAP, up=False, master="", group=7, mtu=1400, mac="fe:16:3e:00:00:01", host_ip="ARP on")
    big = desired_state(replace(PORT, mtu=MAX_MTU))
    assert with_existing_tap(HostState().with_parts(drifted), WIRING, NAMES) == WIRING.with_parts(
        replace(MADE_TAP, mac="fe:16:3e:00:00:01")
    )
    assert with_existing_tap(HostState().with_parts(drifted), big, NAMES).links[NAMES.tap] == replace(
        MADE_TAP, mac="fe:16:3e:00:00:01", mtu=MAX_TAP_MTU
    )
    # No change with create_tap, for a tap of libvirt, and without a bridge.
    assert with_existing_tap(HostState().with_parts(drifted), WHOLE, NAMES) is WHOLE
    assert with_existing_tap(HostState().with_parts(TAP), WIRING, NAMES) is WIRING
    assert with_existing_tap(HostState().with_parts(drifted), NOTHING, NAMES) is NOTHING


def test_mac_of_the_tap_differs_from_the_vm() -> None:
    assert MADE_TAP.mac == tap_mac_of(PORT.mac) == "fe:16:3e:aa:bb:cc"
    assert tap_mac_of("fe:16:3e:aa:bb:cc") == "f2:16:3e:aa:bb:cc"


@pytest.mark.parametrize(
    "drift", [{"mac": "02:00:00:00:00:01"}, {"mtu": 1400}, {"up": False}, {"master": ""}, {"group": 7}], ids=str
)
def test_plug_repairs_only_the_drift_of_the_tap(drift: dict[str, Any]) -> None:
    host = host_of(WHOLE.with_parts(replace(MADE_TAP, **drift)))
    repair = (Update(replace(MADE_TAP, **drift), MADE_TAP),)
    assert check(TAPPED, host) == repair
    plug(TAPPED, host)
    assert tuple(host.steps) == repair


def test_replug_without_create_tap_keeps_the_tap_in_sync() -> None:
    host = host_of(WHOLE)
    assert not plug(PORT, host).changed
    host.state = WHOLE.with_parts(replace(MADE_TAP, master="", up=False))
    assert plug(replace(PORT, mtu=1400), host).ok
    assert host.state.links[NAMES.tap] == replace(MADE_TAP, mtu=1400)
    host.state = WHOLE.without(BRIDGE).with_parts(replace(MADE_TAP, master=""), replace(VETH, master=""))
    assert reconcile([PORT], host).plugged[0].ok
    assert host.state == WHOLE


def test_tap_of_libvirt_is_used_unchanged() -> None:
    host = host_of(WIRING.with_parts(TAP))
    assert not plug(TAPPED, host).changed
    assert check(TAPPED, host) == ()
    host = host_of(NOTHING.with_parts(replace(TAP, master="")))
    plug(TAPPED, host)
    assert host.state == WIRING.with_parts(TAP)
    unplug(PORT.id, host)
    assert host.state == NOTHING.with_parts(replace(TAP, master=""))


def test_unplug_with_a_tap_in_use_raises_port_running() -> None:
    for master in (NAMES.bridge, ""):
        host = host_of(WHOLE.with_parts(replace(MADE_TAP, master=master)))
        host.simulation.carrier.add(NAMES.tap)
        with pytest.raises(PortRunning):
            unplug(PORT.id, host)
        assert unplug(PORT.id, host, force=True).ok
        assert host.state == NOTHING


def test_plug_as_vhost_user_deletes_the_tap_unless_a_vm_uses_it() -> None:
    bound = replace(PORT, vhostuser_mode="server")
    host = host_of(WHOLE)
    host.simulation.carrier.add(NAMES.tap)
    for refused in (plug, check):
        with pytest.raises(PortRunning, match="refused to plug it as a vhost-user port, since tap"):
            refused(bound, host)
    assert host.state == WHOLE
    host.simulation.carrier.clear()
    assert plug(bound, host).ok
    assert agree(host.state, desired_state(bound))
    assert plug(TAPPED, host).ok
    assert host.state == WHOLE


def test_failed_plug_deletes_only_its_own_tap() -> None:
    for first in (NOTHING, WIRING.without(ROW), WHOLE.without(ROW)):
        host = host_of(first)
        host.fail(verb=Create, name=ROW.name)
        with pytest.raises(PlugFailed) as caught:
            plug(TAPPED, host)
        assert caught.value.report is not None
        assert caught.value.report.status is Status.ROLLED_BACK
        assert host.state == first


def test_unplug_with_an_undeletable_tap_reports_it() -> None:
    host = host_of(WHOLE)
    host.fail(verb=Delete, name=NAMES.tap)
    with pytest.raises(UnplugFailed) as caught:
        unplug(PORT.id, host)
    assert caught.value.report is not None
    assert caught.value.report.leftovers == (NAMES.tap,)
    assert list(host.state) == [LOOSE]


def test_tap_alone_is_an_orphan_unless_a_vm_uses_it() -> None:
    host = host_of(NOTHING.with_parts(replace(MADE_TAP, master="")))
    host.simulation.carrier.add(NAMES.tap)
    assert gc(host, older_than=0) == []
    host.simulation.carrier.clear()
    gc(host, older_than=0)
    assert host.state == NOTHING


def test_tap_of_a_colliding_port_raises_name_collision() -> None:
    host = host_of(NOTHING.with_parts(replace(MADE_TAP, alias=OTHER)))
    calls: list[Callable[[], object]] = [lambda: plug(TAPPED, host), lambda: unplug(PORT.id, host, force=True)]
    for refused in calls:
        with pytest.raises(NameCollision):
            refused()


def test_tap_in_a_foreign_bridge_is_refused() -> None:
    host = host_of(WHOLE.with_parts(replace(MADE_TAP, master="virbr0")))
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
def test_step_on_a_tap_with_a_new_owner_is_refused(step: Any, found: Tap | ManagedTap) -> None:
    state = WIRING.with_parts(found)
    message = f"{NAMES.tap} is not the device any more that it was when it was observed"
    assert objection(state, step) == Objection(message, retry=True)


def test_daemon_requires_proof_of_ownership_of_a_tap() -> None:
    for step in (Delete(MADE_TAP), Update(replace(MADE_TAP, up=False), MADE_TAP)):
        with pytest.raises(Refused, match="bears no mark"):
            permit_found([step], WIRING.with_parts(TAP), Settings())
        with pytest.raises(Refused, match="contradict each other"):
            permit_found([step], WIRING.with_parts(replace(MADE_TAP, alias=OTHER)), Settings())
        permit_found([step], WHOLE, Settings())


def test_multi_queue_is_create_only() -> None:
    many = replace(TAPPED, multiqueue=True)
    (created,) = (part for part in desired_state(many) if isinstance(part, ManagedTap))
    assert created.multi_queue
    assert simulate(HostState({BRIDGE.name: BRIDGE}), Create(created)).links[NAMES.tap] == MADE_TAP
    assert plan(WHOLE, desired_state(many)) == ()


@pytest.mark.parametrize(
    ("device", "part"),
    [
        (tun(), LOOSE),
        (tun(alias=OTHER), replace(LOOSE, alias=OTHER)),
        (tun(alias=""), replace(TAP, master="")),
        (tun(alias="guest"), replace(TAP, master="")),
        (tun(alias="91d3aa02-4100-4c00-8000-000000000003"), replace(TAP, master="")),
        (tun(kind="veth"), replace(TAP, master="")),
    ],
)
def test_tap_is_managed_by_kind_and_alias(device: Device, part: Tap | ManagedTap) -> None:
    assert observed([device], None).state == HostState().with_parts(part)


def test_unplug_with_only_a_tap_deletes_it() -> None:
    host = host_of(NOTHING.with_parts(replace(MADE_TAP, master="")))
    assert unplug(PORT.id, host).changed


def test_script_of_a_tap() -> None:
    created = replace(MADE_TAP, multi_queue=True)
    tap, qbr = NAMES.tap, NAMES.bridge
    silent = [f"sysctl -q -w net/ipv4/conf/{tap}/{key}" for key in ("forwarding=0", "proxy_arp=0", "rp_filter=1")]
    joined = f"brctl addif {qbr} {tap}"
    without_ipv6 = [f"sysctl -q -e -w net/ipv6/conf/{tap}/{key}=1" for key in ("disable_ipv6", "addr_gen_mode")]
    assert list(script_lines([[Create(created), Update(replace(LOOSE, mtu=1400), MADE_TAP)]])) == [
        f"ip tuntap add dev {tap} mode tap user 0 multi_queue",
        f"ip link set dev {tap} alias {PORT.id}",
        f"ip link set dev {tap} address fe:16:3e:aa:bb:cc mtu 1500 arp off",
        *silent,
        joined,
        *without_ipv6,
        f"ip link set dev {tap} up",
        f"ip link set dev {tap} mtu 1500 arp off",
        *silent,
        joined,
        *without_ipv6,
    ]
    bare = replace(LOOSE, up=False)
    assert len(list(script_lines([[Create(bare)]]))) == 9
    assert list(script_lines([[Delete(MADE_TAP), Update(MADE_TAP, bare)]])) == [
        f"ip link delete {tap} || true",
        f"ip link set dev {tap} nomaster",
        f"ip link set dev {tap} down",
    ]


def test_script_reopens_a_closed_bridge_port() -> None:
    closed = replace(MADE_TAP, bridge_port="state disabled, flood off, isolated on")
    assert list(script_lines([[Update(closed, MADE_TAP)]])) == [
        f"ip link set dev {NAMES.tap} type bridge_slave state 3 flood on isolated off"
    ]


def test_owner_is_set_when_no_vm_uses_the_tap() -> None:
    free = WHOLE.with_parts(replace(MADE_TAP, owner=ANYBODY))
    host = host_of(free)
    host.simulation.carrier.add(NAMES.tap)
    assert not plug(TAPPED, host).changed
    host.simulation.carrier.clear()
    assert plug(TAPPED, host).changed
    assert host.state == WHOLE
    held_tap, free_tap = (tun(owner=ANYBODY, carrier=carrier) for carrier in (True, False))
    assert observed([held_tap], None).facts.unchecked == (f"{NAMES.tap}: owner, which is set when no VM holds it",)
    assert observed([free_tap], None).facts.unchecked == ()
