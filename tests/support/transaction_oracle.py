"""Oracle for OVSDB transactions: a plug writes only these tables, columns and values, to rows of its port.

It is a second statement of what executors/ovsdb/transaction.py builds, and uses no steps (RFC 7047, section 5.2).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridvif.executors.ovs_rows import IDS, ISOLATION, Operation
from hybridvif.model.names import DATAPATH_TYPES, MAX_MTU, MIN_MTU, QOS_TYPES, key_of, names_of_key
from hybridvif.model.settings import SOCKET_DIR

_NOTHING = ["set", []]
_READ = ("Open_vSwitch", "Bridge", "Port", "Interface", "QoS")
_NEXT_CFG = ["next_cfg", "+=", 1]
_ASSERTED = "asserted"
"""Key of the conditions of a transaction, beside the tables of the rows that it makes."""
_CARRIED = {
    "Port": ("other_config", "external_ids", "cvlans", "protected"),
    "Interface": (
        *("other_config", "bfd", "lldp"),
        *(f"ingress_policing_{unit}" for unit in ("rate", "burst", "kpkts_rate", "kpkts_burst")),
    ),
}
"""Columns of others that a row may carry over from a row of ours."""


_SOCKET_TYPE = "dpdkvhostuserclient"
"""Type of a vhost-user port whose socket is QEMU's."""


def options_by_type(name: str, socket_dir: str) -> Mapping[str, Mapping[str, str]]:
    """Return the Interface types that a row of this name may have, each with its Interface.options."""
    if name != names_of_key(key_of(name) or "").vhost_user:
        return {"": {}, "patch": {"peer": "nobody"}}
    return {"dpdkvhostuser": {}, _SOCKET_TYPE: {"vhost-server-path": f"{socket_dir}/{name}"}}


@dataclass(frozen=True, slots=True)
class Known:
    """Objects that a transaction may change, as observed."""

    allows: Callable[[str], bool]
    """Rule for the names of bridges that ports may be plugged into."""
    rows: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Uuids of the rows of this transaction's ports, by table."""
    creates: Callable[[str], bool] = lambda _: False  # a default, not a method
    """Rule for the names of bridges that may be created."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names of the Interfaces among the rows, by uuid."""
    socket_dir: str = SOCKET_DIR
    """Directory of QEMU's sockets."""


class _NotPermitted(Exception):
    """The second half of a sentence, for objection_to()."""


def objection_to(operations: Sequence[Operation], known: Known) -> str:
    """Return the objection to a transaction; "" if it belongs to a plug or unplug."""
    made: dict[str, set[str]] = {}
    try:
        for operation in operations:
            _permit(operation, known, made)
    except _NotPermitted as against:
        return f"a transaction that {against} is not a plug or unplug of a port"
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return "a transaction of an unknown form is not a plug or unplug of a port"
    return ""


def _permit(operation: Operation, known: Known, made: dict[str, set[str]]) -> None:
    kind, table = operation["op"], operation.get("table")
    if kind in ("select", "wait"):
        # They write nothing.
        _require(table in _READ, f"asks about {str(table)[:20]}")
        _note_condition(operation, known, made)
        return
    if table == "Open_vSwitch":
        _permit_root(operation, known, made)
        return
    match kind:
        case "insert":
            name = operation["row"].get("name")
            if type(name) is str and known.creates(name):
                _permit_row(table, operation["row"], made, _BRIDGE_ROWS)
            else:
                _permit_row(table, operation["row"], made, _ROWS)
                _permit_kind(table, str(name), {"type": "", "options": ["map", []]} | operation["row"], known)
            made.setdefault(str(table), set()).add(operation["uuid-name"])
        case "mutate" if table == "Bridge":
            _permit_membership(operation, known, made)
        case "mutate" | "update" | "delete":
            _permit_change(operation, known)
        case _:
            raise _NotPermitted(f"holds {str(kind)[:20]!r}")


def _note_condition(operation: Operation, known: Known, made: dict[str, set[str]]) -> None:
    """Store the values that a row of ours must have for the transaction to take effect. Another row may carry them."""
    match operation:
        case {"op": "wait", "until": "==", "table": table, "where": [["_uuid", "==", ["uuid", uuid]]], "rows": [row]}:
            if uuid in known.rows.get(table, ()):
                asserted = made.setdefault(_ASSERTED, set())
                asserted |= {json.dumps([table, column, value]) for column, value in row.items()}


def _permit_root(operation: Operation, known: Known, made: Mapping[str, set[str]]) -> None:
    """Check a change of the switch itself: a new configuration, or a new or deleted bridge."""
    (mutation,) = operation["mutations"]
    if operation["op"] == "mutate" and mutation == _NEXT_CFG:
        return
    column, verb, (spelled, uuid) = mutation
    ours = {("insert", "named-uuid"): made.get("Bridge", ()), ("delete", "uuid"): known.rows.get("Bridge", ())}
    _require(
        (operation["op"], column) == ("mutate", "bridges") and uuid in ours.get((verb, spelled), ()),
        "writes to Open_vSwitch",
    )


def _permit_row(
    table: Any, row: Mapping[str, Any], made: Mapping[str, set[str]], tables: Mapping[str, Mapping[str, Rule]]
) -> None:
    """Check a new row."""
    rules = tables.get(table)
    if rules is None:
        raise _NotPermitted(f"makes a row of {str(table)[:20]}")
    for column, value in row.items():
        _require(column in rules, f"sets {table}.{column[:20]}")
        _require(rules[column](value, row, made), f"gives {table}.{column} a value of its own")
    _require(table == "QoS" or "name" in row, f"makes a row of {table} without a name")


def _permit_kind(table: Any, name: str, row: Mapping[str, Any], known: Known) -> None:
    """Check the type and the options of an Interface, which depend on each other."""
    legal = options_by_type(name, known.socket_dir)
    if table == "Interface" and {"type", "options"} & row.keys():
        kind, pairs = row["options"]
        agree = row["type"] in legal and kind == "map" and dict(pairs) == legal[row["type"]]
        _require(agree and len(dict(pairs)) == len(pairs), "gives Interface.type or its options a value of its own")


def _permit_new_kind(name: str, row: Mapping[str, Any], known: Known) -> None:
    """Check the type and the MTU of an existing vhost-user port, which keeps the options of others."""
    _require(row.keys() <= {"type", "mtu_request", "ofport_request"}, "replaces the options of a vhost-user port")
    legal = options_by_type(name, known.socket_dir)
    _require("type" not in row or row["type"] in legal, "gives Interface.type a value of its own")


def _permit_socket(name: str, verb: str, value: Any, known: Known) -> None:
    """Check our option of a vhost-user port."""
    legal = options_by_type(name, known.socket_dir).get(_SOCKET_TYPE, {})
    ours = [("insert", ["map", [[key, path]]]) for key, path in legal.items()]
    ours += [("delete", ["set", [key]]) for key in legal]
    _require((verb, value) in ours, "changes Interface.options")


def _permit_membership(operation: Operation, known: Known, made: Mapping[str, set[str]]) -> None:
    """Check a change of a bridge's ports."""
    ((column, test, bridge),) = operation["where"]
    _require((column, test) == ("name", "=="), "changes a bridge that it does not name")
    for changed, verb, (kind, members) in operation["mutations"]:
        _require((changed, kind) == ("ports", "set") and verb in ("insert", "delete"), f"changes Bridge.{changed}")
        _require(verb == "delete" or known.allows(bridge), f"gives {str(bridge)[:20]} a port")
        for spelled, uuid in members:
            ours = made.get("Port", ()) if spelled == "named-uuid" else known.rows.get("Port", ())
            _require(uuid in ours, "moves another's port")


def _permit_change(operation: Operation, known: Known) -> None:
    """Check a change or deletion of a row of ours."""
    table = operation["table"]
    ((column, test, (kind, uuid)),) = operation["where"]
    ours = (column, test, kind) == ("_uuid", "==", "uuid") and uuid in known.rows.get(table, ())
    _require(ours, f"changes a row of {table} that is not the port's")
    name = known.names.get(uuid, "")
    if operation["op"] == "delete":
        _require(table == "QoS", f"deletes a row of {table}")
    elif operation["op"] == "update":
        rules = _CHANGES.get(table, {})
        for changed, value in operation["row"].items():
            _require(changed in rules, f"sets {table}.{changed[:20]}")
            _require(rules[changed](value, operation["row"], {}), f"gives {table}.{changed} a value of its own")
        if "" in options_by_type(name, known.socket_dir):
            _permit_kind(table, name, operation["row"], known)
        else:
            _permit_new_kind(name, operation["row"], known)
    else:
        for changed, verb, (kind, values) in operation["mutations"]:
            if (table, changed) == ("Interface", "options"):
                _permit_socket(name, verb, [kind, values], known)
                continue
            if (table, changed) == ("QoS", "external_ids"):
                _require(_names_id(values), "changes QoS.external_ids that are not ours")
                continue
            _require((table, changed) == ("Interface", "external_ids"), f"changes {table}.{changed}")
            keys = values if (verb, kind) == ("delete", "set") else [key for key, _ in values]
            _require((verb, kind) in (("delete", "set"), ("insert", "map")), "changes external_ids in a way of its own")
            _require(set(keys) <= set(IDS.values()), "changes external_ids that are not ours")


Rule = Callable[[Any, Mapping[str, Any], Mapping[str, Collection[str]]], bool]
"""Rule of a value: legal by its row and by the rows that the transaction creates."""


def _names_id(values: Any) -> bool:
    """Return True if a mutation of a QoS row is about the id of its port only."""
    return {value if isinstance(value, str) else value[0] for value in values} == {"id"}


def _is_port_of_ours(value: Any, _row: Any, made: Any) -> bool:
    names = names_of_key(key_of(value) or "")
    is_replacement = any(json.loads(text)[0] == "Port" for text in made.get(_ASSERTED, ()))
    ours = (names.switch_end, names.vhost_user, *([names.tap] if is_replacement else []))
    return key_of(value) is not None and value in ours


def _are_ids_of_ours(value: Any, _row: Any, made: Any) -> bool:
    kind, pairs = value
    others = sorted(pair for pair in pairs if pair[0] not in IDS.values())
    asserted = [json.loads(text) for text in made.get(_ASSERTED, ())]
    known = [found[1] for table, column, found in asserted if (table, column) == ("Interface", "external_ids")]
    carried = [sorted(pair for pair in found if pair[0] not in IDS.values()) for found in known]
    return kind == "map" and (not others or others in carried)


def _is_carried(table: str, column: str) -> Rule:
    return lambda value, _row, made: json.dumps([table, column, value]) in made.get(_ASSERTED, ())


def _either(*rules: Rule) -> Rule:
    return lambda value, row, made: any(rule(value, row, made) for rule in rules)


def _is_text(value: Any, _row: Any, _made: Any) -> bool:
    return type(value) is str


def _is_map(value: Any, _row: Any, _made: Any) -> bool:
    return bool(value[0] == "map")


def _is_mtu(value: Any, _row: Any, _made: Any) -> bool:
    return value == _NOTHING or (type(value) is int and MIN_MTU <= value <= MAX_MTU)


def _is_made_here(table: str) -> Rule:
    return lambda value, _row, made: value[0] == "named-uuid" and value[1] in made.get(table, ())


def _is(wanted: Any) -> Rule:
    return lambda value, _row, _made: bool(type(value) is type(wanted) and value == wanted)


def _are_ids_of_qos(value: Any, row: Mapping[str, Any], _made: Any) -> bool:
    return value[0] == "map" and dict(value[1]).keys() == {"_type", "id"} and dict(value[1])["_type"] == row["type"]


_KIND: Mapping[str, Rule] = {"type": _is_text, "options": _is_map, "mtu_request": _is_mtu}
"""Rules by column. _permit_kind() checks the combinations and the names."""
_ROWS: Mapping[str, Mapping[str, Rule]] = {
    "Interface": {
        "name": _is_port_of_ours,
        "external_ids": _are_ids_of_ours,
        "ofport_request": lambda value, _row, made: type(value) is int and value > 0 and _ASSERTED in made,
        **{column: _is_carried("Interface", column) for column in _CARRIED["Interface"]},
        **_KIND,
    },
    "Port": {
        "name": _is_port_of_ours,
        "interfaces": _is_made_here("Interface"),
        **{column: _is_carried("Port", column) for column in _CARRIED["Port"]},
        "qos": _either(_is_made_here("QoS"), _is_carried("Port", "qos")),
        **{column: _either(_is(value), _is_carried("Port", column)) for column, value in ISOLATION.items()},
    },
    "QoS": {"type": lambda value, _row, _made: value in QOS_TYPES, "external_ids": _are_ids_of_qos},
}
"""Rules for the values of a new row, by table and column."""
_BRIDGE_ROWS: Mapping[str, Mapping[str, Rule]] = {
    "Interface": {"name": lambda *_: True, "type": _is("internal")},
    "Port": {"name": lambda *_: True, "interfaces": _is_made_here("Interface")},
    "Bridge": {
        "name": lambda *_: True,
        "ports": _is_made_here("Port"),
        "datapath_type": lambda value, _row, _made: value in ("", *DATAPATH_TYPES),
    },
}
"""And the rows of a bridge, whose name must be one that may be created."""
_CHANGES: Mapping[str, Mapping[str, Rule]] = {
    "Interface": {**_KIND, "ofport_request": _is(_NOTHING)},
    "Port": {"qos": _is(_NOTHING)},
}
"""Rules for the new values of an existing row of ours."""


def _require(legal: bool, otherwise: str) -> None:
    if not legal:
        raise _NotPermitted(otherwise)
