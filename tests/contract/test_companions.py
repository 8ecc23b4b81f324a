"""What comes and goes with a port's row, by each executor: its bridge, as the configuration says, and its QoS."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridvif import BridgeMissing, Create, OvsPort, Refused, check, plug, plug_all, unplug, unplug_all
from hybridvif.wiring import wiring_of
from tests.contract.bench import Bench
from tests.contract.test_switch_executor import EXECUTORS
from tests.functional.conftest import make_port
from tests.unit.strategies import the

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
    # Never isolated: nobody would take it out of the dead VLAN.
    assert bench.row(QVO, "Port")["tag"] == ["set", []]
    plug(replace(OTHER, datapath_type="system"), bench.host)
    assert bench.sh(f"ovs-vsctl get Bridge {TRUNK} datapath_type").strip() == "netdev"
    assert (check(PORT, bench.host), check(OTHER, bench.host)) == ((), ())
    with bench.vm(PORT, 1) as left, bench.vm(OTHER, 2):
        assert left.ping("10.0.0.2").returncode == 0
    unplug(PORT.id, bench.host)
    assert TRUNK in bridges(bench)
    bench.sh(f"ip link delete {PORT.names.tap} || true; ip link delete {OTHER.names.tap} || true")
    unplug(OTHER.id, bench.host)
    assert bench.snapshot() == before


def test_a_trunk_bridge_that_holds_anything_else_stays(bench: Bench) -> None:
    plug(PORT, bench.host)
    bench.sh(f"ovs-vsctl add-port {TRUNK} tpt-0b1c -- set Interface tpt-0b1c type=patch options:peer=tpi-0b1c")
    unplug(PORT.id, bench.host)
    assert bench.sh(f"ovs-vsctl list-ports {TRUNK}").split() == ["tpt-0b1c"]


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
    ports = [replace(one, qos_type="linux-noop") for one in (PORT, OTHER)]
    assert all(report.ok for report in plug_all(ports, bench.host))
    kinds = bench.sh("ovs-vsctl --bare --columns=type,external_ids list QoS")
    assert kinds.count("_type=linux-noop") == kinds.count("linux-noop\n") == 2
    unplug(PORT.id, bench.host)
    assert len(bench.sh("ovs-vsctl --bare --columns=_uuid list QoS").split()) == 1
    unplug(OTHER.id, bench.host)
    assert bench.sh("ovs-vsctl list QoS") == ""
    assert bench.snapshot() == before


def test_two_rows_are_moved_in_one_transaction(bench: Bench) -> None:
    ports = [replace(one, bridge="br-two") for one in (PORT, OTHER)]
    assert all(report.ok for report in plug_all(ports, bench.host))
    before = int(bench.sh("ovs-vsctl get Open_vSwitch . next_cfg"))
    moved = [replace(one, bridge="br-int") for one in ports]
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
    # Nor by a caller that asks the daemon itself.
    with pytest.raises(Refused, match="integration_bridges"):
        bench.do(Create(the(OvsPort, wiring_of(port))))
    assert bench.snapshot() == before
