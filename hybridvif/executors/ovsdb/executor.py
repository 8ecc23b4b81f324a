"""ovsdb: ports of Open vSwitch over OVSDB, one transaction per batch, snapshot back when it is done.

Concurrent callers share transactions, since ovs-vswitchd reconfigures the whole host for each. A transaction is sent
only on a connection that has responded within the same call. If the response to a transaction is lost, it may still
take effect and its result is unknown.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

from hybridvif.executors import ovs_rows, side_effects
from hybridvif.executors.base import ExecutorError, StepFailed, rejected_transaction
from hybridvif.executors.group_commit import GroupCommit
from hybridvif.executors.ovs_rows import Row, observed
from hybridvif.executors.ovsdb.rows import MAX_ATTEMPTS, RowReader
from hybridvif.executors.ovsdb.rpc import Connection, ConnectionLost, Expired, Operation, Session
from hybridvif.executors.ovsdb.transaction import (
    SideEffects,
    Snapshot,
    applied_rows,
    await_applied,
    error_in,
    operations_of,
    with_next_cfg,
)
from hybridvif.model.parts import OvsPort, Part, Role, VhostUserPort
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed
from hybridvif.model.steps import Delete, Step

SETTLE_TIME, POLL_INTERVAL = 0.05, 0.002
"""Seconds to wait for ofport and error to follow cur_cfg, and between two reads."""


class NoResponse(Exception):
    """A transaction was sent, and no response came."""


class OvsdbExecutor:
    """Ports of Open vSwitch over OVSDB."""

    role: ClassVar[Role] = Role.SWITCH
    serves: ClassVar[frozenset[type[Part]]] = frozenset({OvsPort, VhostUserPort})
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reader = RowReader(Session(settings))
        self._group = GroupCommit(self._apply)
        self.expected = self._group.expected

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the ports under these names, or all device names of ports, and all bridges."""
        with self.observing(names, deadline) as result:
            return result()

    @contextmanager
    def observing(self, names: Collection[str] | None, deadline: float) -> Iterator[Callable[[], Observed]]:
        """Send the queries of observe() at once; yield a function that waits for the result."""
        with self._reader.reading(names, deadline) as rows:
            yield lambda: _observed(rows()[1], self._settings.vhost_socket_dir)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Commit all steps in one transaction, then wait until ovs-vswitchd has applied it."""
        return self._group.apply(steps, deadline)

    def _apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        try:
            return self._commit_with_retries(steps, deadline)
        except NoResponse:
            return ovs_rows.no_response(steps)
        except ExecutorError as error:
            return [error.outcome_of(step) for step in steps]

    def _commit_with_retries(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        error = ""
        attempt = 0
        for attempt in range(MAX_ATTEMPTS):
            with self._reader.reading({step.part.name for step in steps}, deadline) as rows:
                connection, snapshot = rows()
                rejected = rejected_transaction(_observed(snapshot, self._settings.vhost_socket_dir).state, steps)
                if rejected:
                    return rejected
                effects = self._side_effects(connection, steps, snapshot, deadline)
                try:
                    operations = operations_of(steps, snapshot, effects)
                except StepFailed as failure:
                    return [failure.outcome_of(step) for step in steps]
                if not operations:
                    return [Outcome(step, Result.DONE) for step in steps]
                results, error = _commit(connection, operations, deadline)
                if results:
                    self._reader.remember_created(operations, results)
                    self._reader.forget(step.part.name for step in steps if isinstance(step, Delete))
                    settled = _outcomes(connection, steps, results, deadline)
                    return [replace(outcome, retries=attempt) for outcome in settled]
                if not error.startswith(_ROWS_CHANGED):
                    break
            time.sleep(random.uniform(0, 0.01 * 2**attempt))
        return ovs_rows.not_committed(steps, error, rows_changed=error.startswith(_ROWS_CHANGED), retries=attempt)

    def _side_effects(
        self, connection: Connection, steps: Sequence[Step], snapshot: Snapshot, deadline: float
    ) -> SideEffects:
        """Return the bridges and QoS rows that come and go with these steps."""
        bridge_of = {name: row.bridge for name, row in snapshot.rows.items()}
        trunks = side_effects.removable_trunks(steps, bridge_of, self._settings)
        gone = {snapshot.uuids[name][1] for name in side_effects.deleted_ports(steps) if name in snapshot.uuids}
        return SideEffects(
            qos=_qos_rows(connection, steps, deadline),
            bridges_to_create=side_effects.bridges_to_create(steps, snapshot.bridges, self._settings.creates),
            bridges_to_remove=side_effects.empty_trunks(
                trunks, gone, lambda queries: connection.transact(queries, deadline)
            ),
            socket_dir=self._settings.vhost_socket_dir,
            has_mtu_request=self._reader.has_mtu_request,
        )


_ROWS_CHANGED = ("timed out", "constraint violation", "referential integrity violation")
"""Errors of the server if rows have changed since they were snapshot (RFC 7047, 5.2.6 and 4.1.3)."""


def _observed(snapshot: Snapshot, socket_dir: str) -> Observed:
    return observed(snapshot.rows.values(), snapshot.bridges, snapshot.version, socket_dir, snapshot.iface_ids)


def _qos_rows(connection: Connection, steps: Sequence[Step], deadline: float) -> dict[str, list[str]]:
    """Return the uuids of the QoS rows that go with each port of these steps, by port name."""
    names = side_effects.ports_with_qos(steps)
    responses = connection.transact(side_effects.qos_queries(names), deadline) if names else []
    if not any(response["rows"] for response in responses):
        return {}
    return side_effects.qos_rows_of_ports(
        names, responses, connection.transact([side_effects.qos_holder_query()], deadline)[0]
    )


def _commit(connection: Connection, operations: Sequence[Operation], deadline: float) -> tuple[list[Any], str]:
    """Send a transaction; return its results, or none and the error of the server.

    No other function sends one. Raises NoResponse.
    """
    try:
        results = connection.transact(with_next_cfg(operations), deadline)
    except (Expired, ConnectionLost) as error:
        raise NoResponse from error
    rejection = error_in(results)
    return ([], rejection) if rejection else (results, "")


def _outcomes(connection: Connection, steps: Sequence[Step], results: Sequence[Any], deadline: float) -> list[Outcome]:
    """Return the outcomes of a committed transaction, as ovs-vswitchd reports them."""
    number = int(results[-1]["rows"][0]["next_cfg"])
    wanted = {step.part.name for step in steps if ovs_rows.needs_device(step)}
    rows = _applied_rows(connection, number, wanted, deadline)
    if rows is None:
        return ovs_rows.not_acknowledged(steps)
    # ovs-vswitchd writes cur_cfg and the columns of the interface in two transactions.
    end = min(deadline, time.monotonic() + SETTLE_TIME)
    while any(ovs_rows.is_undecided(rows.get(name)) for name in wanted) and time.monotonic() < end:
        time.sleep(POLL_INTERVAL)
        rows = _applied_rows(connection, number, wanted, deadline) or rows
    return ovs_rows.committed(steps, lambda name: ovs_rows.error_about(rows.get(name)))


def _applied_rows(
    connection: Connection, number: int, names: Collection[str], deadline: float
) -> dict[str, Row] | None:
    """Return these rows once ovs-vswitchd has applied the configuration; None if not by the deadline."""
    remaining = int((deadline - time.monotonic()) * 1000) - 20
    try:
        responses: list[Any] = connection.transact(await_applied(number, names, max(remaining, 1)), deadline)
    except (Expired, ConnectionLost):
        # The late response is recognized by its id and discarded.
        return None
    return None if error_in(responses) else applied_rows(responses[1:])
