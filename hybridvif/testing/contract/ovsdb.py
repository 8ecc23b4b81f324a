"""The contract of Open vSwitch executors: foreign rows and columns never change."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from hybridvif.model.parts import PLACEHOLDER_TYPE, ForeignPort, OvsPort
from hybridvif.model.report import Result
from hybridvif.model.state import HostState
from hybridvif.model.steps import Create, Delete, Step, Update, changes_of
from hybridvif.testing.contract.bench import PORT, Bench, describe, require_equal

QVO = PORT.names.switch_end
QOS_ID = str(uuid.uuid5(uuid.UUID("68da264a-847f-42a8-8ab0-5e774aee3d95"), QVO))
"""The id by which os-vif finds the QoS row of the port."""
BESIDE = "hvbeside"
UNTYPED = "hvuntyped"
"""A bridge with an empty datapath_type, which means `system` (ovs-vswitchd.conf.db(5), Bridge)."""


def check(bench: Bench, wiring: HostState, bridges: Sequence[str]) -> None:
    """Check facts, foreign columns in the port's rows, foreign rows, and a bond with the port's name."""
    port = wiring.ports[QVO]
    assert isinstance(port, OvsPort)
    clean = f"ovs-vsctl --if-exists del-port {BESIDE} -- --if-exists del-br {UNTYPED}"
    bench.sh(
        f"ovs-vsctl add-port {bridges[0]} {BESIDE} tag=8 "
        f"-- set Interface {BESIDE} type=internal external_ids:own=theirs"
    )
    # Only the row matters. The daemon need not create the bridge.
    bench.sh(f"ovs-vsctl --no-wait add-br {UNTYPED}")
    try:
        _facts(bench, bridges)
        with _others_unchanged(bench):
            _foreign_columns(bench, port, bridges)
            _born_isolated(bench, port)
            _born_with_qos(bench, port)
        _bond(bench, port)
    finally:
        bench.sh(clean)


def _facts(bench: Bench, bridges: Sequence[str]) -> None:
    bench.sh(f"ovs-vsctl set Port {QVO} tag=7")
    facts = bench.observe(PORT.names).facts
    fact = facts.ports[QVO]
    ofport = int(bench.sh(f"ovs-vsctl get Interface {QVO} ofport"))
    assert fact.ofport == ofport, f"facts.ports of {QVO}: ofport is {fact.ofport}, not {ofport}"
    assert fact.tag == 7, f"facts.ports of {QVO}: tag is {fact.tag}, not 7"
    for bridge in (*bridges, UNTYPED):
        kind = bench.sh(f"ovs-vsctl get Bridge {bridge} datapath_type").strip().strip('"') or "system"
        seen = facts.switches.get(bridge)
        assert seen == kind, f"facts.switches of {bridge} is {seen!r}, not {kind!r}"


def require_facts(bench: Bench, when: str) -> None:
    """Compare the facts about the port and all bridges with ovs-vsctl."""
    # ovs-vswitchd writes ofport and error after it has acknowledged a configuration.
    found: dict[str, Any] = {}
    wanted: dict[str, Any] = {}
    for _ in range(TRIES):
        facts = bench.observe(PORT.names).facts
        wanted = _facts_of_switch(bench)
        found = {name: (fact.ofport, fact.error, fact.tag) for name, fact in facts.ports.items()}
        found["bridges"] = dict(facts.switches)
        if not wanted or found == wanted:
            return
    raise AssertionError(f"{when}: the facts (ofport, error, tag; bridges) are {found}, not {wanted}")


def _facts_of_switch(bench: Bench) -> dict[str, Any]:
    bridges, ports, interfaces = (_table(bench, words) for words in _TABLES)
    tags = {row["name"]: row["tag"] for row in ports}
    ours = [row for row in interfaces if row["name"] in PORT.names]
    if not ours:
        return {}
    facts: dict[str, Any] = {"bridges": {row["name"]: row["datapath_type"] or "system" for row in bridges}}
    for row in ours:
        # An error from the time as a placeholder is stale once the port has a number.
        stale = row["type"] != PLACEHOLDER_TYPE and STALE in str(row["error"]) and (row["ofport"] or 0) > 0
        facts[row["name"]] = (row["ofport"], "" if stale else row["error"] or "", tags[row["name"]])
    return facts


_TABLES = (
    "--columns=name,datapath_type list Bridge",
    "--columns=name,tag list Port",
    "--columns=name,type,ofport,error list Interface",
)
TRIES = 20
STALE = "No usable peer"
"""The error of ovs-vswitchd for a placeholder row. It may remain afterwards."""


def _table(bench: Bench, words: str) -> list[dict[str, Any]]:
    """Return the rows of a table; None for an empty set."""
    lines = bench.sh(f"ovs-vsctl --no-wait --format=json {words}", check=False)
    if not lines.strip():
        return []
    table = json.loads(lines)
    rows = [dict(zip(table["headings"], values, strict=True)) for values in table["data"]]
    return [{key: None if value == ["set", []] else value for key, value in row.items()} for row in rows]


def _foreign_columns(bench: Bench, port: OvsPort, bridges: Sequence[str]) -> None:
    """Foreign columns in the rows of the port survive an update and a move to another bridge."""
    bench.sh(
        f"ovs-vsctl set Port {QVO} tag=7 other_config:own=theirs external_ids:own=theirs "
        f"-- set Interface {QVO} other_config:own=theirs external_ids:own=theirs"
    )
    before = _foreign_of(bench)
    changed = replace(port, attached_mac="fa:16:3e:00:00:55")
    moved = replace(changed, bridge=bridges[-1])
    for step in (Update(port, changed), Update(changed, moved)):
        _done(bench, step)
        after = _foreign_of(bench)
        changes = ", ".join(changes_of(step))
        assert after == before, f"{describe(step)} of {changes}: the rows had {before}, and now have {after}"
    _done(bench, Delete(moved))
    _done(bench, Create(port))
    _done(bench, Delete(port))


def _born_isolated(bench: Bench, port: OvsPort) -> None:
    """The dead VLAN is create-only: an update neither removes nor sets it."""
    isolated = replace(port, isolated=True)
    for born, columns in ((isolated, ["4095", "trunk", "[4095]"]), (port, ["[]", "[]", "[]"])):
        changed = replace(isolated, vm_uuid="")
        for step in (Create(born), Update(port, changed), Update(changed, isolated)):
            _done(bench, step)
            tagged = bench.sh(f"ovs-vsctl get Port {QVO} tag vlan_mode trunks").split()
            assert tagged == columns, f"{QVO}, made with isolated={born.isolated}: tag, vlan_mode, trunks are {tagged}"
        _done(bench, Delete(port))


def _born_with_qos(bench: Bench, port: OvsPort) -> None:
    """The QoS row of a port is created and deleted with it. QoS rows of other ports or ids stay."""
    bench.sh(f"ovs-vsctl -- --id=@q create QoS type=linux-noop external_ids:id=another -- set Port {BESIDE} qos=@q")
    own = f"external_ids:id={QOS_ID}"
    shared = f"ovs-vsctl -- --id=@q create QoS type=linux-noop {own} -- set Port {BESIDE} qos=@q"
    try:
        # An orphaned QoS row of an earlier port would be a duplicate.
        bench.sh(f"ovs-vsctl create QoS type=linux-htb {own}")
        _done(bench, Create(replace(port, qos_type="linux-noop")))
        rows = _rows(bench, "type,external_ids", "QoS")
        wanted = f'linux-noop,"{{_type=linux-noop, id=""{QOS_ID}""}}"'
        assert [row for row in rows if QOS_ID in row] == [wanted], f"{QVO} was made with these QoS rows: {rows}"
        held = bench.sh(f"ovs-vsctl get QoS $(ovs-vsctl get Port {QVO} qos) type").strip()
        assert held == "linux-noop", f"{QVO} was made with a QoS of type {held}, not linux-noop"
        _done(bench, Update(port, replace(port, qos_type="linux-htb", vm_uuid="")))
        assert _rows(bench, "type,external_ids", "QoS") == rows, f"{QVO}: an update has written its QoS"
        _done(bench, Delete(port))
        rows = _rows(bench, "external_ids", "QoS")
        assert rows == ["{id=another}"], f"{QVO} is gone, and these QoS rows are there: {rows}"
        bench.sh(shared)
        _done(bench, Create(replace(port, qos_type="linux-noop")))
        _done(bench, Delete(port))
        rows = _rows(bench, "external_ids", "QoS")
        assert len(rows) == 2, f"{QVO} is gone, and of the QoS rows that it did not hold alone these are left: {rows}"
    finally:
        bench.sh(f"ovs-vsctl --if-exists del-port {QVO} -- clear Port {BESIDE} qos; ovs-vsctl --all destroy QoS")


def _foreign_of(bench: Bench) -> str:
    return bench.sh(
        f"ovs-vsctl get Port {QVO} tag other_config external_ids "
        f"-- --if-exists get Interface {QVO} other_config external_ids:own"
    )


def _bond(bench: Bench, port: OvsPort) -> None:
    """A bond with the port's name is foreign and is not deleted."""
    bench.sh(f"ovs-vsctl --if-exists del-port {QVO} -- add-bond {port.bridge} {QVO} {QVO} hvslave")
    try:
        seen = bench.see(PORT.names).ports.get(QVO)
        assert isinstance(seen, ForeignPort), f"{QVO}, a bond, is observed as {seen}, not as a ForeignPort"
        rows = _rows(bench, "name,interfaces", "Port")
        bench.try_refused(Delete(port), results={Result.REFUSED})
        assert _rows(bench, "name,interfaces", "Port") == rows, f"{QVO}, a bond, was changed by a refused delete"
    finally:
        bench.sh(f"ovs-vsctl --if-exists del-port {QVO}")
    require_equal(HostState({}, bench.see(PORT.names).ports), HostState(), "after the bond was deleted")


def _done(bench: Bench, step: Step) -> None:
    (outcome,) = bench.do([step]) or (None,)
    assert outcome is not None, f"the executor can do nothing: {describe(step)}"
    assert outcome.result is Result.DONE, f"{describe(step)}: {outcome.result.value}, {outcome.reason}"


@contextmanager
def _others_unchanged(bench: Bench) -> Iterator[None]:
    """Check that the configured columns of all foreign rows are unchanged."""
    before = _others(bench)
    yield
    after = _others(bench)
    assert after == before, f"a row that is not the port's was written: {sorted(set(after) ^ set(before))[:4]}"


def _others(bench: Bench) -> list[str]:
    rows = _rows(bench, "name,type,options,external_ids,other_config,mac", "Interface")
    rows += _rows(bench, "name,interfaces,tag,trunks,external_ids,other_config", "Port")
    rows += _rows(bench, "name,datapath_type,fail_mode,controller,external_ids,other_config", "Bridge")
    rows += _rows(bench, "external_ids,other_config", "Open_vSwitch")
    return sorted(row for row in rows if not row.startswith(f"{QVO},"))


def _rows(bench: Bench, columns: str, table: str) -> list[str]:
    return bench.sh(f"ovs-vsctl --format=csv --no-headings --columns={columns} list {table}").splitlines()
