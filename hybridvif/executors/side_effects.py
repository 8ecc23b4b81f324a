"""Side effects in Open vSwitch: what comes, goes or goes on with the rows of ports. Pure.

A bridge is created only if the configuration allows it, since os-vif creates one for any typing error. Its datapath
type is written only then: an existing bridge of type `system` on a host without that datapath would carry no traffic.
Only a trunk bridge is removed (LP 1914886), and only once nothing is left but itself and Neutron's patch ports.
Neutron's agent wires a trunk when an Interface with the name of the bridge appears. It expects its patch ports to go
with the bridge (neutron/services/trunk/drivers/openvswitch/agent).

A QoS row is encoded as in os-vif, so that either program removes it. os-vif 5.3 finds it by an id derived from the
port's name and by its type (vif_plug_ovs/ovsdb/ovsdb_lib.py). The type is ignored here, since the default of a host may
have changed (LP 2133225). A row that another Port references, or without such an id, belongs to the operator or Neutron
and is never touched.

A new row takes over columns from the row that it replaces, so that nobody else notices. The VLAN tag and other_config
are of Neutron's agent, QoS and policing of Neutron or the operator. The id of a QoS row of ours changes with the name.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridvif.executors.ovs_rows import (
    Operation,
    Read,
    Snapshot,
    is_many,
    optional,
    rows_in,
    select,
    uuids_in,
)
from hybridvif.model.names import is_trunk_bridge
from hybridvif.model.parts import OvsPort
from hybridvif.model.settings import Settings
from hybridvif.model.state import Create, Delete, Replace, Step, Update, changes_of

OVS_BRIDGE, QOS = "ovs-bridge", "qos"
IF_THERE, IF_EMPTY = "there is one and no other port has it", "nothing is left in it but Neutron's patch ports"


@dataclass(frozen=True, slots=True)
class SideEffect:
    """A bridge or a QoS row that comes or goes with the row of a port."""

    verb: str
    """create or delete."""
    kind: str
    name: str
    """For a QoS row, the name of its port."""
    type: str = ""
    """Of a created object: the datapath type ("" for the default), or the type of the QoS."""
    only_if: str = ""
    """A condition that a plan does not check; "" for none."""


def side_effects_of_plans(
    plans: Mapping[str, Sequence[Step]], bridges: Collection[str], settings: Settings
) -> dict[str, tuple[SideEffect, ...]]:
    """Return the side effects of each plan by port id. bridges: the existing ones of Open vSwitch."""
    existing = set(bridges)
    found: dict[str, tuple[SideEffect, ...]] = {}
    for port_id, steps in plans.items():
        found[port_id] = tuple(_side_effects(steps, existing, settings))
        # The first port that needs a bridge creates it.
        existing |= bridges_to_create(steps, existing, settings.creates).keys()
    return found


def _side_effects(steps: Sequence[Step], existing: Collection[str], settings: Settings) -> Iterator[SideEffect]:
    created = {
        step.part.name: step.part for step in steps if isinstance(step, Create) and isinstance(step.part, OvsPort)
    }
    deleted = [step for step in steps if isinstance(step, Delete) and step.part.name not in created]
    for name, datapath_type in sorted(bridges_to_create(steps, existing, settings.creates).items()):
        yield SideEffect("create", OVS_BRIDGE, name, datapath_type)
    for name, port in created.items():
        if port.qos_type:
            yield SideEffect("create", QOS, name, port.qos_type)
    for name in ports_with_qos(deleted):
        yield SideEffect("delete", QOS, name, only_if=IF_THERE)
    bridge_of = {step.part.name: getattr(step.part, "bridge", None) for step in deleted}
    for name in removable_trunks(steps, bridge_of, settings):
        yield SideEffect("delete", OVS_BRIDGE, name, only_if=IF_EMPTY)


# -- bridges -----------------------------------------------------------------------------------------------------------


PATCH_PREFIXES = ("tpt-", "spt-")
"""Patch ports that connect a trunk bridge to the integration bridge: of the parent port and of subports."""
PATCH = "patch"
"""Their Interface type."""


def bridges_to_create(
    steps: Iterable[Step], existing: Collection[str], creates: Callable[[str], bool]
) -> dict[str, str]:
    """Return the datapath types ("" for the default) of the bridges that these steps create, by name."""
    return {
        step.part.bridge: step.part.datapath_type
        for step in steps
        if isinstance(step.part, OvsPort)
        and (isinstance(step, Create) or (isinstance(step, Update) and "bridge" in changes_of(step)))
        and step.part.bridge not in existing
        and creates(step.part.bridge)
    }


def removable_trunks(steps: Sequence[Step], bridge_of: Mapping[str, str | None], settings: Settings) -> list[str]:
    """Return the trunk bridges that may go with ports of these steps. bridge_of: bridge by port name."""
    if not settings.remove_trunk_bridges:
        return []
    bridges = {bridge_of.get(step.part.name) for step in steps if isinstance(step, Delete)}
    # A bridge that another port of the same transaction needs stays.
    bridges -= {step.part.bridge for step in steps if isinstance(step.part, OvsPort) and not isinstance(step, Delete)}
    return sorted(bridge for bridge in bridges if bridge and is_trunk_bridge(bridge) and settings.allows(bridge))


# -- QoS rows ----------------------------------------------------------------------------------------------------------


NAMESPACE = uuid.UUID("68da264a-847f-42a8-8ab0-5e774aee3d95")
"""ovsdb_lib.QOS_UUID_NAMESPACE of os-vif."""


def qos_id_of(name: str) -> str:
    """Return the id of the QoS row of a port of this name.

    >>> qos_id_of("qvo5f2c0e1a-7b")
    '561dcc26-60f5-5ed1-a8e3-d076fcc18610'
    """
    return str(uuid.uuid5(NAMESPACE, name))


def qos_ids_of(port: OvsPort) -> dict[str, str]:
    """Return the external_ids of the QoS row that a port is created with."""
    return {"_type": port.qos_type, "id": qos_id_of(port.name)}


def ports_with_qos(steps: Iterable[Step]) -> list[str]:
    """Return the ports of these steps that may have a QoS row to delete: deleted ones, and new ones with a QoS."""
    return sorted(
        step.part.name
        for step in steps
        if isinstance(step.part, OvsPort)
        and (isinstance(step, Delete) or (isinstance(step, Create) and step.part.qos_type))
    )


# -- columns that go on with another row -------------------------------------------------------------------------------


PORT = ("tag", "trunks", "vlan_mode", "qos", "other_config", "external_ids")
INTERFACE = ("other_config", "ingress_policing_rate", "ingress_policing_burst")
_LATER = ("cvlans", "protected", "ingress_policing_kpkts_rate", "ingress_policing_kpkts_burst", "bfd", "lldp")
"""Columns that older releases lack."""


@dataclass(frozen=True, slots=True)
class Carried:
    """The carried columns of one row, as OVSDB encodes them."""

    port: Mapping[str, Any]
    interface: Mapping[str, Any]
    qos: str = ""
    """The uuid of its QoS row, if that has the id of its name."""


def _carried_rows(steps: Sequence[Step], read: Read) -> dict[str, Carried]:
    """Return the carried columns by the name of the replaced row. read: sends queries."""
    names = [step.before.name for step in steps if isinstance(step, Replace)]
    queries: list[Operation] = []
    for name in names:
        # Whole rows, since older releases lack some of the columns.
        queries += [
            {"op": "select", "table": table, "where": [["name", "==", name]]} for table in ("Port", "Interface")
        ]
        queries.append(_qos_query(name))
    rows = iter([response["rows"] for response in read(queries)] if queries else [])
    found: dict[str, Carried] = {}
    for name, ports, interfaces, own in zip(names, rows, rows, rows, strict=True):
        if ports and interfaces:
            qos = [row["_uuid"][1] for row in own if row["_uuid"] == optional(ports[0]["qos"])]
            found[name] = Carried(_of(ports[0], PORT), _of(interfaces[0], INTERFACE), *qos)
    return found


def _of(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    return {column: row[column] for column in (*columns, *_LATER) if column in row}


# -- the rows of these on a host ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SideEffects:
    """The bridges and QoS rows that come and go with a transaction."""

    bridges_to_create: Mapping[str, str] = field(default_factory=dict)
    """Datapath types by name."""
    bridges_to_remove: Mapping[str, Any] = field(default_factory=dict)
    """Rows by name."""
    qos: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Uuids of the QoS rows to delete, by the name of their port."""
    carried: Mapping[str, Carried] = field(default_factory=dict)
    """The columns that go on with another row, by the name of the replaced one."""


def side_effects_of(steps: Sequence[Step], snapshot: Snapshot, read: Read, settings: Settings) -> SideEffects:
    """Return the side effects of these steps. read: sends the queries for the rows that may be concerned, if any."""
    created = bridges_to_create(steps, snapshot.bridges, settings.creates)
    trunks = removable_trunks(steps, {name: row.bridge for name, row in snapshot.rows.items()}, settings)
    ids = {qos_id_of(name): name for name in ports_with_qos(steps)}
    queries = [_qos_query()] if is_many(ids) else [_qos_query(name) for name in ids.values()]
    queries += [select("Bridge", ["_uuid", "name", "ports"], ["name", "==", name]) for name in trunks]
    rows = rows_in(read(queries)) if queries else []
    bridges = [row for row in rows if "ports" in row]
    qos = {row["_uuid"][1]: dict(row["external_ids"][1]).get("id") for row in rows if "ports" not in row}
    owners = {row: ids[key] for row, key in qos.items() if key in ids}
    carried = _carried_rows(steps, read)
    if not bridges and not owners:
        return SideEffects(created, carried=carried)
    patches, *responses = read(_port_queries({port for row in bridges for port in uuids_in(row["ports"])}))
    ports = rows_in(responses)
    going = {step.part.name for step in steps if isinstance(step, Delete)} | _trunk_patches(ports, patches["rows"])
    staying = {port["_uuid"][1]: port["name"] for port in ports if port["name"] not in going}
    foreign = {row for port in ports for row in uuids_in(port["qos"]) if owners.get(row) != port["name"]}
    own = [(name, row) for row, name in owners.items() if row not in foreign]
    return SideEffects(
        created,
        {
            bridge["name"]: bridge
            for bridge in bridges
            if all(staying.get(port) in (None, bridge["name"]) for port in uuids_in(bridge["ports"]))
        },
        {name: [row for owner, row in own if owner == name] for name, _ in own},
        carried,
    )


def _qos_query(name: str = "") -> Operation:
    """Return the query for the QoS row of a port of this name, or for all."""
    where = [["external_ids", "includes", ["map", [["id", qos_id_of(name)]]]]] if name else []
    return select("QoS", ["_uuid", "external_ids"], *where)


def _port_queries(members: Collection[str]) -> list[Operation]:
    """Return the queries for all patch interfaces, for all Ports with a QoS, and for these Ports."""
    columns = ["_uuid", "name", "interfaces", "qos"]
    return [
        select("Interface", ["_uuid", "name"], ["type", "==", PATCH]),
        select("Port", columns, ["qos", "!=", ["set", []]]),
        *(select("Port", columns, ["_uuid", "==", ["uuid", port]]) for port in sorted(members)),
    ]


def _trunk_patches(ports: Iterable[Any], patches: Iterable[Any]) -> set[str]:
    """Return the names of these Ports that Neutron has in a trunk bridge. patches: all patch interfaces."""
    names = {row["_uuid"][1]: row["name"] for row in patches}
    return {
        port["name"]
        for port in ports
        if port["name"].startswith(PATCH_PREFIXES)
        and [names.get(uuid) for uuid in uuids_in(port["interfaces"])] == [port["name"]]
    }
