"""Vhost-user ports by each executor, on an Open vSwitch without DPDK, which never accepts one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hybridvif import PlugFailed, Port, Report, Status, check, plug, unplug
from tests.contract.bench import Bench
from tests.contract.test_switch_executor import EXECUTORS
from tests.functional.conftest import make_port

SOCKETS = "/run/vhost.d"
MODES = {"client": ("dpdkvhostuser", {}), "server": ("dpdkvhostuserclient", {"vhost-server-path": f"{SOCKETS}/{{}}"})}


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"switch_executor": request.param, "vhost_socket_dir": SOCKETS, "deadline": "4"}


@pytest.fixture(params=MODES)
def port(request: pytest.FixtureRequest) -> Port:
    return make_port(vhostuser_mode=request.param, mtu=1450)


def failed(bench: Bench, port: Port) -> Report:
    with pytest.raises(PlugFailed) as caught:
        plug(port, bench.host)
    assert caught.value.report is not None
    return caught.value.report


def written(bench: Bench, port: Port) -> dict[str, Any]:
    row = bench.row(port.names.vhost_user)
    return {key: row[key] for key in ("type", "options", "external_ids", "mtu_request", "other_config")}


def should_be(port: Port) -> dict[str, Any]:
    kind, options = MODES[port.vhostuser_mode]
    named = sorted([key, value.format(port.names.vhost_user)] for key, value in options.items())
    ids = {"attached-mac": port.mac, "iface-id": port.id, "iface-status": "active", "vm-uuid": port.instance_id}
    return {
        "type": kind,
        "options": ["map", named],
        "external_ids": ["map", sorted(map(list, ids.items()))],
        "mtu_request": port.mtu,
        "other_config": ["map", []],
    }


def test_port_that_switch_refuses_fails_with_its_error_and_no_leftovers(bench: Bench, port: Port) -> None:
    before = bench.snapshot()
    report = failed(bench, port)
    assert report.status is Status.ROLLED_BACK
    assert report.code == "not-realized"
    assert report.reason.startswith(f"ovs-vswitchd did not take {port.names.vhost_user}: ")
    assert "could not open network device" in report.reason
    kind, _ = MODES[port.vhostuser_mode]
    assert f"it knows no interface of type {kind}, as without DPDK" in report.reason
    assert bench.snapshot() == before


@pytest.mark.alone
def test_while_the_switch_sleeps_the_row_is_configured_and_as_it_should_be(bench: Bench, port: Port) -> None:
    before = bench.snapshot()
    bench.box.pause("ovs-vswitchd")
    try:
        assert failed(bench, port).status is Status.CONFIGURED
        assert written(bench, port) == should_be(port)
        changed = replace(port, vhostuser_mode="client" if port.vhostuser_mode == "server" else "server", mtu=9000)
        assert failed(bench, changed).status is Status.CONFIGURED
        assert written(bench, changed) == should_be(changed)
    finally:
        bench.box.resume("ovs-vswitchd")
    assert bench.links() & set(port.names) == set()
    assert [str(change) for change in check(changed, bench.host)] != []
    assert unplug(port.id, bench.host).changed
    assert bench.snapshot() == before
