"""The QoS row that a port is born with, and that goes with it: spelled as os-vif spells it, so that either removes it.

os-vif 5.3 finds a port's row by an id that it derives from the port's name, and by its type (vif_plug_ovs/ovsdb,
ovsdb_lib.py). The type is not asked for here: a host's default may have changed since (LP 2133225). A row that another
Port holds too, or that has no such id, is the operator's or Neutron's, and is never touched.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from hybridvif.model.parts import OvsPort
from hybridvif.model.steps import Create, Delete, Step

NAMESPACE = uuid.UUID("68da264a-847f-42a8-8ab0-5e774aee3d95")
"""os-vif's (ovsdb_lib.QOS_UUID_NAMESPACE)."""
FEW = 16
"""Up to so many ports are asked for one by one."""


def qos_id_of(name: str) -> str:
    """The id of the QoS row of a port of this name.

    >>> qos_id_of("qvo5f2c0e1a-7b")
    '561dcc26-60f5-5ed1-a8e3-d076fcc18610'
    """
    return str(uuid.uuid5(NAMESPACE, name))


def ids_of_qos(port: OvsPort) -> dict[str, str]:
    """The external_ids of the QoS row that a port is born with."""
    return {"_type": port.qos_type, "id": qos_id_of(port.name)}


def ports_with_qos(steps: Iterable[Step]) -> list[str]:
    """The ports of these steps with which a QoS row may go: those that are deleted, and those made with one anew."""
    return sorted(
        step.part.name
        for step in steps
        if isinstance(step.part, OvsPort)
        and (isinstance(step, Delete) or (isinstance(step, Create) and step.part.qos_type))
    )


def goes_with(name: str, external_ids: Mapping[str, str], holders: Collection[str]) -> bool:
    """Whether a QoS row goes with the port of this name. holders: the names of all Ports that hold it."""
    return external_ids.get("id") == qos_id_of(name) and set(holders) <= {name}


def row_questions(names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Which QoS rows have the ids of these ports."""
    columns = ["_uuid", "external_ids"]
    if len(names) > FEW:
        return [{"op": "select", "table": "QoS", "where": [], "columns": columns}]
    wheres = [[["external_ids", "includes", ["map", [["id", qos_id_of(name)]]]]] for name in names]
    return [{"op": "select", "table": "QoS", "where": where, "columns": columns} for where in wheres]


def holder_question() -> Mapping[str, Any]:
    """Which Ports hold which QoS rows."""
    return {"op": "select", "table": "Port", "where": [["qos", "!=", ["set", []]]], "columns": ["name", "qos"]}


def rows_of_ports(names: Iterable[str], answers: Sequence[Any], holders: Any) -> dict[str, list[str]]:
    """By the name of a port: the uuids of the QoS rows that go with it, by the answers to both questions."""
    ids = {row["_uuid"][1]: dict(row["external_ids"][1]) for answer in answers for row in answer["rows"]}
    held: dict[str, list[str]] = {}
    for port in holders["rows"]:
        held.setdefault(port["qos"][1], []).append(port["name"])
    return {name: [one for one, said in ids.items() if goes_with(name, said, held.get(one, ()))] for name in names}


def deletions(uuids: Iterable[str]) -> list[Mapping[str, Any]]:
    """The operations that remove these rows; OVSDB refuses the transaction where a Port has come to hold one."""
    return [{"op": "delete", "table": "QoS", "where": [["_uuid", "==", ["uuid", one]]]} for one in uuids]


def insertion(port: OvsPort, name: str) -> Mapping[str, Any]:
    """The operation that makes the row a port is born with, under this name in its transaction."""
    row = {"type": port.qos_type, "external_ids": ["map", sorted(map(list, ids_of_qos(port).items()))]}
    return {"op": "insert", "table": "QoS", "row": row, "uuid-name": name}
