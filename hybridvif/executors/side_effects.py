"""Side effects in Open vSwitch: bridges and QoS rows that come and go with the rows of ports. Pure.

A bridge is created only if the configuration allows it, since os-vif creates one for any typing error. Its datapath
type is written only then: an existing bridge of type `system` on a host without that datapath would carry no traffic.
Only a trunk bridge is removed (LP 1914886), and only once nothing is left but itself and Neutron's patch ports.
Neutron's agent wires a trunk when an Interface with the name of the bridge appears. It expects its patch ports to go
with the bridge (neutron/services/trunk/drivers/openvswitch/agent).

A QoS row is encoded as in os-vif, so that either program removes it. os-vif 5.3 finds it by an id derived from the
port's name and by its type (vif_plug_ovs/ovsdb/ovsdb_lib.py). The type is ignored here, since the default of a host may
have changed (LP 2133225). A row that another Port references, or without such an id, belongs to the operator or Neutron
and is never touched.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybridvif.model.names import is_trunk_bridge
from hybridvif.model.parts import OvsPort
from hybridvif.model.settings import Settings
from hybridvif.model.steps import Create, Delete, Step, Update, changes_of

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


def is_trunk_patch(name: str, kind: str) -> bool:
    """Return whether an Interface of this name and type is one of Neutron's patch ports in a trunk bridge."""
    return kind == PATCH and name.startswith(PATCH_PREFIXES)


def deleted_ports(steps: Iterable[Step]) -> set[str]:
    """Return the names of the ports that these steps delete."""
    return {step.part.name for step in steps if isinstance(step, Delete)}


def removable_trunks(steps: Sequence[Step], bridge_of: Mapping[str, str | None], settings: Settings) -> list[str]:
    """Return the trunk bridges that may go with ports of these steps. bridge_of: bridge by port name."""
    if not settings.remove_trunk_bridges:
        return []
    bridges = {bridge_of.get(name) for name in deleted_ports(steps)}
    # A bridge that another port of the same transaction needs stays.
    bridges -= {step.part.bridge for step in steps if isinstance(step.part, OvsPort) and not isinstance(step, Delete)}
    return sorted(bridge for bridge in bridges if bridge and is_trunk_bridge(bridge) and settings.allows(bridge))


def trunk_queries(trunks: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the queries for the ports of these trunk bridges and for the port of each bridge itself."""
    return [
        {"op": "select", "table": table, "where": [["name", "==", name]], "columns": columns}
        for name in trunks
        for table, columns in (("Bridge", ["_uuid", "ports"]), ("Port", ["_uuid"]))
    ]


def empty_trunks(
    trunks: Sequence[str], deleted: Collection[str], ask: Callable[[list[Mapping[str, Any]]], Sequence[Any]]
) -> dict[str, Any]:
    """Return the rows of the trunk bridges to remove, by name.

    deleted: the uuids of the Ports that leave. ask: sends queries to OVSDB and returns the responses.
    """
    responses = ask(trunk_queries(trunks)) if trunks else []
    remaining = {}
    for name, bridges, own in zip(trunks, responses[::2], responses[1::2], strict=True):
        for row in bridges["rows"]:
            others = _members(row["ports"]) - set(deleted) - {port["_uuid"][1] for port in own["rows"]}
            remaining[name] = (row, others)
    unknown = sorted(uuid for _, others in remaining.values() for uuid in others)
    patches = _patches(ask(port_queries(unknown))) if unknown else set()
    return {name: row for name, (row, others) in remaining.items() if others <= patches}


def port_queries(ports: Iterable[str]) -> list[Mapping[str, Any]]:
    """Return the queries for all patch interfaces and for these Ports, by uuid."""
    patches = {"op": "select", "table": "Interface", "where": [["type", "==", PATCH]], "columns": ["_uuid", "name"]}
    port = {"op": "select", "table": "Port", "columns": ["_uuid", "name", "interfaces"]}
    return [patches, *({**port, "where": [["_uuid", "==", ["uuid", uuid]]]} for uuid in ports)]


def _patches(responses: Sequence[Any]) -> set[str]:
    """Return the uuids of the Ports of these responses that are Neutron's patch ports."""
    patches = {row["_uuid"][1]: row["name"] for row in responses[0]["rows"]}
    ports = [row for response in responses[1:] for row in response["rows"] if is_trunk_patch(row["name"], PATCH)]
    return {
        row["_uuid"][1] for row in ports if [patches.get(uuid) for uuid in _members(row["interfaces"])] == [row["name"]]
    }


def _members(value: Sequence[Any]) -> set[str]:
    """Return the uuids of a set column; OVSDB encodes a set of one element as that element."""
    return {uuid for _, uuid in (value[1] if value[0] == "set" else [value])}


def bridge_insertion(name: str, datapath_type: str, index: int) -> list[Mapping[str, Any]]:
    """Return the operations that create a bridge and its own port, as `ovs-vsctl add-br` does."""
    rows: dict[str, dict[str, Any]] = {
        "Interface": {"name": name, "type": "internal"},
        "Port": {"name": name, "interfaces": ["named-uuid", f"bridge_interface{index}"]},
        "Bridge": {"name": name, "datapath_type": datapath_type, "ports": ["named-uuid", f"bridge_port{index}"]},
    }
    named = {"Interface": f"bridge_interface{index}", "Port": f"bridge_port{index}", "Bridge": f"bridge{index}"}
    return [
        *({"op": "insert", "table": table, "row": row, "uuid-name": named[table]} for table, row in rows.items()),
        _mutation("insert", ["named-uuid", named["Bridge"]]),
    ]


def bridge_removal(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the operations that remove an unchanged bridge; they come first in a transaction."""
    where = [["_uuid", "==", row["_uuid"]]]
    same = {"op": "wait", "timeout": 0, "table": "Bridge", "where": where, "columns": ["ports"], "until": "=="}
    return [{**same, "rows": [{"ports": row["ports"]}]}, _mutation("delete", row["_uuid"])]


def _mutation(verb: str, uuid: Sequence[str]) -> Mapping[str, Any]:
    return {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["bridges", verb, uuid]]}


# -- QoS rows ----------------------------------------------------------------------------------------------------------


NAMESPACE = uuid.UUID("68da264a-847f-42a8-8ab0-5e774aee3d95")
"""ovsdb_lib.QOS_UUID_NAMESPACE of os-vif."""
MAX_SINGLE_QUERIES = 16
"""Number of ports up to which rows are queried one by one."""


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


def is_qos_of(name: str, external_ids: Mapping[str, str], holders: Collection[str]) -> bool:
    """Return whether a QoS row goes with the port of this name. holders: all Ports that reference it."""
    return external_ids.get("id") == qos_id_of(name) and set(holders) <= {name}


def qos_queries(names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the queries for the QoS rows with the ids of these ports."""
    columns = ["_uuid", "external_ids"]
    if len(names) > MAX_SINGLE_QUERIES:
        return [{"op": "select", "table": "QoS", "where": [], "columns": columns}]
    wheres = [[["external_ids", "includes", ["map", [["id", qos_id_of(name)]]]]] for name in names]
    return [{"op": "select", "table": "QoS", "where": where, "columns": columns} for where in wheres]


def qos_holder_query() -> Mapping[str, Any]:
    """Return the query for the Ports with a QoS."""
    return {"op": "select", "table": "Port", "where": [["qos", "!=", ["set", []]]], "columns": ["name", "qos"]}


def qos_rows_of_ports(names: Iterable[str], responses: Sequence[Any], holders: Any) -> dict[str, list[str]]:
    """Return the uuids of the QoS rows that go with each port, from the responses to both queries."""
    ids = {row["_uuid"][1]: dict(row["external_ids"][1]) for response in responses for row in response["rows"]}
    held: dict[str, list[str]] = {}
    for port in holders["rows"]:
        held.setdefault(port["qos"][1], []).append(port["name"])
    return {
        name: [row for row, external_ids in ids.items() if is_qos_of(name, external_ids, held.get(row, ()))]
        for name in names
    }


def qos_deletions(uuids: Iterable[str]) -> list[Mapping[str, Any]]:
    """Return the deletions of these rows; OVSDB aborts the transaction if a Port references one by then."""
    return [{"op": "delete", "table": "QoS", "where": [["_uuid", "==", ["uuid", row]]]} for row in uuids]


def qos_insertion(port: OvsPort, name: str) -> Mapping[str, Any]:
    """Return the operation that creates the row of a port, under this name within its transaction."""
    row = {"type": port.qos_type, "external_ids": ["map", sorted(map(list, qos_ids_of(port).items()))]}
    return {"op": "insert", "table": "QoS", "row": row, "uuid-name": name}
