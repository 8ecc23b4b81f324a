from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from hybridvif.model.errors import InvalidInput
from hybridvif.model.names import KEY_LENGTH, PortNames, is_uuid, key_of, names_of, names_of_key
from tests.support.strategies import colliding_ids, uuids

ID = "5f2c0e1a-7b00-4c00-8000-000000000001"
KEY = "5f2c0e1a-7b"


def test_names_are_prefix_and_eleven_characters() -> None:
    names = PortNames("qbr5f2c0e1a-7b", "qvb5f2c0e1a-7b", "qvo5f2c0e1a-7b", "tap5f2c0e1a-7b", "vhu5f2c0e1a-7b")
    assert names_of(ID) == names


def test_names_are_immutable_and_hashable() -> None:
    names = names_of(ID)
    with pytest.raises(AttributeError):
        names.tap = "tap0"  # type: ignore[misc]
    assert not hasattr(names, "__dict__")
    assert hash(names) == hash(names_of(ID))


def test_names_unpack_in_declaration_order() -> None:
    names = names_of(ID)
    assert list(names) == [names.bridge, names.bridge_end, names.switch_end, names.tap, names.vhost_user]


@given(uuids)
def test_names_have_fourteen_characters_and_the_key(port_id: str) -> None:
    for name in names_of(port_id):
        assert len(name) == 14
        assert key_of(name) == port_id[:KEY_LENGTH]
        assert list(names_of_key(port_id[:KEY_LENGTH])) == list(names_of(port_id))


@given(colliding_ids())
def test_names_of_colliding_ports_are_equal(pair: tuple[str, str]) -> None:
    first, second = pair
    assert first != second
    assert names_of(first) == names_of(second)


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
def test_names_of_an_invalid_id_raises(port_id: str) -> None:
    with pytest.raises(InvalidInput, match="is not (in canonical form|a UUID); write") as refusal:
        names_of(port_id)
    assert repr(port_id) in str(refusal.value)


@pytest.mark.parametrize("name", [f"qbr{KEY}", f"qvb{KEY}", f"qvo{KEY}", f"tap{KEY}", f"vhu{KEY}"])
def test_key_of_a_device_name(name: str) -> None:
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
def test_key_of_another_name_is_none(name: str) -> None:
    assert key_of(name) is None


@given(st.text())
def test_key_of_any_text_is_none_or_round_trips(name: str) -> None:
    key = key_of(name)
    assert key is None or name in list(names_of_key(key))


@given(uuids)
def test_is_uuid_accepts_only_the_canonical_form(text: str) -> None:
    assert is_uuid(text)
    assert not is_uuid(text.replace("-", ""))
    assert not is_uuid(text + "\n")
    assert is_uuid(text.upper()) == (text.upper() == text)
