"""Steps as the operations of one OVSDB transaction. Pure (RFC 7047).

A row is changed in place. A port that is deleted and added again would lose its VLAN tag and ofport, and Neutron would
cycle it through DOWN (LP 1670628). Only differences are written, since any write wakes Neutron's agent. The owner of a
row was authorized by its external_ids. Every change of a row therefore waits for them to be unchanged. ovs-vsctl alone
cannot express that (vsctl.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from hybridvif.executors import ovs_rows
from hybridvif.executors.base import StepFailed
from hybridvif.executors.ovs_rows import NOTHING, Operation, Row, Snapshot
from hybridvif.executors.side_effects import SideEffects, qos_id_of, qos_ids_of
from hybridvif.model.errors import BridgeMissing
from hybridvif.model.parts import OvsPort, VhostUserPort
from hybridvif.model.state import Create, Delete, Replace, Step, Update, changes_of


def row_operations(steps: Sequence[Step], snapshot: Snapshot, effects: SideEffects, socket_dir: str) -> list[Operation]:
    """Return the operations of these steps, without next_cfg; empty if nothing changes. Raises StepFailed."""
    require_bridges(steps, {*snapshot.bridges, *effects.bridges_to_create})
    operations = _bridge_operations(effects)
    added, removed = defaultdict[str, list[Any]](list), defaultdict[str, list[Any]](list)
    for index, step in enumerate(steps):
        qos = effects.qos.get(step.part.name, ())
        match step:
            case Create(OvsPort() as port):
                operations += _delete_qos(qos)
                operations += _create_port(port, f"_of_step{index}", snapshot, socket_dir)
                added[port.bridge].append(["named-uuid", f"port_of_step{index}"])
            case Update(_, OvsPort() as port):
                found, changes = snapshot.rows[port.name], changes_of(step)
                operations += [_unchanged(found), *interface_changes(port, found.uuid, changes, socket_dir)]
                if "bridge" in changes:
                    # Moved, not deleted and added: row, ofport and other_config remain.
                    removed[str(found.bridge)].append(["uuid", found.port_uuid])
                    added[port.bridge].append(["uuid", found.port_uuid])
            case Replace(before, after) if before.name in effects.carried:
                operations += _replace_port(step, f"_of_step{index}", snapshot, effects)
                removed[after.bridge].append(["uuid", snapshot.rows[before.name].port_uuid])
                added[after.bridge].append(["named-uuid", f"port_of_step{index}"])
            case Delete(OvsPort(name=name)):
                if name in snapshot.rows:
                    found = snapshot.rows[name]
                    # Its reference to a QoS row counts until the end of the transaction.
                    cleared = [_update("Port", found.port_uuid, {"qos": NOTHING})] if qos else []
                    operations += [_unchanged(found), *cleared, *_delete_qos(qos)]
                    removed[str(found.bridge)].append(["uuid", found.port_uuid])
            case _:
                raise StepFailed(f"executors of OVSDB do not serve {step.part.kind} {step.part.name}")
    # If a bridge was deleted meanwhile, OVSDB would silently drop the unreferenced rows.
    operations += [_wait("Bridge", ["name", "==", bridge], {"name": bridge}) for bridge in sorted(added)]
    for verb, ports in (("delete", removed), ("insert", added)):
        operations += [
            _mutate("Bridge", [["name", "==", bridge]], ["ports", verb, ["set", uuids]])
            for bridge, uuids in sorted(ports.items())
            if bridge not in effects.bridges_to_remove
        ]
    return operations


def require_bridges(steps: Iterable[Step], existing: Collection[str]) -> None:
    """Raise StepFailed if the integration bridge of a port that these steps create or move does not exist."""
    for step in steps:
        if isinstance(step.part, OvsPort) and not isinstance(step, Delete) and step.part.bridge not in existing:
            name = step.part.bridge
            reason = f"integration bridge {name} does not exist; create it: ovs-vsctl add-br {name}"
            raise StepFailed(reason, code=BridgeMissing.code)


def with_next_cfg(operations: Iterable[Operation]) -> list[Operation]:
    """Return these operations with an increment of next_cfg, whose new value is the last result."""
    bump = _mutate("Open_vSwitch", [], ["next_cfg", "+=", 1])
    return [*operations, bump, ovs_rows.select("Open_vSwitch", ["next_cfg"])]


def await_applied(number: int, names: Collection[str], milliseconds: int) -> list[Operation]:
    """Return a wait until ovs-vswitchd has applied this configuration, and queries for these devices."""
    wait = _wait("Open_vSwitch", ["cur_cfg", ">=", number], {})
    wait |= {"timeout": milliseconds, "columns": ["cur_cfg"], "until": "!=", "rows": []}
    return [wait, *ovs_rows.select_named("Interface", ovs_rows.REPORTED_COLUMNS, names)]


def _bridge_operations(effects: SideEffects) -> list[Operation]:
    operations: list[Operation] = []
    for row in effects.bridges_to_remove.values():
        operations.append(_wait("Bridge", ["_uuid", "==", row["_uuid"]], {"ports": row["ports"]}))
        operations.append(_mutate("Open_vSwitch", [], ["bridges", "delete", row["_uuid"]]))
    for index, (name, datapath_type) in enumerate(sorted(effects.bridges_to_create.items())):
        operations += _create_bridge(name, datapath_type, f"_of_bridge{index}")
    return operations


def _create_bridge(name: str, datapath_type: str, suffix: str) -> list[Operation]:
    """Return the operations that create a bridge and its own port, as `ovs-vsctl add-br` does."""
    bridge = {"name": name, "datapath_type": datapath_type, "ports": ["named-uuid", f"port{suffix}"]}
    return [
        _insert("Interface", suffix, {"name": name, "type": "internal"}),
        _insert("Port", suffix, {"name": name, "interfaces": ["named-uuid", f"interface{suffix}"]}),
        _insert("Bridge", suffix, bridge),
        _mutate("Open_vSwitch", [], ["bridges", "insert", ["named-uuid", f"bridge{suffix}"]]),
    ]


def _create_port(port: OvsPort, suffix: str, snapshot: Snapshot, socket_dir: str) -> list[Operation]:
    interface: dict[str, Any] = {"name": port.name, "external_ids": _map(ovs_rows.ids_of(port))}
    interface |= interface_columns(port, socket_dir, mtu_request=snapshot.has_mtu_request)
    row = {"name": port.name, "interfaces": ["named-uuid", f"interface{suffix}"], **ovs_rows.columns_at_creation(port)}
    operations = []
    if port.qos_type:
        operations.append(_insert("QoS", suffix, {"type": port.qos_type, "external_ids": _map(qos_ids_of(port))}))
        row["qos"] = ["named-uuid", f"qos{suffix}"]
    return [*operations, _insert("Interface", suffix, interface), _insert("Port", suffix, row)]


def interface_columns(port: OvsPort, socket_dir: str, *, mtu_request: bool = True) -> dict[str, Any]:
    """Return the columns that an Interface is created with, except name and external_ids.

    mtu_request: the switch has this column.
    """
    columns: dict[str, Any] = {}
    if port.type:
        columns = {"type": port.type, "options": _map(ovs_rows.options_of(port.name, port.type, socket_dir))}
    if port.mtu_request and mtu_request:
        columns["mtu_request"] = port.mtu_request
    return columns


def _replace_port(step: Replace, suffix: str, snapshot: Snapshot, effects: SideEffects) -> list[Operation]:
    """Return the insertion of a row that carries on the columns of another one, as long as these are unchanged."""
    found, carried, name = snapshot.rows[step.before.name], effects.carried[step.before.name], step.after.name
    others = {key: value for key, value in found.external_ids.items() if key not in ovs_rows.IDS.values()}
    interface = {**carried.interface, "name": name, "external_ids": _map(others | ovs_rows.ids_of(step.after))}
    if found.ofport and found.ofport > 0:
        # So that the flows of the port go on to match.
        interface["ofport_request"] = found.ofport
    row = {**carried.port, "name": name, "interfaces": ["named-uuid", f"interface{suffix}"]}
    own = _replace("external_ids", {"id": qos_id_of(name)})
    return [
        _unchanged(found),
        _wait("Port", _is(found.port_uuid), carried.port),
        _wait("Interface", _is(found.uuid), carried.interface),
        _insert("Interface", suffix, interface),
        _insert("Port", suffix, row),
        *([_mutate("QoS", [_is(carried.qos)], *own)] if carried.qos else []),
    ]


def _delete_qos(uuids: Iterable[str]) -> list[Operation]:
    """Return the deletions of these rows; OVSDB aborts the transaction if a Port references one by then."""
    return [{"op": "delete", "table": "QoS", "where": [_is(uuid)]} for uuid in uuids]


def _unchanged(row: Row) -> Operation:
    return _wait("Interface", _is(row.uuid), {"external_ids": _map(row.external_ids)})


def interface_changes(port: OvsPort, uuid: str, changes: Mapping[str, object], socket_dir: str) -> list[Operation]:
    """Return the changes of the Interface of this uuid, except those of its bridge."""
    ids = ovs_rows.changed_ids(port, changes)
    mutations = _replace("external_ids", ids) if ids else []
    row: dict[str, Any] = {}
    if {"type", "socket_as_configured"} & changes.keys():
        options = ovs_rows.options_of(port.name, port.type, socket_dir)
        row["type"] = port.type
        if isinstance(port, VhostUserPort):
            # The other options are not ours.
            mutations += _replace("options", {ovs_rows.SOCKET: options.get(ovs_rows.SOCKET, "")})
        else:
            row["options"] = _map(options)
    if "mtu_request" in changes:
        row["mtu_request"] = changes["mtu_request"] or NOTHING
    if changes.get("converting") == "":
        row["ofport_request"] = NOTHING
    operations = [_mutate("Interface", [_is(uuid)], *mutations)] if mutations else []
    return [*operations, _update("Interface", uuid, row)] if row else operations


def _replace(column: str, values: Mapping[str, str]) -> list[Any]:
    """Return the mutations that set these keys of a map column; "" removes a key."""
    # An insert does not overwrite an existing key (RFC 7047, 5.1), so the key is deleted first.
    mutations: list[Any] = [[column, "delete", ["set", sorted(values)]]]
    kept = {key: value for key, value in values.items() if value}
    return [*mutations, [column, "insert", _map(kept)]] if kept else mutations


def _insert(table: str, suffix: str, row: Mapping[str, Any]) -> Operation:
    return {"op": "insert", "table": table, "row": row, "uuid-name": f"{table.lower()}{suffix}"}


def _update(table: str, uuid: str, row: Mapping[str, Any]) -> Operation:
    return {"op": "update", "table": table, "where": [_is(uuid)], "row": row}


def _mutate(table: str, where: Sequence[Any], *mutations: Any) -> Operation:
    return {"op": "mutate", "table": table, "where": where, "mutations": list(mutations)}


def _wait(table: str, condition: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a precondition that this row is unchanged; otherwise the server aborts at once ("timed out")."""
    wait = {"op": "wait", "timeout": 0, "table": table, "where": [condition]}
    return {**wait, "columns": list(row), "until": "==", "rows": [row]}


def _is(uuid: str) -> list[Any]:
    return ["_uuid", "==", ["uuid", uuid]]


def _map(values: Mapping[str, str]) -> list[Any]:
    return ["map", [[key, value] for key, value in sorted(values.items())]]
