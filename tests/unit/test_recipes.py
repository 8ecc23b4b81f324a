"""The recipe of the hybrid plug: the commands that OpenStack began with, in their order, and what we add to them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hybridvif import Port, plan, wiring_of
from hybridvif.executors.recipes import link_lines, shell_lines, switch_words
from hybridvif.parts import NOTHING, PARKED, Bridge, HostState, IvsPort, OvsPort, Tap
from hybridvif.port import VifType
from hybridvif.steps import Create, Update
from tests.unit.strategies import VHOST_USER, the

PORT = Port(
    id="5f2c0e1a-7b00-4c00-8000-000000000001",
    mac="fa:16:3e:aa:bb:cc",
    instance_id="0b1c2d3e-0000-4000-8000-000000000002",
    mtu=1450,
)
WIRING = wiring_of(PORT)
QBR, QVB, QVO = PORT.names.bridge, PORT.names.bridge_end, PORT.names.switch_end
ROW = the(OvsPort, WIRING)

SEED = [
    rf"brctl addbr {QBR}",
    rf"brctl setfd {QBR} 0",
    rf"brctl stp {QBR} off",
    rf".*{QBR}.*mcast_snooping 0",
    rf"sysctl .*{QBR}/disable_ipv6=1",
    rf"ip link add {QVB} type veth peer name {QVO}",
    rf"ip link set dev {QVB} up promisc on mtu 1450\b.*",
    rf"ip link set dev {QVO} up promisc on mtu 1450\b.*",
    rf"ip link set dev {QBR} up",
    rf"brctl addif {QBR} {QVB}",
    rf"ovs-vsctl add-port br-int {QVO} -- set Interface {QVO} .*iface-id.*iface-status.*attached-mac.*vm-uuid.*",
]


def test_a_fresh_plug_runs_the_seeds_commands_in_the_seeds_order() -> None:
    lines = list(shell_lines(plan(NOTHING, WIRING)))
    at = -1
    for wanted in SEED:
        later = [place for place, line in enumerate(lines) if place > at and re.fullmatch(wanted, line)]
        assert later, f"{wanted} does not come after {lines[at]}"
        at = later[0]


def test_a_port_to_be_isolated_is_in_the_dead_vlan_in_the_very_transaction_that_makes_it() -> None:
    (line,) = [one for one in shell_lines(plan(NOTHING, wiring_of(replace(PORT, isolate=True)))) if "ovs-vsctl" in one]
    assert f" -- set Port {QVO} tag=4095 vlan_mode=trunk trunks=4095" in line
    drifted = WIRING.having(replace(ROW, vm_uuid=""))
    assert not [one for one in shell_lines(plan(drifted, wiring_of(replace(PORT, isolate=True)))) if "4095" in one]


def test_a_port_with_a_qos_gets_it_in_the_very_transaction_that_makes_it() -> None:
    born = wiring_of(replace(PORT, isolate=True, qos_type="linux-noop"))
    (line,) = [one for one in shell_lines(plan(NOTHING, born)) if "ovs-vsctl" in one]
    assert f"--id=@{QVO} create QoS type=linux-noop" in line
    assert line.endswith(f"-- set Port {QVO} tag=4095 vlan_mode=trunk trunks=4095 qos=@{QVO}")


def test_an_unplug_is_the_reverse() -> None:
    assert list(shell_lines(plan(WIRING, NOTHING))) == [
        f"ovs-vsctl --if-exists del-port {QVO}",
        f"ip link delete {QVB} || true",
        f"ip link set dev {QBR} down || true",
        f"brctl delbr {QBR} || true",
    ]


def test_a_row_that_stays_is_parked_and_freed_in_two_transactions() -> None:
    gone = HostState({}, {QVO: replace(ROW, realized=False)})
    transactions = [line for line in shell_lines(plan(gone, WIRING)) if line.startswith("ovs-vsctl")]
    assert [PARKED in line for line in transactions] == [True, False]


def test_a_port_in_order_needs_no_line() -> None:
    assert list(shell_lines(plan(WIRING, WIRING))) == []


def test_a_port_of_ivs_is_added_by_ivs_ctl() -> None:
    lines = list(shell_lines(plan(NOTHING, wiring_of(replace(PORT, vif_type=VifType.IVS)))))
    assert lines[-1] == f"ivs-ctl add-port {QVO}"


def test_a_row_is_moved_and_never_deleted() -> None:
    words = switch_words(Update(replace(ROW, bridge="br-old"), ROW))
    assert "del-port" not in words
    assert words[:5] == ["--", f"--id=@{QVO}", "get", "Port", QVO]


@pytest.mark.parametrize("step", [Create(Tap(name=PORT.names.tap, master="")), Create(IvsPort(name=QVO))])
def test_what_has_no_recipe_is_an_error(step: Create) -> None:
    for recipe in (link_lines, switch_words):
        with pytest.raises(ValueError, match="no recipe"):
            recipe(step)


def test_an_end_gets_only_what_differs() -> None:
    bridge = WIRING.links[QBR]
    assert isinstance(bridge, Bridge)
    lines = [str(line) for line in link_lines(Update(replace(bridge, ageing=30_000), bridge))]
    assert lines == [f"brctl setageing {QBR} 0"]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("client", "'type=\"dpdkvhostuser\"' -- remove Interface vhu5f2c0e1a-7b options vhost-server-path"),
        ("server", "'type=\"dpdkvhostuserclient\"' 'options:vhost-server-path=\"/run/s/vhu5f2c0e1a-7b\"'"),
    ],
)
def test_a_vhost_user_port_is_made_in_one_line(mode: str, kind: str) -> None:
    wiring = wiring_of(replace(PORT, vhostuser_mode=mode))
    (line,) = shell_lines(plan(NOTHING, wiring), "/run/s")
    assert line.startswith("ovs-vsctl add-port br-int vhu5f2c0e1a-7b -- set Interface vhu5f2c0e1a-7b ")
    assert kind in line
    assert line.endswith(" -- set Interface vhu5f2c0e1a-7b mtu_request=1450")
    assert list(shell_lines(plan(wiring, NOTHING))) == ["ovs-vsctl --if-exists del-port vhu5f2c0e1a-7b"]


def test_a_vhost_user_port_is_changed_in_place_and_keeps_the_options_of_others() -> None:
    lines = {
        "mtu": " ".join(switch_words(Update(replace(VHOST_USER, mtu=9000), VHOST_USER))),
        "unset": " ".join(switch_words(Update(VHOST_USER, replace(VHOST_USER, mtu=0)))),
        "again": " ".join(switch_words(Update(replace(VHOST_USER, realized=False), VHOST_USER))),
        "moved": " ".join(switch_words(Update(replace(VHOST_USER, socket_as_configured=False), VHOST_USER))),
    }
    kept = f'-- set Interface {VHOST_USER.name} type="dpdkvhostuserclient"'
    path = f'options:vhost-server-path="/var/run/openvswitch/{VHOST_USER.name}"'
    assert lines == {
        "mtu": f"-- set Interface {VHOST_USER.name} mtu_request=1500",
        "unset": f"-- set Interface {VHOST_USER.name} mtu_request=[]",
        "again": f"{kept} {path}",
        "moved": f"{kept} {path}",
    }
    assert "mtu_request" not in switch_words(Create(replace(VHOST_USER, mtu=None)))
