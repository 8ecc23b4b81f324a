from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hybridvif import Bridge, ForeignObject, Port, RecordingHost, Tap, Veth, desired_state
from hybridvif.cli.commands import check, list as listing, show
from hybridvif.cli.commands.show import dot, tree
from hybridvif.cli.output.topology import Condition, PluggedPort, fix_of, plugged_ports
from hybridvif.cli.ports import PortRequest, found_ids
from hybridvif.cli.terminal import Paint
from hybridvif.model.errors import InvalidInput, NameCollision
from hybridvif.model.parts import OvsPort, VhostUserPort
from hybridvif.model.state import Facts, HostState, LinkFact, Observed, PortFact
from tests.support.answers import (
    ID,
    MAC,
    OTHER,
    OTHER_ID,
    PORT,
    QBR,
    QVB,
    QVO,
    TAP,
    TWIN_ID,
    VM,
    plugged,
    ports_of,
    row_of,
    text_of,
)


def only(host: RecordingHost) -> PluggedPort:
    (port,) = plugged_ports(host.observe(None, 0.0))
    return port


def veth_of(host: RecordingHost) -> Veth:
    veth = host.state.links[QVB]
    assert isinstance(veth, Veth)
    return veth


def unmark(host: RecordingHost) -> None:
    """Remove the aliases, which os-vif and Nova never set."""
    bridge = host.state.links[QBR]
    assert isinstance(bridge, Bridge)
    host.state = host.state.with_parts(replace(bridge, alias=""), replace(veth_of(host), alias="", peer_alias=""))


def without(host: RecordingHost, *names: str) -> RecordingHost:
    for name in names:
        part = host.state.links.get(name) or host.state.ports[name]
        host.state = host.state.without(part)
    return host


def test_show_draws_the_chain_from_bridge_to_tap() -> None:
    host = plugged(PORT, OTHER)
    host.state = host.state.with_parts(Tap(name=TAP, master=QBR))
    host.simulation.carrier.add(TAP)
    head = f"+-- {QVO}  ofport 1  iface-id {ID}"
    assert text_of(show.answer_of(host)).splitlines() == [
        "br-int (simulated, netdev)",
        f"{head}  in order",
        f"|   +-- = {QVB}  mtu 1450",
        f"|       +-- {QBR}",
        f"|           +-- {TAP}  up",
        f"+-- qvo91d3aa02-41  ofport 1  iface-id {OTHER_ID}  in order",
        "    +-- = qvb91d3aa02-41  mtu 1500",
        "        +-- qbr91d3aa02-41",
    ]


def test_show_draws_an_unused_tap_without_carrier() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(Tap(name=TAP, master=QBR))
    assert f"+-- {TAP}  no carrier" in text_of(show.answer_of(host))


def test_cut_off_vm_is_in_order_with_a_warning() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(Tap(name=TAP, master=""))
    host.carrier = {TAP}
    sentence = (
        f"port {ID}: its VM runs, and {TAP} is in no bridge and not in {QBR}, so no packet passes; "
        f"put it back: ip link set {TAP} master {QBR}"
    )
    listed, shown = listing.list_of(host), show.answer_of(host)
    checked = check.answer_of([PortRequest(fields={"id": ID})], host)
    for answer in (listed, shown, checked):
        assert answer.warnings == answer.document["warnings"] == [sentence]
        assert ports_of(answer)[0]["warnings"] == [{"code": "tap-outside", "text": sentence}]
        assert answer.exit_code == 0
    assert "  in order, but tap-outside" in text_of(shown)
    assert "  in order as far as checked, but tap-outside" in text_of(checked)
    assert ports_of(listed)[0]["state"] == "in-order"


def test_show_prints_drift_and_fix() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(replace(veth_of(host), master="", mtu=1400))
    text = text_of(show.answer_of(host, options=["--config-file=/a b"]))
    assert f"DRIFT: {QBR}: mtu 1450 -> ? (and 3 more: hybridvif check)" in text
    assert f"+-- {QBR}  apart: {QVB} is not in it" in text
    assert f"fix: hybridvif '--config-file=/a b' plug {ID} --mac {MAC} --instance {VM} --mtu BYTES" in text


def test_fix_of_a_port_parses_to_the_same_port() -> None:
    port = Port(id=ID, mac=MAC, instance_id=VM, interface_id=OTHER_ID, mtu=9000)
    host = plugged(port)
    host.state = host.state.with_parts(replace(veth_of(host), promisc=False))
    fix = fix_of(only(host))
    assert fix == [
        "hybridvif",
        "plug",
        ID,
        *f"--mac {MAC} --instance {VM} --interface-id {OTHER_ID} --mtu 9000".split(),
    ]


@pytest.mark.parametrize("running", [False, True], ids=["no VM", "a VM"])
@pytest.mark.parametrize("gone", [[QBR], [QVB], [QVO], [QBR, QVB], [QVB, QVO], [QBR, QVO]])
def test_incomplete_port_is_half_with_missing_parts(gone: list[str], running: bool) -> None:
    """It is an orphan if it has our ownership tag and no VM. A row alone has no tag."""
    host = without(plugged(PORT), *gone)
    if running:
        host.state = host.state.with_parts(Tap(name=TAP, master=""))
        host.simulation.carrier = {TAP}
    port = only(host)
    text = text_of(show.answer_of(host))
    assert port.condition is (Condition.HALF if running or gone == [QBR, QVB] else Condition.ORPHAN)
    assert port.port_id == ID
    assert "DRIFT: " in text
    assert f"{gone[0]} is missing" in text
    assert "fix: hybridvif plug " in text


def test_links_of_an_unknown_port_are_shown_by_key() -> None:
    host = without(plugged(PORT), QVO)
    unmark(host)
    port = only(host)
    assert port.port_id is None
    assert port.key == "5f2c0e1a-7b"
    text = text_of(show.answer_of(host))
    assert "port 5f2c0e1a-7b..." in text
    assert "fix: hybridvif plug PORT --mac MAC --instance UUID --mtu 1450" in text
    assert text_of(show.answer_of(host)).startswith(
        "br-int (simulated, netdev)\n    (no ports)\nno port of an Open vSwitch"
    )


def test_id_of_a_port_of_os_vif_comes_from_the_row() -> None:
    host = plugged(PORT)
    unmark(host)
    assert (only(host).port_id, only(host).condition) == (ID, Condition.DRIFT)


def test_port_of_os_vif_with_own_interface_id_is_one_port() -> None:
    host = plugged(PORT)
    unmark(host)
    host.state = host.state.with_parts(replace(row_of(host), iface_id=OTHER_ID))
    assert (only(host).port_id, only(host).condition, fix_of(only(host))) == (None, Condition.CONFLICT, None)
    assert only(host).conflict == (
        f"its row has the iface-id {OTHER_ID}, which does not match its device names, so its port id is unknown; "
        "plug it with all its options, including --interface-id"
    )


def test_two_ports_with_one_name_are_a_conflict() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(replace(veth_of(host), peer_alias=TWIN_ID))
    port = only(host)
    assert port.condition is Condition.CONFLICT
    assert fix_of(port) is None
    text = text_of(show.answer_of(host))
    assert f"CONFLICT: port {ID}: its devices contradict each other" in text
    assert f"run: ip link set {QVO} alias {ID}" in text


def test_show_of_a_colliding_id_draws_no_other_port() -> None:
    host = plugged(PORT)
    with pytest.raises(NameCollision, match=f"port {TWIN_ID} is not plugged here: .* see: hybridvif show {ID}"):
        found_ids([PortRequest(fields={"id": TWIN_ID})], host, single=True, exist=True)
    host.state = host.state.with_parts(replace(veth_of(host), peer_alias=TWIN_ID))
    assert "CONFLICT" in text_of(
        show.answer_of(host, *found_ids([PortRequest(fields={"id": TWIN_ID})], host, single=True, exist=True))
    )


def test_conflict_of_an_unknown_port_has_no_made_up_id() -> None:
    host = without(plugged(PORT), QVB, QVO)
    bridge = host.state.links[QBR]
    assert isinstance(bridge, Bridge)
    host.state = host.state.with_parts(replace(bridge, alias=OTHER_ID))
    port = only(host)
    assert (port.port_id, port.condition) == (None, Condition.CONFLICT)
    assert "-0000-0000-" not in port.conflict
    assert f"run: ip link set {QBR} alias PORT" in port.conflict


def test_foreign_object_is_a_conflict_and_drawn() -> None:
    host = RecordingHost(HostState({QVB: ForeignObject(name=QVB, what="a dummy link")}))
    text = text_of(show.answer_of(host))
    assert only(host).condition is Condition.CONFLICT
    assert f"{QVB}  stray: a dummy link" in text


def test_lone_tap_is_not_a_port() -> None:
    row = OvsPort(name=TAP, bridge="br-int", iface_id=ID, iface_status="", attached_mac=MAC, vm_uuid=VM, port_id="")
    host = RecordingHost(HostState({TAP: Tap(name=TAP, master="")}, {TAP: row}))
    assert plugged_ports(host.observe(None, 0.0)) == []


def test_show_prints_facts_of_the_switch() -> None:
    state = desired_state(PORT).with_parts(replace(row_of(plugged(PORT)), realized=False))
    facts = Facts(
        ports={QVO: PortFact(ofport=-1, error="could not open\x1b[2J", tag=4095)},
        members={QBR: ("eth7", QVB)},
        links={"eth7": LinkFact(ifindex=7, kind="", up=False, carrier=False)},
        switches={"br-int": "system"},
    )
    text = "\n".join(tree(plugged_ports(Observed(state, facts)), {"br-int": "system"}, "ovs 3.1.0", Paint(on=False)))
    assert "br-int (ovs 3.1.0, system)" in text
    assert "ofport -1  (could not open\\x1b[2J)  tag 4095 (dead vlan)" in text
    assert "+-- eth7  down  not ours (physical link)" in text


def test_show_reports_a_missing_integration_bridge() -> None:
    host = RecordingHost(switches={})
    assert text_of(show.answer_of(host)) == "br-int (does not exist)\n    (no ports)"


def test_show_accepts_one_port() -> None:
    host = plugged(PORT, OTHER)
    answer = show.answer_of(host, ID)
    assert [port["port"] for port in ports_of(answer)] == [ID]
    assert OTHER_ID not in text_of(answer)
    with pytest.raises(InvalidInput, match="is not plugged here"):
        show.answer_of(RecordingHost(), ID)


def test_show_document_is_complete() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(Tap(name=TAP, master=QBR), replace(row_of(host), attached_mac=""))
    document = show.answer_of(host).document
    (port,) = json.loads(json.dumps(document))["ports"]
    assert (port["port"], port["state"], port["ofport"], port["iface_id"]) == (ID, "drift", 1, ID)
    assert port["names"] == {"bridge": QBR, "bridge_end": QVB, "switch_end": QVO, "tap": TAP, "vhost_user": VHU}
    assert port["members"] == [{"name": TAP, "kind": "tap", "up": True, "carrier": False}]
    assert [(drift["attribute"], drift["after"]) for drift in port["drift"]] == [("attached_mac", "?")]
    assert port["fix"][:5] == ["hybridvif", "plug", ID, "--mac", "MAC"]
    assert document["bridges"] == [{"name": "br-int", "datapath_type": "netdev"}]


def test_graph_of_a_port_has_every_hop() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(Tap(name=TAP, master=QBR), replace(row_of(host), vm_uuid=""))
    ports = plugged_ports(host.observe(None, 0.0))
    assert dot(ports).splitlines() == [
        "graph hybridvif {",
        "    rankdir=LR; node [shape=box];",
        f'    "{QVO}" [color=orange, penwidth=3];',
        f'    "{TAP}" -- "{QBR}";',
        f'    "{QBR}" -- "{QVB}";',
        f'    "{QVB}" -- "{QVO}" [label="mtu 1450"];',
        f'    "{QVO}" -- "br-int" [label="ofport 1"];',
        "}",
    ]


def test_list_has_one_line_per_port() -> None:
    host = without(plugged(PORT, OTHER), QBR)
    answer = listing.list_of(host)
    assert ports_of(answer) == [
        {
            "port": ID,
            "key": "5f2c0e1a-7b",
            "bridge": "br-int",
            "ofport": 1,
            "mac": MAC,
            "mtu": 1450,
            "state": "orphan",
            "warnings": [],
        },
        {
            "port": OTHER_ID,
            "key": "91d3aa02-41",
            "bridge": "br-int",
            "ofport": 1,
            "mac": OTHER.mac,
            "mtu": 1500,
            "state": "in-order",
            "warnings": [],
        },
    ]
    assert [row["port"] for row in listing.list_of(host, ["orphan"]).rows] == [ID]


def test_list_option_has_every_condition() -> None:
    assert {standing.value for standing in Condition} == set(listing.STATES)


def test_every_desired_state_is_in_order() -> None:
    for port in (PORT, OTHER, Port(id=ID, mac=MAC, instance_id=VM, interface_id=OTHER_ID, mtu=68)):
        (seen,) = plugged_ports(Observed(desired_state(port), Facts()))
        assert (seen.condition, seen.port_id, seen.inferred.port) == (Condition.IN_ORDER, port.id, port)


VHU = PORT.names.vhost_user


@pytest.fixture
def vhost_user() -> RecordingHost:
    return plugged(replace(PORT, vhostuser_mode="server"))


def test_show_draws_a_vhost_user_port_without_links(vhost_user: RecordingHost) -> None:
    assert text_of(show.answer_of(vhost_user)).splitlines() == [
        "br-int (simulated, netdev)",
        f"+-- {VHU}  ofport 1  iface-id {ID}  in order",
        "    +-- = dpdkvhostuserclient  mtu 1450",
    ]
    assert only(vhost_user).inferred.port == replace(PORT, vhostuser_mode="server")
    (listed,) = ports_of(listing.list_of(vhost_user))
    assert (listed["port"], listed["bridge"], listed["mtu"], listed["state"]) == (ID, "br-int", 1450, "in-order")
    assert f'"{VHU}" -- "br-int" [label="ofport 1"]' in dot([only(vhost_user)])


def test_fix_of_vhost_user_port_names_its_mode(vhost_user: RecordingHost) -> None:
    row = vhost_user.state.ports[VHU]
    assert isinstance(row, VhostUserPort)
    vhost_user.state = vhost_user.state.with_parts(replace(row, mtu_request=0, socket_as_configured=False))
    port = only(vhost_user)
    assert port.condition is Condition.DRIFT
    assert "--vhostuser-mode server" in " ".join(fix_of(port) or [])
    assert "dpdkvhostuserclient  mtu none" in text_of(show.answer_of(vhost_user))
    assert f'"{VHU}" [color=orange' in dot([port])


@pytest.mark.parametrize("bridge", ["br\x1b[31m", "a name with spaces", "b" * 70_000, "\u2028"])
def test_list_is_readable_with_any_bridge_name(bridge: str) -> None:
    host = plugged(PORT, OTHER)
    host.state = host.state.with_parts(replace(row_of(host), bridge=bridge))
    assert [port["state"] for port in ports_of(listing.list_of(host))] == ["drift", "in-order"]
    drawn = text_of(show.answer_of(host))
    assert all(line.isprintable() for line in drawn.split("\n"))
