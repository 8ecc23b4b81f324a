"""Rows of OVSDB: queries for them, their parts and facts, and how a part is encoded in a row.

Each executor of Open vSwitch answers a query in its own way; the rest about rows is here. A query is a `select`
operation. Values are encoded as in RFC 7047, section 5.1.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hybridvif.model.errors import shown
from hybridvif.model.names import is_uuid, key_of, names_of_key, own_port_id
from hybridvif.model.parts import (
    CONVERTING,
    DEAD_VLAN,
    PLACEHOLDER_TYPE,
    VHOST_USER_TYPES,
    ForeignPort,
    NativePort,
    OvsPort,
    SwitchPort,
    VhostUserPort,
)
from hybridvif.model.settings import SOCKET_DIR
from hybridvif.model.state import Facts, HostState, Observed, PortFact, Step, Update, bearers_of

IDS = {
    "iface_id": "iface-id",
    "iface_status": "iface-status",
    "attached_mac": "attached-mac",
    "vm_uuid": "vm-uuid",
    "port_id": "hybridvif-port-id",
    "bridge_name": "bridge_name",
    "converting": "hybridvif-converting",
}
"""Keys of Interface.external_ids that hybridvif owns, by attribute of OvsPort."""
SOCKET = "vhost-server-path"
"""The key of Interface.options of a vhu row that hybridvif owns; the others, such as tx-retries-max, are not ours."""
ISOLATION: Mapping[str, str | int] = {"tag": DEAD_VLAN, "vlan_mode": "trunk", "trunks": DEAD_VLAN}
"""Columns of a Port created in the dead VLAN, as Neutron's agent sets them for a port that is not wired yet."""
PLACEHOLDER_ERROR = "No usable peer"
"""Error of ovs-vswitchd about a patch port. On a system device, it is left over from the placeholder."""
TRANSIENT_ERRORS = ("No such device", PLACEHOLDER_ERROR)
"""Errors of an earlier attempt, which ovs-vswitchd removes once it has the device."""
USERSPACE = frozenset({"netdev", "dummy"})
"""Datapath types in which ovs-vswitchd reads a system device through a packet socket."""
MAX_SINGLE_QUERIES = 27
"""Number of names up to which rows are queried one by one; for more, whole tables are read."""
PACKET_SOCKETS = "/proc/thread-self/net/packet"
"""Of the network namespace of the calling thread (packet(7)); /proc/net is that of the first thread."""

REPORTED_COLUMNS = ("_uuid", "name", "type", "ofport", "error")
"""The columns of an Interface that are read again after a change."""
NOTHING: list[Any] = ["set", []]
EMPTY: Mapping[str, Any] = {}

Operation = Mapping[str, Any]
"""One operation of a transaction (RFC 7047, section 5.2)."""
Read = Callable[[Sequence[Operation]], Sequence[Any]]
"""A function that sends queries and returns the responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An Interface with one of our names, and what is needed of its Port and its Bridge."""

    name: str
    bridge: str | None
    """The bridge of a Port of this name with only this Interface; None if there is no such Port."""
    type: str
    external_ids: Mapping[str, str]
    ofport: int | None
    error: str
    tag: int | None
    options: Mapping[str, str] = field(default_factory=dict)
    mtu_request: int | None = None
    """0 if unset; None if there is no such column (it came with Open vSwitch 2.6)."""
    uuid: str = ""
    port_uuid: str = ""
    """Empty if there is no Port of this name."""

    @property
    def error_now(self) -> str:
        """Return the error of ovs-vswitchd about the row as it is now; "" if none.

        The error of the placeholder may stay after the row is a system device again (OVS 3.1). It is ignored once the
        device has a port number, since packets pass then.
        """
        is_stale = self.type != PLACEHOLDER_TYPE and PLACEHOLDER_ERROR in self.error and (self.ofport or 0) > 0
        return "" if is_stale else shown(self.error)

    @property
    def is_undecided(self) -> bool:
        """Return whether ovs-vswitchd has not reported on a system device yet; cur_cfg is written before that."""
        return self.type != PLACEHOLDER_TYPE and (
            any(error in self.error_now for error in TRANSIENT_ERRORS) or (self.ofport is None and not self.error)
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of some names by name, and the switch that contains them."""

    rows: Mapping[str, Row]
    bridges: Mapping[str, str]
    """Datapath type of each bridge; "" for the default."""
    version: str = ""
    iface_ids: Sequence[tuple[str, str]] = ()
    """Pairs for bearers_of(), of all rows if all were queried."""
    has_mtu_request: bool = True
    """True if this Open vSwitch has the column."""


# -- queries and responses ---------------------------------------------------------------------------------------------


def select(table: str, columns: Sequence[str], *where: Any) -> Operation:
    """Return a query for rows that meet all of these conditions (RFC 7047, 5.1)."""
    return {"op": "select", "table": table, "where": list(where), "columns": list(columns)}


def is_many(names: Collection[str] | None) -> bool:
    """Return whether a whole table is read for these names; None: all names."""
    return names is None or len(names) > MAX_SINGLE_QUERIES


def select_named(table: str, columns: Sequence[str], names: Collection[str] | None) -> list[Operation]:
    """Return the queries for the rows of these names, or the query for the whole table."""
    if names is None or is_many(names):
        return [select(table, columns)]
    return [select(table, columns, ["name", "==", name]) for name in sorted(names)]


def row_queries(names: Collection[str] | None, *, mtu_request: bool) -> list[Operation]:
    """Return the queries for the rows of these names; None: all names.

    The Ports of each bridge are as many as the host has. They are queried only together with whole tables.
    """
    interface = [*REPORTED_COLUMNS, "external_ids", "options"] + ["mtu_request"] * mtu_request
    return [
        select("Open_vSwitch", ["ovs_version"]),
        select("Bridge", ["name", "datapath_type"] + ["ports"] * is_many(names)),
        *select_named("Interface", interface, names),
        *select_named("Port", ["_uuid", "name", "interfaces", "tag"], names),
    ]


def snapshot_of(
    names: Collection[str] | None,
    responses: Sequence[Any],
    holders: Mapping[str, str] | None,
    *,
    mtu_request: bool,
) -> Snapshot:
    """Decode the responses to row_queries(). holders: the bridge of each Port by uuid, if these were not queried."""
    switch, bridges, rows = responses[0]["rows"], responses[1]["rows"], rows_in(responses[2:])
    if holders is None:
        holders = {uuid: bridge["name"] for bridge in bridges for uuid in uuids_in(bridge["ports"])}
    ports = {row["name"]: row for row in rows if "interfaces" in row}
    interfaces = [row for row in rows if "interfaces" not in row]
    wanted = [row for row in interfaces if (key_of(row["name"]) if names is None else row["name"] in names)]
    return Snapshot(
        rows={row["name"]: row_of(row, ports.get(row["name"], EMPTY), holders) for row in wanted},
        bridges={bridge["name"]: bridge["datapath_type"] for bridge in bridges},
        version=next((optional(row["ovs_version"]) or "" for row in switch), ""),
        iface_ids=[_iface_id_of(row) for row in interfaces] if names is None else [],
        has_mtu_request=mtu_request,
    )


def row_of(interface: Mapping[str, Any], port: Mapping[str, Any] = EMPTY, holders: Mapping[str, str] = EMPTY) -> Row:
    """Decode an Interface, whole or its REPORTED_COLUMNS, and its Port. holders: the bridge of each Port by uuid."""
    port_uuid = port["_uuid"][1] if port else ""
    alone = bool(port) and uuids_in(port["interfaces"]) == [interface["_uuid"][1]]
    return Row(
        name=interface["name"],
        bridge=holders.get(port_uuid) if alone else None,
        type=interface["type"],
        external_ids=dict(elements(interface.get("external_ids", NOTHING))),
        ofport=optional(interface["ofport"]),
        error=optional(interface["error"]) or "",
        tag=optional(port["tag"]) if alone else None,
        options=dict(elements(interface.get("options", NOTHING))),
        mtu_request=(optional(interface["mtu_request"]) or 0) if "mtu_request" in interface else None,
        uuid=interface["_uuid"][1],
        port_uuid=port_uuid,
    )


def rows_in(responses: Iterable[Any]) -> list[Any]:
    """Return the rows of all these responses."""
    return [row for response in responses for row in response["rows"]]


def error_in(results: Iterable[Any]) -> str:
    """Return the first error in the results of a transaction; empty if it was committed."""
    errors = [result for result in results if isinstance(result, dict) and result.get("error")]
    return f"{errors[0]['error']}: {errors[0].get('details', '')}".rstrip(": ") if errors else ""


def elements(value: Any) -> list[Any]:
    """Return a set or map as a list; OVSDB encodes a set of one element as that element."""
    return list(value[1]) if isinstance(value, list) and value[0] in ("set", "map") else [value]


def uuids_in(value: Any) -> list[str]:
    """Return the uuids in a set of references."""
    return [uuid for _, uuid in elements(value)]


def optional(value: Any) -> Any:
    """Return the element of a set with at most one element; None if empty."""
    return next(iter(elements(value)), None)


def _iface_id_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name and the iface-id of a row; "" if it has none that Neutron could have assigned."""
    value = dict(row["external_ids"][1]).get(IDS["iface_id"], "")
    return row["name"], value if is_uuid(value) else ""


# -- parts and facts ---------------------------------------------------------------------------------------------------


def observed(snapshot: Snapshot, socket_dir: str = SOCKET_DIR) -> Observed:
    """Return the parts and facts of these rows."""
    rows = snapshot.rows.values()
    switches = {name: kind or "system" for name, kind in snapshot.bridges.items()}
    held = _held_devices([row.name for row in rows if switches.get(row.bridge or "") in USERSPACE])
    return Observed(
        HostState({}, {row.name: _part_of(row, switches, held, socket_dir) for row in rows}),
        Facts(
            ports={row.name: PortFact(ofport=row.ofport, error=row.error_now, tag=row.tag) for row in rows},
            switches=switches,
            switch_version=f"ovs {snapshot.version}".rstrip(),
            bearers=bearers_of(snapshot.iface_ids),
        ),
    )


def _held_devices(names: Collection[str]) -> frozenset[str]:
    """Return the devices of these that have a packet socket bound to them.

    Open vSwitch's userspace datapath holds a system device through one.
    A capture (tcpdump -i qvo...) also counts. Absence proves that Open vSwitch does not hold the device; presence
    proves nothing.
    """
    if not names:
        return frozenset()
    # os.open() is used since open() is slow in comparison.
    table = os.open(PACKET_SOCKETS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = b"".join(iter(lambda: os.read(table, 1 << 16), b"")).splitlines()[1:]
    finally:
        os.close(table)
    # Deleted devices have the index -1, and 0 means any device.
    indexes = {int(line.split(maxsplit=5)[4]) for line in lines} - {-1, 0}
    return frozenset(name for name in names if _index_of(name) in indexes)


def _index_of(name: str) -> int:
    """Return the index of a device; 0 if absent."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def is_vacant(step: Step, rows: Mapping[str, Row]) -> bool:
    """Return whether a step only makes a row a placeholder and ovs-vswitchd holds no device that it could release.

    It has looked for the device and found none, which is still so. After a reboot that applies to all rows.
    """
    match step:
        case Update(OvsPort() as before, after) if after == replace(before, type=PLACEHOLDER_TYPE, realized=False):
            return rows[before.name].ofport == -1 and not _index_of(before.name)
    return False


def _part_of(row: Row, switches: Mapping[str, str], held: Collection[str], socket_dir: str) -> SwitchPort:
    if row.bridge is None:
        return ForeignPort(name=row.name, what="an Open vSwitch interface that is part of a bond or of no bridge")
    # "system" and "" are the same type (ovs-vswitchd.conf.db(5), Interface: type).
    kind = "" if row.type == "system" else shown(row.type)
    ids: dict[str, Any] = {attribute: shown(row.external_ids.get(key, "")) for attribute, key in IDS.items()}
    if ids["converting"] not in ("", CONVERTING):
        ids |= {"attached_mac": ids["attached_mac"] or ids["converting"], "converting": CONVERTING}
    if row.name == names_of_key(key_of(row.name) or "").vhost_user and kind in VHOST_USER_TYPES.values():
        return VhostUserPort(
            name=row.name,
            bridge=row.bridge,
            type=kind,
            realized=(row.ofport or 0) > 0 and not row.error,
            mtu_request=row.mtu_request,
            socket_as_configured=row.options.get(SOCKET) == options_of(row.name, kind, socket_dir).get(SOCKET),
            **ids,
        )
    if row.name.startswith("vhu") or kind not in ("", PLACEHOLDER_TYPE):
        return ForeignPort(name=row.name, what=f"an Open vSwitch interface of type {kind or 'system'}")
    realized = (
        kind == ""
        and (row.ofport or 0) > 0
        and not row.error_now
        # If a device is deleted and recreated under its row, ofport and error stay good although no packet passes
        # (docs/host.md). Only the packet socket shows it.
        and (switches.get(row.bridge) not in USERSPACE or row.name in held)
    )
    cls = NativePort if row.name.startswith("tap") and own_port_id(row, ids["port_id"]) else OvsPort
    return cls(name=row.name, bridge=row.bridge, type=kind, realized=realized, mtu_request=row.mtu_request, **ids)


def options_of(name: str, kind: str, socket_dir: str) -> dict[str, str]:
    """Return our Interface.options of a row of this name and type.

    Open vSwitch chooses the socket on which it listens itself. The path of QEMU's socket is an option, as in os-vif.
    """
    if kind == VHOST_USER_TYPES["server"]:
        return {SOCKET: f"{socket_dir}/{name}"}
    # A patch port needs a peer; this one never exists.
    return {"peer": "nobody"} if kind == PLACEHOLDER_TYPE else {}


def ids_of(port: OvsPort) -> dict[str, str]:
    """Return the external_ids that a port is created with."""
    ids = {key: str(getattr(port, attribute)) for attribute, key in IDS.items()}
    return {key: value for key, value in ids.items() if value}


def changed_ids(port: OvsPort, changes: Mapping[str, object]) -> dict[str, str]:
    """Return the external_ids that an Update writes; "" removes a key.

    Neutron's agent removes the filter of a port if a row with its attached-mac is deleted, even if another row has the
    port by then. The mark of a conversion therefore takes attached-mac off the row, and holds it.
    """
    ids = {key: str(changes[attribute]) for attribute, key in IDS.items() if attribute in changes}
    if "converting" in changes:
        mac, mark = ("", port.attached_mac or CONVERTING) if changes["converting"] else (port.attached_mac, "")
        ids |= {IDS["attached_mac"]: mac, IDS["converting"]: mark}
    return ids


def columns_at_creation(port: OvsPort) -> Mapping[str, str | int]:
    """Return the columns that a Port is created with, except name, interfaces and QoS."""
    return ISOLATION if port.isolated else {}
