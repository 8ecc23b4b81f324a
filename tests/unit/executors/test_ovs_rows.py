"""ovs_rows: decoding rows of OVSDB."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hybridvif.executors import ovs_rows
from hybridvif.executors.ovs_rows import Row, Snapshot, changed_ids, observed
from hybridvif.executors.ovsdb.executor import error_about
from hybridvif.model.parts import CONVERTING, ForeignPort, OvsPort, VhostUserPort
from hybridvif.model.state import Delete, Update

PLACEHOLDER_ERROR = "No usable peer 'nobody' exists in 'netdev' datapath."
ROW = Row(name="qvo00000001-7b", bridge="br-int", type="", external_ids={}, ofport=2, error="", tag=None)

NO_IDS: dict[str, Any] = dict.fromkeys(("iface_id", "iface_status", "attached_mac", "vm_uuid", "port_id"), "")


def is_accepted(row: Row) -> bool:
    part = observed(Snapshot({row.name: row}, {"br-int": "system"})).state.ports[row.name]
    assert isinstance(part, OvsPort)
    return part.realized


def test_placeholder_error_with_port_number_is_ignored() -> None:
    """The error stays if vswitchd applies the device before it has reported on the placeholder; packets pass."""
    row = replace(ROW, error=PLACEHOLDER_ERROR)
    assert is_accepted(row)
    assert error_about(row) == ""
    assert not row.is_undecided
    assert observed(Snapshot({row.name: row}, {"br-int": "system"})).facts.ports[row.name].error == ""


@pytest.mark.parametrize("ofport", [None, -1])
def test_placeholder_error_without_port_number_is_undecided(ofport: int | None) -> None:
    row = replace(ROW, error=PLACEHOLDER_ERROR, ofport=ofport)
    assert not is_accepted(row)
    assert row.is_undecided
    assert PLACEHOLDER_ERROR in error_about(row)


def test_other_error_with_port_number_is_reported() -> None:
    row = replace(ROW, error="could not add network device qvo00000001-7b to ofproto (Device or resource busy)")
    assert not is_accepted(row)
    assert "Device or resource busy" in error_about(row)
    assert not row.is_undecided


def test_error_about_missing_device_is_undecided() -> None:
    """The error stays until ovs-vswitchd reports on the device that was created under its row."""
    row = replace(ROW, error="could not open network device qvo00000001-7b (No such device)", ofport=-1)
    assert not is_accepted(row)
    assert "No such device" in error_about(row)
    assert row.is_undecided


@pytest.mark.parametrize(
    ("name", "ofport", "is_vacant"),
    [
        pytest.param("qvo00000001-7b", -1, True, id="absent device that was missed"),
        pytest.param("qvo00000001-7b", 2, False, id="absent device that may still be held"),
        pytest.param("qvo00000001-7b", None, False, id="row without a report"),
        pytest.param("lo", -1, False, id="device that exists"),
    ],
)
def test_vacant_row_needs_no_placeholder(name: str, ofport: int | None, is_vacant: bool) -> None:
    row = replace(ROW, name=name, ofport=ofport)
    port = OvsPort(name=name, bridge="br-int", realized=False, **NO_IDS)
    placeholder = replace(port, type="patch")
    assert ovs_rows.is_vacant(Update(port, placeholder), {name: row}) is is_vacant
    for step in (Update(placeholder, port), Update(replace(port, mtu_request=1500), placeholder), Delete(port)):
        assert not ovs_rows.is_vacant(step, {name: row})


def test_placeholder_row_has_no_error() -> None:
    row = replace(ROW, type="patch", error=PLACEHOLDER_ERROR, ofport=-1)
    assert error_about(row) == ""
    assert not is_accepted(row)
    assert not row.is_undecided


MAC = "fa:16:3e:00:00:01"


@pytest.mark.parametrize("mac", [MAC, ""])
def test_mark_of_a_conversion_holds_the_mac(mac: str) -> None:
    """Neutron's agent removes the filter of a port if a row with attached-mac is deleted."""
    port = OvsPort(
        name=ROW.name,
        bridge="br-int",
        iface_id="id",
        iface_status="active",
        attached_mac=mac,
        vm_uuid="vm",
        port_id="",
    )
    ids = changed_ids(port, {"converting": CONVERTING})
    assert ids == {"attached-mac": "", "hybridvif-converting": mac or CONVERTING}
    row = replace(ROW, external_ids={key: value for key, value in ids.items() if value})
    (marked,) = observed(Snapshot({row.name: row}, {"br-int": "system"})).state.ports.values()
    assert isinstance(marked, OvsPort)
    assert (marked.attached_mac, marked.converting) == (mac, CONVERTING)
    assert changed_ids(marked, {"converting": ""}) == {"attached-mac": mac, "hybridvif-converting": ""}


VHU = replace(ROW, name="vhu00000001-7b", type="dpdkvhostuser", mtu_request=1500)
CLIENT = replace(VHU, type="dpdkvhostuserclient", options={"vhost-server-path": "/run/s/vhu00000001-7b"})


def part_of(row: Row) -> VhostUserPort:
    part = observed(Snapshot({row.name: row}, {"br-int": "netdev"}), "/run/s").state.ports[row.name]
    assert isinstance(part, VhostUserPort)
    return part


def test_vhost_user_port_is_recognized_by_name_and_type() -> None:
    assert (part_of(VHU).type, part_of(VHU).mtu_request, part_of(VHU).realized) == ("dpdkvhostuser", 1500, True)
    for row, kind in ((replace(VHU, type=""), "system"), (replace(VHU, type="patch"), "patch")):
        part = observed(Snapshot({row.name: row}, {"br-int": "netdev"})).state.ports[row.name]
        assert part == ForeignPort(name=VHU.name, what=f"an Open vSwitch interface of type {kind}")
    assert isinstance(
        observed(Snapshot({ROW.name: replace(VHU, name=ROW.name)}, {})).state.ports[ROW.name], ForeignPort
    )
    bonded = observed(Snapshot({VHU.name: replace(VHU, bridge=None)}, {})).state.ports[VHU.name]
    assert isinstance(bonded, ForeignPort)


@pytest.mark.parametrize(
    ("row", "right"),
    [
        (VHU, True),
        (replace(VHU, options={"vhost-server-path": "/run/s/vhu00000001-7b"}), False),
        (CLIENT, True),
        (replace(CLIENT, options={}), False),
        (replace(CLIENT, options={"vhost-server-path": "/run/other/vhu00000001-7b"}), False),
        (replace(CLIENT, options={**CLIENT.options, "tx-retries-max": "2"}), True),
    ],
)
def test_vhost_user_socket_is_compared_with_configuration(row: Row, right: bool) -> None:
    assert part_of(row).socket_as_configured is right


@pytest.mark.parametrize(("ofport", "error"), [(None, ""), (-1, ""), (3, "could not add it")])
def test_vhost_user_port_without_number_or_with_error_is_not_accepted(ofport: int | None, error: str) -> None:
    assert not part_of(replace(VHU, ofport=ofport, error=error)).realized


def test_error_of_unknown_type_gets_an_explanation() -> None:
    error = "could not open network device vhu00000001-7b (Address family not supported by protocol)"
    assert error_about(replace(VHU, ofport=-1, error=error)) == (
        f"ovs-vswitchd did not take {VHU.name}: {error}; it knows no interface of type dpdkvhostuser, as without DPDK: "
        "ovs-vsctl get Open_vSwitch . iface_types"
    )
    assert "DPDK" not in error_about(replace(VHU, ofport=-1, error="no memory"))
    assert "DPDK" not in error_about(replace(ROW, ofport=-1, error=error))
