"""The contract of Open vSwitch executors for vhost-user ports, with and without DPDK.

Without DPDK, ovs-vswitchd does not accept such ports. The rows and the missing acceptance can be checked anyway.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hybridvif.executors.base import NOT_REALIZED
from hybridvif.model.desired import desired_state
from hybridvif.model.parts import VhostUserPort
from hybridvif.model.report import Result
from hybridvif.model.settings import SOCKET_DIR
from hybridvif.model.state import HostState
from hybridvif.model.steps import Create, Delete, Update
from hybridvif.testing.contract.bench import PORT, Bench, describe, require_equal, variants

VHU = PORT.names.vhost_user
OPTIONS = {"dpdkvhostuser": {}, "dpdkvhostuserclient": {"vhost-server-path": f"{SOCKET_DIR}/{VHU}"}}
"""Interface.options by type, as written by os-vif with Neutron's default vhostuser_socket_dir."""


def check(bench: Bench, bridges: Sequence[str]) -> None:
    """Check the row of a vhost-user port after create, foreign changes, update and delete."""
    port = desired_state(replace(PORT, bridge=bridges[0], call_iptables=False, vhostuser_mode="server")).ports[VHU]
    assert isinstance(port, VhostUserPort)
    others = {
        "type": ("dpdkvhostuser",),
        "mtu_request": (9000, 0),
        "bridge": tuple(bridges),
        "attached_mac": ("", "fa:16:3e:00:00:66"),
        "port_id": (PORT.id,),
    }
    _write(bench, Create(port))
    for changed in variants(port, others):
        assert isinstance(changed, VhostUserPort)
        _write(bench, Update(port, changed))
        _write(bench, Update(changed, port))
    _elsewhere(bench)
    _write(bench, Update(replace(port, realized=False), port))
    _remove(bench, port)
    unknown = replace(port, mtu_request=None)
    _write(bench, Create(unknown), mtu=[])
    _remove(bench, port)


def _elsewhere(bench: Bench) -> None:
    """A wrong socket path is drift and is fixed. Other options stay."""
    bench.sh(f"ovs-vsctl --no-wait set Interface {VHU} options:vhost-server-path=/elsewhere options:tx-retries-max=2")
    (found,) = bench.see(PORT.names).ports.values()
    assert isinstance(found, VhostUserPort)
    assert not found.socket_as_configured, f"{VHU}: a socket at /elsewhere is observed as configured"
    wanted = replace(found, realized=True, socket_as_configured=True)
    _write(bench, Update(found, wanted), others={"tx-retries-max": "2"})
    for changed in (replace(wanted, type="dpdkvhostuser"), wanted):
        _write(bench, Update(replace(wanted, type=_other(changed.type)), changed), others={"tx-retries-max": "2"})
    bench.sh(f"ovs-vsctl --no-wait remove Interface {VHU} options tx-retries-max")


def _other(kind: str) -> str:
    return next(other for other in OPTIONS if other != kind)


def _write(bench: Bench, step: Create | Update, mtu: object = None, others: Mapping[str, str] | None = None) -> None:
    """Apply a step, and check the row with ovs-vsctl."""
    port = step.part
    assert isinstance(port, VhostUserPort)
    (outcome,) = bench.do([step]) or (None,)
    assert outcome is not None, f"the executor can do nothing: {describe(step)}"
    row = _row(bench)
    taken = row["ofport"] not in ([], -1) and row["error"] == []
    if taken:
        assert outcome.result is Result.DONE, f"{describe(step)}: {outcome.result.value}, {outcome.reason}"
    else:
        assert (outcome.result, outcome.code) == (Result.FAILED, NOT_REALIZED), (
            f"{describe(step)}, which the switch did not take: {outcome.result.value} with code {outcome.code!r}, "
            f"but it must be failed with code {NOT_REALIZED!r}"
        )
        assert str(row["error"]) in outcome.reason or row["error"] == [], f"{describe(step)}: {outcome.reason}"
    written = {key: row[key] for key in ("type", "options", "mtu_request")}
    wanted = {
        "type": port.type,
        "options": {**OPTIONS[port.type], **(others or {})},
        "mtu_request": (port.mtu_request or []) if mtu is None else mtu,
    }
    assert written == wanted, f"{describe(step)}: the row has {written}, not {wanted}"
    seen = HostState({}, bench.see(PORT.names).ports)
    expected = replace(port, realized=taken, datapath_type="", isolated=False)
    expected = replace(expected, mtu_request=0 if mtu == [] else port.mtu_request)
    require_equal(seen, HostState({}, {VHU: expected}), f"after {describe(step)}")


def _remove(bench: Bench, port: VhostUserPort) -> None:
    for step in (Delete(port), Delete(port)):
        (outcome,) = bench.do([step]) or (None,)
        assert outcome is not None, f"the executor can do nothing: {describe(step)}"
        assert outcome.result is Result.DONE, f"{describe(step)}: {outcome.result.value}, {outcome.reason}"
        require_equal(bench.see(PORT.names), HostState(), f"after {describe(step)}")


def _row(bench: Bench) -> dict[str, Any]:
    columns = "type,options,mtu_request,ofport,error"
    table = json.loads(bench.sh(f"ovs-vsctl --format=json --columns={columns} list Interface {VHU}"))
    return {key: _plain(value) for key, value in zip(table["headings"], table["data"][0], strict=True)}


def _plain(value: Any) -> Any:
    match value:
        case ["set", members]:
            return members
        case ["map", pairs]:
            return dict(pairs)
    return value
