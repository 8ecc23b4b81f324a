"""Bridges of Open vSwitch that come and go with a port's row: one that is made for it, a trunk's that it leaves empty.

A bridge is made only where the daemon's configuration says so, since os-vif makes one of a typing error; its datapath
type is written then and never on a bridge that lives (an integration bridge that is made `system` where the kernel has
no such datapath carries nothing any more). None is removed but a trunk's, and that only when it is empty (LP 1914886).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from hybridvif.names import is_trunk_bridge
from hybridvif.parts import OvsPort
from hybridvif.steps import Create, Delete, Step, Update, changes_of


def bridges_to_make(steps: Iterable[Step], there: Collection[str], creates: Callable[[str], bool]) -> dict[str, str]:
    """The bridges that these steps need and that are to be made, by name: their datapath types, "" for the default."""
    return {
        step.part.bridge: step.part.datapath_type
        for step in steps
        if isinstance(step.part, OvsPort)
        and (isinstance(step, Create) or (isinstance(step, Update) and "bridge" in changes_of(step)))
        and step.part.bridge not in there
        and creates(step.part.bridge)
    }


def trunks_left(steps: Iterable[Step], bridge_of: Mapping[str, str | None]) -> list[str]:
    """The trunk bridges that ports of these steps leave. bridge_of: where each port is, by name."""
    left = {bridge_of.get(step.part.name) for step in steps if isinstance(step, Delete)}
    return sorted(bridge for bridge in left if bridge and is_trunk_bridge(bridge))


def trunk_questions(trunks: Sequence[str]) -> list[Mapping[str, Any]]:
    """What these trunk bridges hold, and which of it is their own port."""
    return [
        {"op": "select", "table": table, "where": [["name", "==", name]], "columns": columns}
        for name in trunks
        for table, columns in (("Bridge", ["_uuid", "ports"]), ("Port", ["_uuid"]))
    ]


def emptied(trunks: Sequence[str], answers: Sequence[Any], leaving: Collection[str]) -> dict[str, Any]:
    """The trunk bridges, by name, that hold nothing once these Ports have left: their rows, by the answers."""
    found = {}
    for name, bridges, own in zip(trunks, answers[::2], answers[1::2], strict=True):
        for row in bridges["rows"]:
            held = {uuid for _, uuid in (row["ports"][1] if row["ports"][0] == "set" else [row["ports"]])}
            if not held - set(leaving) - {port["_uuid"][1] for port in own["rows"]}:
                found[name] = row
    return found


def insertion(name: str, datapath_type: str, at: int) -> list[Mapping[str, Any]]:
    """The operations that make a bridge, and its own port, as `ovs-vsctl add-br` does."""
    rows: dict[str, dict[str, Any]] = {
        "Interface": {"name": name, "type": "internal"},
        "Port": {"name": name, "interfaces": ["named-uuid", f"bridge_interface{at}"]},
        "Bridge": {"name": name, "datapath_type": datapath_type, "ports": ["named-uuid", f"bridge_port{at}"]},
    }
    known = {"Interface": f"bridge_interface{at}", "Port": f"bridge_port{at}", "Bridge": f"bridge{at}"}
    return [
        *({"op": "insert", "table": table, "row": row, "uuid-name": known[table]} for table, row in rows.items()),
        _mutation("insert", ["named-uuid", known["Bridge"]]),
    ]


def removal(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The operations that remove a bridge which holds what it was seen to hold, and which are to come first."""
    where = [["_uuid", "==", row["_uuid"]]]
    same = {"op": "wait", "timeout": 0, "table": "Bridge", "where": where, "columns": ["ports"], "until": "=="}
    return [{**same, "rows": [{"ports": row["ports"]}]}, _mutation("delete", row["_uuid"])]


def _mutation(verb: str, uuid: Sequence[str]) -> Mapping[str, Any]:
    return {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["bridges", verb, uuid]]}
