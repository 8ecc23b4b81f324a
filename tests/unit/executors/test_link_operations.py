"""netlink.operations: the order in which a new device is set."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridvif.executors.netlink.operations import Add, Operation, Set, Sysctl, operations_of
from hybridvif.model.parts import Bridge, Link, Veth
from hybridvif.model.port import Port, desired_state
from hybridvif.model.state import Create
from tests.support.strategies import the

ID = "5f2c0e1a-7b00-4c00-8000-000000000001"
STATE = desired_state(Port(id=ID, mac="fa:16:3e:aa:bb:cc", instance_id=ID))
BRIDGE, VETH = the(Bridge, STATE), the(Veth, STATE)


def operations_on(part: Link) -> list[Operation]:
    return operations_of(Create(part), "0a:00:00:00:01:7b")


def set_up(part: Link) -> list[str]:
    """The devices that are set up, in order."""
    return [
        operation.device for operation in operations_on(part) if isinstance(operation, Set) and "up" in operation.values
    ]


@pytest.mark.parametrize("part", [BRIDGE, VETH])
def test_ipv6_is_off_before_a_device_is_up(part: Link) -> None:
    kinds = [type(operation) for operation in operations_on(part)]
    last_write = max(place for place, kind in enumerate(kinds) if kind is Sysctl)
    assert last_write < min(place for place, kind in enumerate(kinds) if kind is Set)
    (added,) = [operation for operation in operations_on(part) if isinstance(operation, Add)]
    assert "up" not in {*added.values, *added.peer_values}


def test_far_end_is_set_up_before_the_near_one() -> None:
    """The near one joins its bridge first. So the far one receives no packet before it has its settings."""
    assert set_up(VETH) == [VETH.peer, VETH.name]
    added = operations_on(VETH)[0]
    assert isinstance(added, Add)
    assert added.values["master"] == VETH.master


@pytest.mark.parametrize(("mtu", "number"), [(1500, 2), (1280, 2), (1279, 0), (68, 0)])
def test_small_device_gets_no_message_about_ipv6(mtu: int, number: int) -> None:
    veth = operations_on(replace(VETH, mtu=mtu, peer_mtu=mtu))
    assert sum("addr_gen_mode" in operation.values for operation in veth if isinstance(operation, Set)) == number
    bridge = operations_on(replace(BRIDGE, mtu=mtu))
    assert sum("addr_gen_mode" in operation.values for operation in bridge if isinstance(operation, Set)) == number // 2


@pytest.mark.parametrize("mtu", [1279, 1280, 1281])
def test_mtu_of_a_new_bridge_does_not_rise_to_that_of_ipv6(mtu: int) -> None:
    added = operations_on(replace(BRIDGE, mtu=mtu))[0]
    assert isinstance(added, Add)
    assert (int(str(added.values["mtu"])) >= 1280) is (mtu >= 1280)
