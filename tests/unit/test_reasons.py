from __future__ import annotations

import pytest

from hybridvif.parts import PARTS, Bridge, OvsPort, Part, Stray, Veth, attributes_of
from hybridvif.reasons import REASONS, Reason, reason_of
from tests.unit.strategies import BRIDGE, ROW, VETH

EVERY = [(kind, name) for kind in PARTS if not issubclass(kind, Stray) for name in attributes_of(kind)]


@pytest.mark.parametrize(("kind", "attribute"), EVERY)
def test_every_attribute_that_is_set_has_a_reason(kind: type[Part], attribute: str) -> None:
    assert REASONS[kind, attribute].text


def test_there_is_no_reason_for_what_is_not_set() -> None:
    assert set(REASONS) == set(EVERY)


def test_a_reason_is_one_clause_without_a_full_stop() -> None:
    assert not [reason.text for reason in REASONS.values() if reason.text.endswith(".") or "\n" in reason.text]


def test_the_reason_of_a_part_is_that_of_its_kind() -> None:
    assert reason_of(BRIDGE, "mtu") == REASONS[Bridge, "mtu"]
    assert reason_of(VETH, "master") == REASONS[Veth, "master"]
    assert reason_of(ROW, "bridge") == REASONS[OvsPort, "bridge"]


def test_an_attribute_that_nobody_sets_has_no_reason() -> None:
    with pytest.raises(KeyError):
        reason_of(ROW, "tag")


def test_a_reason_shows_the_bugs_that_taught_it() -> None:
    assert str(Reason("because", (1129055,))) == "because (LP 1129055)"
    assert str(Reason("because", (1129055, 7))) == "because (LP 1129055, 7)"
    assert str(Reason("because")) == "because"
