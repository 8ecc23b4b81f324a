from __future__ import annotations

import dataclasses
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridvif.model.desired import desired_state
from hybridvif.model.names import names_of
from hybridvif.model.parts import (
    NOTHING,
    PARTS,
    PLACEHOLDER_TYPE,
    Bridge,
    Difference,
    ForeignObject,
    ForeignPort,
    HostState,
    IvsPort,
    OvsPort,
    Part,
    Role,
    Tap,
    agree,
    as_observed,
    attributes_of,
    create_only_values,
    differences,
    merge_states,
)
from tests.support.strategies import BRIDGE, NAMES, PORT, ROW, TAP, VETH, WIRING, hosts_with, ports

OTHER = dataclasses.replace(PORT, id="91d3aa02-4100-4c00-8000-000000000001")


def test_every_part_has_a_kind_and_a_role() -> None:
    assert {(cls.__name__, cls.kind, cls.role) for cls in PARTS} == {
        ("Bridge", "bridge", Role.LINK),
        ("Veth", "veth", Role.LINK),
        ("Tap", "tap", Role.LINK),
        ("ManagedTap", "made-tap", Role.LINK),
        ("OvsPort", "ovs-port", Role.SWITCH),
        ("VhostUserPort", "vhost-user-port", Role.SWITCH),
        ("IvsPort", "ivs-port", Role.SWITCH),
        ("ForeignObject", "stray", Role.LINK),
        ("ForeignPort", "stray", Role.SWITCH),
    }


def test_a_role_is_spelled_as_in_the_configuration() -> None:
    assert [role.value for role in Role] == ["link", "switch"]


@pytest.mark.parametrize("cls", PARTS)
def test_every_part_is_a_value(cls: type[Part]) -> None:
    made = cls(name="x", **dict.fromkeys(attributes_of(cls), ""))
    assert hash(made) == hash(dataclasses.replace(made))
    assert not hasattr(made, "__dict__")
    assert {parameter.kind for parameter in inspect.signature(cls).parameters.values()} == {
        inspect.Parameter.KEYWORD_ONLY
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "y"  # type: ignore[misc]


def test_a_stray_need_not_say_whose_it_is() -> None:
    assert ForeignObject(name=NAMES.bridge, what="a dummy link").alias == ""


def test_attributes_are_all_but_the_name_in_the_order_of_their_declaration() -> None:
    assert attributes_of(Tap) == ("master",)
    assert attributes_of(IvsPort) == ()
    assert attributes_of(OvsPort)[:2] == ("bridge", "iface_id")
    assert "name" not in attributes_of(Bridge)


def test_of_a_birth_nothing_is_seen_and_nothing_compared() -> None:
    born = dataclasses.replace(ROW, isolated=True)
    assert create_only_values(born) == {"isolated": True, "datapath_type": "", "qos_type": ""}
    assert as_observed(born) == ROW
    assert differences(ROW, born) == differences(born, ROW) == ()
    assert create_only_values(VETH) == {}
    assert as_observed(VETH) is VETH


def test_a_state_does_not_change_with_the_dicts_it_was_made_of() -> None:
    links = {TAP.name: TAP}
    state = HostState(links)
    links.clear()
    assert list(state) == [TAP]


def test_a_state_cannot_be_written_to() -> None:
    with pytest.raises(TypeError):
        WIRING.links[TAP.name] = TAP  # type: ignore[index]
    with pytest.raises(TypeError):
        WIRING.ports[ROW.name] = ROW  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        WIRING.links = {}  # type: ignore[misc]
    assert not hasattr(WIRING, "__dict__")


def test_a_difference_is_a_value() -> None:
    difference = Difference("mtu", 1400, 1500)
    with pytest.raises(dataclasses.FrozenInstanceError):
        difference.after = 9000  # type: ignore[misc]
    assert not hasattr(difference, "__dict__")


def test_a_state_gives_its_links_first_and_then_its_ports() -> None:
    assert [part.name for part in HostState().with_parts(ROW, VETH, BRIDGE)] == [VETH.name, BRIDGE.name, ROW.name]


def test_nothing_holds_nothing() -> None:
    assert list(NOTHING) == []


def test_states_of_the_same_parts_are_equal_in_any_order() -> None:
    assert HostState().with_parts(ROW, VETH, BRIDGE) == WIRING


def test_having_puts_a_part_in_the_place_of_the_one_of_its_name_and_role() -> None:
    stray = ForeignObject(name=BRIDGE.name, what="a dummy link")
    assert WIRING.with_parts(dataclasses.replace(BRIDGE)) == WIRING
    assert WIRING.with_parts(stray).links[BRIDGE.name] == stray
    assert WIRING.links[BRIDGE.name] == BRIDGE


def test_a_link_and_a_port_of_the_same_name_are_two_things() -> None:
    link, port = ForeignObject(name=NAMES.switch_end, what="a veth"), ForeignPort(name=NAMES.switch_end, what="a bond")
    both = HostState().with_parts(link, port)
    assert list(both) == [link, port]
    assert list(both.without(link)) == [port]
    assert list(both.without(port)) == [link]


def test_lacking_a_part_that_is_not_there_is_no_error() -> None:
    assert NOTHING.without(BRIDGE) == NOTHING
    assert NOTHING.without(ROW) == NOTHING


@given(st.data())
def test_of_gives_the_parts_of_one_port_alone(data: st.DataObject) -> None:
    port = data.draw(ports())
    host = data.draw(hosts_with(port))
    own = host.of(port.names)
    assert HostState().with_parts(*(part for part in host if part.name in list(port.names))) == own
    assert (
        merge_states([own, *(HostState().with_parts(part) for part in host if part.name not in list(port.names))])
        == host
    )


def test_a_switch_port_named_tap_is_no_part_of_a_hybrid_port() -> None:
    straight = ForeignPort(name=NAMES.tap, what="an internal port")
    assert WIRING.with_parts(straight, TAP).of(NAMES) == WIRING.with_parts(TAP)


def test_merged_puts_states_of_several_ports_together() -> None:
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


def test_differences_name_attribute_before_and_after_in_the_order_of_declaration() -> None:
    assert differences(dataclasses.replace(TAP, master=""), TAP) == (Difference("master", "", "qbr5f2c0e1a-7b"),)
    worn = dataclasses.replace(BRIDGE, group=7, alias="", stp=True)
    assert [change.attribute for change in differences(worn, BRIDGE)] == ["alias", "stp", "group"]


@pytest.mark.parametrize("attribute", ["disable_ipv6", "addr_gen_mode"])
def test_an_attribute_that_a_kernel_lacks_agrees_with_any_value(attribute: str) -> None:
    lacking = {
        "disable_ipv6": dataclasses.replace(BRIDGE, disable_ipv6=None),
        "addr_gen_mode": dataclasses.replace(BRIDGE, addr_gen_mode=None),
    }[attribute]
    assert differences(lacking, BRIDGE) == ()
    assert differences(BRIDGE, lacking) == ()
    assert agree(WIRING.with_parts(lacking), WIRING)


def test_nobody_can_make_a_device_unrealized() -> None:
    unrealized = dataclasses.replace(ROW, realized=False)
    assert differences(ROW, unrealized) == ()
    assert differences(unrealized, ROW) == (Difference("realized", False, True),)


def test_a_state_agrees_with_itself_and_with_nothing_less_or_more() -> None:
    assert agree(WIRING, WIRING)
    assert not agree(WIRING.without(BRIDGE), WIRING)
    assert not agree(WIRING.without(ROW), WIRING)
    assert not agree(WIRING.with_parts(TAP), WIRING)


def test_a_part_of_another_kind_or_value_does_not_agree() -> None:
    assert not agree(WIRING.with_parts(IvsPort(name=ROW.name)), WIRING)
    assert not agree(WIRING.with_parts(dataclasses.replace(ROW, type=PLACEHOLDER_TYPE)), WIRING)
    assert not agree(WIRING.with_parts(dataclasses.replace(VETH, master="")), WIRING)


def test_a_veth_pair_is_one_part_under_the_name_of_its_bridge_end() -> None:
    assert (VETH.name, VETH.peer) == (NAMES.bridge_end, NAMES.switch_end)
    assert list(WIRING.links) == [NAMES.bridge, NAMES.bridge_end]
