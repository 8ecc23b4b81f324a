"""Commit steps over OVSDB: read the rows, send one transaction, and wait until ovs-vswitchd has applied it.

Both executors of OVSDB share this. They differ in their connection: how it answers queries and sends a transaction.
Concurrent callers share transactions, since ovs-vswitchd reconfigures the whole host for each. A transaction is sent
only on a connection that has responded within the same call. If its response is lost, it may still take effect and its
result is unknown.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from hybridvif.executors import ovs_rows
from hybridvif.executors.base import ExecutorError, StepFailed, rejected_transaction
from hybridvif.executors.group_commit import GroupCommit
from hybridvif.executors.ovs_rows import Row, Snapshot
from hybridvif.executors.ovsdb.notifications import RowSubscription
from hybridvif.executors.ovsdb.rows import MAX_ATTEMPTS, RowReader, Rows
from hybridvif.executors.ovsdb.rpc import ConnectionLost, Database, Expired, Session
from hybridvif.executors.ovsdb.transaction import await_applied, operations_of, with_next_cfg
from hybridvif.executors.side_effects import side_effects_of
from hybridvif.model.parts import NativePort, OvsPort, Part, Role, VhostUserPort
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed, Step, names_of_step

REFUSED = "OVSDB refused the transaction"
MARGIN = 20
"""Milliseconds between the end of a wait in the server and the deadline."""


class NoResponse(Exception):
    """A transaction was sent, and no response came."""


class TransactionExecutor:
    """Ports of Open vSwitch over OVSDB, by any kind of connection."""

    role: ClassVar[Role] = Role.SWITCH
    serves: ClassVar[frozenset[type[Part]]] = frozenset({OvsPort, NativePort, VhostUserPort})
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = True

    def __init__(self, settings: Settings, session: Session) -> None:
        self._settings, self._reader = settings, RowReader(session)
        self._group = GroupCommit(self._commit_with_retries)
        self.expected = self._group.expected

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the ports under these names, or all device names of ports, and all bridges."""
        with self._reader.reading(names, deadline) as read:
            return self._observed(_in_time(read, deadline)[1])

    def subscribe(self, deadline: float) -> RowSubscription:
        """Subscribe to the changes of rows, on a connection of its own."""
        return RowSubscription(self._settings, deadline)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Commit all steps in one transaction, then wait until ovs-vswitchd has applied it."""
        return self._group.apply(steps, deadline)

    def _observed(self, snapshot: Snapshot) -> Observed:
        return ovs_rows.observed(snapshot, self._settings.vhost_socket_dir)

    def _commit_with_retries(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        try:
            for retries in range(MAX_ATTEMPTS):
                with self._reader.reading({name for step in steps for name in names_of_step(step)}, deadline) as read:
                    outcomes = self._commit(steps, *_in_time(read, deadline), deadline)
                if outcomes is not None:
                    return [replace(outcome, retries=retries) for outcome in outcomes]
                time.sleep(random.uniform(0, 0.01 * 2**retries))
        except NoResponse:
            reason = "OVSDB was sent the transaction and did not answer; whether it takes effect is not known"
            return [Outcome(step, Result.UNKNOWN, reason) for step in steps]
        except ExecutorError as error:
            return [error.outcome_of(step) for step in steps]
        reason = f"{REFUSED}: others keep changing the same rows"
        return [Outcome(step, Result.FAILED, reason, retry=True, retries=MAX_ATTEMPTS - 1) for step in steps]

    def _commit(
        self, steps: Sequence[Step], database: Database, snapshot: Snapshot, deadline: float
    ) -> Sequence[Outcome] | None:
        """Return the outcomes of one transaction; None if the rows have changed since they were read."""
        rejected = rejected_transaction(self._observed(snapshot).state, steps)
        if rejected:
            return rejected
        effects = side_effects_of(steps, snapshot, lambda queries: database.transact(queries, deadline), self._settings)
        needed = [step for step in steps if not ovs_rows.is_vacant(step, snapshot.rows)]
        try:
            operations = operations_of(needed, snapshot, effects, self._settings.vhost_socket_dir)
        except StepFailed as failure:
            return [failure.outcome_of(step) for step in steps]
        if not operations:
            return [Outcome(step, Result.DONE) for step in steps]
        try:
            results = database.transact(with_next_cfg(operations), deadline)
        except (Expired, ConnectionLost) as lost:
            raise NoResponse from lost
        error = ovs_rows.error_in(results)
        if error.startswith(ovs_rows.ROWS_CHANGED):
            return None
        if error:
            return [Outcome(step, Result.FAILED, f"{REFUSED}: {error}") for step in steps]
        number = int(results[-1]["rows"][0]["next_cfg"])
        names = {step.part.name for step in steps if ovs_rows.needs_device(step)}
        try:
            rows = ovs_rows.settled_rows(lambda: _applied_rows(database, number, names, deadline), names, deadline)
        except (Expired, ConnectionLost):
            # A late response is recognized by its id and discarded.
            return ovs_rows.not_acknowledged(steps)
        return ovs_rows.committed(steps, rows)


def _in_time(read: Rows, deadline: float) -> tuple[Database, Snapshot]:
    """Read the rows. Raises ExecutorError if the deadline has passed."""
    rows = read()
    if time.monotonic() >= deadline:
        # A response that has already arrived is read without a look at the clock.
        raise ExecutorError("the deadline had passed before OVSDB was sent anything")
    return rows


def _applied_rows(database: Database, number: int, names: Collection[str], deadline: float) -> Mapping[str, Row]:
    """Return these rows once ovs-vswitchd has applied the configuration. Raises Expired, ConnectionLost."""
    remaining = int((deadline - time.monotonic()) * 1000) - MARGIN
    responses = database.transact(await_applied(number, names, max(remaining, 1)), deadline)
    if ovs_rows.error_in(responses):
        raise Expired
    return {row["name"]: ovs_rows.row_of(row) for row in ovs_rows.rows_in(responses[1:])}
