"""Read the rows of Open vSwitch under some names in as few round trips as possible.

One transaction answers all queries, but the bridge of a Port can be queried only by the uuid of the Port. Known uuids
are therefore sent with the first queries. Their result counts if the row still has this uuid.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hybridvif.executors.base import ExecutorError
from hybridvif.executors.ovsdb.rpc import DATABASE, Connection, Operation, Refused, Session
from hybridvif.executors.ovsdb.transaction import (
    COLUMNS,
    MAX_SINGLE_QUERIES,
    Snapshot,
    error_in,
    holder_queries,
    ports_without_holder,
    row_queries,
    rows_of,
)

MAX_ATTEMPTS = 8
CACHE_SIZE = 4096
"""Maximum number of cached Port uuids."""

Rows = Callable[[], tuple[Connection, Snapshot]]


class RowReader:
    """Reads rows over the connections of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._columns = COLUMNS
        self._ports: dict[str, str] = {}
        """The uuid of each known Port, by name."""

    @property
    def has_mtu_request(self) -> bool:
        """Return whether the Interface table has this column, by the last read."""
        return "mtu_request" in self._columns["Interface"]

    @contextmanager
    def reading(self, names: Collection[str] | None, deadline: float) -> Iterator[Rows]:
        """Send the queries at once; yield a function that returns a connection and the rows.

        Raises ExecutorError as Session.query() does, and if the rows change faster than they can be read.
        """
        guesses = self._guesses(names)
        with self._session.query(self._queries(names, guesses), deadline) as responses_of:

            def rows() -> tuple[Connection, Snapshot]:
                connection, responses = responses_of()
                return connection, self._read(connection, names, guesses, responses, deadline)

            yield rows

    def _queries(self, names: Collection[str] | None, guesses: Sequence[str]) -> list[Operation]:
        return [*row_queries(names, self._columns), *holder_queries(guesses)]

    def _guesses(self, names: Collection[str] | None) -> list[str]:
        few = () if names is None or len(names) > MAX_SINGLE_QUERIES else names
        return [self._ports[name] for name in sorted(few) if name in self._ports]

    def _read(
        self,
        connection: Connection,
        names: Collection[str] | None,
        guesses: Sequence[str],
        responses: list[Any],
        deadline: float,
    ) -> Snapshot:
        for _ in range(MAX_ATTEMPTS):
            if error_in(responses):
                # This Open vSwitch is too old for a column.
                self._columns = _existing_columns(connection, deadline)
                responses = connection.transact(self._queries(names, guesses), deadline)
            if error_in(responses):
                raise Refused(error_in(responses))
            first_holder = len(responses) - len(guesses)
            holders = dict(zip(guesses, responses[first_holder:], strict=True))
            unknown = [uuid for uuid in ports_without_holder(responses[:first_holder]) if uuid not in holders]
            if unknown:
                holders |= zip(unknown, connection.transact(holder_queries(unknown), deadline), strict=True)
            snapshot = rows_of(names, responses[:first_holder], holders)
            if snapshot is not None:
                self._remember({name: port for name, (_, port) in snapshot.uuids.items()})
                return snapshot
            guesses = ()
            responses = connection.transact(self._queries(names, guesses), deadline)
        raise ExecutorError("the ports of Open vSwitch change faster than they can be read; call again")

    def remember_created(self, operations: Sequence[Operation], results: Sequence[Any]) -> None:
        """Cache the uuids of the Ports that a transaction has created."""
        created = [
            (operation["row"]["name"], result["uuid"][1])
            for operation, result in zip(operations, results, strict=False)
            if operation["op"] == "insert" and operation["table"] == "Port"
        ]
        self._remember(dict(created))

    def forget(self, names: Iterable[str]) -> None:
        """Drop deleted Ports from the uuid cache."""
        for name in names:
            self._ports.pop(name, None)

    def _remember(self, ports: Mapping[str, str]) -> None:
        if len(self._ports) + len(ports) > CACHE_SIZE:
            self._ports = {}
        self._ports |= ports


def _existing_columns(connection: Connection, deadline: float) -> dict[str, list[str]]:
    tables = connection.ask("get_schema", [DATABASE], deadline)["tables"]
    return {
        table: [name for name in names if name == "_uuid" or name in tables.get(table, {}).get("columns", {})]
        for table, names in COLUMNS.items()
    }
