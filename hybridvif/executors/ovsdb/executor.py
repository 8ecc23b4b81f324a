"""ovsdb: the switch is Open vSwitch, asked and changed over OVSDB. One transaction a batch, read back when it is done.

Concurrent callers share a transaction, since ovs-vswitchd reconfigures the whole host for each. A transaction is sent
only on a connection that has answered in this very call; one that was sent and not answered may yet take effect, and
is told as unknown.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

from hybridvif.executors import side_effects
from hybridvif.executors.base import NOT_ACKNOWLEDGED, ExecutorError, StepFailed, rejected_transaction
from hybridvif.executors.group_commit import GroupCommit
from hybridvif.executors.ovs_rows import Row, complaint_about, is_undecided, not_realized, observed
from hybridvif.executors.ovsdb.rows import TRIES, RowReader
from hybridvif.executors.ovsdb.rpc import Connection, ConnectionLost, Expired, Operation, Session
from hybridvif.executors.ovsdb.transaction import Read, SideEffects, counted, error_in, operations_of, rows_taken, taken
from hybridvif.model.facts import Observed
from hybridvif.model.parts import OvsPort, Part, Role, VhostUserPort
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.steps import Delete, Step

SETTLE, GLANCE = 0.05, 0.002
"""Seconds to wait for ofport and error to follow cur_cfg, and between two looks."""


class Unanswered(Exception):
    """A transaction was sent, and no answer came."""


class OvsdbExecutor:
    """Ports of Open vSwitch through OVSDB."""

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
        """The ports under these names, or all of our grammar, and the bridges there are."""
        with self.observing(names, deadline) as observed_then:
            return observed_then()

    @contextmanager
    def observing(self, names: Collection[str] | None, deadline: float) -> Iterator[Callable[[], Observed]]:
        """The same, asked for at once, and told when it is called for."""
        with self._reader.reading(names, deadline) as rows:
            yield lambda: _observed(rows()[1], self._settings.vhost_socket_dir)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """All the steps in one transaction, then wait for ovs-vswitchd to have taken it."""
        return self._group.apply(steps, deadline)

    def _apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        try:
            return self._tried(steps, deadline)
        except Unanswered:
            said = "OVSDB was sent the transaction and did not answer; whether it takes effect is not known"
            return [Outcome(step, Result.UNKNOWN, f"{said}: {_names(steps)}") for step in steps]
        except ExecutorError as error:
            return [error.outcome_of(step) for step in steps]

    def _tried(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        said = ""
        attempt = 0
        for attempt in range(TRIES):
            with self._reader.reading({step.part.name for step in steps}, deadline) as told:
                connection, read = told()
                against = rejected_transaction(_observed(read, self._settings.vhost_socket_dir).state, steps)
                if against:
                    return against
                besides = self._side_effects(connection, steps, read, deadline)
                try:
                    operations = operations_of(steps, read, besides)
                except StepFailed as failure:
                    return [failure.outcome_of(step) for step in steps]
                if not operations:
                    return [Outcome(step, Result.DONE) for step in steps]
                results, said = _committed(connection, operations, deadline)
                if results:
                    self._reader.remember_made(operations, results)
                    self._reader.forget(step.part.name for step in steps if isinstance(step, Delete))
                    settled = _settled(connection, steps, results, deadline)
                    return [replace(outcome, retries=attempt) for outcome in settled]
                if not said.startswith(_MOVED_ON):
                    break
            time.sleep(random.uniform(0, 0.01 * 2**attempt))
        moved_on = said.startswith(_MOVED_ON)
        why = "others keep changing the same rows" if moved_on else said
        reason = f"OVSDB refused the transaction for {_names(steps)}: {why}"
        return [Outcome(step, Result.FAILED, reason, retry=moved_on, retries=attempt) for step in steps]

    def _side_effects(self, connection: Connection, steps: Sequence[Step], read: Read, deadline: float) -> SideEffects:
        """What comes and goes with the rows of these steps."""
        bridge_of = {name: row.bridge for name, row in read.rows.items()}
        trunks = side_effects.trunks_left(steps, bridge_of, self._settings)
        gone = {read.uuids[name][1] for name in side_effects.deleted_ports(steps) if name in read.uuids}
        return SideEffects(
            qos=_qos_rows(connection, steps, deadline),
            made=side_effects.bridges_to_make(steps, read.bridges, self._settings.creates),
            emptied=side_effects.emptied(trunks, gone, lambda asked: connection.transact(asked, deadline)),
            socket_dir=self._settings.vhost_socket_dir,
            has_mtu_request=self._reader.has_mtu_request,
        )


_MOVED_ON = ("timed out", "constraint violation", "referential integrity violation")
"""How the server says that the rows are no longer as they were read (RFC 7047, 5.2.6 and 4.1.3)."""


def _names(steps: Iterable[Step]) -> str:
    names = sorted({step.part.name for step in steps})
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _observed(read: Read, socket_dir: str) -> Observed:
    return observed(read.rows.values(), read.bridges, read.version, socket_dir, read.iface_ids)


def _qos_rows(connection: Connection, steps: Sequence[Step], deadline: float) -> dict[str, list[str]]:
    """By the name of a port of these steps: the uuids of the QoS rows that go with it."""
    names = side_effects.ports_with_qos(steps)
    answers = connection.transact(side_effects.qos_questions(names), deadline) if names else []
    if not any(answer["rows"] for answer in answers):
        return {}
    return side_effects.qos_rows_of_ports(
        names, answers, connection.transact([side_effects.qos_holder_question()], deadline)[0]
    )


def _committed(connection: Connection, operations: Sequence[Operation], deadline: float) -> tuple[list[Any], str]:
    """Send a transaction, the only place that does: its results, or none and what the server said.

    Raises Unanswered.
    """
    try:
        results = connection.transact(counted(operations), deadline)
    except (Expired, ConnectionLost) as error:
        raise Unanswered from error
    said = error_in(results)
    return ([], said) if said else (results, "")


def _settled(connection: Connection, steps: Sequence[Step], results: Sequence[Any], deadline: float) -> list[Outcome]:
    """What ovs-vswitchd made of a transaction that was committed with these results."""
    number = int(results[-1]["rows"][0]["next_cfg"])
    # A row that a rollback leaves without its device, as it was found, is as it should be.
    wanted = {
        step.part.name
        for step in steps
        if isinstance(step.part, OvsPort) and step.part.realized and not isinstance(step, Delete)
    }
    rows = _rows_taken(connection, number, wanted, deadline)
    if rows is None:
        return [Outcome(step, Result.CONFIGURED, NOT_ACKNOWLEDGED) for step in steps]
    # cur_cfg and the interface's own columns come in two transactions of ovs-vswitchd's.
    end = min(deadline, time.monotonic() + SETTLE)
    while any(is_undecided(rows.get(name)) for name in wanted) and time.monotonic() < end:
        time.sleep(GLANCE)
        rows = _rows_taken(connection, number, wanted, deadline) or rows
    outcomes = []
    for step in steps:
        reason = complaint_about(rows.get(step.part.name)) if step.part.name in wanted else ""
        outcomes.append(not_realized(step, reason) if reason else Outcome(step, Result.DONE))
    return outcomes


def _rows_taken(connection: Connection, number: int, names: Collection[str], deadline: float) -> dict[str, Row] | None:
    """What ovs-vswitchd made of these devices; None if it has not acknowledged by the deadline."""
    left = int((deadline - time.monotonic()) * 1000) - 20
    try:
        answers: list[Any] = connection.transact(taken(number, names, max(left, 1)), deadline)
    except (Expired, ConnectionLost):
        # A late answer would be taken for that of another question, but for its number; nobody waits for it.
        return None
    return None if error_in(answers) else rows_taken(answers[1:])
