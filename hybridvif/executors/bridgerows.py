"""Bridges of Open vSwitch that come and go with a port's row: one that is made for it, a trunk's that it leaves empty.

A bridge is made only where the daemon's configuration says so, since os-vif makes one of a typing error; its datapath
type is written then and never on a bridge that lives (an integration bridge that is made `system` where the kernel has
no such datapath carries nothing any more). None is removed but a trunk's (LP 1914886), and that only when nothing is
left in it but itself and Neutron's patch ports: the agent wires a trunk only when an Interface named as its bridge
appears, and expects its patch ports to go with the bridge (neutron/services/trunk/drivers/openvswitch/agent).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from hybridvif.model.names import is_trunk_bridge
from hybridvif.model.parts import OvsPort
from hybridvif.model.settings import Settings
from hybridvif.model.steps import Create, Delete, Step, Update, changes_of

PATCH_PREFIXES = ("tpt-", "spt-")
"""The ports by which a trunk bridge hangs on the integration bridge: of the parent port, and of each subport."""
PATCH = "patch"
"""Their Interface type."""


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


def is_trunk_patch(name: str, kind: str) -> bool:
    """Return whether an Interface of this name and type is one of Neutron's patch ports in a trunk bridge."""
    return kind == PATCH and name.startswith(PATCH_PREFIXES)


def deleted_ports(steps: Iterable[Step]) -> set[str]:
    """Return the names of the ports that these steps delete."""
    return {step.part.name for step in steps if isinstance(step, Delete)}


def trunks_left(steps: Sequence[Step], bridge_of: Mapping[str, str | None], settings: Settings) -> list[str]:
    """Return the trunk bridges that may go with ports of these steps. bridge_of: the bridge of each port, by name."""
    if not settings.remove_trunk_bridges:
        return []
    left = {bridge_of.get(name) for name in deleted_ports(steps)}
    # A bridge that another port of the same transaction needs stays.
    left -= {step.part.bridge for step in steps if isinstance(step.part, OvsPort) and not isinstance(step, Delete)}
    return sorted(bridge for bridge in left if bridge and is_trunk_bridge(bridge) and settings.allows(bridge))


def trunk_questions(trunks: Sequence[str]) -> list[Mapping[str, Any]]:
    """What these trunk bridges hold, and which of it is their own port."""
    return [
        {"op": "select", "table": table, "where": [["name", "==", name]], "columns": columns}
        for name in trunks
        for table, columns in (("Bridge", ["_uuid", "ports"]), ("Port", ["_uuid"]))
    ]


def emptied(
    trunks: Sequence[str], gone: Collection[str], ask: Callable[[list[Mapping[str, Any]]], Sequence[Any]]
) -> dict[str, Any]:
    """Return the rows of the trunk bridges that may go, by name.

    gone: the uuids of the Ports that leave. ask: sends questions to OVSDB and returns the answers.
    """
    answers = ask(trunk_questions(trunks)) if trunks else []
    held = {}
    for name, bridges, own in zip(trunks, answers[::2], answers[1::2], strict=True):
        for row in bridges["rows"]:
            rest = _members(row["ports"]) - set(gone) - {port["_uuid"][1] for port in own["rows"]}
            held[name] = (row, rest)
    others = sorted(uuid for _, rest in held.values() for uuid in rest)
    patches = _patches(ask(port_questions(others))) if others else set()
    return {name: row for name, (row, rest) in held.items() if rest <= patches}


def port_questions(ports: Iterable[str]) -> list[Mapping[str, Any]]:
    """Return the questions about patch interfaces and about these Ports, by uuid."""
    patches = {"op": "select", "table": "Interface", "where": [["type", "==", PATCH]], "columns": ["_uuid", "name"]}
    port = {"op": "select", "table": "Port", "columns": ["_uuid", "name", "interfaces"]}
    return [patches, *({**port, "where": [["_uuid", "==", ["uuid", uuid]]]} for uuid in ports)]


def _patches(answers: Sequence[Any]) -> set[str]:
    """Return the uuids of the Ports of these answers that are Neutron's patch ports."""
    patches = {row["_uuid"][1]: row["name"] for row in answers[0]["rows"]}
    ports = [row for answer in answers[1:] for row in answer["rows"] if is_trunk_patch(row["name"], PATCH)]
    return {
        row["_uuid"][1] for row in ports if [patches.get(uuid) for uuid in _members(row["interfaces"])] == [row["name"]]
    }


def _members(value: Sequence[Any]) -> set[str]:
    """Return the uuids of a set column, which OVSDB spells as its member where it has one."""
    return {uuid for _, uuid in (value[1] if value[0] == "set" else [value])}


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
