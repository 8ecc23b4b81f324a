"""Tests of orphans: a port is none if it is complete, has a VM, or may belong to another tool."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from hybridvif import RecordingHost
from hybridvif.model.orphans import find_orphans, states_of_ports, tagged_ports
from hybridvif.model.parts import ForeignObject, ForeignPort, IvsPort, ManagedTap, NativePort, OvsPort, Part, Tap, Veth
from hybridvif.model.port import desired_state
from hybridvif.model.state import NOTHING, Facts, HostState, Observed, owners_of
from tests.support.strategies import (
    BRIDGE,
    NAMES,
    PORT,
    ROW,
    TAP,
    VETH,
    VHOST_USER,
    WIRING,
    hosts_with,
    ports,
    without_taps,
)

TWIN_ID = "5f2c0e1a-7b00-4c00-8000-0000000000ff"
FOREIGN_ID = "91d3aa02-4100-4c00-8000-000000000002"
BRIDGES = ("br-int",)
KEYED = replace(ROW, iface_id=FOREIGN_ID, port_id=PORT.id)
"""A row with our key, because its interface id is not the port id."""
ADOPTED = WIRING.with_parts(replace(BRIDGE, alias=""), replace(VETH, alias="", peer_alias=""))
"""A port plugged by os-vif."""


def seen(state: HostState, *, carrier: bool = False) -> Observed:
    host = RecordingHost(state)
    host.simulation.carrier = {NAMES.tap} if carrier else set()
    return host.observe(None, 0.0)


def without(*parts: Part) -> HostState:
    state = WIRING
    for part in parts:
        state = state.without(part)
    return state


INCOMPLETE = {
    "no row": without(ROW),
    "no veth pair": without(VETH),
    "no bridge": without(BRIDGE).with_parts(replace(VETH, master="")),
    "a bridge alone": without(VETH, ROW),
    "a veth pair alone": without(BRIDGE, ROW).with_parts(replace(VETH, master="")),
    "a row with our key": HostState().with_parts(KEYED),
    "a killed plug with an untagged pair": without(ROW).with_parts(replace(VETH, alias="", peer_alias="")),
    "a pair with one tagged end": HostState().with_parts(replace(VETH, alias="", master="")),
    "a port of the other kind of switch, and a bridge": HostState().with_parts(BRIDGE, IvsPort(name=NAMES.switch_end)),
    "a tap without carrier": without(ROW).with_parts(TAP),
}


@pytest.mark.parametrize("state", INCOMPLETE.values(), ids=INCOMPLETE)
def test_incomplete_tagged_port_is_an_orphan(state: HostState) -> None:
    (found,) = find_orphans(seen(state), BRIDGES)
    assert (found.port_id, found.is_tagged) == (PORT.id, True)
    assert set(found.state) == set(without_taps(state))


SPARED = {
    "a whole port": WIRING,
    "a drifted port": WIRING.with_parts(replace(VETH, mtu=1400, up=False)),
    "nothing": NOTHING,
    "a tap alone": HostState().with_parts(replace(TAP, master="")),
    "half of what os-vif plugged": ADOPTED.without(ROW),
    "the other half of what os-vif plugged": ADOPTED.without(VETH),
    "an alias that is no id": without(VETH, ROW).with_parts(replace(BRIDGE, alias="mine")),
    "two owners": without(ROW).with_parts(replace(BRIDGE, alias=TWIN_ID)),
    "a row with the iface-id of another port": without(VETH).with_parts(replace(ROW, iface_id=FOREIGN_ID)),
    "the id of another name": without(VETH, ROW).with_parts(replace(BRIDGE, alias=FOREIGN_ID)),
    "a row with the key of another name": HostState().with_parts(replace(ROW, port_id=FOREIGN_ID)),
    "a foreign object": without(BRIDGE, ROW).with_parts(ForeignObject(name=NAMES.bridge, what="a dummy link")),
    "a foreign object with an alias": without(VETH, ROW).with_parts(
        ForeignObject(name=NAMES.bridge_end, what="x", alias=FOREIGN_ID)
    ),
    "a foreign object in the switch": without(BRIDGE, ROW).with_parts(
        ForeignPort(name=NAMES.switch_end, what="a bond")
    ),
    "a pair in a foreign bridge": without(BRIDGE).with_parts(replace(VETH, master="br-foreign")),
    "a member that is not ours": without(ROW).with_parts(Tap(name="tap91d3aa02-41", master=NAMES.bridge)),
    "a row in another bridge": HostState().with_parts(replace(ROW, bridge="br-ex")),
    "a row without any id": HostState().with_parts(replace(ROW, iface_id="")),
    "a row with the id of another name": HostState().with_parts(replace(ROW, iface_id=FOREIGN_ID)),
}


@pytest.mark.parametrize("state", SPARED.values(), ids=SPARED)
def test_complete_or_untagged_port_is_not_an_orphan(state: HostState) -> None:
    assert find_orphans(seen(state), BRIDGES) == []


@pytest.mark.parametrize("master", [NAMES.bridge, ""], ids=["in the bridge", "apart"])
@pytest.mark.parametrize("missing", [ROW, VETH])
def test_port_with_a_tap_in_use_is_not_an_orphan(missing: Part, master: str) -> None:
    state = without(missing).with_parts(replace(TAP, master=master))
    assert find_orphans(seen(state, carrier=True), BRIDGES) == []


def test_port_with_a_tap_without_facts_is_not_an_orphan() -> None:
    assert find_orphans(Observed(without(ROW).with_parts(TAP), Facts()), BRIDGES) == []


def test_row_with_only_an_interface_id_is_an_untagged_orphan() -> None:
    (found,) = find_orphans(seen(HostState().with_parts(ROW)), BRIDGES)
    assert (found.port_id, found.is_tagged, set(found.state)) == (PORT.id, False, {ROW})


def test_orphan_with_recreated_devices_has_another_fingerprint() -> None:
    host = seen(without(ROW))
    links = {name: fact._replace(ifindex=fact.ifindex + 100) for name, fact in host.facts.links.items()}
    recreated = Observed(host.state, replace(host.facts, links=links))
    (first,), (second,) = find_orphans(host, BRIDGES), find_orphans(recreated, BRIDGES)
    assert first.sign != second.sign
    assert first.sign == find_orphans(host, BRIDGES)[0].sign
    assert find_orphans(Observed(host.state, Facts()), BRIDGES)[0].sign != first.sign


def test_tagged_ports_are_listed_complete_or_not() -> None:
    other = replace(PORT, id=FOREIGN_ID)
    state = WIRING.with_parts(*desired_state(other).links.values())
    assert tagged_ports(seen(state)) == [PORT.id, FOREIGN_ID]
    assert tagged_ports(seen(ADOPTED)) == []
    assert tagged_ports(seen(HostState().with_parts(ROW))) == []
    assert tagged_ports(seen(HostState().with_parts(KEYED))) == [PORT.id]
    assert tagged_ports(seen(WIRING.with_parts(replace(BRIDGE, alias=FOREIGN_ID)))) == []


def test_switch_port_named_tap_is_not_part_of_a_port() -> None:
    direct = replace(ROW, name=NAMES.tap)
    assert states_of_ports(HostState().with_parts(direct)) == {"5f2c0e1a-7b": NOTHING}
    assert find_orphans(seen(HostState().with_parts(direct)), BRIDGES) == []


def test_foreign_name_belongs_to_no_port() -> None:
    assert states_of_ports(HostState().with_parts(replace(BRIDGE, name="br-foreign"))) == {}


@given(ports().flatmap(lambda port: st.tuples(st.just(port), hosts_with(port))), st.booleans())
def test_orphan_in_any_state_is_incomplete_and_has_one_owner(drawn: tuple[object, HostState], carrier: bool) -> None:
    _, state = drawn
    host = RecordingHost(state)
    taps = {part.name for part in state if isinstance(part, Tap | ManagedTap)}
    host.simulation.carrier = taps if carrier else set()
    for found in find_orphans(host.observe(None, 0.0), BRIDGES):
        owners = {owner for part in found.state for owner in owners_of(part)}
        assert owners == {found.port_id}
        assert len({part for part in found.state if not isinstance(part, ManagedTap | NativePort)}) < 3
        if found.is_tagged:
            assert any(_has_tag(part, found.port_id) for part in found.state)
        names = {f"tap{found.port_id[:11]}"}
        assert not (carrier and taps & names)


def _has_tag(part: Part, port_id: str) -> bool:
    if isinstance(part, OvsPort):
        return part.port_id == port_id
    return port_id in (getattr(part, "alias", ""), part.peer_alias if isinstance(part, Veth) else "")


def test_vhost_user_port_is_never_an_orphan() -> None:
    for state in (HostState(), HostState().with_parts(KEYED), HostState().with_parts(BRIDGE)):
        for row in (VHOST_USER, replace(VHOST_USER, port_id=PORT.id, iface_id=FOREIGN_ID)):
            assert find_orphans(seen(state.with_parts(row)), BRIDGES) == []
