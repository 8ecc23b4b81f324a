"""Commit steps over OVSDB: read the rows, send one transaction, and wait until ovs-vswitchd has applied it.

Both executors of OVSDB share this. They differ in how they obtain rows and how they send a transaction. Concurrent
callers share transactions, since ovs-vswitchd reconfigures the whole host for each. A transaction is sent only on a
connection that has responded within the same call. If its response is lost, it may still take effect and its result is
unknown.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from hybridvif.executors.base import ExecutorError, StepFailed, rejected_transaction
from hybridvif.executors.group_commit import GroupCommit
from hybridvif.executors.ovs_rows import (
    ROWS_CHANGED,
    Operation,
    Row,
    Snapshot,
    committed,
    error_in,
    needs_device,
    not_acknowledged,
    observed,
    reported_rows,
    settled_rows,
)
from hybridvif.executors.ovsdb.rpc import ConnectionLost, Expired
from hybridvif.executors.ovsdb.transaction import await_applied, operations_of, with_next_cfg
from hybridvif.executors.side_effects import side_effects_of
from hybridvif.model.facts import Observed
from hybridvif.model.parts import OvsPort, Part, Role, VhostUserPort
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.steps import Step

MAX_ATTEMPTS = 8
MARGIN = 20
"""Milliseconds between the end of a wait in the server and the deadline."""


class Database(Protocol):
    """A connection to ovsdb-server that has responded within this call."""

    def transact(self, operations: Sequence[Operation], deadline: float) -> list[Any]:
        """Return the results: one per operation, and an error if the commit failed.

        Raises Expired or ConnectionLost if it was sent and the response is missing; Refused.
        """


Read = Callable[[], tuple[Database, Snapshot]]
"""A function that waits for rows and returns them with the connection. Raises ExecutorError."""
Reading = Callable[[Collection[str] | None, float], AbstractContextManager[Read]]
"""A function that starts to read the rows of some names. An error on the connection becomes ExecutorError."""


class NoResponse(Exception):
    """A transaction was sent, and no response came."""


class TransactionExecutor:
    """Ports of Open vSwitch over OVSDB, from any source of rows."""

    role: ClassVar[Role] = Role.SWITCH
    serves: ClassVar[frozenset[type[Part]]] = frozenset({OvsPort, VhostUserPort})
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = True

    def __init__(self, settings: Settings, reading: Reading) -> None:
        self._settings, self._reading = settings, reading
        self._group = GroupCommit(self._commit_with_retries)
        self.expected = self._group.expected

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the ports under these names, or all device names of ports, and all bridges."""
        with self.observing(names, deadline) as result:
            return result()

    @contextmanager
    def observing(self, names: Collection[str] | None, deadline: float) -> Iterator[Callable[[], Observed]]:
        """Send the queries of observe() at once; yield a function that waits for the result."""
        with self._reading(names, deadline) as read:
            yield lambda: self._observed(read()[1])

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Commit all steps in one transaction, then wait until ovs-vswitchd has applied it."""
        return self._group.apply(steps, deadline)

    def _observed(self, snapshot: Snapshot) -> Observed:
        return observed(snapshot, self._settings.vhost_socket_dir)

    def _commit_with_retries(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        try:
            for retries in range(MAX_ATTEMPTS):
                with self._reading({step.part.name for step in steps}, deadline) as read:
                    outcomes = self._commit(steps, *read(), deadline)
                if outcomes is not None:
                    return [replace(outcome, retries=retries) for outcome in outcomes]
                time.sleep(random.uniform(0, 0.01 * 2**retries))
        except NoResponse:
            reason = "OVSDB was sent the transaction and did not answer; whether it takes effect is not known"
            return [Outcome(step, Result.UNKNOWN, f"{reason}: {_names(steps)}") for step in steps]
        except ExecutorError as error:
            return [error.outcome_of(step) for step in steps]
        reason = _refusal(steps, "others keep changing the same rows")
        return [Outcome(step, Result.FAILED, reason, retry=True, retries=MAX_ATTEMPTS - 1) for step in steps]

    def _commit(
        self, steps: Sequence[Step], database: Database, snapshot: Snapshot, deadline: float
    ) -> Sequence[Outcome] | None:
        """Return the outcomes of one transaction; None if the rows have changed since they were read."""
        rejected = rejected_transaction(self._observed(snapshot).state, steps)
        if rejected:
            return rejected
        effects = side_effects_of(steps, snapshot, lambda queries: database.transact(queries, deadline), self._settings)
        try:
            operations = operations_of(steps, snapshot, effects, self._settings.vhost_socket_dir)
        except StepFailed as failure:
            return [failure.outcome_of(step) for step in steps]
        if not operations:
            return [Outcome(step, Result.DONE) for step in steps]
        try:
            results = database.transact(with_next_cfg(operations), deadline)
        except (Expired, ConnectionLost) as lost:
            raise NoResponse from lost
        error = error_in(results)
        if error.startswith(ROWS_CHANGED):
            return None
        if error:
            return [Outcome(step, Result.FAILED, _refusal(steps, error)) for step in steps]
        number = int(results[-1]["rows"][0]["next_cfg"])
        names = {step.part.name for step in steps if needs_device(step)}
        try:
            rows = settled_rows(lambda: _applied_rows(database, number, names, deadline), names, deadline)
        except (Expired, ConnectionLost):
            # A late response is recognized by its id and discarded.
            return not_acknowledged(steps)
        return committed(steps, rows)


def _applied_rows(database: Database, number: int, names: Collection[str], deadline: float) -> Mapping[str, Row]:
    """Return these rows once ovs-vswitchd has applied the configuration. Raises Expired, ConnectionLost."""
    remaining = int((deadline - time.monotonic()) * 1000) - MARGIN
    responses = database.transact(await_applied(number, names, max(remaining, 1)), deadline)
    if error_in(responses):
        raise Expired
    return reported_rows(responses[1:])


def _refusal(steps: Sequence[Step], reason: str) -> str:
    return f"OVSDB refused the transaction for {_names(steps)}: {reason}"


def _names(steps: Sequence[Step]) -> str:
    names = sorted({step.part.name for step in steps})
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
