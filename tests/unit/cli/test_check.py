from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from hybridvif import Bridge, ForeignObject, ManagedTap, Port, RecordingHost, Tap, Veth
from hybridvif.cli.commands import list as listing
from hybridvif.cli.commands.check import answer_of
from hybridvif.cli.output import topology
from hybridvif.model.errors import InvalidInput
from hybridvif.model.parts import NativePort, OvsPort, Part, VhostUserPort, attributes_of
from hybridvif.model.state import HostState, LinkFact, Observed
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
    asked,
    plugged,
    ports_of,
    row_of,
    text_of,
)
from tests.support.strategies import REASONS

WHOLE = asked(mac=MAC, instance_id=VM, interface_id="", bridge="br-int", mtu=1450)
OPEN = ["mac", "instance_id", "interface_id", "bridge", "mtu", "call_iptables", "create_tap"]


def drifted(attribute: str, value: object) -> RecordingHost:
    host = plugged(PORT)
    part: Any = row_of(host) if attribute in attributes_of(OvsPort) else host.state.links[QVB]
    host.state = host.state.with_parts(replace(part, **{attribute: value}))
    return host


def test_check_with_all_fields_of_a_correct_port_is_in_order() -> None:
    answer = answer_of([WHOLE], plugged(PORT))
    assert text_of(answer) == f"{ID}  in order"
    assert answer.exit_code == 0
    assert answer.document["in_order"] is True
    assert ports_of(answer)[0]["unchecked"] == []


def test_check_of_all_ports_has_one_exit_code_and_a_summary() -> None:
    host = plugged(PORT, OTHER)
    answer = answer_of(None, host)
    assert text_of(answer).splitlines()[-1] == "2 ports: 2 in order, 0 drift, 0 refused, 0 busy, 0 warnings."
    assert (answer.exit_code, answer.document["in_order"]) == (0, True)
    host.state = host.state.with_parts(replace(row_of(host), iface_status=""))
    answer = answer_of(None, host)
    assert (answer.exit_code, answer.document["in_order"]) == (3, False)
    assert answer.document["summary"] == {"in_order": 1, "drift": 1, "refused": 0, "busy": 0, "warnings": 0}
    assert [port["key"] for port in ports_of(answer)] == [ID[:11], OTHER_ID[:11]]
    host.state = host.state.with_parts(ForeignObject(name=OTHER.names.bridge, what="a bond", alias=""))
    answer = answer_of(None, host)
    assert text_of(answer).splitlines()[-1] == "2 ports: 0 in order, 1 drift, 1 refused, 0 busy, 0 warnings."
    assert answer.exit_code == 6


def test_check_of_all_ports_of_an_empty_host_is_in_order() -> None:
    answer = answer_of(None, RecordingHost())
    assert (text_of(answer), answer.exit_code) == ("0 ports: 0 in order, 0 drift, 0 refused, 0 busy, 0 warnings.", 0)


def test_check_of_all_ports_names_an_unknown_port_by_its_key() -> None:
    host = plugged(PORT)
    bridge, veth = host.state.links[QBR], host.state.links[QVB]
    assert isinstance(bridge, Bridge)
    assert isinstance(veth, Veth)
    links = (replace(bridge, alias=""), replace(veth, alias="", peer_alias=""))
    host.state = HostState().with_parts(*links)
    answer = answer_of(None, host)
    assert text_of(answer).splitlines()[0] == f"{ID[:11]}...  DRIFT"
    assert "  its id and mac and instance_id cannot be inferred; give PORT and --mac and --instance" in text_of(answer)
    (port,) = ports_of(answer)
    assert (port["port"], port["key"]) == (None, ID[:11])
    host.state = plugged(PORT).state.with_parts(*links, replace(row_of(plugged(PORT)), iface_id=OTHER_ID))
    answer = answer_of(None, host)
    assert (ports_of(answer)[0]["port"], answer.exit_code) == (None, 6)
    (failure,) = answer.failures
    assert failure.message.startswith(f"port {ID[:11]}...: its row has the iface-id {OTHER_ID}")
    assert "its port id is unknown; plug it with all its options" in failure.message
    # The id that stands for the unknown one is never shown.
    assert "0000-0000-0000" not in json.dumps(answer.document)
    host = RecordingHost(HostState().with_parts(*links), switches={})
    answer = answer_of(None, host)
    assert answer.exit_code == 5
    assert answer.failures[0].message.startswith(f"port {ID[:11]}...: integration bridge br-int does not exist")
    assert "0000-0000-0000" not in json.dumps(answer.document)


def test_check_reports_omitted_fields_as_unchecked() -> None:
    answer = answer_of([asked()], plugged(PORT))
    assert text_of(answer).splitlines() == [
        f"{ID}  in order as far as checked",
        "  not checked: mac, instance_id, interface_id, bridge, mtu, call_iptables, create_tap",
    ]
    assert answer.exit_code == 0
    assert ports_of(answer)[0]["unchecked"] == OPEN


def test_check_finds_a_wrong_value_only_if_the_field_is_given() -> None:
    host = drifted("attached_mac", "fa:16:3e:00:00:01")
    assert answer_of([asked()], host).exit_code == 0
    answer = answer_of([asked(mac=MAC)], host)
    assert answer.exit_code == 3
    assert f"  {QVO}: attached-mac fa:16:3e:00:00:01 -> {MAC}" in text_of(answer)


UNCOMPARED = ("peer", "isolated", "qos_type", "datapath_type", "nf_call_iptables", "nf_call_ip6tables")
"""Attributes that a port without explicit values does not change."""


@pytest.mark.parametrize(
    ("kind", "attribute"),
    [key for key in REASONS if key[1] not in UNCOMPARED and key[0] not in (Tap, ManagedTap, NativePort)],
    ids=lambda x: getattr(x, "kind", x),
)
def test_check_covers_every_attribute_with_reason(kind: type[Part], attribute: str) -> None:
    more: dict[str, Any] = {"vhostuser_mode": "server"} if kind is VhostUserPort else {}
    host = plugged(replace(PORT, **more))
    part: Any = next(part for part in host.state if isinstance(part, kind))
    value = getattr(part, attribute)
    wrong = (not value) if isinstance(value, bool) else value + 7 if isinstance(value, int) else "wrong"
    if attribute == "master":
        wrong = ""
    # A socket can be put right only while the switch has not taken the port.
    not_taken = {"realized": False} if attribute == "socket_as_configured" else {}
    host.state = host.state.with_parts(replace(part, **{attribute: wrong}, **not_taken))
    answer = answer_of([replace(WHOLE, fields={**WHOLE.fields, **more})], host, reasons=True)
    assert answer.exit_code == 3
    (port,) = ports_of(answer)
    found = {drift["attribute"] for drift in port["drift"]}
    assert found == {attribute, *not_taken}
    assert str(REASONS[kind, attribute]) in text_of(answer)
    assert host.steps == []
    json.dumps(answer.document)


def test_create_tap_option_makes_a_vhost_user_port_a_hybrid_port() -> None:
    host = plugged(replace(PORT, vhostuser_mode="server"))
    assert answer_of([asked()], host).exit_code == 0
    (port,) = ports_of(answer_of([replace(WHOLE, fields={**WHOLE.fields, "create_tap": True})], host))
    assert {drift["kind"] for drift in port["drift"]} >= {"made-tap", "ovs-port", "vhost-user-port"}


def test_cleared_id_is_drift_with_unknown_desired_value() -> None:
    answer = answer_of([asked()], drifted("attached_mac", ""))
    assert answer.exit_code == 3
    assert f"  {QVO}: attached-mac none -> ?" in text_of(answer)
    assert ports_of(answer)[0]["drift"][0]["after"] == "?"


def test_missing_port_with_all_fields_is_drift() -> None:
    answer = answer_of([asked(mac=MAC, instance_id=VM)], RecordingHost())
    assert answer.exit_code == 3
    assert text_of(answer).splitlines() == [
        f"{ID}  DRIFT",
        f"  Linux bridge {QBR} is missing",
        f"  veth pair {QVB} is missing",
        f"  OVS port {QVO} is missing",
        "  not checked: interface_id, bridge, mtu, call_iptables, create_tap",
    ]
    assert [drift["attribute"] for drift in ports_of(answer)[0]["drift"]] == [None] * 3


def test_missing_port_without_required_fields_is_an_error() -> None:
    with pytest.raises(InvalidInput, match=f"port {ID} is not plugged here.*give --mac and --instance"):
        answer_of([asked()], RecordingHost())


def test_links_without_a_row_are_drift() -> None:
    host = plugged(PORT)
    host.state = host.state.without(host.state.ports[QVO])
    answer = answer_of([asked()], host)
    assert answer.exit_code == 3
    assert f"OVS port {QVO} is missing" in text_of(answer)


def test_drift_of_a_row_without_links_lists_missing_parts_first() -> None:
    host = plugged(PORT)
    host.state = host.state.without(host.state.links[QVB]).without(host.state.links[QBR])
    host.state = host.state.with_parts(replace(row_of(host), realized=False))
    lines = text_of(answer_of([asked()], host)).splitlines()
    assert lines[1:4] == [
        f"  Linux bridge {QBR} is missing",
        f"  veth pair {QVB} is missing",
        f"  {QVO}: not taken by ovs-vswitchd -> taken by ovs-vswitchd",
    ]


def test_check_of_a_port_with_colliding_names_is_refused() -> None:
    answer = answer_of([asked(TWIN_ID)], plugged(PORT))
    assert answer.exit_code == 6
    assert answer.failures[0].code == "name-collision"
    assert ID in answer.failures[0].message
    assert "plug would refuse it" in text_of(answer)


def test_row_of_another_port_is_not_taken_for_an_interface_id() -> None:
    host = plugged(PORT)
    host.state = host.state.without(host.state.links[QVB]).without(host.state.links[QBR])
    assert answer_of([asked(TWIN_ID)], host).failures[0].code == "name-collision"


def test_interface_id_is_inferred_from_the_row() -> None:
    port = Port(id=ID, mac=MAC, instance_id=VM, interface_id=OTHER_ID)
    answer = answer_of([asked()], plugged(port))
    assert answer.exit_code == 0


def test_check_with_one_drifted_port_exits_with_3() -> None:
    host = plugged(PORT, OTHER)
    host.state = host.state.with_parts(replace(row_of(host, OTHER), vm_uuid=""))
    answer = answer_of([asked(), asked(OTHER_ID, instance_id=VM)], host)
    assert answer.exit_code == 3
    assert [port["in_order"] for port in ports_of(answer)] == [True, False]
    assert [row["attribute"] for row in answer.rows] == ["vm_uuid"]


class WithoutIpv6(RecordingHost):
    """A host whose kernel has no IPv6."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        state, facts = super().observe(names, deadline)
        return Observed(state, replace(facts, unchecked=(f"{QBR}: disable_ipv6",)))


def test_attributes_missing_in_the_kernel_are_unchecked() -> None:
    host = WithoutIpv6(plugged(PORT).state)
    assert f"  not checked: {QBR}: disable_ipv6" in text_of(answer_of([WHOLE], host))


@pytest.mark.parametrize("is_busy", [False, True])
def test_busy_port_has_no_warning(is_busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion takes the tap out of its bridge. The remedy of `tap-outside` would undo that."""
    host = drifted("up", value=False)
    seen = host.observe(None, 0.0)
    links = {TAP: LinkFact(ifindex=7, kind="tun", up=True, carrier=True, master="", mtu=1450)}
    real: Any = SimpleNamespace(
        settings=host.settings,
        observe=lambda *_: Observed(seen.state, replace(seen.facts, simulated=False, links=links)),
    )
    monkeypatch.setattr("hybridvif.engine.locks.busy", lambda keys, _: keys if is_busy else set())
    monkeypatch.setattr(topology, "flows_that_drop", lambda *_: ({}, []))
    for answer in (listing.list_of(real), answer_of([asked()], real)):
        assert len(answer.document["warnings"]) == (not is_busy)  # type: ignore[arg-type]


def test_warning_never_names_the_placeholder_of_an_unknown_id() -> None:
    host = plugged(PORT)
    bridge: Any = host.state.links[QBR]
    host.state = HostState().with_parts(replace(bridge, alias=""), Tap(name=TAP, master=""))
    host.simulation.carrier = {TAP}
    answer = answer_of(None, host)
    assert [port["port"] for port in ports_of(answer)] == [None]
    assert "-0000-000000000000" not in json.dumps(answer.document)
