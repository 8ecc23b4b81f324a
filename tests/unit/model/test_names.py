from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridvif.model.errors import InvalidInput
from hybridvif.model.names import KEY_LENGTH, PortNames, is_uuid, key_of, names_of, names_of_key
from tests.support.strategies import colliding_ids, uuids

ID = "5f2c0e1a-7b00-4c00-8000-000000000001"
KEY = "5f2c0e1a-7b"


def test_a_port_has_five_names_of_prefix_and_eleven_characters() -> None:
    names = PortNames("qbr5f2c0e1a-7b", "qvb5f2c0e1a-7b", "qvo5f2c0e1a-7b", "tap5f2c0e1a-7b", "vhu5f2c0e1a-7b")
    assert names_of(ID) == names


def test_names_are_a_value() -> None:
    names = names_of(ID)
    with pytest.raises(AttributeError):
        names.tap = "tap0"  # type: ignore[misc]
    assert not hasattr(names, "__dict__")
    assert hash(names) == hash(names_of(ID))


def test_names_come_in_the_order_bridge_bridge_end_switch_end_tap_vhost_user() -> None:
    names = names_of(ID)
    assert list(names) == [names.bridge, names.bridge_end, names.switch_end, names.tap, names.vhost_user]


@given(uuids)
def test_every_name_is_fourteen_characters_and_leads_back_to_the_id(port_id: str) -> None:
    for name in names_of(port_id):
        assert len(name) == 14
        assert key_of(name) == port_id[:KEY_LENGTH]
        assert list(names_of_key(port_id[:KEY_LENGTH])) == list(names_of(port_id))


@given(colliding_ids())
def test_two_ports_with_the_same_eleven_characters_have_the_same_names(pair: tuple[str, str]) -> None:
    one, other = pair
    assert one != other
    assert names_of(one) == names_of(other)


@pytest.mark.parametrize(
    "port_id",
    [
        "",
        ID.upper(),
        ID.replace("-", ""),
        f"{{{ID}}}",
        f"{ID}\n",
        f" {ID}",
        ID[:-1],
        f"{ID}0",
        ID.replace("5", "g"),
        ID.replace("0", "\N{ARABIC-INDIC DIGIT ZERO}"),
        "../../etc/passwd",
        None,
        7,
        ID.encode(),
    ],
)
def test_an_id_that_is_no_canonical_uuid_has_no_names(port_id: str) -> None:
    with pytest.raises(InvalidInput, match="canonical form") as refusal:
        names_of(port_id)
    assert repr(port_id) in str(refusal.value)


@pytest.mark.parametrize("name", [f"qbr{KEY}", f"qvb{KEY}", f"qvo{KEY}", f"tap{KEY}", f"vhu{KEY}"])
def test_a_name_of_our_grammar_has_a_key(name: str) -> None:
    assert key_of(name) == KEY


@pytest.mark.parametrize(
    "name",
    [
        "",
        "eth0",
        "br-int",
        KEY,
        f"vnt{KEY}",
        f"QBR{KEY}",
        f"qbr{KEY.upper()}",
        f"qbr{KEY}0",
        f"qbr{KEY[:-1]}",
        f"qbr{KEY}\n",
        f"xqbr{KEY}",
        "qbr5f2c0e1a07b",
        "qbr5f2c0e1a-7\N{ARABIC-INDIC DIGIT ZERO}",
    ],
)
def test_any_other_name_has_none(name: str) -> None:
    assert key_of(name) is None


@given(st.text())
def test_a_key_is_found_only_in_a_name_made_of_it(name: str) -> None:
    key = key_of(name)
    assert key is None or name in list(names_of_key(key))


@given(uuids)
def test_a_uuid_is_one_in_lower_case_with_hyphens_alone(text: str) -> None:
    assert is_uuid(text)
    assert not is_uuid(text.replace("-", ""))
    assert not is_uuid(text + "\n")
    assert is_uuid(text.upper()) == (text.upper() == text)
