from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridvif import Port, RecordingHost, VifType, convert, desired_state, plug_all, unplug_all
from hybridvif.cli.commands import check
from hybridvif.cli.commands.ports import export
from hybridvif.cli.portfile import read_ports
from hybridvif.model.parts import DEAD_VLAN, Bridge, OvsPort
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed, PortFact, merge_states
from tests.support.answers import ID, MAC, OTHER, OTHER_ID, PORT, QBR, QVB, QVO, TWIN_ID, VM, plugged, ports_of

NAMED = replace(OTHER, interface_id="c3a7e900-2000-4c00-8000-000000000003")
TRUNK = "tbr-5f2c0e1a-7"


class DeadVlanHost(RecordingHost):
    """A host whose agent has not wired any port yet."""

    def observe(self, names: Any, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        return Observed(
            seen.state, replace(seen.facts, ports=dict.fromkeys(seen.state.ports, PortFact(1, "", DEAD_VLAN)))
        )


def written(host: RecordingHost, directory: Path) -> list[Port]:
    answer = export(host)
    assert (answer.exit_code, answer.warnings) == (0, [])
    file = directory / "ports.json"
    file.write_text(answer.drawings["text"](), encoding="utf-8")
    return [request.to_port() for request in read_ports(str(file))]


@pytest.mark.parametrize(
    "port",
    [
        PORT,
        NAMED,
        replace(PORT, create_tap=True),
        replace(PORT, call_iptables=True),
        replace(PORT, vhostuser_mode="client"),
        replace(PORT, vhostuser_mode="server"),
    ],
)
def test_exported_file_plugs_the_same_port_again(port: Port, tmp_path: Path) -> None:
    host = plugged(port)
    state = host.state
    ports = written(host, tmp_path)
    assert ports == [port]
    assert check.answer_of(read_ports(str(tmp_path / "ports.json")), host).exit_code == 0
    unplug_all([port.id for port in ports], host)
    assert not list(host.state)
    assert all(report.ok for report in plug_all(ports, host))
    assert host.state == state


def test_entry_has_only_fields_with_a_value_of_their_own() -> None:
    assert ports_of(export(plugged(PORT))) == [
        {"id": ID, "mac": MAC, "instance_id": VM, "mtu": 1450, "bridge": "br-int"}
    ]


def test_port_of_an_empty_host_is_an_empty_list() -> None:
    assert ports_of(export(RecordingHost())) == []
    assert export(RecordingHost()).drawings["text"]() == "[]\n"


def test_only_the_given_ports_are_exported() -> None:
    answer = export(plugged(PORT, OTHER), [OTHER_ID])
    assert ([entry["id"] for entry in ports_of(answer)], answer.warnings) == ([OTHER_ID], [])


def test_port_in_the_dead_vlan_is_exported_as_isolated() -> None:
    host = DeadVlanHost(merge_states([desired_state(PORT), desired_state(replace(OTHER, bridge=TRUNK))]))
    isolated = {entry["id"]: entry.get("isolate") for entry in ports_of(export(host))}
    assert isolated == {ID: True, OTHER_ID: None}


@pytest.mark.parametrize(("kind", "wanted"), [("system", "system"), ("dummy", None)])
def test_bridge_that_plug_may_create_is_exported_with_its_datapath(kind: str, wanted: str | None) -> None:
    host = plugged(PORT)
    assert "datapath_type" not in ports_of(export(host))[0]
    host.switches["br-int"] = kind
    host.settings = Settings(create_bridges=("br-int",))
    assert ports_of(export(host))[0].get("datapath_type") == wanted


def test_native_port_is_exported_with_the_mtu_of_its_tap() -> None:
    host = plugged(replace(PORT, create_tap=True, mtu=1400))
    host.carrier.add(PORT.names.tap)
    assert convert(ID, host, "native").ok
    (entry,) = ports_of(export(host))
    assert entry["mtu"] == 1400


def changed(host: RecordingHost, name: str, **values: Any) -> RecordingHost:
    part: Any = host.state.links.get(name) or host.state.ports[name]
    host.state = host.state.with_parts(replace(part, **values))
    return host


def without_row(host: RecordingHost) -> RecordingHost:
    host.state = host.state.without(host.state.ports[QVO])
    return host


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (without_row(plugged(PORT)), "its mac and instance_id cannot be inferred"),
        (changed(changed(plugged(PORT), QVB, mtu=1300, peer_mtu=1400), QBR, mtu=1500), "its mtu cannot be inferred"),
        (changed(plugged(PORT), QVB, peer_alias=TWIN_ID), TWIN_ID),
        (plugged(Port(id=ID, mac=MAC, instance_id=VM, vif_type=VifType.IVS)), "its mac and instance_id"),
    ],
)
def test_port_that_cannot_be_described_is_left_out_with_the_reason(host: RecordingHost, reason: str) -> None:
    answer = export(host)
    assert answer.exit_code == 3
    assert ports_of(answer) == []
    (warning,) = answer.warnings
    assert warning.startswith(f"not exported: {ID[:11]}...: ")
    assert reason in warning


def test_only_one_firewall_flag_is_no_call_iptables() -> None:
    host = plugged(replace(PORT, call_iptables=True))
    assert isinstance(host.state.links[QBR], Bridge)
    entry: Mapping[str, object] = ports_of(export(changed(host, QBR, nf_call_ip6tables=False)))[0]
    assert "call_iptables" not in entry
    assert isinstance(host.state.ports[QVO], OvsPort)


def test_port_without_its_id_is_exported_by_the_given_id() -> None:
    host = changed(changed(plugged(PORT), QVB, alias="", peer_alias=""), QBR, alias="")
    host = changed(host, QVO, iface_id="zzz")
    assert export(host).exit_code == 3
    answer = export(host, [ID])
    assert [port["id"] for port in ports_of(answer)] == [ID]
    assert answer.exit_code == 0
