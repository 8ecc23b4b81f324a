"""Tests of the evidence of ownership, strongest first: the alias of a link, our own key, iface-id."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from hybridvif.model.errors import NameCollision, PlugFailed, UnplugFailed
from hybridvif.model.parts import ForeignObject, ForeignPort, IvsPort
from hybridvif.model.planner import check_ownership
from hybridvif.model.port import desired_state
from hybridvif.model.state import NOTHING, HostState
from tests.support.strategies import BRIDGE, NAMES, PORT, ROW, TAP, VETH, VHOST_USER, WIRING

OURS = PORT.id
THEIRS = "5f2c0e1a-7b00-4c00-8000-00000000000f"
INTERFACE = "0b1c2d3e-0000-4000-8000-000000000003"

SILENT = ["", "uplink of rack 7", OURS.upper(), THEIRS.replace("-", "")]
"""Tags that are not evidence: absent, or not a canonical UUID."""
CALLS = {"plug": "", "plug of a port with an interface id": INTERFACE, "unplug": ""}


def host(alias: str = "", peer_alias: str = "", bridge_alias: str = "", key: str = "", iface_id: str = "") -> HostState:
    return HostState().with_parts(
        replace(BRIDGE, alias=bridge_alias),
        replace(VETH, alias=alias, peer_alias=peer_alias),
        TAP,
        replace(ROW, port_id=key, iface_id=iface_id),
    )


def is_claimed(observed: HostState, interface_id: str) -> bool:
    try:
        check_ownership(observed, OURS, interface_id)
    except NameCollision:
        return False
    return True


@pytest.fixture(params=CALLS, ids=str)
def interface_id(request: pytest.FixtureRequest) -> str:
    return CALLS[request.param]


def test_empty_state_can_be_claimed(interface_id: str) -> None:
    assert is_claimed(NOTHING, interface_id)


@pytest.mark.parametrize("aliases", [tags for tags in product(["", OURS, THEIRS], repeat=3) if THEIRS in tags])
def test_alias_of_another_port_is_a_collision(aliases: tuple[str, str, str], interface_id: str) -> None:
    for key, iface_id in product([*SILENT, OURS, THEIRS, INTERFACE], repeat=2):
        assert not is_claimed(host(*aliases, key, iface_id), interface_id)


@pytest.mark.parametrize("position", range(3))
def test_alias_of_our_port_makes_other_ids_drift(position: int, interface_id: str) -> None:
    for silent, key, iface_id in product(SILENT, [*SILENT, OURS, THEIRS], [*SILENT, OURS, THEIRS, INTERFACE]):
        first, second, third = (OURS if index == position else silent for index in range(3))
        assert is_claimed(host(first, second, third, key, iface_id), interface_id)


def test_key_of_another_port_without_alias_is_a_collision(interface_id: str) -> None:
    for silent, iface_id in product(SILENT, [*SILENT, OURS, THEIRS, INTERFACE]):
        assert not is_claimed(host(silent, silent, silent, key=THEIRS, iface_id=iface_id), interface_id)


def test_key_of_our_port_without_alias_makes_iface_id_drift(interface_id: str) -> None:
    for silent, iface_id in product(SILENT, [*SILENT, OURS, THEIRS, INTERFACE]):
        assert is_claimed(host(silent, silent, silent, key=OURS, iface_id=iface_id), interface_id)


def test_iface_id_of_another_port_without_tag_is_a_collision(interface_id: str) -> None:
    for silent, key in product(SILENT, SILENT):
        assert not is_claimed(host(silent, silent, silent, key=key, iface_id=THEIRS), interface_id)


def test_iface_id_of_our_port_without_tag_is_claimed(interface_id: str) -> None:
    for silent, key in product(SILENT, SILENT):
        assert is_claimed(host(silent, silent, silent, key=key, iface_id=OURS), interface_id)
        if interface_id:
            assert is_claimed(host(silent, silent, silent, key=key, iface_id=interface_id), interface_id)


def test_parts_without_evidence_are_claimed(interface_id: str) -> None:
    for silent, key, iface_id in product(SILENT, repeat=3):
        assert is_claimed(host(silent, silent, silent, key=key, iface_id=iface_id), interface_id)


def test_unplug_with_another_interface_id_is_a_collision() -> None:
    with pytest.raises(NameCollision, match=INTERFACE):
        check_ownership(host(iface_id=INTERFACE), OURS)
    check_ownership(host(iface_id=INTERFACE), OURS, INTERFACE)
    check_ownership(host(key=OURS, iface_id=INTERFACE), OURS)


def test_row_alone_is_evidence(interface_id: str) -> None:
    assert not is_claimed(HostState().with_parts(replace(ROW, iface_id=THEIRS)), interface_id)
    assert is_claimed(HostState().with_parts(ROW), interface_id)


def test_alias_of_a_foreign_object_is_evidence(interface_id: str) -> None:
    foreign = ForeignObject(name=NAMES.bridge, what="a dummy link", alias=THEIRS)
    assert not is_claimed(HostState().with_parts(foreign), interface_id)
    assert is_claimed(HostState().with_parts(replace(foreign, alias=OURS), replace(ROW, iface_id=THEIRS)), interface_id)
    assert is_claimed(HostState().with_parts(replace(foreign, alias="x")), interface_id)


def test_switch_port_without_ids_is_not_evidence(interface_id: str) -> None:
    assert is_claimed(HostState().with_parts(IvsPort(name=NAMES.switch_end)), interface_id)
    assert is_claimed(HostState().with_parts(ForeignPort(name=NAMES.switch_end, what="a bond")), interface_id)


@pytest.mark.parametrize(
    ("observed", "evidence"),
    [
        (host(alias=THEIRS), "the alias of its links"),
        (host(key=THEIRS), "external_ids:hybridvif-port-id"),
        (host(iface_id=THEIRS), "external_ids:iface-id"),
    ],
)
def test_collision_names_ports_evidence_and_remedy(observed: HostState, evidence: str) -> None:
    with pytest.raises(NameCollision) as refusal:
        check_ownership(observed, OURS)
    assert str(refusal.value) == (
        f"port {OURS} shares its first 11 characters, and so its device names, with port {THEIRS}, "
        f"which is plugged here ({evidence}); unplug that port first, or give one of them another id"
    )
    assert isinstance(refusal.value, PlugFailed)
    assert isinstance(refusal.value, UnplugFailed)


STRANGER = "91d3aa02-4100-4c00-8000-000000000002"
"""The id of a port with other device names."""


@pytest.mark.parametrize(
    ("aliases", "row", "owner", "wrong"),
    [
        ((OURS, OURS, THEIRS), OURS, OURS, [NAMES.bridge]),
        ((THEIRS, OURS, OURS), OURS, OURS, [NAMES.bridge_end]),
        ((THEIRS, THEIRS, OURS), "", THEIRS, [NAMES.bridge]),
        # The row decides between two.
        ((THEIRS, "", ""), OURS, OURS, [NAMES.bridge_end]),
        ((STRANGER, STRANGER, STRANGER), OURS, OURS, [NAMES.bridge, NAMES.bridge_end, NAMES.switch_end]),
        ((STRANGER, "", ""), "", OURS, [NAMES.bridge_end]),
    ],
)
def test_contradicting_aliases_are_shown_with_the_mending_command(
    aliases: tuple[str, str, str], row: str, owner: str, wrong: list[str]
) -> None:
    """Each id was refused for the other one, so no command went on."""
    observed = host(*aliases, iface_id=row)
    with pytest.raises(NameCollision) as refusal:
        check_ownership(observed, OURS)
    evidence, _, commands = str(refusal.value).partition("; ")
    assert evidence.startswith(f"port {OURS}: its devices contradict each other about their port: ")
    for device, alias in zip((NAMES.bridge_end, NAMES.switch_end, NAMES.bridge), aliases, strict=True):
        assert (f"{device} has the alias {alias}" in evidence) is bool(alias)
    assert (f"the row {NAMES.switch_end} names {row}" in evidence) is bool(row)
    mended = " && ".join(f"ip link set {device} alias {owner}" for device in wrong)
    assert commands == f"if they are devices of port {owner}, run: {mended}"
    places = zip((NAMES.bridge_end, NAMES.switch_end, NAMES.bridge), aliases, strict=True)
    alias, peer_alias, bridge_alias = (owner if device in wrong else alias for device, alias in places)
    check_ownership(host(alias, peer_alias, bridge_alias, iface_id=row), owner)


@pytest.mark.parametrize("first", [OURS, THEIRS])
def test_second_of_two_colliding_ports_is_refused(first: str) -> None:
    second = OURS if first == THEIRS else THEIRS
    plugged = desired_state(replace(PORT, id=first))
    check_ownership(plugged, first)
    with pytest.raises(NameCollision):
        check_ownership(plugged, second)


def test_vhost_user_row_of_another_port_is_a_collision() -> None:
    for row in (replace(VHOST_USER, iface_id=THEIRS), replace(VHOST_USER, port_id=THEIRS)):
        with pytest.raises(NameCollision, match=THEIRS):
            check_ownership(WIRING.with_parts(row), OURS)
        with pytest.raises(NameCollision, match=THEIRS):
            check_ownership(HostState().with_parts(row), OURS)
    check_ownership(WIRING.with_parts(VHOST_USER), OURS)
    check_ownership(HostState().with_parts(replace(VHOST_USER, iface_id=INTERFACE)), OURS, INTERFACE)
