from __future__ import annotations

import dataclasses
import inspect

import pytest
from hypothesis import given, strategies as st

from hybridvif.model.names import names_of
from hybridvif.model.parts import (
    PARTS,
    PLACEHOLDER_TYPE,
    Bridge,
    Difference,
    ForeignObject,
    ForeignPort,
    IvsPort,
    OvsPort,
    Part,
    Role,
    Tap,
    as_observed,
    attributes_of,
    create_only_values,
    differences,
)
from hybridvif.model.port import desired_state
from hybridvif.model.state import NOTHING, HostState, agree, merge_states
from tests.support.strategies import BRIDGE, NAMES, PORT, ROW, TAP, VETH, WIRING, hosts_with, ports

OTHER = dataclasses.replace(PORT, id="91d3aa02-4100-4c00-8000-000000000001")


def test_every_part_has_a_kind_and_a_role() -> None:
    assert {(cls.__name__, cls.kind, cls.role) for cls in PARTS} == {
        ("Bridge", "bridge", Role.LINK),
        ("Veth", "veth", Role.LINK),
        ("Tap", "tap", Role.LINK),
        ("ManagedTap", "made-tap", Role.LINK),
        ("OvsPort", "ovs-port", Role.SWITCH),
        ("NativePort", "native-port", Role.SWITCH),
        ("VhostUserPort", "vhost-user-port", Role.SWITCH),
        ("IvsPort", "ivs-port", Role.SWITCH),
        ("ForeignObject", "stray", Role.LINK),
        ("ForeignPort", "stray", Role.SWITCH),
    }


def test_role_has_the_words_of_the_configuration() -> None:
    assert [role.value for role in Role] == ["link", "switch"]


@pytest.mark.parametrize("cls", PARTS)
def test_part_is_immutable_and_hashable(cls: type[Part]) -> None:
    part = cls(name="x", **dict.fromkeys(attributes_of(cls), ""))
    assert hash(part) == hash(dataclasses.replace(part))
    assert not hasattr(part, "__dict__")
    assert {parameter.kind for parameter in inspect.signature(cls).parameters.values()} == {
        inspect.Parameter.KEYWORD_ONLY
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        part.name = "y"  # type: ignore[misc]


def test_foreign_object_has_no_alias_by_default() -> None:
    assert ForeignObject(name=NAMES.bridge, what="a dummy link").alias == ""


def test_attributes_are_in_declaration_order_without_name() -> None:
    assert attributes_of(Tap) == ("master",)
    assert attributes_of(IvsPort) == ()
    assert attributes_of(OvsPort)[:2] == ("bridge", "iface_id")
    assert "name" not in attributes_of(Bridge)


def test_create_only_attributes_are_not_observed_or_compared() -> None:
    created = dataclasses.replace(ROW, isolated=True)
    assert create_only_values(created) == {"isolated": True, "datapath_type": "", "qos_type": ""}
    assert as_observed(created) == ROW
    assert differences(ROW, created) == differences(created, ROW) == ()
    assert create_only_values(VETH) == {}
    assert as_observed(VETH) is VETH


def test_state_copies_its_dicts() -> None:
    links = {TAP.name: TAP}
    state = HostState(links)
    links.clear()
    assert list(state) == [TAP]


def test_state_is_immutable() -> None:
    with pytest.raises(TypeError):
        WIRING.links[TAP.name] = TAP  # type: ignore[index]
    with pytest.raises(TypeError):
        WIRING.ports[ROW.name] = ROW  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        WIRING.links = {}  # type: ignore[misc]
    assert not hasattr(WIRING, "__dict__")


def test_difference_is_immutable() -> None:
    difference = Difference("mtu", 1400, 1500)
    with pytest.raises(dataclasses.FrozenInstanceError):
        difference.after = 9000  # type: ignore[misc]
    assert not hasattr(difference, "__dict__")


def test_state_iterates_links_before_ports() -> None:
    assert [part.name for part in HostState().with_parts(ROW, VETH, BRIDGE)] == [VETH.name, BRIDGE.name, ROW.name]


def test_nothing_is_empty() -> None:
    assert list(NOTHING) == []


def test_states_are_equal_in_any_order() -> None:
    assert HostState().with_parts(ROW, VETH, BRIDGE) == WIRING


def test_with_parts_replaces_same_name_and_role() -> None:
    foreign = ForeignObject(name=BRIDGE.name, what="a dummy link")
    assert WIRING.with_parts(dataclasses.replace(BRIDGE)) == WIRING
    assert WIRING.with_parts(foreign).links[BRIDGE.name] == foreign
    assert WIRING.links[BRIDGE.name] == BRIDGE


def test_link_and_port_of_the_same_name_are_separate() -> None:
    link, port = ForeignObject(name=NAMES.switch_end, what="a veth"), ForeignPort(name=NAMES.switch_end, what="a bond")
    both = HostState().with_parts(link, port)
    assert list(both) == [link, port]
    assert list(both.without(link)) == [port]
    assert list(both.without(port)) == [link]


def test_without_a_missing_part_changes_nothing() -> None:
    assert NOTHING.without(BRIDGE) == NOTHING
    assert NOTHING.without(ROW) == NOTHING


@given(st.data())
def test_of_returns_the_parts_of_one_port(data: st.DataObject) -> None:
    port = data.draw(ports())
    host = data.draw(hosts_with(port))
    own = host.of(port.names)
    assert HostState().with_parts(*(part for part in host if part.name in list(port.names))) == own
    assert (
        merge_states([own, *(HostState().with_parts(part) for part in host if part.name not in list(port.names))])
        == host
    )


def test_of_ignores_a_switch_port_named_tap() -> None:
    direct = ForeignPort(name=NAMES.tap, what="an internal port")
    assert WIRING.with_parts(direct, TAP).of(NAMES) == WIRING.with_parts(TAP)


def test_merge_states_joins_several_ports() -> None:
    assert list(merge_states([WIRING, desired_state(OTHER)])) == [
        *WIRING.links.values(),
        *desired_state(OTHER).links.values(),
        *WIRING.ports.values(),
        *desired_state(OTHER).ports.values(),
    ]
    assert merge_states([]) == NOTHING
    assert merge_states([WIRING, desired_state(OTHER)]).of(names_of(PORT.id)) == WIRING


def test_equal_parts_have_no_differences() -> None:
    assert differences(BRIDGE, BRIDGE) == ()


def test_differences_are_in_declaration_order() -> None:
    assert differences(dataclasses.replace(TAP, master=""), TAP) == (Difference("master", "", "qbr5f2c0e1a-7b"),)
    drifted = dataclasses.replace(BRIDGE, group=7, alias="", stp=True)
    assert [change.attribute for change in differences(drifted, BRIDGE)] == ["alias", "stp", "group"]


@pytest.mark.parametrize("attribute", ["disable_ipv6", "addr_gen_mode"])
def test_none_agrees_with_any_value(attribute: str) -> None:
    lacking = {
        "disable_ipv6": dataclasses.replace(BRIDGE, disable_ipv6=None),
        "addr_gen_mode": dataclasses.replace(BRIDGE, addr_gen_mode=None),
    }[attribute]
    assert differences(lacking, BRIDGE) == ()
    assert differences(BRIDGE, lacking) == ()
    assert agree(WIRING.with_parts(lacking), WIRING)


def test_realized_differs_only_if_it_should_be_true() -> None:
    unrealized = dataclasses.replace(ROW, realized=False)
    assert differences(ROW, unrealized) == ()
    assert differences(unrealized, ROW) == (Difference("realized", False, True),)


def test_agree_requires_the_same_names() -> None:
    assert agree(WIRING, WIRING)
    assert not agree(WIRING.without(BRIDGE), WIRING)
    assert not agree(WIRING.without(ROW), WIRING)
    assert not agree(WIRING.with_parts(TAP), WIRING)


def test_agree_requires_the_same_kinds_and_values() -> None:
    assert not agree(WIRING.with_parts(IvsPort(name=ROW.name)), WIRING)
    assert not agree(WIRING.with_parts(dataclasses.replace(ROW, type=PLACEHOLDER_TYPE)), WIRING)
    assert not agree(WIRING.with_parts(dataclasses.replace(VETH, master="")), WIRING)


def test_veth_has_the_name_of_its_bridge_end() -> None:
    assert (VETH.name, VETH.peer) == (NAMES.bridge_end, NAMES.switch_end)
    assert list(WIRING.links) == [NAMES.bridge, NAMES.bridge_end]
