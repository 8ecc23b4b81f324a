"""Side effects in Open vSwitch: bridges and QoS rows that come and go with the rows of ports. Pure."""

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
    """Of a QoS row, that of the port whose it is."""
    type: str = ""
    """Of what is made: the datapath type, "" for the default; the type of the QoS."""
    only_if: str = ""
    """What it depends on and a plan does not look at; "" if on nothing."""


def side_effects_of_plans(
    plans: Mapping[str, Sequence[Step]], bridges: Collection[str], settings: Settings
) -> dict[str, tuple[SideEffect, ...]]:
    """By port id, of its plan. bridges: those that Open vSwitch has."""
    there = set(bridges)
    found: dict[str, tuple[SideEffect, ...]] = {}
    for port_id, steps in plans.items():
        found[port_id] = tuple(_besides(steps, there, settings))
        # One that several ports need comes with the first of them.
        there |= bridges_to_make(steps, there, settings.creates).keys()
    return found


def _besides(steps: Sequence[Step], there: Collection[str], settings: Settings) -> Iterator[SideEffect]:
    made = {step.part.name: step.part for step in steps if isinstance(step, Create) and isinstance(step.part, OvsPort)}
    gone = [step for step in steps if isinstance(step, Delete) and step.part.name not in made]
    for name, datapath_type in sorted(bridges_to_make(steps, there, settings.creates).items()):
        yield SideEffect("create", OVS_BRIDGE, name, datapath_type)
    for name, port in made.items():
        if port.qos_type:
            yield SideEffect("create", QOS, name, port.qos_type)
    for name in ports_with_qos(gone):
        yield SideEffect("delete", QOS, name, only_if=IF_THERE)
    for name in trunks_left(steps, {step.part.name: getattr(step.part, "bridge", None) for step in gone}, settings):
        yield SideEffect("delete", OVS_BRIDGE, name, only_if=IF_EMPTY)


# -- bridges -----------------------------------------------------------------------------------------------------------


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


def bridge_insertion(name: str, datapath_type: str, at: int) -> list[Mapping[str, Any]]:
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


def bridge_removal(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The operations that remove a bridge which holds what it was seen to hold, and which are to come first."""
    where = [["_uuid", "==", row["_uuid"]]]
    same = {"op": "wait", "timeout": 0, "table": "Bridge", "where": where, "columns": ["ports"], "until": "=="}
    return [{**same, "rows": [{"ports": row["ports"]}]}, _mutation("delete", row["_uuid"])]


def _mutation(verb: str, uuid: Sequence[str]) -> Mapping[str, Any]:
    return {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["bridges", verb, uuid]]}


# -- QoS rows ----------------------------------------------------------------------------------------------------------


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


def qos_questions(names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Which QoS rows have the ids of these ports."""
    columns = ["_uuid", "external_ids"]
    if len(names) > FEW:
        return [{"op": "select", "table": "QoS", "where": [], "columns": columns}]
    wheres = [[["external_ids", "includes", ["map", [["id", qos_id_of(name)]]]]] for name in names]
    return [{"op": "select", "table": "QoS", "where": where, "columns": columns} for where in wheres]


def qos_holder_question() -> Mapping[str, Any]:
    """Which Ports hold which QoS rows."""
    return {"op": "select", "table": "Port", "where": [["qos", "!=", ["set", []]]], "columns": ["name", "qos"]}


def qos_rows_of_ports(names: Iterable[str], answers: Sequence[Any], holders: Any) -> dict[str, list[str]]:
    """By the name of a port: the uuids of the QoS rows that go with it, by the answers to both questions."""
    ids = {row["_uuid"][1]: dict(row["external_ids"][1]) for answer in answers for row in answer["rows"]}
    held: dict[str, list[str]] = {}
    for port in holders["rows"]:
        held.setdefault(port["qos"][1], []).append(port["name"])
    return {name: [one for one, said in ids.items() if goes_with(name, said, held.get(one, ()))] for name in names}


def qos_deletions(uuids: Iterable[str]) -> list[Mapping[str, Any]]:
    """The operations that remove these rows; OVSDB refuses the transaction where a Port has come to hold one."""
    return [{"op": "delete", "table": "QoS", "where": [["_uuid", "==", ["uuid", one]]]} for one in uuids]


def qos_insertion(port: OvsPort, name: str) -> Mapping[str, Any]:
    """The operation that makes the row a port is born with, under this name in its transaction."""
    row = {"type": port.qos_type, "external_ids": ["map", sorted(map(list, ids_of_qos(port).items()))]}
    return {"op": "insert", "table": "QoS", "row": row, "uuid-name": name}
