"""The oracle accepts every transaction that an executor of OVSDB sends for a plug or unplug."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridvif import Port, plug_all, unplug_all
from hybridvif.executors.ovsdb.rpc import Connection
from hybridvif.model.names import TRUNK_BRIDGES
from hybridvif.model.settings import Settings
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab, make_port
from tests.support.ovsdb_proxy import OvsdbProxy

TRUNK = "tbr-0b1c2d3e-0"
BRIDGES = ("br-int", "br-made", TRUNK_BRIDGES)


@pytest.fixture
def proxy(sandbox: Sandbox, tmp_path: Path) -> Iterator[OvsdbProxy]:
    settings = Settings(integration_bridges=BRIDGES, create_bridges=BRIDGES[1:])
    with OvsdbProxy(sandbox.run_dir / "openvswitch" / "db.sock", tmp_path / "ovsdb.sock", settings) as proxy:
        yield proxy


PORTS = {
    "an ordinary port": {},
    "a port with all that a row is created with": {"isolate": True, "qos_type": "linux-noop"},
    "a vhost-user port": {"vhostuser_mode": "server"},
    "a port of a bridge that is created": {"bridge": "br-made", "datapath_type": "netdev"},
    "a port of a trunk bridge that goes with it": {"bridge": TRUNK, "datapath_type": "netdev"},
}


@pytest.mark.parametrize("executor", ["ovsdb", "ovsdbapp"])
@pytest.mark.parametrize("more", PORTS.values(), ids=PORTS)
def test_transaction_of_a_plug_and_unplug_is_accepted(
    sandbox: Sandbox, proxy: OvsdbProxy, tmp_path: Path, executor: str, more: dict[str, Any]
) -> None:
    ports: list[Port] = [make_port(number, **more) for number in (1, 2)]
    options = {"integration_bridges": ",".join(BRIDGES), "create_bridges": ",".join(BRIDGES[1:]), "deadline": 10}
    options["switch_executor"] = executor
    with connected(sandbox, tmp_path, **options, remove_trunk_bridges=True, ovsdb_connection=proxy.remote) as host:
        try:
            plug_all(ports, host)
            plugged = proxy.judged
            assert plugged > 0
            Lab(sandbox, host).sh(
                f"ovs-vsctl --no-wait --if-exists set Interface {row_name(ports[0])} external_ids:vm-uuid=theirs"
            )
            plug_all(ports, host)
            unplug_all([port.id for port in ports], host)
            assert proxy.judged > plugged
        finally:
            Lab(sandbox, host).sweep()
    assert proxy.objections == []


def row_name(port: Port) -> str:
    return port.names.vhost_user if port.vhostuser_mode else port.names.switch_end


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "update", "table": "Bridge", "where": [["name", "==", "none"]], "row": {"fail_mode": "secure"}},
        {"op": "insert", "table": "Controller", "row": {"target": "tcp:192.0.2.1"}, "uuid-name": "x"},
        {"op": "delete", "table": "QoS", "where": [["type", "==", "none"]]},
    ],
    ids=["bridge", "controller", "qos"],
)
def test_transaction_of_anything_else_is_objected_to(proxy: OvsdbProxy, operation: dict[str, Any]) -> None:
    deadline = time.monotonic() + 10
    with contextlib.closing(Connection(Settings(ovsdb_connection=proxy.remote), deadline)) as connection:
        connection.transact([operation], deadline)
    assert len(proxy.objections) == proxy.judged == 1
