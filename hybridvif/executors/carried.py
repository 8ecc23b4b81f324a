"""Columns that a new row takes over from the row that it replaces, so that nobody else notices. Pure.

The VLAN tag and other_config are of Neutron's agent, QoS and policing of Neutron or the operator. A QoS row of ours has
an id derived from the name of its port (side_effects.py), so the id changes with the name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybridvif.executors import ovs_rows
from hybridvif.executors.ovs_rows import Operation, Read, Row
from hybridvif.model.state import Replace, Step

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


def carried_rows(steps: Sequence[Step], read: Read, qos_id_of: Mapping[str, str]) -> dict[str, Carried]:
    """Return the carried columns by the name of the replaced row. read: sends queries. qos_id_of: by this name."""
    names = [step.before.name for step in steps if isinstance(step, Replace)]
    if not names:
        return {}
    where: Sequence[Operation] = [
        query
        for name in names
        for query in (
            {"op": "select", "table": "Port", "where": [["name", "==", name]]},
            {"op": "select", "table": "Interface", "where": [["name", "==", name]]},
            ovs_rows.select("QoS", ["_uuid"], ["external_ids", "includes", ["map", [["id", qos_id_of[name]]]]]),
        )
    ]
    responses = read(where)
    found: dict[str, Carried] = {}
    for name, *tables in zip(names, responses[::3], responses[1::3], responses[2::3], strict=True):
        ports, interfaces, own = (table["rows"] for table in tables)
        if ports and interfaces:
            qos = ovs_rows.optional(ports[0]["qos"])
            held = next((row["_uuid"][1] for row in own if row["_uuid"] == qos), "") if qos else ""
            found[name] = Carried(_of(ports[0], PORT), _of(interfaces[0], INTERFACE), held)
    return found


def _of(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    return {column: row[column] for column in (*columns, *_LATER) if column in row}


def ids_after(step: Replace, found: Row) -> dict[str, str]:
    """Return the external_ids of the new Interface: those of others as found, and ours."""
    others = {key: value for key, value in found.external_ids.items() if key not in ovs_rows.IDS.values()}
    return others | ovs_rows.ids_of(step.after)


def requested_ofport(found: Row) -> dict[str, int]:
    """Return the OpenFlow port number to request, so that the flows of the port go on to match."""
    return {"ofport_request": found.ofport} if found.ofport and found.ofport > 0 else {}


def text_of(value: Any) -> str:
    """Return a value of OVSDB in the syntax of ovs-vsctl, quoted so that no part of it has another meaning.

    >>> text_of(["map", [["a", "1,b"]]]), text_of(["set", [1, 2]]), text_of(7)
    ('{"a"="1,b"}', '[1,2]', '7')
    """
    match value:
        case ["map", pairs]:
            return "{" + ",".join(f"{text_of(key)}={text_of(item)}" for key, item in pairs) + "}"
        case ["set", items]:
            return "[" + ",".join(map(text_of, items)) + "]"
        case ["uuid", uuid]:
            return str(uuid)
    return json.dumps(value)
