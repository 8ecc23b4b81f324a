"""What is made of a row of OVSDB."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridvif.executors.ovsrows import Row, complaint_about, is_undecided, observed
from hybridvif.parts import OvsPort

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
    assert complaint_about(row) == ""
    assert not is_undecided(row)
    assert observed([row], {"br-int": "system"}, "3.1.0").facts.ports[row.name].error == ""


@pytest.mark.parametrize("ofport", [None, -1])
def test_without_a_port_number_it_is_waited_out(ofport: int | None) -> None:
    row = replace(ROW, error=PARKED_ERROR, ofport=ofport)
    assert not is_realized(row)
    assert is_undecided(row)
    assert PARKED_ERROR in complaint_about(row)


def test_any_other_error_is_a_complaint_whatever_the_number() -> None:
    row = replace(ROW, error="could not open network device qvo00000001-7b (No such device)")
    assert not is_realized(row)
    assert "No such device" in complaint_about(row)
    assert not is_undecided(row)


def test_a_row_that_is_parked_has_nothing_to_complain_of() -> None:
    row = replace(ROW, type="patch", error=PARKED_ERROR, ofport=-1)
    assert complaint_about(row) == ""
    assert not is_realized(row)
    assert not is_undecided(row)
