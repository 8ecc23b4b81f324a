"""ovsdbapp: ports of Open vSwitch through ovsdbapp's replica; one transaction per batch, read back when it is done.

It verifies `ovsdb` in the contract tests, and is an alternative on a host. It starts more slowly, since all ports of
the host are replicated first.

A row is changed in place. A port that is deleted and added again would lose its VLAN tag and ofport, and Neutron would
cycle it through DOWN (LP 1670628). Only differences are written, since any write wakes Neutron's agent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ovsdbapp.backend.ovs_idl import idlutils

from hybridvif.executors import ovs_rows
from hybridvif.executors.base import ExecutorError, StepFailed, rejected_transaction
from hybridvif.executors.ovs_rows import (
    IDS,
    SOCKET,
    Row,
    columns_at_creation,
    ids_of,
    iface_id_of,
    observed,
    options_of,
)
from hybridvif.executors.ovsdbapp_connection import ConnectionLost, Expired, Session
from hybridvif.executors.side_effects import (
    bridges_to_create,
    deleted_ports,
    is_qos_of,
    is_trunk_patch,
    ports_with_qos,
    qos_ids_of,
    removable_trunks,
)
from hybridvif.model.names import key_of
from hybridvif.model.parts import OvsPort, Part, Role, VhostUserPort
from hybridvif.model.report import Outcome
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed
from hybridvif.model.steps import Create, Delete, Step, Update, changes_of

MAX_ATTEMPTS = 8
SETTLE_TIME = 0.05
"""Seconds to wait for ofport and error to follow cur_cfg."""


class ReplicaExecutor:
    """Ports of Open vSwitch through ovsdbapp."""

    role: ClassVar[Role] = Role.SWITCH
    serves: ClassVar[frozenset[type[Part]]] = frozenset({OvsPort, VhostUserPort})
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        self._session = Session(settings)
        self._settings = settings

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the ports under these names, or all device names of ports, and all bridges."""
        with self._session.fresh(deadline) as api:
            return _observed(api, names, self._settings.vhost_socket_dir)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Commit all steps in one transaction, then wait until ovs-vswitchd has applied it."""
        try:
            return self._apply(steps, deadline)
        except Expired:
            return ovs_rows.no_response(steps)
        except ExecutorError as error:
            return [error.outcome_of(step) for step in steps]

    def _apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        status = error = ""
        attempt = 0
        for attempt in range(MAX_ATTEMPTS):
            with self._session.fresh(deadline) as api:
                before = _observed(api, {step.part.name for step in steps}, self._settings.vhost_socket_dir)
                rejected = rejected_transaction(before.state, steps)
                if rejected:
                    return rejected
                try:
                    status, number, error = api.commit(lambda txn: self._compose(api, txn, steps), deadline)
                except StepFailed as failure:
                    return [failure.outcome_of(step) for step in steps]
                if status in ("success", "unchanged"):
                    settled = _outcomes(api, steps, number, deadline)
                    return [replace(outcome, retries=attempt) for outcome in settled]
                if status != "try again":
                    break
            time.sleep(random.uniform(0, 0.01 * 2**attempt))
        return ovs_rows.not_committed(steps, error, rows_changed=status == "try again", retries=attempt)

    def _compose(self, api: Any, txn: Any, steps: Sequence[Step]) -> None:
        # Before any insert: the replica lacks columns of rows of its own transaction.
        qos = _qos_rows(api, steps)
        bridges = {row.name for row in api.tables["Bridge"].rows.values()}
        bridge_of = {name: bridge.name for bridge in api.tables["Bridge"].rows.values() for name in _port_names(bridge)}
        for name, kind in bridges_to_create(steps, bridges, self._settings.creates).items():
            _create_bridge(api, txn, name, kind)
        deleted = deleted_ports(steps)
        empty_trunks = [
            name
            for name in removable_trunks(steps, bridge_of, self._settings)
            if _is_empty_trunk(_bridge(api, name), deleted)
        ]
        for name in empty_trunks:
            _bridge(api, name).verify("ports")
        _compose(api, txn, steps, qos, self._settings.vhost_socket_dir)
        for name in empty_trunks:
            bridge = _bridge(api, name)
            api._ovs.delvalue("bridges", bridge)
            bridge.delete()


def _create_bridge(api: Any, txn: Any, name: str, datapath_type: str) -> None:
    """Create a bridge and its own port, as ovsdbapp's AddBridgeCommand, which needs a lock that this Idl lacks."""
    interface, port, bridge = (txn.insert(api.tables[table]) for table in ("Interface", "Port", "Bridge"))
    interface.name = port.name = bridge.name = name
    interface.type, port.interfaces, bridge.ports = "internal", [interface], [port]
    bridge.datapath_type = datapath_type
    api._ovs.addvalue("bridges", bridge)


def _port_names(bridge: Any) -> set[str]:
    """Return the names of the ports of a bridge, except its own."""
    return {port.name for port in bridge.ports} - {bridge.name}


def _is_empty_trunk(bridge: Any, deleted: Collection[str]) -> bool:
    """Return whether a trunk bridge contains only Neutron's patch ports once these ports are deleted."""
    others = [port for port in bridge.ports if port.name not in (bridge.name, *deleted)]
    return all(
        [interface.name for interface in port.interfaces] == [port.name]
        and is_trunk_patch(port.name, port.interfaces[0].type)
        for port in others
    )


def _qos_rows(api: Any, steps: Sequence[Step]) -> dict[str, list[Any]]:
    """Return the QoS rows that go with each port of these steps, by port name."""
    names = ports_with_qos(steps)
    held: dict[Any, list[str]] = {}
    for port in api.tables["Port"].rows.values() if names else ():
        for row in port.qos:
            held.setdefault(row.uuid, []).append(port.name)
    rows = list(api.tables["QoS"].rows.values())
    return {name: [row for row in rows if is_qos_of(name, row.external_ids, held.get(row.uuid, ()))] for name in names}


def _compose(api: Any, txn: Any, steps: Sequence[Step], qos: Mapping[str, Sequence[Any]], socket_dir: str) -> None:
    for step in steps:
        match step:
            case Create(OvsPort() as port):
                for qos_row in qos.get(port.name, ()):
                    qos_row.delete()
                _create(api, txn, port, socket_dir)
            case Update(_, OvsPort() as port):
                _update(api, port, changes_of(step), socket_dir)
            case Delete(OvsPort() as port):
                row = _row(api, "Port", port.name)
                if row is not None:
                    row.interfaces[0].verify("external_ids")
                    holder = _holder(api, row)
                    for qos_row in qos[port.name]:
                        qos_row.delete()
                    if qos[port.name] and holder is not None:
                        # Its reference to a QoS row counts until the end of the transaction. Clearing it has no effect
                        # on a row that is deleted here. The row is therefore taken out of its bridge, which deletes it.
                        row.qos = []
                        holder.delvalue("ports", row)
                    else:
                        api.del_port(port.name).run_idl(txn)
            case _:
                raise StepFailed(f"ovsdbapp does not serve {step.part.kind} {step.part.name}")


def _create(api: Any, txn: Any, port: OvsPort, socket_dir: str) -> None:
    _bridge(api, port.bridge)
    added = api.add_port(
        port.bridge,
        port.name,
        may_exist=False,
        type=port.type,
        options=options_of(port, socket_dir),
        external_ids=ids_of(port),
        **_mtu_of(api, port),
    )
    added.run_idl(txn)
    row = txn._txn_rows[added.result]
    for column, value in columns_at_creation(port).items():
        setattr(row, column, value)
    if port.qos_type:
        qos = txn.insert(api.tables["QoS"])
        qos.type, qos.external_ids = port.qos_type, qos_ids_of(port)
        row.qos = qos


def _mtu_of(api: Any, port: OvsPort) -> dict[str, int]:
    """Return the MTU that a row is created with, if the switch has the column."""
    if port.mtu_request and "mtu_request" in api.columns["Interface"]:
        return {"mtu_request": port.mtu_request}
    return {}


def _update(api: Any, port: OvsPort, changes: dict[str, object], socket_dir: str) -> None:
    row = _row(api, "Port", port.name)
    interface = row.interfaces[0]
    # The owner was authorized by these; if they change meanwhile the commit is retried.
    interface.verify("external_ids")
    for attribute, key in IDS.items():
        if attribute not in changes:
            continue
        if changes[attribute]:
            interface.setkey("external_ids", key, changes[attribute])
        elif key in interface.external_ids:
            interface.delkey("external_ids", key)
    if {"type", "socket_as_configured"} & changes.keys():
        interface.type = port.type
        interface.verify("options")
        # A vhost-user port keeps the options of others.
        kept = interface.options if isinstance(port, VhostUserPort) else {}
        others = {key: value for key, value in kept.items() if key != SOCKET}
        interface.options = {**others, **options_of(port, socket_dir)}
    if "mtu_request" in changes:
        interface.mtu_request = changes["mtu_request"] or []
    if "bridge" in changes:
        # Moved, not deleted and added: row, ofport and other_config remain.
        target = _bridge(api, port.bridge)
        holder = _holder(api, row)
        if holder is not None:
            holder.delvalue("ports", row)
        target.addvalue("ports", row)


def _outcomes(api: Any, steps: Sequence[Step], number: int | None, deadline: float) -> list[Outcome]:
    """Return the outcomes of a committed transaction, as ovs-vswitchd reports them."""
    if number is not None and not api.await_cfg(number, deadline):
        return ovs_rows.not_acknowledged(steps)
    return ovs_rows.committed(steps, lambda name: _error_of(api, name, deadline))


def _error_of(api: Any, name: str, deadline: float) -> str:
    """Return the reason that ovs-vswitchd rejected a device; empty if it did not."""
    row = _row_of(api, name, {})
    end = min(deadline, time.monotonic() + SETTLE_TIME)
    while ovs_rows.is_undecided(row) and time.monotonic() < end:
        try:
            api.sync(end)
        except (Expired, ConnectionLost):
            return ""
        row = _row_of(api, name, {})
    return ovs_rows.error_about(row)


def _observed(api: Any, names: Collection[str] | None, socket_dir: str) -> Observed:
    bridges = list(api.tables["Bridge"].rows.values())
    holders = {row.uuid: bridge.name for bridge in bridges for row in bridge.ports}
    # Of all rows, if all were requested.
    interfaces = list(api.tables["Interface"].rows.values()) if names is None else []
    if names is None:
        names = [row.name for row in api.tables["Interface"].rows.values() if key_of(row.name)]
    rows = [row for name in sorted(names) if (row := _row_of(api, name, holders)) is not None]
    version = api._ovs.ovs_version
    switches = {bridge.name: bridge.datapath_type for bridge in bridges}
    iface_ids = [(row.name, iface_id_of(row.external_ids)) for row in interfaces]
    return observed(rows, switches, version[0] if version else "", socket_dir, iface_ids)


def _row_of(api: Any, name: str, holders: Mapping[Any, str]) -> Row | None:
    interface, port = _row(api, "Interface", name), _row(api, "Port", name)
    if interface is None:
        return None
    alone = port is not None and [member.name for member in port.interfaces] == [name]
    return Row(
        name=name,
        bridge=holders.get(port.uuid) if alone else None,
        type=interface.type,
        external_ids=interface.external_ids,
        ofport=interface.ofport[0] if interface.ofport else None,
        error=interface.error[0] if interface.error else "",
        tag=port.tag[0] if alone and port.tag else None,
        options=interface.options,
        mtu_request=next(iter(interface.mtu_request), 0) if "mtu_request" in api.columns["Interface"] else None,
    )


def _row(api: Any, table: str, name: str) -> Any:
    return idlutils.row_by_value(api.idl, table, "name", name, None)


def _bridge(api: Any, name: str) -> Any:
    row = _row(api, "Bridge", name)
    if row is None:
        raise ovs_rows.bridge_missing(name)
    return row


def _holder(api: Any, port: Any) -> Any:
    return next((bridge for bridge in api.tables["Bridge"].rows.values() if port in bridge.ports), None)
