"""Open vSwitch without Interface.mtu_request (before 2.6): the column is not used, and ports can be plugged."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hybridvif import Watch, check, plug, unplug
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox import missing
from hybridvif.testing.sandbox.box import Sandbox
from tests.contract.bench import Bench
from tests.contract.test_switch_executor import EXECUTORS
from tests.functional.conftest import make_port


@pytest.fixture
def schema(tmp_path: Path) -> str:
    """Return the path of a schema without the column."""
    known = json.loads(Path(missing.schema() or "").read_text())
    del known["tables"]["Interface"]["columns"]["mtu_request"]
    older = tmp_path / "older.ovsschema"
    older.write_text(json.dumps(known))
    return str(older)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_port_plugs_without_mtu_request_column(executor: str, schema: str, tmp_path: Path) -> None:
    port = make_port()
    with Sandbox(ovs=False) as box:
        box.start_switch(schema=schema)
        with connected(box, tmp_path, switch_executor=executor) as host:
            bench = Bench(box, host)
            for wanted in (port, replace(port, mtu=1400)):
                assert plug(wanted, host).ok
                assert check(wanted, host) == ()
                assert bench.link(port.names.switch_end)["mtu"] == wanted.mtu
            watch = Watch(host)
            box.run(["ovs-vsctl", "set", "Port", port.names.switch_end, "tag=7"])
            assert [(event.attribute, event.after) for event in watch.wait(time.monotonic() + 30)] == [("tag", 7)]
            assert unplug(port.id, host).ok
