"""Queries and transactions of OVSDB as data, without a connection (RFC 7047).

A row is changed in place. A port that is deleted and added again would lose its VLAN tag and ofport, and Neutron would
cycle it through DOWN (LP 1670628). Only differences are written, since any write wakes Neutron's agent. The owner of a
row was authorized by its external_ids. Every change of a row therefore waits for them to be unchanged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridvif.executors import ovs_rows, side_effects
from hybridvif.executors.base import StepFailed
from hybridvif.executors.ovs_rows import (
    IDS,
    SOCKET,
    Row,
    columns_at_creation,
    elements,
    ids_of,
    iface_id_of,
    optional,
    options_of,
    row_of,
)
from hybridvif.executors.ovsdb.rpc import Operation
from hybridvif.model.names import key_of
from hybridvif.model.parts import OvsPort, VhostUserPort
from hybridvif.model.settings import SOCKET_DIR
from hybridvif.model.steps import Create, Delete, Step, Update, changes_of

MAX_SINGLE_QUERIES = 16
"""Number of names up to which rows are queried one by one; for more, whole tables are read."""

Columns = Mapping[str, Sequence[str]]
COLUMNS: Columns = {
    "Open_vSwitch": ("ovs_version",),
    "Bridge": ("_uuid", "name", "datapath_type"),
    "Port": ("_uuid", "name", "interfaces", "tag"),
    "Interface": ("_uuid", "name", "type", "external_ids", "ofport", "error", "options", "mtu_request"),
}
"""All columns that are read; an older Open vSwitch may lack some."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of some names, with the data that is needed to change them."""

    rows: Mapping[str, Row]
    uuids: Mapping[str, tuple[str, str]]
    """Uuids of the Interface and the Port of each row, by name."""
    external_ids: Mapping[str, Any]
    """In the server's own encoding, by name."""
    bridges: Mapping[str, str]
    """Datapath type of each bridge; "" for the default."""
    version: str
    iface_ids: Sequence[tuple[str, str]] = ()
    """Pairs of name and external_ids:iface-id of all rows, if all were queried."""


def row_queries(names: Collection[str] | None, columns: Columns) -> list[Operation]:
    """Return the queries for these names, None for all. The first two are about the switch itself."""
    queries = [_select("Open_vSwitch", columns)]
    if names is None or len(names) > MAX_SINGLE_QUERIES:
        return [
            *queries,
            _select("Bridge", {"Bridge": [*columns["Bridge"], "ports"]}),
            _select("Interface", columns),
            _select("Port", columns),
        ]
    queries.append(_select("Bridge", columns))
    return queries + [
        _select(table, columns, ["name", "==", name]) for table in ("Interface", "Port") for name in sorted(names)
    ]


def ports_without_holder(responses: Sequence[Any]) -> list[str]:
    """Return the uuids of the Ports whose bridge is not in these responses."""
    if any("ports" in bridge for bridge in responses[1]["rows"]):
        return []
    return [row["_uuid"][1] for response in responses[2:] for row in response["rows"] if "interfaces" in row]


def holder_queries(ports: Iterable[str]) -> list[Operation]:
    """Return the queries for the bridge of each of these Ports, one per Port."""
    return [_select("Bridge", {"Bridge": ["name"]}, ["ports", "includes", ["uuid", port]]) for port in ports]


def rows_of(names: Collection[str] | None, responses: Sequence[Any], holders: Mapping[str, Any]) -> Snapshot | None:
    """Decode these responses; return None if the rows changed between the two queries.

    holders: the response about the bridge of each Port, by the uuid of the Port.
    """
    (version,) = [row.get("ovs_version", "") for row in responses[0]["rows"][:1]] or [""]
    bridges = responses[1]["rows"]
    interfaces: dict[str, Any] = {}
    ports: dict[str, Any] = {}
    for response in responses[2:]:
        for row in response["rows"]:
            (ports if "interfaces" in row else interfaces)[row["name"]] = row
    holder_of = {uuid[1]: bridge["name"] for bridge in bridges for uuid in elements(bridge.get("ports", []))}
    for uuid in ports_without_holder(responses):
        if not holders[uuid]["rows"]:
            return None
        holder_of[uuid] = holders[uuid]["rows"][0]["name"]
    wanted = [name for name in interfaces if (key_of(name) if names is None else name in names)]
    uuids = {name: (interfaces[name]["_uuid"][1], ports[name]["_uuid"][1]) for name in wanted if name in ports}
    return Snapshot(
        rows={name: row_of(interfaces[name], ports.get(name), holder_of) for name in sorted(wanted)},
        uuids=uuids,
        external_ids={name: interfaces[name]["external_ids"] for name in wanted},
        bridges={bridge["name"]: bridge.get("datapath_type", "") for bridge in bridges},
        version=optional(version) or "",
        iface_ids=[(name, iface_id_of(dict(row["external_ids"][1]))) for name, row in interfaces.items()]
        if names is None
        else (),
    )


@dataclass(frozen=True, slots=True)
class SideEffects:
    """Bridges and QoS rows that come and go with the rows of ports, and settings of the host."""

    qos: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Uuids of the QoS rows that go with a port, by port name."""
    bridges_to_create: Mapping[str, str] = field(default_factory=dict)
    """Bridges to create: their datapath types by name."""
    bridges_to_remove: Mapping[str, Any] = field(default_factory=dict)
    """Trunk bridges to remove: their rows by name."""
    socket_dir: str = SOCKET_DIR
    """Directory of QEMU's sockets."""
    has_mtu_request: bool = True
    """True if this Open vSwitch has the column."""

    def bridge_operations(self) -> list[Operation]:
        """Return the operations on bridges, which come first in a transaction."""
        operations: list[Operation] = []
        for row in self.bridges_to_remove.values():
            operations += side_effects.bridge_removal(row)
        for index, (name, datapath_type) in enumerate(sorted(self.bridges_to_create.items())):
            operations += side_effects.bridge_insertion(name, datapath_type, index)
        return operations


def operations_of(steps: Sequence[Step], snapshot: Snapshot, effects: SideEffects = SideEffects()) -> list[Operation]:
    """Return the operations of these steps, without next_cfg; empty if nothing changes. Raises StepFailed."""
    qos, existing = effects.qos, {*snapshot.bridges, *effects.bridges_to_create}
    operations = effects.bridge_operations()
    added: dict[str, list[Any]] = {}
    removed: dict[str, list[Any]] = {}
    for index, step in enumerate(steps):
        match step:
            case Create(OvsPort() as port):
                _require(port.bridge, existing)
                operations += side_effects.qos_deletions(qos.get(port.name, ()))
                operations += _insert(port, index, effects)
                added.setdefault(port.bridge, []).append(["named-uuid", f"port{index}"])
            case Update(_, OvsPort() as port):
                changes = changes_of(step)
                operations += _unchanged(port.name, snapshot) + _changed(port, changes, snapshot, effects)
                if "bridge" in changes:
                    # Moved, not deleted and added: row, ofport and other_config remain.
                    _require(port.bridge, existing)
                    uuid = ["uuid", snapshot.uuids[port.name][1]]
                    removed.setdefault(str(snapshot.rows[port.name].bridge), []).append(uuid)
                    added.setdefault(port.bridge, []).append(uuid)
            case Delete(OvsPort() as port):
                if port.name in snapshot.uuids:
                    uuid = ["uuid", snapshot.uuids[port.name][1]]
                    operations += _unchanged(port.name, snapshot) + _without_qos(uuid, qos.get(port.name, ()))
                    removed.setdefault(str(snapshot.rows[port.name].bridge), []).append(uuid)
            case _:
                raise StepFailed(f"ovsdb does not serve {step.part.kind} {step.part.name}")
    for bridge in sorted(added):
        # If the bridge was deleted meanwhile, OVSDB would silently drop the unreferenced rows.
        operations.append(_wait("Bridge", ["name", "==", bridge], {"name": bridge}))
    for verb, ports in (("delete", removed), ("insert", added)):
        operations += [
            _mutate("Bridge", ["name", "==", bridge], ["ports", verb, ["set", uuids]])
            for bridge, uuids in sorted(ports.items())
            if bridge not in effects.bridges_to_remove
        ]
    return operations


def with_next_cfg(operations: Sequence[Operation]) -> list[Operation]:
    """Return these operations with an increment of next_cfg, whose new value is the last result."""
    bump = {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]]}
    return [*operations, bump, {"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["next_cfg"]}]


def await_applied(number: int, names: Collection[str], milliseconds: int) -> list[Operation]:
    """Return a wait until ovs-vswitchd has applied this configuration, and queries for these devices."""
    columns = {"Interface": ("name", "type", "ofport", "error")}
    wait = {
        "op": "wait",
        "timeout": milliseconds,
        "table": "Open_vSwitch",
        "where": [["cur_cfg", ">=", number]],
        "columns": ["cur_cfg"],
        "until": "!=",
        "rows": [],
    }
    if len(names) > MAX_SINGLE_QUERIES:
        return [wait, _select("Interface", columns)]
    return [wait, *(_select("Interface", columns, ["name", "==", name]) for name in sorted(names))]


def applied_rows(responses: Iterable[Any]) -> dict[str, Row]:
    """Return the rows that ovs-vswitchd has applied, by name, with only the columns that it writes."""
    return {
        row["name"]: Row(
            name=row["name"],
            bridge=None,
            type=row["type"],
            external_ids={},
            ofport=optional(row["ofport"]),
            error=optional(row.get("error", ["set", []])) or "",
            tag=None,
        )
        for response in responses
        for row in response["rows"]
    }


def error_in(results: Sequence[Any]) -> str:
    """Return the first error in the results of a transaction; empty if it was committed."""
    for result in results:
        if isinstance(result, dict) and result.get("error"):
            return f"{result['error']}: {result.get('details', '')}".rstrip(": ")
    return ""


def _require(bridge: str, existing: Collection[str]) -> None:
    if bridge not in existing:
        raise ovs_rows.bridge_missing(bridge)


def _insert(port: OvsPort, index: int, effects: SideEffects) -> list[Operation]:
    row: dict[str, Any] = {"name": port.name, "external_ids": _map(ids_of(port))}
    if port.type:
        row |= {"type": port.type, "options": _map(options_of(port, effects.socket_dir))}
    if port.mtu_request and effects.has_mtu_request:
        row["mtu_request"] = port.mtu_request
    holder = {"name": port.name, "interfaces": ["named-uuid", f"interface{index}"], **columns_at_creation(port)}
    operations = [side_effects.qos_insertion(port, f"qos{index}")] if port.qos_type else []
    if port.qos_type:
        holder["qos"] = ["named-uuid", f"qos{index}"]
    return [
        *operations,
        {"op": "insert", "table": "Interface", "row": row, "uuid-name": f"interface{index}"},
        {"op": "insert", "table": "Port", "row": holder, "uuid-name": f"port{index}"},
    ]


def _without_qos(port: Sequence[str], qos: Sequence[str]) -> list[Operation]:
    """Return the deletion of the QoS rows of a port.

    The reference of the port is cleared first, since it counts until the end of the transaction.
    """
    if not qos:
        return []
    cleared = {"op": "update", "table": "Port", "where": [["_uuid", "==", port]], "row": {"qos": ["set", []]}}
    return [cleared, *side_effects.qos_deletions(qos)]


def _unchanged(name: str, snapshot: Snapshot) -> list[Operation]:
    interface, _ = snapshot.uuids[name]
    return [_wait("Interface", ["_uuid", "==", ["uuid", interface]], {"external_ids": snapshot.external_ids[name]})]


def _changed(port: OvsPort, changes: Mapping[str, object], snapshot: Snapshot, effects: SideEffects) -> list[Operation]:
    where = ["_uuid", "==", ["uuid", snapshot.uuids[port.name][0]]]
    written = {key: str(changes[attribute]) for attribute, key in IDS.items() if attribute in changes}
    operations = []
    if written:
        operations.append(_mutate("Interface", where, *_replaced("external_ids", written)))
    row: dict[str, Any] = {}
    if {"type", "socket_as_configured"} & changes.keys():
        options = options_of(port, effects.socket_dir)
        row["type"] = port.type
        if isinstance(port, VhostUserPort):
            operations.append(_mutate("Interface", where, *_replaced("options", {SOCKET: options.get(SOCKET, "")})))
        else:
            row["options"] = _map(options)
    if "mtu_request" in changes:
        row["mtu_request"] = changes["mtu_request"] or ["set", []]
    if row:
        operations.append({"op": "update", "table": "Interface", "where": [where], "row": row})
    return operations


def _replaced(column: str, values: Mapping[str, str]) -> list[Any]:
    """Return the mutations that set these keys of a map column; "" removes a key."""
    # An insert does not overwrite an existing key (RFC 7047, 5.1), so the key is deleted first.
    mutations: list[Any] = [[column, "delete", ["set", sorted(values)]]]
    kept = {key: value for key, value in values.items() if value}
    return [*mutations, [column, "insert", _map(kept)]] if kept else mutations


def _select(table: str, columns: Columns, *where: Any) -> Operation:
    return {"op": "select", "table": table, "where": list(where), "columns": list(columns[table])}


def _wait(table: str, where: Any, row: Mapping[str, Any]) -> Operation:
    """Return a precondition that this row is unchanged; otherwise the server aborts at once ("timed out")."""
    return {
        "op": "wait",
        "timeout": 0,
        "table": table,
        "where": [where],
        "columns": list(row),
        "until": "==",
        "rows": [row],
    }


def _mutate(table: str, where: Any, *mutations: Any) -> Operation:
    return {"op": "mutate", "table": table, "where": [where], "mutations": list(mutations)}


def _map(values: Mapping[str, str]) -> list[Any]:
    return ["map", [[key, value] for key, value in sorted(values.items())]]
