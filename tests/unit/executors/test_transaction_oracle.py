"""The oracle accepts every transaction of a plug or unplug, and rejects each of them with any write changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st

from hybridvif.executors.base import StepFailed
from hybridvif.executors.ovs_rows import Row, Snapshot, ids_of
from hybridvif.executors.ovsdb.transaction import row_operations, with_next_cfg
from hybridvif.executors.side_effects import SideEffects
from hybridvif.model.parts import PLACEHOLDER_TYPE, OvsPort
from hybridvif.model.planner import plan
from hybridvif.model.port import Port, VifType, desired_state
from hybridvif.model.state import NOTHING, Create, Delete, HostState, Step, Update
from tests.support.strategies import ROW, VHOST_USER, history, ports, states_of
from tests.support.transaction_oracle import Known, objection_to

INTERFACE, HOLDER, QOS = (f"0000000{number}-0000-4000-8000-000000000000" for number in (1, 2, 3))
OTHERS = "99999999-0000-4000-8000-000000000000"
BRIDGES = ("br-int", "br-ex", "tbr-5f2c0e1a-7", "a.b_c-d")
KNOWN = Known(BRIDGES.__contains__, {"Interface": [INTERFACE], "Port": [HOLDER], "QoS": [QOS]})
OF_VHOST_USER = replace(KNOWN, names={INTERFACE: VHOST_USER.name})


def sent_for(
    steps: list[Step], state: HostState, made: dict[str, str] | None = None, emptied: dict[str, Any] | None = None
) -> list[Any]:
    """Return the transaction that is built for these steps on a switch in this state."""
    rows = [row for row in state.ports.values() if isinstance(row, OvsPort)]
    snapshot = Snapshot(
        rows={
            row.name: Row(
                name=row.name,
                bridge=row.bridge,
                type=row.type,
                external_ids=ids_of(row),
                ofport=1,
                error="",
                tag=None,
                uuid=INTERFACE,
                port_uuid=HOLDER,
            )
            for row in rows
        },
        bridges=dict.fromkeys(BRIDGES, "netdev"),
    )
    qos = {step.part.name: [QOS] for step in steps if isinstance(step, Delete)}
    effects = SideEffects(qos=qos, bridges_to_create=made or {}, bridges_to_remove=emptied or {})
    return copy.deepcopy(list(with_next_cfg(row_operations(steps, snapshot, effects, KNOWN.socket_dir))))


@given(st.data(), ports(st.just(VifType.OVS)))
def test_oracle_accepts_every_transaction_of_plug_and_unplug(data: st.DataObject, port: Port) -> None:
    first = data.draw(states_of(port))
    wiring = desired_state(port)
    for now in history(first, plan(first, wiring)):
        for goal in (wiring, NOTHING):
            for step in plan(now, goal):
                if isinstance(step.part, OvsPort):
                    parked = now.with_parts(step.before) if isinstance(step, Update) else now
                    try:
                        operations = sent_for([step], parked)
                    except StepFailed:
                        continue
                    assert objection_to(operations, replace(KNOWN, names={INTERFACE: step.part.name})) == ""


FULL_ROW = replace(ROW, isolated=True, qos_type="linux-noop")
TRANSACTIONS: dict[str, list[Any]] = {
    "create": sent_for([Create(ROW)], NOTHING),
    "create with all columns": sent_for([Create(FULL_ROW)], NOTHING),
    "park": sent_for([Update(ROW, replace(ROW, type=PLACEHOLDER_TYPE))], HostState().with_parts(ROW)),
    "repair": sent_for([Update(replace(ROW, bridge="br-ex", vm_uuid=""), ROW)], HostState().with_parts(ROW)),
    "delete": sent_for([Delete(ROW)], HostState().with_parts(ROW)),
}


def writes(operations: list[Any], table: str = "") -> list[Any]:
    found = [operation for operation in operations if operation["op"] not in ("wait", "select")]
    return [operation for operation in found if table in ("", operation["table"])]


def set_in(key: str, value: Any) -> Callable[[Any], None]:
    def change(operation: Any) -> None:
        operation[key] = value

    return change


CHANGES: dict[str, Callable[[Any], None]] = {
    **{f"table {name}": set_in("table", name) for name in ("Controller", "Manager", "SSL", "Mirror", "Flow_Table", "")},
    **{f"op {name}": set_in("op", name) for name in ("delete", "abort", "comment", "assert", "commit", "exec")},
    "where all": set_in("where", []),
    "where another": set_in("where", [["_uuid", "==", ["uuid", OTHERS]]]),
    "where not": set_in("where", [["_uuid", "!=", ["uuid", HOLDER]]]),
    "where two": set_in("where", [["_uuid", "==", ["uuid", HOLDER]], ["name", "==", "x"]]),
    "where by name": set_in("where", [["name", "==", "br-int"]]),
    **{
        f"row {column}": lambda operation, column=column: operation.setdefault("row", {}).update({column: "netdev"})  # type: ignore[misc]
        for column in ("datapath_type", "controller", "other_config", "mac", "ofport_request", "fail_mode", "bond_mode")
    },
    "row renamed": lambda operation: operation.setdefault("row", {}).update(name="eth0"),
    "row of a look-alike": lambda operation: operation.setdefault("row", {}).update(name=ROW.name + "\n"),
    "row of a bridge": lambda operation: operation.setdefault("row", {}).update(name="qbr" + ROW.name[3:]),
    "row of a type": lambda operation: operation.setdefault("row", {}).update(type="vxlan", options=["map", []]),
    "row of a peer": lambda operation: operation.setdefault("row", {}).update(
        type="patch", options=["map", [["peer", "br-ex"]]]
    ),
    "row of ids": lambda operation: operation.setdefault("row", {}).update(external_ids=["map", [["ovs-vif", "x"]]]),
    "row of a tag": lambda operation: operation.setdefault("row", {}).update(tag=1),
    "mutations of a column": set_in("mutations", [["controller", "delete", ["set", []]]]),
    "mutations of a number": set_in("mutations", [["next_cfg", "+=", 2]]),
    "mutations of all ids": set_in("mutations", [["external_ids", "delete", ["set", ["ovn-set"]]]]),
    "mutations of another id": set_in("mutations", [["external_ids", "insert", ["map", [["system-id", "x"]]]]]),
    "mutations of another port": set_in("mutations", [["ports", "delete", ["set", [["uuid", OTHERS]]]]]),
    "mutations by another verb": set_in("mutations", [["ports", "+=", ["set", [["uuid", HOLDER]]]]]),
    "no form at all": lambda operation: operation.clear(),
    "a number": set_in("where", 7),
}


def applies(change: str, operation: dict[str, Any]) -> bool:
    """Return whether a change modifies this operation: a where in an update, a row if it has one."""
    kind, key = operation["op"], change.partition(" ")[0]
    if change == "op delete":
        return bool(operation["table"] != "QoS")
    if key == "row":
        return kind in ("insert", "update") and (change != "row of a tag" or operation["table"] == "Port")
    if key in ("where", "a"):
        return (
            kind != "insert"
            and operation["table"] != "Open_vSwitch"
            and (operation["table"], change) != ("Bridge", "where by name")
        )
    return key != "mutations" or kind == "mutate"


@pytest.mark.parametrize("change", CHANGES)
def test_oracle_rejects_every_changed_write(change: str) -> None:
    tried = 0
    for transaction in TRANSACTIONS.values():
        assert objection_to(transaction, KNOWN) == ""
        for index in range(len(writes(transaction))):
            changed = copy.deepcopy(transaction)
            operation = writes(changed)[index]
            if applies(change, operation):
                CHANGES[change](operation)
                message = objection_to(changed, KNOWN)
                assert message.startswith("a transaction "), operation
                assert len(message) < 200
                tried += 1
    assert tried


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "insert", "table": "Bridge", "row": {"name": "br-x"}, "uuid-name": "x"},
        {"op": "insert", "table": "Controller", "row": {"target": "tcp:192.0.2.1"}, "uuid-name": "x"},
        {"op": "insert", "table": "Port", "row": {}, "uuid-name": "x"},
        {"op": "insert", "table": "Port", "row": {"name": ROW.name, "interfaces": ["uuid", OTHERS]}, "uuid-name": "x"},
        {"op": "update", "table": "Bridge", "where": [], "row": {"datapath_type": "system"}},
        {"op": "update", "table": "Open_vSwitch", "where": [], "row": {"manager_options": ["set", []]}},
        {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["bridges", "delete", ["uuid", OTHERS]]]},
        {"op": "delete", "table": "Bridge", "where": []},
        {"op": "select", "table": "SSL", "where": [], "columns": ["private_key"]},
    ],
    ids=lambda operation: f"{operation['op']} {operation['table']}",
)
def test_oracle_rejects_an_additional_operation(operation: Any) -> None:
    assert objection_to([*TRANSACTIONS["create"], operation], KNOWN).startswith("a transaction ")


def test_bridge_that_is_not_allowed_gets_no_port_and_may_lose_one() -> None:
    narrow = replace(KNOWN, allows=["br-ex"].__contains__)
    assert "gives br-int a port" in objection_to(TRANSACTIONS["create"], narrow)
    assert objection_to(TRANSACTIONS["delete"], narrow) == ""


@given(st.sampled_from(sorted(TRANSACTIONS)), st.data())
def test_row_that_was_not_read_is_not_changed(name: str, data: st.DataObject) -> None:
    written = json.dumps(TRANSACTIONS[name])
    uuid = data.draw(st.sampled_from([INTERFACE, HOLDER, QOS]))
    assume(any(uuid in str(operation) for operation in writes(TRANSACTIONS[name])))
    other = data.draw(st.uuids().map(str))
    assume(other not in (INTERFACE, HOLDER, QOS))
    assert objection_to(json.loads(written.replace(uuid, other)), KNOWN).startswith("a transaction ")


# Bridges that come and go with a port.

TRUNK, EMPTY_BRIDGE = "tbr-0b1c2d3e-0", "00000004-0000-4000-8000-000000000000"
ON_A_TRUNK = replace(ROW, bridge=TRUNK, bridge_name=TRUNK)
MAY_CREATE = replace(KNOWN, allows=lambda name: name in (*BRIDGES, TRUNK), creates=TRUNK.__eq__)
MAY_REMOVE = replace(KNOWN, rows={**KNOWN.rows, "Bridge": [EMPTY_BRIDGE]})


def creation(name: str = TRUNK, kind: str = "netdev") -> list[Any]:
    return sent_for([Create(ON_A_TRUNK)], NOTHING, made={TRUNK: "netdev", name: kind})


def removal() -> list[Any]:
    row = {"_uuid": ["uuid", EMPTY_BRIDGE], "ports": ["set", [["uuid", HOLDER], ["uuid", OTHERS]]]}
    return sent_for([Delete(ON_A_TRUNK)], HostState().with_parts(ON_A_TRUNK), emptied={TRUNK: row})


def test_configured_bridge_is_created_and_removed() -> None:
    assert objection_to(creation(), MAY_CREATE) == ""
    assert objection_to(removal(), MAY_REMOVE) == ""


def test_other_bridge_is_not_created_or_removed() -> None:
    assert "gives Interface.name a value of its own" in objection_to(
        creation(), replace(MAY_CREATE, creates=KNOWN.creates)
    )
    assert f"gives {TRUNK} a port" in objection_to(creation(), replace(MAY_CREATE, allows=KNOWN.allows))
    assert objection_to(creation("br-ex"), MAY_CREATE)
    assert objection_to(creation(kind="dummy"), MAY_CREATE)
    assert "writes to Open_vSwitch" in objection_to(removal(), KNOWN)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("Bridge", "controller", ["set", []]),
        ("Bridge", "datapath_type", "dummy"),
        ("Bridge", "ports", ["uuid", OTHERS]),
        ("Bridge", "ports", ["named-uuid", "another"]),
        ("Bridge", "name", "br-ex"),
        ("Interface", "type", "vxlan"),
        ("Interface", "options", ["map", [["peer", "x"]]]),
        ("Port", "interfaces", ["uuid", INTERFACE]),
        ("Port", "tag", 4095),
    ],
)
def test_bridge_with_any_other_column_is_rejected(table: str, column: str, value: Any) -> None:
    transaction = creation()
    (operation,) = [
        operation
        for operation in transaction
        if (operation["op"], operation["table"]) == ("insert", table) and operation["row"]["name"] == TRUNK
    ]
    operation["row"][column] = value
    assert objection_to(transaction, MAY_CREATE)


@pytest.mark.parametrize(
    "mutation",
    [
        ["bridges", "insert", ["uuid", OTHERS]],
        ["bridges", "insert", ["named-uuid", "another"]],
        ["bridges", "delete", ["uuid", OTHERS]],
        ["bridges", "delete", ["set", []]],
        ["manager_options", "insert", ["named-uuid", "bridge0"]],
        ["next_cfg", "-=", 1],
    ],
)
def test_other_change_of_the_switch_itself_is_rejected(mutation: Any) -> None:
    for transaction, known in ((creation(), MAY_CREATE), (removal(), MAY_REMOVE)):
        for operation in writes(transaction, "Open_vSwitch"):
            changed = copy.deepcopy(transaction)
            changed[transaction.index(operation)]["mutations"] = [mutation]
            assert objection_to(changed, known)


# Vhost-user ports.

ELSEWHERE = ["map", [["vhost-server-path", f"/etc/{VHOST_USER.name}"]]]
OWN = ["map", [["vhost-server-path", f"/var/run/openvswitch/{VHOST_USER.name}"]]]


def vhost_user_creation(**columns: Any) -> list[Any]:
    transaction = sent_for([Create(VHOST_USER)], NOTHING)
    (operation,) = writes(transaction, "Interface")
    operation["row"] = {name: value for name, value in {**operation["row"], **columns}.items() if value != "left out"}
    return transaction


def changed_row(**columns: Any) -> list[Any]:
    where = [["_uuid", "==", ["uuid", INTERFACE]]]
    return [{"op": "update", "table": "Interface", "where": where, "row": columns}]


def test_vhost_user_port_is_created_and_changed() -> None:
    assert objection_to(vhost_user_creation(), KNOWN) == ""
    assert objection_to(vhost_user_creation(type="dpdkvhostuser", options=["map", []]), KNOWN) == ""
    assert objection_to(vhost_user_creation(mtu_request="left out"), KNOWN) == ""
    found = replace(VHOST_USER, type="dpdkvhostuser", mtu_request=0)
    for before, after in ((found, VHOST_USER), (VHOST_USER, found)):
        sent = sent_for([Update(before, after)], HostState().with_parts(before))
        assert objection_to(sent, OF_VHOST_USER) == ""
        assert objection_to(sent, KNOWN)


@pytest.mark.parametrize(
    "columns",
    [
        {"options": ELSEWHERE},
        {"options": "left out"},
        {"options": ["map", [*OWN[1], *OWN[1]]]},
        {"options": ["map", [*OWN[1], ["n_rxq", "2"]]]},
        {"options": ["set", []]},
        {"type": "dpdkvhostuser"},
        {"type": "dpdk", "options": ["map", []]},
        {"type": "", "options": ["map", []]},
        {"type": "patch", "options": ["map", [["peer", "nobody"]]]},
        {"type": "left out", "options": "left out"},
        {"type": ["set", []]},
        {"mtu_request": 67},
        {"mtu_request": True},
        {"mtu_request": "1500"},
        {"name": ROW.name},
    ],
)
def test_vhost_user_port_with_any_other_column_is_rejected(columns: dict[str, Any]) -> None:
    assert objection_to(vhost_user_creation(**columns), KNOWN).startswith("a transaction ")


@pytest.mark.parametrize(
    ("known", "columns"),
    [
        (OF_VHOST_USER, {"type": "dpdkvhostuserclient", "options": ELSEWHERE}),
        (OF_VHOST_USER, {"type": "dpdkvhostuserclient", "options": OWN}),
        (OF_VHOST_USER, {"type": "dpdk"}),
        (OF_VHOST_USER, {"type": ["set", []]}),
        (OF_VHOST_USER, {"options": OWN}),
        (OF_VHOST_USER, {"mtu_request": 67}),
        (OF_VHOST_USER, {"type": "", "options": ["map", []]}),
        (KNOWN, {"type": "dpdkvhostuserclient", "options": OWN}),
        (replace(KNOWN, names={INTERFACE: ROW.name}), {"mtu_request": 67}),
        (replace(KNOWN, names={INTERFACE: ROW.name}), {"type": "dpdkvhostuser", "options": ["map", []]}),
    ],
)
def test_changing_the_kind_or_the_socket_of_a_row_is_rejected(known: Known, columns: dict[str, Any]) -> None:
    assert objection_to(changed_row(**columns), known).startswith("a transaction ")


def changed_option(verb: str, value: Any) -> list[Any]:
    (operation,) = changed_row()
    del operation["row"]
    return [{**operation, "op": "mutate", "mutations": [["options", verb, value]]}]


@pytest.mark.parametrize(("verb", "value"), [("insert", OWN), ("delete", ["set", ["vhost-server-path"]])])
def test_socket_option_of_a_vhost_user_port_is_changed(verb: str, value: Any) -> None:
    assert objection_to(changed_option(verb, value), OF_VHOST_USER) == ""
    for other in (KNOWN, replace(KNOWN, names={INTERFACE: ROW.name})):
        assert objection_to(changed_option(verb, value), other).startswith("a transaction ")
    elsewhere = replace(OF_VHOST_USER, socket_dir="/run/s")
    assert objection_to(changed_option("insert", OWN), elsewhere).startswith("a transaction ")


@pytest.mark.parametrize(
    ("verb", "value"),
    [
        ("insert", ELSEWHERE),
        ("insert", ["map", [*OWN[1], ["n_rxq", "2"]]]),
        ("insert", ["map", [*OWN[1], *ELSEWHERE[1]]]),
        ("insert", ["map", []]),
        ("delete", OWN),
        ("delete", ["set", ["tx-retries-max"]]),
        ("delete", ["set", ["vhost-server-path", "tx-retries-max"]]),
        ("delete", "vhost-server-path"),
        ("+=", OWN),
    ],
)
def test_other_option_of_a_vhost_user_port_is_rejected(verb: str, value: Any) -> None:
    assert objection_to(changed_option(verb, value), OF_VHOST_USER).startswith("a transaction ")
