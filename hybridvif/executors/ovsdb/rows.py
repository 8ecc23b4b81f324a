"""What Open vSwitch holds under some names, asked of the server in as few round trips as it can be.

A question is answered in one transaction, and which bridge holds a Port can only be asked by the Port's uuid. Those
that were seen before are asked for with the first question, and their answer counts if the row still has this uuid.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hybridvif.executors.base import ExecutorError
from hybridvif.executors.ovsdb.rpc import DATABASE, Connection, Operation, Refused, Session
from hybridvif.executors.ovsdb.transaction import (
    COLUMNS,
    FEW,
    Read,
    error_in,
    holder_questions,
    questions,
    read_of,
    unheld,
)

TRIES = 8
REMEMBERED = 4096
"""Ports whose uuid is kept, at most."""

Rows = Callable[[], tuple[Connection, Read]]


class RowReader:
    """Reads rows over the connections of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._columns = COLUMNS
        self._ports: dict[str, str] = {}
        """The uuid of each Port that was seen, by name."""

    @property
    def has_mtu_request(self) -> bool:
        """Whether an Interface has this column, by what was read last."""
        return "mtu_request" in self._columns["Interface"]

    @contextmanager
    def reading(self, names: Collection[str] | None, deadline: float) -> Iterator[Rows]:
        """A function that tells a connection that has just answered, and what the server held under these names.

        The server is asked at once. Raises ExecutorError as Session.asking() does, and where the rows do not keep
        still.
        """
        guesses = self._guesses(names)
        with self._session.asking(self._asked(names, guesses), deadline) as answered:

            def rows() -> tuple[Connection, Read]:
                connection, answers = answered()
                return connection, self._read(connection, names, guesses, answers, deadline)

            yield rows

    def _asked(self, names: Collection[str] | None, guesses: Sequence[str]) -> list[Operation]:
        return [*questions(names, self._columns), *holder_questions(guesses)]

    def _guesses(self, names: Collection[str] | None) -> list[str]:
        few = () if names is None or len(names) > FEW else names
        return [self._ports[name] for name in sorted(few) if name in self._ports]

    def _read(
        self,
        connection: Connection,
        names: Collection[str] | None,
        guesses: Sequence[str],
        answers: list[Any],
        deadline: float,
    ) -> Read:
        for _ in range(TRIES):
            if error_in(answers):
                # An Open vSwitch that is older than a column.
                self._columns = _columns_there(connection, deadline)
                answers = connection.transact(self._asked(names, guesses), deadline)
            if error_in(answers):
                raise Refused(error_in(answers))
            first = len(answers) - len(guesses)
            holders = dict(zip(guesses, answers[first:], strict=True))
            unknown = [uuid for uuid in unheld(answers[:first]) if uuid not in holders]
            if unknown:
                holders |= zip(unknown, connection.transact(holder_questions(unknown), deadline), strict=True)
            read = read_of(names, answers[:first], holders)
            if read is not None:
                self._remember({name: port for name, (_, port) in read.uuids.items()})
                return read
            guesses = ()
            answers = connection.transact(self._asked(names, guesses), deadline)
        raise ExecutorError("the ports of Open vSwitch change faster than they can be read; call again")

    def remember_made(self, operations: Sequence[Operation], results: Sequence[Any]) -> None:
        """Take note of the Ports that a transaction has made."""
        made = [
            (operation["row"]["name"], result["uuid"][1])
            for operation, result in zip(operations, results, strict=False)
            if operation["op"] == "insert" and operation["table"] == "Port"
        ]
        self._remember(dict(made))

    def forget(self, names: Iterable[str]) -> None:
        """Think no more of the Ports of these names, which are gone."""
        for name in names:
            self._ports.pop(name, None)

    def _remember(self, ports: Mapping[str, str]) -> None:
        if len(self._ports) + len(ports) > REMEMBERED:
            self._ports = {}
        self._ports |= ports


def _columns_there(connection: Connection, deadline: float) -> dict[str, list[str]]:
    tables = connection.ask("get_schema", [DATABASE], deadline)["tables"]
    return {
        table: [name for name in names if name == "_uuid" or name in tables.get(table, {}).get("columns", {})]
        for table, names in COLUMNS.items()
    }
