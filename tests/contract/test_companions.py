"""Side effects of a port's row, by each executor: its configured bridge and its QoS row."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from hybridvif import (
    BridgeMissing,
    Create,
    Delete,
    OvsPort,
    Refused,
    Result,
    Update,
    check,
    plug,
    plug_all,
    unplug,
    unplug_all,
)
from hybridvif.model.port import desired_state
from tests.contract.bench import PATIENCE, Bench
from tests.contract.test_switch_executor import EXECUTORS
from tests.functional.conftest import make_port
from tests.support.strategies import the

TRUNK = "tbr-0b1c2d3e-0"
PORT = make_port(bridge=TRUNK, datapath_type="netdev", isolate=True)
OTHER = make_port(2, bridge=TRUNK, datapath_type="netdev")
QVO = PORT.names.switch_end


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> dict[str, str]:
    return {
        "switch_executor": request.param,
        "integration_bridges": "br-int,br-two,br-made,tbr-*",
        "create_bridges": "br-made,tbr-*,br-ex",
        "remove_trunk_bridges": "true",
    }


def bridges(bench: Bench) -> set[str]:
    return set(bench.sh("ovs-vsctl list-br").split())


def test_a_trunk_bridge_comes_with_its_first_port_and_goes_with_its_last(bench: Bench) -> None:
    before = bench.snapshot()
    assert plug(PORT, bench.host).changed
    assert bench.sh(f"ovs-vsctl get Bridge {TRUNK} datapath_type").strip() == "netdev"
    assert bench.row(TRUNK)["type"] == "internal"
    assert bench.sh(f"ovs-vsctl get Interface {QVO} external_ids:bridge_name").strip() == TRUNK
    # Never isolated: no agent would take it out of the dead VLAN.
    assert bench.row(QVO, "Port")["tag"] == ["set", []]
    plug(replace(OTHER, datapath_type="system"), bench.host)
    assert bench.sh(f"ovs-vsctl get Bridge {TRUNK} datapath_type").strip() == "netdev"
    assert (check(PORT, bench.host), check(OTHER, bench.host)) == ((), ())
    with bench.vm(PORT, 1) as vm, bench.vm(OTHER, 2):
        assert vm.ping("10.0.0.2").returncode == 0
    unplug(PORT.id, bench.host)
    assert TRUNK in bridges(bench)
    bench.sh(f"ip link delete {PORT.names.tap} || true; ip link delete {OTHER.names.tap} || true")
    unplug(OTHER.id, bench.host)
    assert bench.snapshot() == before


@pytest.mark.parametrize(
    "beside",
    [
        "add-port {0} hvother -- set Interface hvother type=patch options:peer=tpi-0b1c",
        "add-port {0} tpt-0b1c -- set Interface tpt-0b1c type=internal",
        "add-bond {0} tpt-0b1c spt-1 spt-2 -- set Interface spt-1 type=patch -- set Interface spt-2 type=patch",
        "add-bond {0} tpt-0b1c tpt-0b1c spt-1 -- set Interface tpt-0b1c type=patch -- set Interface spt-1 type=patch",
        "add-port {0} tap-0b1c -- set Interface tap-0b1c type=internal",
    ],
    ids=["another's patch port", "an internal port", "a bond", "a bond of its name", "a port"],
)
def test_trunk_bridge_with_other_port_stays(bench: Bench, beside: str) -> None:
    plug(PORT, bench.host)
    bench.sh("ovs-vsctl --no-wait " + beside.format(TRUNK))
    held = set(bench.sh(f"ovs-vsctl list-ports {TRUNK}").split())
    unplug(PORT.id, bench.host)
    assert set(bench.sh(f"ovs-vsctl list-ports {TRUNK}").split()) == held - {QVO}


def wire(bench: Bench, *keys: str) -> None:
    """Create the patch ports of a trunk as Neutron's agent does, for the parent port and each subport."""
    for key in keys:
        near, far = f"{key[0]}pt-{key[1:]}", f"{key[0]}pi-{key[1:]}"
        bench.sh(
            f"ovs-vsctl add-port br-int {far} -- set Interface {far} type=patch options:peer={near} "
            f"-- add-port {TRUNK} {near} -- set Interface {near} type=patch options:peer={far} "
            f"-- set Port {near} vlan_mode=access tag=0"
        )


def configurations(bench: Bench) -> int:
    """Return the number of configurations that ovs-vswitchd received."""
    return int(bench.sh("ovs-vsctl get Open_vSwitch . next_cfg"))


def test_trunk_bridge_goes_with_neutrons_patch_ports(bench: Bench) -> None:
    """Neutron's agent wires a trunk only when an Interface with its bridge's name appears."""
    uuids = set()
    for _ in range(3):
        plug(PORT, bench.host)
        uuids.add(str(bench.row(TRUNK)["_uuid"]))
        wire(bench, "t1", "s2", "s3")
        before = configurations(bench)
        assert unplug(PORT.id, bench.host).ok
        assert configurations(bench) == before + 1
        assert TRUNK not in bridges(bench)
        # Their peers in the integration bridge belong to the agent.
        assert set(bench.sh("ovs-vsctl list-ports br-int").split()) == {"tpi-1", "spi-2", "spi-3"}
        bench.sh("for port in tpi-1 spi-2 spi-3; do ovs-vsctl del-port $port; done")
    assert len(uuids) == 3


def test_trunk_bridge_with_two_ports_goes_with_second(bench: Bench) -> None:
    plug_all([PORT, OTHER], bench.host)
    wire(bench, "t1")
    unplug(PORT.id, bench.host)
    assert set(bench.sh(f"ovs-vsctl list-ports {TRUNK}").split()) == {OTHER.names.switch_end, "tpt-1"}
    unplug(OTHER.id, bench.host)
    assert TRUNK not in bridges(bench)


@pytest.mark.parametrize("other", ["changed", "made", "moved"])
def test_trunk_bridge_needed_in_same_transaction_stays(bench: Bench, other: str) -> None:
    """The steps of several calls share a transaction: one deletes a port, another needs its bridge."""
    row, mine = the(OvsPort, desired_state(OTHER)), the(OvsPort, desired_state(PORT))
    plug(PORT, bench.host)
    plug(replace(OTHER, bridge="br-int") if other == "moved" else OTHER, bench.host)
    step: Create | Update = Update(row, replace(row, vm_uuid=""))
    if other == "made":
        bench.sh(f"ovs-vsctl del-port {row.name}")
        step = Create(row)
    elif other == "moved":
        step = Update(replace(row, bridge="br-int", bridge_name=""), row)
    outcomes = bench.host.apply([[Delete(mine)], [step]], time.monotonic() + PATIENCE)
    assert [outcome.result for plan in outcomes for outcome in plan] == [Result.DONE, Result.DONE]
    assert set(bench.sh(f"ovs-vsctl list-ports {TRUNK}").split()) == {row.name}
    assert bench.observed(None).facts.ports.keys() == {row.name}


def test_two_ports_of_one_call_share_the_bridge_that_is_made_for_them(bench: Bench) -> None:
    assert [report.ok for report in plug_all([PORT, OTHER], bench.host)] == [True, True]
    assert [report.ok for report in unplug_all([PORT.id, OTHER.id], bench.host)] == [True, True]
    assert TRUNK not in bridges(bench)


def test_an_integration_bridge_is_made_where_configured_and_never_removed(bench: Bench) -> None:
    port = replace(PORT, bridge="br-made")
    plug(port, bench.host)
    assert check(port, bench.host) == ()
    assert bench.row(QVO, "Port")["tag"] == 4095
    unplug(port.id, bench.host)
    assert "br-made" in bridges(bench)


def test_a_row_moves_to_a_bridge_that_is_made_for_it(bench: Bench) -> None:
    plug(replace(PORT, bridge="br-int"), bench.host)
    uuid = bench.row(QVO)["_uuid"]
    plug(PORT, bench.host)
    assert check(PORT, bench.host) == ()
    assert bench.row(QVO)["_uuid"] == uuid


def test_a_qos_row_comes_with_its_port_and_goes_with_it(bench: Bench) -> None:
    before = bench.snapshot()
    ports = [replace(port, qos_type="linux-noop") for port in (PORT, OTHER)]
    assert all(report.ok for report in plug_all(ports, bench.host))
    kinds = bench.sh("ovs-vsctl --bare --columns=type,external_ids list QoS")
    assert kinds.count("_type=linux-noop") == kinds.count("linux-noop\n") == 2
    unplug(PORT.id, bench.host)
    assert len(bench.sh("ovs-vsctl --bare --columns=_uuid list QoS").split()) == 1
    unplug(OTHER.id, bench.host)
    assert bench.sh("ovs-vsctl list QoS") == ""
    assert bench.snapshot() == before


def test_two_rows_are_moved_in_one_transaction(bench: Bench) -> None:
    ports = [replace(item, bridge="br-two") for item in (PORT, OTHER)]
    assert all(report.ok for report in plug_all(ports, bench.host))
    before = int(bench.sh("ovs-vsctl get Open_vSwitch . next_cfg"))
    moved = [replace(item, bridge="br-int") for item in ports]
    assert all(report.ok for report in plug_all(moved, bench.host))
    assert {port.names.switch_end for port in ports} <= set(bench.sh("ovs-vsctl list-ports br-int").split())
    # ovs-vswitchd reconfigures the whole host for each.
    assert int(bench.sh("ovs-vsctl get Open_vSwitch . next_cfg")) == before + 1


@pytest.mark.parametrize("bridge", ["br-typo", "br-ex"], ids=["typing error", "not allowed"])
def test_no_other_bridge_is_made(bench: Bench, bridge: str) -> None:
    before = bench.snapshot()
    port = replace(PORT, bridge=bridge)
    with pytest.raises(BridgeMissing):
        plug(port, bench.host)
    # Nor by a client that sends the request itself.
    with pytest.raises(Refused, match="integration_bridges"):
        bench.do(Create(the(OvsPort, desired_state(port))))
    assert bench.snapshot() == before
