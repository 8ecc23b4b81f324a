"""Our OVSDB client observes the same switch as ovsdbapp does on the same database."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hybridvif.testing.sandbox.box import Sandbox
from hybridvif.testing.sandbox.switch import SOCKET
from tests.functional.conftest import make_port

PORTS = [make_port(number) for number in range(1, 41)]
SEEN = f"""
import json, sys, time
from hybridvif.executors.ovsdb.executor import OvsdbExecutor
from hybridvif.executors.ovsdbapp_executor import ReplicaExecutor
from hybridvif.model.settings import Settings

names = json.loads(sys.argv[1])
settings = Settings(ovsdb_connection="unix:{SOCKET}")
ours, theirs = (make(settings).observe(names, time.monotonic() + 20) for make in (OvsdbExecutor, ReplicaExecutor))
assert ours == theirs, (ours, theirs)
print(len(ours.state.ports))
"""


@pytest.fixture(scope="module")
def crowd(sandbox: Sandbox) -> Iterator[None]:
    """Rows of every shape: complete, without ids, tagged, on another bridge, bonded, without a device."""
    script = ["ovs-vsctl --no-wait --may-exist add-br br-two -- set Bridge br-two datapath_type=netdev"]
    for index, port in enumerate(PORTS):
        name = port.names.switch_end
        ids = f"external_ids:iface-id={port.id}" if index % 3 else ""
        tag = f"tag={index}" if index % 4 == 1 else ""
        bridge = "br-int" if index % 5 else "br-two"
        script.append(f"ovs-vsctl --no-wait add-port {bridge} {name} {tag} -- set Interface {name} {ids} type=patch")
    last = PORTS[-1].names.switch_end
    script += [
        f"ovs-vsctl --no-wait del-port {last}",
        f"ovs-vsctl --no-wait add-bond br-int hvbond {last} hvother",
        "ovs-vsctl --no-wait add-port br-int 'a \"strange\" name'",
    ]
    sandbox.run(["sh", "-ec", "\n".join(script)])
    yield
    gone = " ".join(f"-- --if-exists del-port {port.names.switch_end}" for port in PORTS)
    # The unusual name is queried by itself, because a shell would split a list of names.
    clean = f"""ovs-vsctl del-br br-two -- del-port hvbond -- del-port 'a "strange" name' {gone}"""
    sandbox.run(["sh", "-ec", clean])


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize("count", [0, 1, 16, 17, 40, None])
def test_both_see_the_same_of_every_row(sandbox: Sandbox, count: int | None) -> None:
    names = None if count is None else [name for port in PORTS[len(PORTS) - count :] for name in port.names]
    seen = int(sandbox.python(SEEN, json.dumps(names)).stdout)
    assert seen == (len(PORTS) if count is None else count)
