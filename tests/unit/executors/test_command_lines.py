"""command_lines: the commands of the hybrid plug in their order, and the shell script of a plan."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hybridvif import Port, desired_state, plan
from hybridvif.executors.command_lines import link_lines, script_lines, switch_words
from hybridvif.model.parts import PLACEHOLDER_TYPE, Bridge, IvsPort, OvsPort, Tap
from hybridvif.model.port import VifType
from hybridvif.model.settings import Settings
from hybridvif.model.state import NOTHING, Create, HostState, Update
from tests.support.strategies import VHOST_USER, the

PORT = Port(
    id="5f2c0e1a-7b00-4c00-8000-000000000001",
    mac="fa:16:3e:aa:bb:cc",
    instance_id="0b1c2d3e-0000-4000-8000-000000000002",
    mtu=1450,
)
DESIRED = desired_state(PORT)
QBR, QVB, QVO = PORT.names.bridge, PORT.names.bridge_end, PORT.names.switch_end
ROW = the(OvsPort, DESIRED)
QOS_DELETION = (
    "for row in $(ovs-vsctl --bare --columns=_uuid find QoS external_ids:id=561dcc26-60f5-5ed1-a8e3-d076fcc18610); do "
    '[ "$(ovs-vsctl --bare --columns=name find Port qos=$row)" ] || ovs-vsctl --if-exists destroy QoS $row; done'
)
TRUNKS = Settings(
    integration_bridges=("br-int", "tbr-*"), create_bridges=("br-int", "tbr-*"), remove_trunk_bridges=True
)

RECIPE = [
    rf"brctl addbr {QBR}",
    rf"brctl setfd {QBR} 0",
    rf"brctl stp {QBR} off",
    rf".*{QBR}.*mcast_snooping 0",
    rf"sysctl .*{QBR}/disable_ipv6=1",
    rf"ip link set dev {QBR} mtu 1450 .*",
    rf"sysctl .*{QBR}/rp_filter=1",
    rf"ip link set dev {QBR} up",
    rf"ip link add {QVB} type veth peer name {QVO}",
    rf"ip link set dev {QVB} promisc on mtu 1450\b.*",
    rf"ip link set dev {QVO} promisc on mtu 1450\b.*",
    rf"brctl addif {QBR} {QVB}",
    rf"sysctl .*{QVO}/disable_ipv6=1",
    rf"sysctl .*{QVB}/disable_ipv6=1",
    rf"ip link set dev {QVO} alias .*",
    rf"sysctl .*{QVO}/rp_filter=1",
    rf"ip link set dev {QVO} up",
    rf"ip link set dev {QVB} alias .*",
    rf"sysctl .*{QVB}/rp_filter=1",
    rf"ip link set dev {QVB} up",
    rf"ovs-vsctl add-port br-int {QVO} -- set Interface {QVO} .*iface-id.*iface-status.*attached-mac.*vm-uuid.*",
]


def test_plug_runs_the_commands_of_the_recipe_in_order() -> None:
    lines = list(script_lines([plan(NOTHING, DESIRED)]))
    position = -1
    for wanted in RECIPE:
        later = [place for place, line in enumerate(lines) if place > position and re.fullmatch(wanted, line)]
        assert later, f"{wanted} does not come after {lines[position]}"
        position = later[0]


def test_isolated_port_is_created_in_the_dead_vlan() -> None:
    born = desired_state(replace(PORT, isolate=True))
    (line,) = [line for line in script_lines([plan(NOTHING, born)]) if "ovs-vsctl" in line]
    assert f" -- set Port {QVO} tag=4095 vlan_mode=trunk trunks=4095" in line
    drifted = DESIRED.with_parts(replace(ROW, vm_uuid=""))
    assert not [line for line in script_lines([plan(drifted, born)]) if "4095" in line]


def test_qos_is_created_in_the_transaction_of_the_port() -> None:
    born = desired_state(replace(PORT, isolate=True, qos_type="linux-noop"))
    stale, line = [line for line in script_lines([plan(NOTHING, born)]) if "ovs-vsctl" in line]
    assert stale == QOS_DELETION
    assert f"--id=@{QVO} create QoS type=linux-noop" in line
    assert line.endswith(f"-- set Port {QVO} tag=4095 vlan_mode=trunk trunks=4095 qos=@{QVO}")


def test_unplug_reverses_the_plug() -> None:
    assert list(script_lines([plan(DESIRED, NOTHING)])) == [
        f"ovs-vsctl --if-exists del-port {QVO}",
        QOS_DELETION,
        f"ip link delete {QVB} || true",
        f"ip link delete {QBR} || true",
    ]


def test_missing_bridge_is_created_with_the_first_port_that_needs_it() -> None:
    ports = [replace(PORT, id=f"{number}f2c0e1a-7b00-4c00-8000-000000000001", bridge="tbr-1") for number in (1, 2)]
    ports[0] = replace(ports[0], datapath_type="netdev")
    plans = [plan(NOTHING, desired_state(port)) for port in ports]
    first, second = [line for line in script_lines(plans, ["br-int"], TRUNKS) if "ovs-vsctl" in line]
    made = "ovs-vsctl add-br tbr-1 -- set Bridge tbr-1 datapath_type=netdev -- add-port tbr-1"
    assert first.startswith(f"{made} {ports[0].names.switch_end} ")
    assert second.startswith(f"ovs-vsctl add-port tbr-1 {ports[1].names.switch_end} ")
    for bridges, settings in (["br-int", "tbr-1"], TRUNKS), (["br-int"], Settings()):
        assert not [line for line in script_lines(plans, bridges, settings) if "add-br" in line]


def test_empty_trunk_bridge_is_removed_if_configured() -> None:
    there = plan(desired_state(replace(PORT, bridge="tbr-1")), NOTHING)
    goes = (
        '[ "$(for port in $(ovs-vsctl list-ports tbr-1); do case $port in tpt-*|spt-*) '
        '[ "$(ovs-vsctl get Port $port interfaces)" = "[$(ovs-vsctl get Interface $port _uuid)]" ] && '
        '[ "$(ovs-vsctl get Interface $port type)" = patch ] || echo $port;; *) echo $port;; esac; done)" ] || '
        "ovs-vsctl --if-exists del-br tbr-1"
    )
    lines = list(script_lines([there], ["tbr-1"], TRUNKS))
    assert (lines[1], lines[-1]) == (QOS_DELETION, goes)
    assert goes not in script_lines([there], ["tbr-1"])
    assert not [line for line in script_lines([plan(DESIRED, NOTHING)], ["br-int"], TRUNKS) if "del-br" in line]


def test_placeholder_and_restored_row_are_two_transactions() -> None:
    gone = HostState({}, {QVO: replace(ROW, realized=False)})
    transactions = [line for line in script_lines([plan(gone, DESIRED)]) if line.startswith("ovs-vsctl")]
    assert [PLACEHOLDER_TYPE in line for line in transactions] == [True, False]


def test_port_in_sync_needs_no_line() -> None:
    assert list(script_lines([plan(DESIRED, DESIRED)])) == []


def test_ivs_port_is_added_by_ivs_ctl() -> None:
    lines = list(script_lines([plan(NOTHING, desired_state(replace(PORT, vif_type=VifType.IVS)))]))
    assert lines[-1] == f"ivs-ctl add-port {QVO}"


def test_row_in_another_bridge_is_moved_and_not_deleted() -> None:
    words = switch_words(Update(replace(ROW, bridge="br-old"), ROW))
    assert "del-port" not in words
    assert words[:5] == ["--", f"--id=@{QVO}", "get", "Port", QVO]
    assert words[5:] == [
        *("--", "remove", "Bridge", "br-old", "ports", f"@{QVO}"),
        *("--", "add", "Bridge", "br-int", "ports", f"@{QVO}"),
    ]


@pytest.mark.parametrize("step", [Create(Tap(name=PORT.names.tap, master="")), Create(IvsPort(name=QVO))])
def test_step_without_recipe_is_an_error(step: Create) -> None:
    for recipe in (link_lines, switch_words):
        with pytest.raises(ValueError, match="no recipe"):
            recipe(step)


def test_update_writes_only_differences() -> None:
    bridge = DESIRED.links[QBR]
    assert isinstance(bridge, Bridge)
    lines = [str(line) for line in link_lines(Update(replace(bridge, ageing=30_000), bridge))]
    assert lines == [f"brctl setageing {QBR} 0"]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("client", "'type=\"dpdkvhostuser\"' 'options={}'"),
        ("server", '\'type="dpdkvhostuserclient"\' \'options={"vhost-server-path"="/run/s/vhu5f2c0e1a-7b"}\''),
    ],
)
def test_vhost_user_port_is_created_in_one_line(mode: str, kind: str) -> None:
    wiring = desired_state(replace(PORT, vhostuser_mode=mode))
    (line,) = script_lines([plan(NOTHING, wiring)], settings=Settings(vhost_socket_dir="/run/s"))
    assert line.startswith("ovs-vsctl add-port br-int vhu5f2c0e1a-7b -- set Interface vhu5f2c0e1a-7b ")
    assert kind in line
    assert line.endswith(f"{kind} mtu_request=1450")
    gone, qos_goes = script_lines([plan(wiring, NOTHING)])
    assert gone == "ovs-vsctl --if-exists del-port vhu5f2c0e1a-7b"
    assert "find QoS" in qos_goes


def test_vhost_user_port_is_changed_in_place_and_keeps_other_options() -> None:
    lines = {
        "mtu": " ".join(switch_words(Update(replace(VHOST_USER, mtu_request=9000), VHOST_USER))),
        "unset": " ".join(switch_words(Update(VHOST_USER, replace(VHOST_USER, mtu_request=0)))),
        "again": " ".join(switch_words(Update(replace(VHOST_USER, realized=False), VHOST_USER))),
        "moved": " ".join(switch_words(Update(replace(VHOST_USER, socket_as_configured=False), VHOST_USER))),
    }
    own = f"Interface {VHOST_USER.name} options"
    path = f'"vhost-server-path"="/var/run/openvswitch/{VHOST_USER.name}"'
    kind = f'set Interface {VHOST_USER.name} type="dpdkvhostuserclient"'
    again = f'-- remove {own} "vhost-server-path" -- add {own} {path} -- {kind}'
    assert lines == {
        "mtu": f"-- set Interface {VHOST_USER.name} mtu_request=1500",
        "unset": f"-- set Interface {VHOST_USER.name} mtu_request=[]",
        "again": again,
        "moved": again,
    }
    assert "mtu_request" not in switch_words(Create(replace(VHOST_USER, mtu_request=None)))
