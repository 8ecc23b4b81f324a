"""`check` lists exactly the changes of `plug`, for every wrong attribute.

A value inferred from the port may itself be wrong. Then `check PORT` reports the field as unchecked or unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest

from hybridvif import Port, RecordingHost, desired_state, plug_all
from hybridvif.cli.commands import plan
from hybridvif.cli.commands.check import answer_of
from hybridvif.cli.commands.reconcile import reconcile
from hybridvif.cli.infer import ATTRIBUTES
from hybridvif.cli.output.topology import fix_of, plugged_ports
from hybridvif.cli.ports import PortRequest
from hybridvif.engine.any_host import SimulatedHost
from hybridvif.model.changes import changes_of_plan
from hybridvif.model.parts import (
    PLACEHOLDER_TYPE,
    VHOST_USER_TYPES,
    OvsPort,
    Role,
    Veth,
    as_observed,
    attributes_of,
    create_only_values,
)
from hybridvif.model.port import VifType
from hybridvif.model.settings import Settings
from hybridvif.model.state import HostState
from tests.support.answers import ID, MAC, OTHER_ID, PORT, QBR, QVB, QVO, VM, arguments, ports_of
from tests.support.strategies import the

Changes = dict[tuple[str, str | None], tuple[Any, Any]]
"""By the name of a part and its attribute: the value before and after."""

TRUNK = "tbr-5f2c0e1a-7"
BRIDGES = ("br-int", "br-two", TRUNK, "tbr-other")
SETTINGS = Settings(link_executor="recording", switch_executor="recording", integration_bridges=BRIDGES)
PORTS = {
    "plain": PORT,
    "with an interface id": replace(PORT, interface_id=OTHER_ID),
    "on a trunk bridge": replace(PORT, bridge=TRUNK),
    "with a firewall": replace(PORT, call_iptables=True),
    "with a tap": replace(PORT, create_tap=True),
    "with all of these": replace(PORT, create_tap=True, interface_id=OTHER_ID, bridge=TRUNK, call_iptables=True),
    "vhost-user client": replace(PORT, vhostuser_mode="client"),
    "vhost-user server": replace(PORT, vhostuser_mode="server", interface_id=OTHER_ID),
    "indigo": replace(PORT, vif_type=VifType.IVS),
}
VALUES: tuple[Any, ...] = (
    *("", "x", ID, OTHER_ID, VM, "00000000-0000-4000-8000-000000000009", MAC, "fa:16:3e:00:00:09", "02:00:00:00:00:00"),
    *(*BRIDGES, "active", "patch", "dpdkvhostuser", "dpdkvhostuserclient", "eui64"),
    *(0, 1, 2, 68, 1300, 1450, 1500, 70_000, True, False),
)
TYPES = {"ovs-port": (PLACEHOLDER_TYPE,), "vhost-user-port": tuple(VHOST_USER_TYPES.values())}
"""The other types of a row. A row of any other type is a ForeignObject."""
MORE = {"call_iptables": ("nf_call_iptables", "nf_call_ip6tables"), "vhostuser_mode": ("type", "socket_as_configured")}
"""More attributes that depend on a field, besides those of infer.py."""


def mutations(port: Port) -> Iterator[tuple[str, HostState]]:
    """Each attribute of each part of a plugged port, with each other value of its type."""
    whole = HostState().with_parts(*map(as_observed, desired_state(port)))
    for part in whole:
        for name in attributes_of(type(part)):
            known = getattr(part, name)
            values = () if name in create_only_values(part) else TYPES[part.kind] if name == "type" else VALUES
            for value in values:
                if value != known and type(value) is type(known):
                    yield f"{part.kind} {name} {value!r}", whole.with_parts(replace(part, **{name: value}))


def host_in(state: HostState) -> RecordingHost:
    return RecordingHost(state, settings=SETTINGS, switches=dict.fromkeys(BRIDGES, "netdev"))


def announced(asked: PortRequest, state: HostState) -> tuple[Changes, Any]:
    """Return what check announces, and its answer about the port."""
    (port,) = ports_of(answer_of([asked], host_in(state)))
    return {(drift["name"], drift["attribute"]): (drift["before"], drift["after"]) for drift in port["drift"]}, port


def changed(port: Port, state: HostState) -> tuple[Changes, str]:
    """Return what plug changes, and the code of its refusal."""
    host = host_in(state)
    (report,) = plug_all([port], SimulatedHost(host.settings, host.observe(None, 1.0)))
    found: Changes = {}
    for change in changes_of_plan(outcome.step for outcome in report.outcomes):
        if change.verb == "update":
            found |= {
                (change.part.name, difference.attribute): (difference.before, difference.after)
                for difference in change.differences
            }
        else:
            there = ("absent", "present") if change.verb == "create" else ("present", "absent")
            found[change.part.name, None] = there
    return found, report.code


@pytest.mark.parametrize("port", PORTS.values(), ids=PORTS)
def test_check_with_all_options_lists_the_changes_of_plug(port: Port) -> None:
    asked = PortRequest(fields={spec.name: getattr(port, spec.name) for spec in fields(Port)})
    for mutation, state in mutations(port):
        found, answer = announced(asked, state)
        assert (found, answer["code"]) == changed(port, state), mutation


def exit_codes(asked: PortRequest, state: HostState) -> set[int]:
    """Return the exit codes of check, plan and reconcile for the same entry of a file."""
    seen = host_in(state).observe(None, 1.0)
    ports, left_out = plan.infer_missing([asked], seen)
    stage = SimulatedHost(SETTINGS, seen)
    planned = plan.answer_of("plug", plug_all(ports, stage), stage, left_out, detailed=True)
    reconciled = reconcile(
        [asked.to_port()], host_in(state), arguments("reconcile", "--dry-run", "--detailed-exitcode")
    )
    return {answer_of([asked], host_in(state)).exit_code, planned.exit_code, reconciled.exit_code}


@pytest.mark.parametrize("port", PORTS.values(), ids=PORTS)
def test_check_of_an_entry_of_a_file_lists_the_changes_of_plug(port: Port) -> None:
    """Fields that the entry omits have their defaults. They were inferred, so drift was "in order"."""
    asked = PortRequest(fields={"id": ID, "mac": MAC, "instance_id": VM}, where="ports.yaml: entry 1")
    for mutation, state in mutations(port):
        found, answer = announced(asked, state)
        assert (found, answer["code"]) == changed(asked.to_port(), state), mutation
        assert answer["unchecked"] == []


@pytest.mark.parametrize(("state", "code"), [({}, 0), ({"mtu": 1400}, 3), ({"alias": OTHER_ID}, 6)])
def test_dry_runs_of_a_file_have_one_exit_code(state: dict[str, Any], code: int) -> None:
    asked = PortRequest(fields={"id": ID, "mac": MAC, "instance_id": VM}, where="ports.yaml: entry 1")
    whole = desired_state(asked.to_port())
    assert exit_codes(asked, whole.with_parts(replace(the(Veth, whole), **state))) == {code}


@pytest.mark.parametrize("port", PORTS.values(), ids=PORTS)
def test_check_of_id_alone_lists_no_other_change(port: Port) -> None:
    for mutation, state in mutations(port):
        found, answer = announced(PortRequest(fields={"id": port.id}), state)
        real, code = changed(port, state)
        if code or answer["code"]:
            # Only who gives the interface id can say that a row with another port's id is this port's.
            assert answer["code"] == code or (port.interface_id and answer["code"] == "name-collision"), mutation
            continue
        unknown = {key for key, (_, after) in found.items() if after == "?"}
        assert {key: values for key, values in found.items() if key not in unknown}.items() <= real.items(), mutation
        assert not unknown or unknown & real.keys(), mutation
        unchecked = {
            name for field in answer["unchecked"] for name in (*ATTRIBUTES.get(field, ()), *MORE.get(field, ()))
        }
        unnamed = {f"{key[1]}" for key in real.keys() - found.keys()}
        assert unnamed <= unchecked, mutation


@pytest.mark.parametrize("options", [{}, {"mac": MAC, "instance_id": VM}], ids=["PORT", "PORT --mac --instance"])
def test_wrong_iface_id_is_not_reported_as_missing_port_id(options: dict[str, object]) -> None:
    """The check showed `hybridvif-port-id none -> ID`, but plug changed the iface-id."""
    (state,) = [state for mutation, state in mutations(PORT) if mutation == f"ovs-port iface_id {OTHER_ID!r}"]
    found, answer = announced(PortRequest(fields={"id": ID, **options}), state)
    assert found == {(QVO, "iface_id"): (OTHER_ID, "?"), (QVO, "port_id"): ("", "?")}
    assert "interface_id" in answer["unchecked"]
    found, _ = announced(PortRequest(fields={"id": ID, "interface_id": "", **options}), state)
    assert found == {(QVO, "iface_id"): (OTHER_ID, ID)}


def test_row_on_bridge_that_is_not_allowed_has_unknown_bridge() -> None:
    """Plug refuses that bridge, so the port was plugged into another one."""
    row = replace(the(OvsPort, desired_state(PORT)), bridge="br-ex", iface_status="")
    host = RecordingHost(
        desired_state(PORT).with_parts(row), settings=SETTINGS, switches=dict.fromkeys(("br-ex", *BRIDGES), "")
    )
    (port,) = ports_of(answer_of([PortRequest(fields={"id": ID})], host))
    assert (port["code"], [(drift["attribute"], drift["after"]) for drift in port["drift"]]) == (
        "",
        [("bridge", "?"), ("iface_status", "active")],
    )


@pytest.mark.parametrize("wrong", [{"peer_mtu": 1300}, {"mtu": 1300}, {"mtu": 1300, "peer_mtu": 1400}])
def test_mtu_of_devices_that_disagree_is_unknown(wrong: dict[str, Any]) -> None:
    """The majority may be wrong: a bridge without an explicit MTU follows its lowest member."""
    veth = the(Veth, desired_state(PORT))
    found, answer = announced(PortRequest(fields={"id": ID}), desired_state(PORT).with_parts(replace(veth, **wrong)))
    assert {key: values for key, values in found.items() if key[0] == QVB} == {
        (QVB, name): (wrong.get(name, 1450), "?") for name in ("mtu", "peer_mtu")
    }
    assert found[QBR, "mtu"] == (1450, "?")
    assert answer["code"] == ""


@pytest.mark.parametrize("gone", [[QVB], [QVB, QBR], [QVB, QVO]])
def test_mtu_of_a_port_without_veth_pair_is_unknown(gone: list[str]) -> None:
    """The fix had no --mtu, so it plugged with 1500."""
    whole = desired_state(PORT)
    state = HostState().with_parts(*(part for part in whole if part.role is Role.SWITCH or part.name not in gone))
    (port,) = plugged_ports(host_in(state).observe(None, 1.0))
    assert (fix_of(port) or [])[-2:] == ["--mtu", "BYTES"]


def test_mtu_of_a_port_without_bridge_is_that_of_its_pair() -> None:
    whole = desired_state(PORT)
    (port,) = plugged_ports(host_in(whole.without(whole.links[QBR])).observe(None, 1.0))
    assert (fix_of(port) or [])[-2:] == ["--mtu", "1450"]
