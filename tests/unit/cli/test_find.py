"""Ports by the names that people have at hand: a device, 11 characters, an instance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hybridvif import Port, RecordingHost, cli, desired_state
from hybridvif.cli.output.topology import find_ports
from hybridvif.cli.ports import PortRequest, found_ports
from hybridvif.model.errors import InvalidInput, NameCollision
from hybridvif.model.parts import Veth
from tests.support.answers import ID, MAC, OTHER, OTHER_ID, PORT, QVB, QVO, TAP, TWIN_ID, VM, asked, plugged

ALONE = Port(id="a3f00000-0000-4000-8000-000000000003", mac="fa:16:3e:00:00:03", instance_id=OTHER_ID)


def found(*words: str, host: RecordingHost | None = None, **rules: bool) -> list[str]:
    host = host or plugged(PORT, OTHER)
    return [request.port_id for request in find_ports([asked(word) for word in words], host, **rules)]


@pytest.mark.parametrize("word", [*PORT.names, ID[:11], ID])
def test_port_is_found_by_every_name_of_it(word: str) -> None:
    assert found(word, single=True, exist=True, changes=True) == [ID]


def test_instance_id_stands_for_all_of_its_ports() -> None:
    assert found(VM, changes=True) == [ID, OTHER_ID]
    assert found(VM, TAP) == [ID, OTHER_ID]
    with pytest.raises(InvalidInput, match=f"instance {VM} has 2 ports; name one: {ID}, {OTHER_ID}"):
        found(VM, single=True)


def test_vhost_user_and_row_only_ports_are_found() -> None:
    port = replace(PORT, vhostuser_mode="server")
    assert found(port.names.vhost_user, host=plugged(port)) == [ID]
    host = plugged(PORT)
    host.state = host.state.without(host.state.links[QVB])
    assert found(QVO, host=host) == [ID]


@pytest.mark.parametrize(
    ("word", "meant"),
    [("qvo5f2c0e1a-7c", QVO), ("tap5f2c0e1-7b", TAP), (f"6{ID[1:]}", ID), ("5f2c0e1a-7d", "5f2c0e1a-7b")],
)
def test_unknown_name_suggests_the_similar_one(word: str, meant: str) -> None:
    with pytest.raises(InvalidInput, match=rf"{word}: no port of this host .*; did you mean {meant}\?$"):
        found(word, exist=True)


def test_unknown_name_on_an_empty_host_leads_to_list() -> None:
    with pytest.raises(InvalidInput, match="no port of this host has this name or id; see: hybridvif list"):
        found(TAP, host=RecordingHost())


def test_unknown_id_stays_as_it_is_unless_the_port_must_exist() -> None:
    assert found(TWIN_ID, ALONE.id, changes=True) == [TWIN_ID, ALONE.id]
    with pytest.raises(InvalidInput, match="no port of this host"):
        found(ALONE.id, exist=True)
    with pytest.raises(NameCollision, match=f"{TWIN_ID} is not plugged here: its device names are those of port {ID}"):
        found(TWIN_ID, exist=True)


def test_name_of_two_ports_is_refused_for_a_change_only() -> None:
    host = plugged(PORT)
    veth: Any = host.state.links[QVB]
    assert isinstance(veth, Veth)
    host.state = host.state.with_parts(replace(veth, peer_alias=TWIN_ID))
    with pytest.raises(NameCollision, match=f"{QVO}: it may name several ports .*{ID}, {TWIN_ID}"):
        found(QVO, host=host, changes=True)
    with pytest.raises(NameCollision, match="several ports"):
        found(VM, host=host, changes=True)
    assert found(QVO, host=host) == [ID]
    assert found(ID, TWIN_ID, host=host, changes=True) == [ID, TWIN_ID]


def test_id_of_a_port_and_of_an_instance_is_refused_for_a_change() -> None:
    host = plugged(OTHER, ALONE)
    with pytest.raises(NameCollision, match=f"several ports .{OTHER_ID}, {ALONE.id}"):
        found(OTHER_ID, host=host, changes=True)
    assert found(OTHER_ID, host=host) == [OTHER_ID]


def test_name_without_a_full_id_asks_for_the_id() -> None:
    bridge: Any = desired_state(PORT).links[PORT.names.bridge]
    host = RecordingHost()
    host.state = host.state.with_parts(replace(bridge, alias=""))
    with pytest.raises(InvalidInput, match=f"{TAP}: no part of {QVO} has its full port id; give this id"):
        found(TAP, host=host)
    assert found(ID, host=host, exist=True) == [ID]


def test_name_keeps_its_fields_and_an_entry_of_a_file_is_not_looked_up() -> None:
    host = plugged(PORT)
    (request,) = find_ports([asked(TAP, mtu=9000)], host)
    assert request.fields == {"id": ID, "mtu": 9000}
    entry = PortRequest(fields={"id": VM}, where="ports.yaml: entry 1")
    assert found_ports([entry, asked(OTHER_ID, mac=MAC, instance_id=VM)], host)[0].port_id == VM


@pytest.mark.parametrize(
    "words",
    [
        ["plug", TAP, "--mac", "x", "--instance", VM],
        ["check", ID[:11], "--mtu", "67"],
        ["plug", TAP],
        ["unplug", TAP, TAP],
        ["show", "eth0"],
    ],
)
def test_invalid_fields_of_a_named_port_come_first(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
