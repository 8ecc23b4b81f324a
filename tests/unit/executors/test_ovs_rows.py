"""What is made of a row of OVSDB."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridvif.executors.ovs_rows import Row, error_about, is_undecided, observed
from hybridvif.model.parts import ForeignPort, OvsPort, VhostUserPort

PARKED_ERROR = "No usable peer 'nobody' exists in 'netdev' datapath."
ROW = Row(name="qvo00000001-7b", bridge="br-int", type="", external_ids={}, ofport=2, error="", tag=None)


def is_realized(row: Row) -> bool:
    part = observed([row], {"br-int": "system"}, "3.1.0").state.ports[row.name]
    assert isinstance(part, OvsPort)
    return part.realized


def test_what_was_said_of_a_row_while_parked_is_no_complaint_once_it_has_a_port_number() -> None:
    """Seen to stay for good where vswitchd takes the freeing before it has told of the parking; packets pass."""
    row = replace(ROW, error=PARKED_ERROR)
    assert is_realized(row)
    assert error_about(row) == ""
    assert not is_undecided(row)
    assert observed([row], {"br-int": "system"}, "3.1.0").facts.ports[row.name].error == ""


@pytest.mark.parametrize("ofport", [None, -1])
def test_without_a_port_number_it_is_waited_out(ofport: int | None) -> None:
    row = replace(ROW, error=PARKED_ERROR, ofport=ofport)
    assert not is_realized(row)
    assert is_undecided(row)
    assert PARKED_ERROR in error_about(row)


def test_any_other_error_is_a_complaint_whatever_the_number() -> None:
    row = replace(ROW, error="could not open network device qvo00000001-7b (No such device)")
    assert not is_realized(row)
    assert "No such device" in error_about(row)
    assert not is_undecided(row)


def test_a_row_that_is_parked_has_nothing_to_complain_of() -> None:
    row = replace(ROW, type="patch", error=PARKED_ERROR, ofport=-1)
    assert error_about(row) == ""
    assert not is_realized(row)
    assert not is_undecided(row)


VHU = replace(ROW, name="vhu00000001-7b", type="dpdkvhostuser", mtu_request=1500)
CLIENT = replace(VHU, type="dpdkvhostuserclient", options={"vhost-server-path": "/run/s/vhu00000001-7b"})


def part_of(row: Row) -> VhostUserPort:
    part = observed([row], {"br-int": "netdev"}, "3.1.0", "/run/s").state.ports[row.name]
    assert isinstance(part, VhostUserPort)
    return part


def test_a_vhost_user_port_is_told_by_its_name_and_its_type() -> None:
    assert (part_of(VHU).type, part_of(VHU).mtu_request, part_of(VHU).realized) == ("dpdkvhostuser", 1500, True)
    for row, what in ((replace(VHU, type=""), "system"), (replace(VHU, type="patch"), "patch")):
        part = observed([row], {"br-int": "netdev"}, "3.1.0").state.ports[row.name]
        assert part == ForeignPort(name=VHU.name, what=f"an Open vSwitch interface of type {what}")
    assert isinstance(observed([replace(VHU, name=ROW.name)], {}, "").state.ports[ROW.name], ForeignPort)
    bonded = observed([replace(VHU, bridge=None)], {}, "").state.ports[VHU.name]
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
def test_its_socket_is_compared_with_what_this_host_is_configured_to_have(row: Row, right: bool) -> None:
    assert part_of(row).socket_as_configured is right


@pytest.mark.parametrize(("ofport", "error"), [(None, ""), (-1, ""), (3, "could not add it")])
def test_without_a_port_number_or_with_an_error_it_is_not_realized(ofport: int | None, error: str) -> None:
    assert not part_of(replace(VHU, ofport=ofport, error=error)).realized


def test_what_says_that_a_type_is_unknown_is_said_again_in_words() -> None:
    said = "could not open network device vhu00000001-7b (Address family not supported by protocol)"
    assert error_about(replace(VHU, ofport=-1, error=said)) == (
        f"ovs-vswitchd did not take {VHU.name}: {said}; it knows no interface of type dpdkvhostuser, as without DPDK: "
        "ovs-vsctl get Open_vSwitch . iface_types"
    )
    assert "DPDK" not in error_about(replace(VHU, ofport=-1, error="no memory"))
    assert "DPDK" not in error_about(replace(ROW, ofport=-1, error=said))
