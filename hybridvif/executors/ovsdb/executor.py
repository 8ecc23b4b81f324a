"""ovsdb: ports of Open vSwitch. Read the rows, send one transaction, and wait until ovs-vswitchd has applied it.

The other executors of Open vSwitch extend this one. They differ in how a query is answered or a transaction is sent.
Concurrent callers share transactions, since ovs-vswitchd reconfigures the whole host for each. A transaction is sent
only on a connection that has responded within the same call. If its response is lost, it may still take effect and its
result is unknown.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

from hybridvif.executors import ovs_rows
from hybridvif.executors.base import NOT_ACKNOWLEDGED, NOT_REALIZED, ExecutorError, StepFailed, rejected_transaction
from hybridvif.executors.group_commit import GroupCommit
from hybridvif.executors.ovs_rows import Operation, Row, Snapshot
from hybridvif.executors.ovsdb.rpc import (
    FAILURES,
    Connection,
    ConnectionLost,
    Database,
    Expired,
    RowSubscription,
    ServerError,
    Session,
)
from hybridvif.executors.ovsdb.transaction import await_applied, row_operations, with_next_cfg
from hybridvif.executors.side_effects import side_effects_of
from hybridvif.model.parts import PLACEHOLDER_TYPE, VHOST_USER_TYPES, NativePort, OvsPort, Part, Role, VhostUserPort
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import Delete, Observed, Step, names_of_step

REFUSED = "OVSDB refused the transaction"
MAX_ATTEMPTS = 8
MARGIN = 20
"""Milliseconds between the end of a wait in the server and the deadline."""
SETTLE_TIME, POLL_INTERVAL = 0.1, 0.002
"""Seconds to wait for ofport and error to follow cur_cfg, and between two reads."""
ROWS_CHANGED = ("timed out", "constraint violation", "referential integrity violation")
"""Errors of the server if rows have changed since they were read (RFC 7047, 5.2.6 and 4.1.3)."""
UNKNOWN_TYPE = "Address family not supported"
"""EAFNOSUPPORT: Interface.error of a type unknown to ovs-vswitchd (lib/netdev.c, netdev_open)."""


class Unanswered(Exception):
    """A transaction was sent, and the response to it or to the query of its number is missing."""

    def __init__(self, result: Result, reason: str) -> None:
        super().__init__(reason)
        self.result, self.reason = result, reason


class OvsdbExecutor:
    """Ports of Open vSwitch over OVSDB, through a small client that reads only the rows it needs."""

    role: ClassVar[Role] = Role.SWITCH
    serves: ClassVar[frozenset[type[Part]]] = frozenset({OvsPort, NativePort, VhostUserPort})
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = True
    connection: ClassVar[type[Database]] = Connection
    max_connections: ClassVar[int] = 64

    def __init__(self, settings: Settings) -> None:
        self._settings, self._session = settings, Session(settings, self.connection, self.max_connections)
        self._has_mtu_request = True
        self._group = GroupCommit(self._commit_with_retries)
        self.expected = self._group.expected

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the ports under these names, or all device names of ports, and all bridges."""
        with self._reading(names, deadline) as (_, snapshot):
            return self._observed(snapshot)

    def subscribe(self, deadline: float) -> RowSubscription:
        """Subscribe to the changes of rows, on a connection of its own."""
        return RowSubscription(self._settings, deadline)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Commit all steps in one transaction, then wait until ovs-vswitchd has applied it."""
        return self._group.apply(steps, deadline)

    def _observed(self, snapshot: Snapshot) -> Observed:
        return ovs_rows.observed(snapshot, self._settings.vhost_socket_dir)

    @contextmanager
    def _reading(self, names: Collection[str] | None, deadline: float) -> Iterator[tuple[Database, Snapshot]]:
        """Yield a connection and the rows of these names, read on it.

        Raises ExecutorError, also for any error on the connection inside the context.
        """
        with self._session.query(self._queries(names), deadline) as (database, responses):
            snapshot = self._snapshot(database, names, responses, deadline)
            if time.monotonic() >= deadline:
                # A response that has already arrived is read without a look at the clock.
                raise ExecutorError("the deadline had passed before OVSDB was sent anything")
            yield database, snapshot

    def _snapshot(
        self, database: Database, names: Collection[str] | None, responses: Sequence[Any], deadline: float
    ) -> Snapshot:
        """Return the rows in these responses. The bridge of a Port can be queried only by the uuid of the Port."""
        for _ in range(MAX_ATTEMPTS):
            error = ovs_rows.error_in(responses)
            if "mtu_request" in error:
                # This Open vSwitch is too old for the column.
                self._has_mtu_request = False
            elif error:
                raise ServerError(error)
            else:
                holders = None if ovs_rows.is_many(names) else _holders(database, responses, deadline)
                if holders is None or all(holders.values()):
                    return ovs_rows.snapshot_of(names, responses, holders, mtu_request=self._has_mtu_request)
            # The rows have changed between the queries.
            responses = database.transact(self._queries(names), deadline)
        raise ExecutorError("the ports of Open vSwitch change faster than they can be read; call again")

    def _queries(self, names: Collection[str] | None) -> list[Operation]:
        return ovs_rows.row_queries(names, mtu_request=self._has_mtu_request)

    def _commit_with_retries(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        try:
            for retries in range(MAX_ATTEMPTS):
                names = {name for step in steps for name in names_of_step(step)}
                with self._reading(names, deadline) as (database, snapshot):
                    # Unanswered leaves the context by an error, which closes the connection.
                    outcomes = self._commit(steps, database, snapshot, deadline)
                if outcomes is not None:
                    return [replace(outcome, retries=retries) for outcome in outcomes]
                time.sleep(random.uniform(0, 0.01 * 2**retries))
        except ExecutorError as error:
            return [error.outcome_of(step) for step in steps]
        except Unanswered as lost:
            return [Outcome(step, lost.result, lost.reason) for step in steps]
        reason = f"{REFUSED}: others keep changing the same rows"
        return [Outcome(step, Result.FAILED, reason, retry=True, retries=MAX_ATTEMPTS - 1) for step in steps]

    def _commit(
        self, steps: Sequence[Step], database: Database, snapshot: Snapshot, deadline: float
    ) -> Sequence[Outcome] | None:
        """Return the outcomes of one transaction; None if the rows have changed since they were read.

        Raises Unanswered.
        """
        rejected = rejected_transaction(self._observed(snapshot).state, steps)
        if rejected:
            return rejected

        def read(queries: Sequence[Operation]) -> Sequence[Any]:
            return database.transact(queries, deadline)

        effects = side_effects_of(steps, snapshot, read, self._settings)
        names = {step.part.name for step in steps if _needs_device(step)}
        needed = [step for step in steps if not ovs_rows.is_vacant(step, snapshot.rows)]
        try:
            changes = row_operations(needed, snapshot, effects, self._settings.vhost_socket_dir)
            results = self._transact(database, changes, deadline) if changes else []
        except StepFailed as failure:
            return [failure.outcome_of(step) for step in steps]
        except (Expired, ConnectionLost):
            reason = "OVSDB was sent the transaction and did not answer; whether it takes effect is not known"
            raise Unanswered(Result.UNKNOWN, reason) from None
        error = ovs_rows.error_in(results)
        if error.startswith(ROWS_CHANGED):
            return None
        if error:
            return [Outcome(step, Result.FAILED, f"{REFUSED}: {error}") for step in steps]
        try:
            rows = _applied_rows(database, results[-1]["rows"][0]["next_cfg"], names, deadline) if results else {}
        except FAILURES:
            # A late response is recognized by its id and discarded.
            return [Outcome(step, Result.CONFIGURED, NOT_ACKNOWLEDGED) for step in steps]
        return _committed(steps, rows)

    def _transact(self, database: Database, changes: Sequence[Operation], deadline: float) -> list[Any]:
        """Return the results of a transaction. The last one is the number by which ovs-vswitchd acknowledges it.

        Raises StepFailed if it was refused. After Expired and ConnectionLost it may have been committed. Raises
        Unanswered if it was committed, and only its number is missing.
        """
        return database.transact(with_next_cfg(changes), deadline)


def _holders(database: Database, responses: Sequence[Any], deadline: float) -> dict[str, str]:
    """Return the bridge of each Port in these responses by its uuid; "" if it has gone meanwhile."""
    uuids = [row["_uuid"][1] for row in ovs_rows.rows_in(responses) if "interfaces" in row]
    if not uuids:
        return {}
    queries = [ovs_rows.select("Bridge", ["name"], ["ports", "includes", ["uuid", uuid]]) for uuid in uuids]
    found = [ovs_rows.rows_in([response]) for response in database.transact(queries, deadline)]
    return {uuid: rows[0]["name"] if rows else "" for uuid, rows in zip(uuids, found, strict=True)}


def _applied_rows(database: Database, number: int, names: Collection[str], deadline: float) -> Mapping[str, Row]:
    """Return these rows once ovs-vswitchd has applied the configuration of this number. Raises FAILURES.

    It writes cur_cfg and the columns of an Interface in two transactions. The rows are therefore read until it has
    reported on these names, for a short time at most.
    """
    end = min(deadline, time.monotonic() + SETTLE_TIME)
    while True:
        milliseconds = max(int((deadline - time.monotonic()) * 1000) - MARGIN, 1)
        responses = database.transact(await_applied(number, names, milliseconds), deadline)
        if ovs_rows.error_in(responses):
            raise Expired
        rows = {row["name"]: ovs_rows.row_of(row) for row in ovs_rows.rows_in(responses[1:])}
        if time.monotonic() >= end or not any(rows[name].is_undecided for name in names if name in rows):
            return rows
        time.sleep(POLL_INTERVAL)


# -- outcomes ----------------------------------------------------------------------------------------------------------


def _needs_device(step: Step) -> bool:
    """Return whether ovs-vswitchd must accept the device of a step.

    A rollback may leave a row without its device, as it was found; that is no failure.
    """
    return isinstance(step.part, OvsPort) and step.part.realized and not isinstance(step, Delete)


def _committed(steps: Iterable[Step], rows: Mapping[str, Row]) -> list[Outcome]:
    """Return the outcomes of committed steps by the rows afterwards."""
    outcomes = []
    for step in steps:
        error = error_about(rows.get(step.part.name))
        if error and _needs_device(step):
            # A device that it reports missing, although it was read back, is one that it has not released yet. That
            # happens if a port is deleted and plugged again at once. The next plan replaces the row by the placeholder
            # and back, which repairs it.
            retry = any(transient in error for transient in ovs_rows.TRANSIENT_ERRORS)
            outcomes.append(Outcome(step, Result.FAILED, error, retry=retry, code=NOT_REALIZED))
        else:
            outcomes.append(Outcome(step, Result.DONE))
    return outcomes


def error_about(row: Row | None) -> str:
    """Return the reason that ovs-vswitchd rejected a system device; empty if it did not."""
    if row is None or row.type == PLACEHOLDER_TYPE or not (row.error_now or row.ofport == -1):
        return ""
    error = row.error_now or "no reason given"
    if row.type in VHOST_USER_TYPES.values() and UNKNOWN_TYPE in error:
        without = f"it knows no interface of type {row.type}, as without DPDK"
        error += f"; {without}: ovs-vsctl get Open_vSwitch . iface_types"
    return f"ovs-vswitchd did not take {row.name}: {error}"
