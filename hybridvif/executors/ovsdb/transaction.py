"""What is asked of OVSDB and what it answers, without a connection: questions, operations, rows (RFC 7047).

A row is changed in place: a port that is deleted and added again would lose its VLAN tag and ofport, and Neutron would
cycle it through DOWN (LP 1670628). Only what differs is written, since any write wakes Neutron's agent. Whose port a
row is was judged by its external_ids, so every change of one waits for them to be as they were read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridvif.executors import side_effects
from hybridvif.executors.base import StepFailed
from hybridvif.executors.ovs_rows import IDS, SOCKET, Row, columns_at_birth, ids_of, iface_id_of, options_of
from hybridvif.executors.ovsdb.rpc import Operation
from hybridvif.model.errors import BridgeMissing
from hybridvif.model.names import key_of
from hybridvif.model.parts import OvsPort, VhostUserPort
from hybridvif.model.settings import SOCKET_DIR
from hybridvif.model.steps import Create, Delete, Step, Update, changes_of

FEW = 16
"""Up to so many names are asked for one by one; for more of them all rows come in one answer."""

Columns = Mapping[str, Sequence[str]]
COLUMNS: Columns = {
    "Open_vSwitch": ("ovs_version",),
    "Bridge": ("_uuid", "name", "datapath_type"),
    "Port": ("_uuid", "name", "interfaces", "tag"),
    "Interface": ("_uuid", "name", "type", "external_ids", "ofport", "error", "options", "mtu_request"),
}
"""All that is read; an older Open vSwitch may lack some."""


@dataclass(frozen=True, slots=True)
class Read:
    """The rows of some names, with what a change of them needs to know."""

    rows: Mapping[str, Row]
    uuids: Mapping[str, tuple[str, str]]
    """Of the Interface and of the Port of each row, by name."""
    external_ids: Mapping[str, Any]
    """As the server spelled them, by name."""
    bridges: Mapping[str, str]
    """The datapath type of each bridge there is, "" for the default."""
    version: str
    iface_ids: Sequence[tuple[str, str]] = ()
    """Of all rows, where all were asked for: the name, and external_ids:iface-id."""


def questions(names: Collection[str] | None, columns: Columns) -> list[Operation]:
    """What is to be known of these names, None for all; the first two answers are of the switch itself."""
    asked = [_select("Open_vSwitch", columns)]
    # Of a tap all that counts is whether it is there.
    taps = {name for name in names or () if name.startswith("tap")}
    if names is None or len(names) - len(taps) > FEW:
        return [
            *asked,
            _select("Bridge", {"Bridge": [*columns["Bridge"], "ports"]}),
            _select("Interface", columns),
            _select("Port", columns),
        ]
    asked.append(_select("Bridge", columns))
    return asked + [
        _select(table, columns, ["name", "==", name])
        for table, some in (("Interface", names), ("Port", set(names) - taps))
        for name in sorted(some)
    ]


def unheld(answers: Sequence[Any]) -> list[str]:
    """The Ports of these answers, by uuid, of which they do not tell which bridge holds them."""
    if any("ports" in bridge for bridge in answers[1]["rows"]):
        return []
    return [row["_uuid"][1] for answer in answers[2:] for row in answer["rows"] if "interfaces" in row]


def holder_questions(ports: Iterable[str]) -> list[Operation]:
    """Which bridge holds each of these Ports, one question a Port."""
    return [_select("Bridge", {"Bridge": ["name"]}, ["ports", "includes", ["uuid", port]]) for port in ports]


def read_of(names: Collection[str] | None, answers: Sequence[Any], holders: Mapping[str, Any]) -> Read | None:
    """What these answers say; None if the rows changed between the two questions.

    holders: by the uuid of a Port, the answer to which bridge holds it.
    """
    (version,) = [row.get("ovs_version", "") for row in answers[0]["rows"][:1]] or [""]
    bridges = answers[1]["rows"]
    interfaces: dict[str, Any] = {}
    ports: dict[str, Any] = {}
    for answer in answers[2:]:
        for row in answer["rows"]:
            (ports if "interfaces" in row else interfaces)[row["name"]] = row
    holder_of = {uuid[1]: bridge["name"] for bridge in bridges for uuid in _set(bridge.get("ports", []))}
    for uuid in unheld(answers):
        if not holders[uuid]["rows"]:
            return None
        holder_of[uuid] = holders[uuid]["rows"][0]["name"]
    wanted = [name for name in interfaces if (key_of(name) if names is None else name in names)]
    uuids = {name: (interfaces[name]["_uuid"][1], ports[name]["_uuid"][1]) for name in wanted if name in ports}
    return Read(
        rows={name: _row_of(interfaces[name], ports.get(name), holder_of) for name in sorted(wanted)},
        uuids=uuids,
        external_ids={name: interfaces[name]["external_ids"] for name in wanted},
        bridges={bridge["name"]: bridge.get("datapath_type", "") for bridge in bridges},
        version=_one(version) or "",
        iface_ids=[(name, iface_id_of(dict(row["external_ids"][1]))) for name, row in interfaces.items()]
        if names is None
        else (),
    )


def _row_of(interface: Mapping[str, Any], port: Mapping[str, Any] | None, holder_of: Mapping[str, str]) -> Row:
    alone = port is not None and [uuid[1] for uuid in _set(port["interfaces"])] == [interface["_uuid"][1]]
    tag = _one(port["tag"]) if port is not None and alone else None
    return Row(
        name=interface["name"],
        bridge=holder_of.get(port["_uuid"][1]) if port is not None and alone else None,
        type=interface["type"],
        external_ids=dict(interface["external_ids"][1]),
        ofport=_one(interface["ofport"]),
        error=_one(interface.get("error", ["set", []])) or "",
        tag=tag,
        options=dict(interface["options"][1]),
        mtu_request=(_one(interface["mtu_request"]) or 0) if "mtu_request" in interface else None,
    )


@dataclass(frozen=True, slots=True)
class SideEffects:
    """What comes and goes with the rows of ports."""

    qos: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By the name of a port, the uuids of the QoS rows that go with it."""
    made: Mapping[str, str] = field(default_factory=dict)
    """The bridges that are made, by name: their datapath types."""
    emptied: Mapping[str, Any] = field(default_factory=dict)
    """The trunk bridges that are left empty, by name: their rows."""
    socket_dir: str = SOCKET_DIR
    """Where QEMU listens for the switch."""
    has_mtu_request: bool = True
    """Whether this Open vSwitch has that column."""

    def bridge_operations(self) -> list[Operation]:
        """The operations about bridges, which are to come first."""
        removed = [one for row in self.emptied.values() for one in side_effects.bridge_removal(row)]
        made = [side_effects.bridge_insertion(*made, at) for at, made in enumerate(sorted(self.made.items()))]
        return removed + [one for operations in made for one in operations]


def operations_of(steps: Sequence[Step], read: Read, besides: SideEffects = SideEffects()) -> list[Operation]:
    """The operations that these steps are, less next_cfg; empty if nothing is to be written. Raises StepFailed."""
    qos, there = besides.qos, {*read.bridges, *besides.made}
    operations = besides.bridge_operations()
    added: dict[str, list[Any]] = {}
    removed: dict[str, list[Any]] = {}
    for at, step in enumerate(steps):
        match step:
            case Create(OvsPort() as port):
                _require(port.bridge, there)
                operations += side_effects.qos_deletions(qos.get(port.name, ()))
                operations += _insert(port, at, besides)
                added.setdefault(port.bridge, []).append(["named-uuid", f"port{at}"])
            case Update(_, OvsPort() as port):
                changes = changes_of(step)
                operations += _unchanged(port.name, read) + _changed(port, changes, read, besides)
                if "bridge" in changes:
                    # Moved, not deleted and added: row, ofport and other_config stay.
                    _require(port.bridge, there)
                    uuid = ["uuid", read.uuids[port.name][1]]
                    removed.setdefault(str(read.rows[port.name].bridge), []).append(uuid)
                    added.setdefault(port.bridge, []).append(uuid)
            case Delete(OvsPort() as port):
                if port.name in read.uuids:
                    uuid = ["uuid", read.uuids[port.name][1]]
                    operations += _unchanged(port.name, read) + _without_qos(uuid, qos.get(port.name, ()))
                    removed.setdefault(str(read.rows[port.name].bridge), []).append(uuid)
            case _:
                raise StepFailed(f"ovsdb does not serve {step.part.kind} {step.part.name}")
    for bridge in sorted(added):
        # A bridge that was deleted meanwhile would leave the rows without a holder, and they would vanish unseen.
        operations.append(_wait("Bridge", ["name", "==", bridge], {"name": bridge}))
    for verb, ports in (("delete", removed), ("insert", added)):
        operations += [
            _mutate("Bridge", ["name", "==", bridge], ["ports", verb, ["set", uuids]])
            for bridge, uuids in sorted(ports.items())
            if bridge not in besides.emptied
        ]
    return operations


def counted(operations: Sequence[Operation]) -> list[Operation]:
    """These operations, and next_cfg incremented with them; the last result tells it."""
    bump = {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]]}
    return [*operations, bump, {"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["next_cfg"]}]


def taken(number: int, names: Collection[str], milliseconds: int) -> list[Operation]:
    """Wait until ovs-vswitchd has taken the configuration of this number, and ask what it made of these devices."""
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
    if len(names) > FEW:
        return [wait, _select("Interface", columns)]
    return [wait, *(_select("Interface", columns, ["name", "==", name]) for name in sorted(names))]


def rows_taken(answers: Iterable[Any]) -> dict[str, Row]:
    """What ovs-vswitchd made of devices, by name; only that is told of a row."""
    return {
        row["name"]: Row(
            name=row["name"],
            bridge=None,
            type=row["type"],
            external_ids={},
            ofport=_one(row["ofport"]),
            error=_one(row.get("error", ["set", []])) or "",
            tag=None,
        )
        for answer in answers
        for row in answer["rows"]
    }


def error_in(results: Sequence[Any]) -> str:
    """The first error among the results of a transaction; empty: it was committed."""
    for result in results:
        if isinstance(result, dict) and result.get("error"):
            return f"{result['error']}: {result.get('details', '')}".rstrip(": ")
    return ""


def _require(bridge: str, there: Collection[str]) -> None:
    if bridge not in there:
        raise StepFailed(
            f"integration bridge {bridge} does not exist; create it: ovs-vsctl add-br {bridge}", code=BridgeMissing.code
        )


def _insert(port: OvsPort, at: int, besides: SideEffects) -> list[Operation]:
    row: dict[str, Any] = {"name": port.name, "external_ids": _map(ids_of(port))}
    if port.type:
        row |= {"type": port.type, "options": _map(options_of(port, besides.socket_dir))}
    if port.mtu_request and besides.has_mtu_request:
        row["mtu_request"] = port.mtu_request
    holder = {"name": port.name, "interfaces": ["named-uuid", f"interface{at}"], **columns_at_birth(port)}
    operations = [side_effects.qos_insertion(port, f"qos{at}")] if port.qos_type else []
    if port.qos_type:
        holder["qos"] = ["named-uuid", f"qos{at}"]
    return [
        *operations,
        {"op": "insert", "table": "Interface", "row": row, "uuid-name": f"interface{at}"},
        {"op": "insert", "table": "Port", "row": holder, "uuid-name": f"port{at}"},
    ]


def _without_qos(port: Sequence[str], qos: Sequence[str]) -> list[Operation]:
    """The QoS rows that go with a port are deleted; its own hold on them counts until the end of the transaction."""
    if not qos:
        return []
    let_go = {"op": "update", "table": "Port", "where": [["_uuid", "==", port]], "row": {"qos": ["set", []]}}
    return [let_go, *side_effects.qos_deletions(qos)]


def _unchanged(name: str, read: Read) -> list[Operation]:
    interface, _ = read.uuids[name]
    return [_wait("Interface", ["_uuid", "==", ["uuid", interface]], {"external_ids": read.external_ids[name]})]


def _changed(port: OvsPort, changes: Mapping[str, object], read: Read, besides: SideEffects) -> list[Operation]:
    where = ["_uuid", "==", ["uuid", read.uuids[port.name][0]]]
    written = {key: str(changes[attribute]) for attribute, key in IDS.items() if attribute in changes}
    operations = []
    if written:
        operations.append(_mutate("Interface", where, *_replaced("external_ids", written)))
    row: dict[str, Any] = {}
    if {"type", "socket_as_configured"} & changes.keys():
        options = options_of(port, besides.socket_dir)
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
    """The mutations that give these keys of a map these values; "" for none."""
    # An insert leaves a key that is there alone (RFC 7047, 5.1), so it goes first.
    mutations: list[Any] = [[column, "delete", ["set", sorted(values)]]]
    kept = {key: value for key, value in values.items() if value}
    return [*mutations, [column, "insert", _map(kept)]] if kept else mutations


def _select(table: str, columns: Columns, *where: Any) -> Operation:
    return {"op": "select", "table": table, "where": list(where), "columns": list(columns[table])}


def _wait(table: str, where: Any, row: Mapping[str, Any]) -> Operation:
    """Go on only if this one row is as it was; else the server ends the transaction at once ("timed out")."""
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


def _set(value: Any) -> list[Any]:
    """A set as a list; one of one element may be that element."""
    return list(value[1]) if isinstance(value, list) and value[:1] == ["set"] else [value] if value else []


def _one(value: Any) -> Any:
    """The element of a set of at most one; None for none."""
    return next(iter(_set(value)), None) if isinstance(value, list) else value
