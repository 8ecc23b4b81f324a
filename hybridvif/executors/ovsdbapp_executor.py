"""ovsdbapp: the switch is Open vSwitch, through ovsdbapp's replica of it. One transaction a batch, read back after.

The twin of ovsdb: another library's eyes and hands for the same work, in the contract tests and for a second opinion on
a host. It starts slower, since all ports of the host are replicated first, and parses in Python what ovsdb leaves to C.

A row is changed in place: a port that is deleted and added again would lose its VLAN tag and ofport, and Neutron would
cycle it through DOWN (LP 1670628). Only what differs is written, since any write wakes Neutron's agent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ovsdbapp.backend.ovs_idl import idlutils

from hybridvif.executors.base import NOT_ACKNOWLEDGED, ExecutorError, StepFailed, rejected_transaction
from hybridvif.executors.ovs_rows import (
    IDS,
    SOCKET,
    Row,
    columns_at_creation,
    error_about,
    ids_of,
    iface_id_of,
    is_undecided,
    not_realized,
    observed,
    options_of,
)
from hybridvif.executors.ovsdbapp_connection import ConnectionLost, Expired, Session
from hybridvif.executors.side_effects import (
    bridges_to_create,
    deleted_ports,
    is_qos_of,
    is_trunk_patch,
    ports_with_qos,
    qos_ids_of,
    removable_trunks,
)
from hybridvif.model.errors import BridgeMissing
from hybridvif.model.facts import Observed
from hybridvif.model.names import key_of
from hybridvif.model.parts import OvsPort, Part, Role, VhostUserPort
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.steps import Create, Delete, Step, Update, changes_of

TRIES = 8
SETTLE = 0.05
"""Seconds to wait for ofport and error to follow cur_cfg."""


class ReplicaExecutor:
    """Ports of Open vSwitch through OVSDB."""

    role: ClassVar[Role] = Role.SWITCH
    serves: ClassVar[frozenset[type[Part]]] = frozenset({OvsPort, VhostUserPort})
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        self._session = Session(settings)
        self._settings = settings

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """The ports under these names, or all of our grammar, and the bridges there are."""
        with self._session.fresh(deadline) as api:
            return _observed(api, names, self._settings.vhost_socket_dir)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """All the steps in one transaction, then wait for ovs-vswitchd to have taken it."""
        try:
            return self._apply(steps, deadline)
        except Expired:
            said = "OVSDB was sent the transaction and did not answer; whether it takes effect is not known"
            return [Outcome(step, Result.UNKNOWN, f"{said}: {_names(steps)}") for step in steps]
        except ExecutorError as error:
            return [error.outcome_of(step) for step in steps]

    def _apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        status = said = ""
        attempt = 0
        for attempt in range(TRIES):
            with self._session.fresh(deadline) as api:
                seen = _observed(api, {step.part.name for step in steps}, self._settings.vhost_socket_dir)
                against = rejected_transaction(seen.state, steps)
                if against:
                    return against
                try:
                    status, number, said = api.commit(lambda txn: self._compose(api, txn, steps), deadline)
                except StepFailed as failure:
                    return [failure.outcome_of(step) for step in steps]
                if status in ("success", "unchanged"):
                    settled = _settled(api, steps, number, deadline)
                    return [replace(outcome, retries=attempt) for outcome in settled]
                if status != "try again":
                    break
            time.sleep(random.uniform(0, 0.01 * 2**attempt))
        moved_on = status == "try again"
        why = "others keep changing the same rows" if moved_on else said
        reason = f"OVSDB refused the transaction for {_names(steps)}: {why}"
        return [Outcome(step, Result.FAILED, reason, retry=moved_on, retries=attempt) for step in steps]

    def _compose(self, api: Any, txn: Any, steps: Sequence[Step]) -> None:
        # Before anything is made: of a row of this transaction's own the replica does not tell every column.
        qos = _qos_rows(api, steps)
        bridges = {row.name for row in api.tables["Bridge"].rows.values()}
        where = {name: bridge.name for bridge in api.tables["Bridge"].rows.values() for name in _held_by(bridge)}
        for name, kind in bridges_to_create(steps, bridges, self._settings.creates).items():
            _make_bridge(api, txn, name, kind)
        gone = deleted_ports(steps)
        emptied = [name for name in removable_trunks(steps, where, self._settings) if _may_go(_bridge(api, name), gone)]
        for name in emptied:
            _bridge(api, name).verify("ports")
        _compose(api, txn, steps, qos, self._settings.vhost_socket_dir)
        for name in emptied:
            bridge = _bridge(api, name)
            api._ovs.delvalue("bridges", bridge)
            bridge.delete()


def _make_bridge(api: Any, txn: Any, name: str, datapath_type: str) -> None:
    """Make a bridge and its own port, as ovsdbapp's AddBridgeCommand does under a lock that an Idl of ours has not."""
    interface, port, bridge = (txn.insert(api.tables[table]) for table in ("Interface", "Port", "Bridge"))
    interface.name = port.name = bridge.name = name
    interface.type, port.interfaces, bridge.ports = "internal", [interface], [port]
    bridge.datapath_type = datapath_type
    api._ovs.addvalue("bridges", bridge)


def _held_by(bridge: Any) -> set[str]:
    """The names of the ports of a bridge, but for its own."""
    return {port.name for port in bridge.ports} - {bridge.name}


def _may_go(bridge: Any, gone: Collection[str]) -> bool:
    """Whether nothing is left in a trunk bridge, once these ports are gone, but Neutron's patch ports."""
    rest = [port for port in bridge.ports if port.name not in (bridge.name, *gone)]
    return all(
        [one.name for one in port.interfaces] == [port.name] and is_trunk_patch(port.name, port.interfaces[0].type)
        for port in rest
    )


def _names(steps: Iterable[Step]) -> str:
    names = sorted({step.part.name for step in steps})
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _qos_rows(api: Any, steps: Sequence[Step]) -> dict[str, list[Any]]:
    """By the name of a port of these steps: the QoS rows that go with it."""
    names = ports_with_qos(steps)
    held: dict[Any, list[str]] = {}
    for port in api.tables["Port"].rows.values() if names else ():
        for row in port.qos:
            held.setdefault(row.uuid, []).append(port.name)
    rows = list(api.tables["QoS"].rows.values())
    return {name: [row for row in rows if is_qos_of(name, row.external_ids, held.get(row.uuid, ()))] for name in names}


def _compose(api: Any, txn: Any, steps: Sequence[Step], qos: Mapping[str, Sequence[Any]], socket_dir: str) -> None:
    for step in steps:
        match step:
            case Create(OvsPort() as port):
                for left in qos.get(port.name, ()):
                    left.delete()
                _create(api, txn, port, socket_dir)
            case Update(_, OvsPort() as port):
                _update(api, port, changes_of(step), socket_dir)
            case Delete(OvsPort() as port):
                row = _row(api, "Port", port.name)
                if row is not None:
                    row.interfaces[0].verify("external_ids")
                    holder = _holder(api, row)
                    for own in qos[port.name]:
                        own.delete()
                    if qos[port.name] and holder is not None:
                        # Its hold on a QoS row counts until the end of the transaction, and of a row that is deleted
                        # here the server is told nothing: it goes when no bridge holds it.
                        row.qos = []
                        holder.delvalue("ports", row)
                    else:
                        api.del_port(port.name).run_idl(txn)
            case _:
                raise StepFailed(f"ovsdbapp does not serve {step.part.kind} {step.part.name}")


def _create(api: Any, txn: Any, port: OvsPort, socket_dir: str) -> None:
    _bridge(api, port.bridge)
    added = api.add_port(
        port.bridge,
        port.name,
        may_exist=False,
        type=port.type,
        options=options_of(port, socket_dir),
        external_ids=ids_of(port),
        **_mtu_of(api, port),
    )
    added.run_idl(txn)
    row = txn._txn_rows[added.result]
    for column, value in columns_at_creation(port).items():
        setattr(row, column, value)
    if port.qos_type:
        qos = txn.insert(api.tables["QoS"])
        qos.type, qos.external_ids = port.qos_type, qos_ids_of(port)
        row.qos = qos


def _mtu_of(api: Any, port: OvsPort) -> dict[str, int]:
    """The MTU that a row is made with, where the switch has the column."""
    if port.mtu_request and "mtu_request" in api.columns["Interface"]:
        return {"mtu_request": port.mtu_request}
    return {}


def _update(api: Any, port: OvsPort, changes: dict[str, object], socket_dir: str) -> None:
    row = _row(api, "Port", port.name)
    interface = row.interfaces[0]
    # Whose port it is was judged by these; if they change meanwhile the server asks for another try.
    interface.verify("external_ids")
    for attribute, key in IDS.items():
        if attribute not in changes:
            continue
        if changes[attribute]:
            interface.setkey("external_ids", key, changes[attribute])
        elif key in interface.external_ids:
            interface.delkey("external_ids", key)
    if {"type", "socket_as_configured"} & changes.keys():
        interface.type = port.type
        interface.verify("options")
        # A vhost-user port keeps the options that others gave it.
        kept = interface.options if isinstance(port, VhostUserPort) else {}
        others = {key: value for key, value in kept.items() if key != SOCKET}
        interface.options = {**others, **options_of(port, socket_dir)}
    if "mtu_request" in changes:
        interface.mtu_request = changes["mtu_request"] or []
    if "bridge" in changes:
        # Moved, not deleted and added: row, ofport and other_config stay.
        target = _bridge(api, port.bridge)
        holder = _holder(api, row)
        if holder is not None:
            holder.delvalue("ports", row)
        target.addvalue("ports", row)


def _settled(api: Any, steps: Sequence[Step], number: int | None, deadline: float) -> list[Outcome]:
    """What ovs-vswitchd made of a transaction that was committed."""
    if number is not None and not api.await_cfg(number, deadline):
        return [Outcome(step, Result.CONFIGURED, NOT_ACKNOWLEDGED) for step in steps]
    outcomes = []
    for step in steps:
        # A row that a rollback leaves without its device, as it was found, is as it should be.
        wanted = isinstance(step.part, OvsPort) and step.part.realized and not isinstance(step, Delete)
        reason = _complaint(api, step.part.name, deadline) if wanted else ""
        outcomes.append(not_realized(step, reason) if reason else Outcome(step, Result.DONE))
    return outcomes


def _complaint(api: Any, name: str, deadline: float) -> str:
    """Why ovs-vswitchd did not take a device; empty if it did, or was not asked to."""
    row = _row_of(api, name, {})
    end = min(deadline, time.monotonic() + SETTLE)
    while is_undecided(row) and time.monotonic() < end:
        try:
            api.sync(end)
        except (Expired, ConnectionLost):
            return ""
        row = _row_of(api, name, {})
    return error_about(row)


def _observed(api: Any, names: Collection[str] | None, socket_dir: str) -> Observed:
    bridges = list(api.tables["Bridge"].rows.values())
    holders = {row.uuid: bridge.name for bridge in bridges for row in bridge.ports}
    # Of all rows, if all are asked for.
    every = list(api.tables["Interface"].rows.values()) if names is None else []
    if names is None:
        names = [row.name for row in api.tables["Interface"].rows.values() if key_of(row.name)]
    rows = [row for name in sorted(names) if (row := _row_of(api, name, holders)) is not None]
    version = api._ovs.ovs_version
    switches = {one.name: one.datapath_type for one in bridges}
    iface_ids = [(row.name, iface_id_of(row.external_ids)) for row in every]
    return observed(rows, switches, version[0] if version else "", socket_dir, iface_ids)


def _row_of(api: Any, name: str, holders: Mapping[Any, str]) -> Row | None:
    interface, port = _row(api, "Interface", name), _row(api, "Port", name)
    if interface is None:
        return None
    alone = port is not None and [one.name for one in port.interfaces] == [name]
    return Row(
        name=name,
        bridge=holders.get(port.uuid) if alone else None,
        type=interface.type,
        external_ids=interface.external_ids,
        ofport=interface.ofport[0] if interface.ofport else None,
        error=interface.error[0] if interface.error else "",
        tag=port.tag[0] if alone and port.tag else None,
        options=interface.options,
        mtu_request=next(iter(interface.mtu_request), 0) if "mtu_request" in api.columns["Interface"] else None,
    )


def _row(api: Any, table: str, name: str) -> Any:
    return idlutils.row_by_value(api.idl, table, "name", name, None)


def _bridge(api: Any, name: str) -> Any:
    row = _row(api, "Bridge", name)
    if row is None:
        raise StepFailed(
            f"integration bridge {name} does not exist; create it: ovs-vsctl add-br {name}", code=BridgeMissing.code
        )
    return row


def _holder(api: Any, port: Any) -> Any:
    return next((bridge for bridge in api.tables["Bridge"].rows.values() if port in bridge.ports), None)
