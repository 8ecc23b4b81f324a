"""ovsdb: ports of Open vSwitch over OVSDB, through a small client that reads only the rows it needs.

One transaction answers all queries, but the bridge of a Port can be queried only by the uuid of the Port. Known uuids
are therefore sent with the first queries. Their result counts if the row still has this uuid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hybridvif.executors.base import ExecutorError
from hybridvif.executors.ovs_rows import (
    Operation,
    Snapshot,
    error_in,
    is_many,
    row_queries,
    rows_in,
    select,
    snapshot_of,
)
from hybridvif.executors.ovsdb.commit import MAX_ATTEMPTS, Read, TransactionExecutor
from hybridvif.executors.ovsdb.rpc import Connection, Refused, Session
from hybridvif.model.settings import Settings

CACHE_SIZE = 4096
"""Maximum number of cached Port uuids."""


class OvsdbExecutor(TransactionExecutor):
    """Ports of Open vSwitch over OVSDB."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, RowReader(Session(settings)).reading)


class RowReader:
    """Reads rows over the connections of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._mtu_request = True
        self._ports: dict[str, str] = {}
        """The uuid of each known Port, by name."""

    @contextmanager
    def reading(self, names: Collection[str] | None, deadline: float) -> Iterator[Read]:
        """Send the queries at once; yield a function that returns a connection and the rows."""
        known = [self._ports[name] for name in names or () if name in self._ports and not is_many(names)]
        with self._session.query(self._queries(names, known), deadline) as responses_of:

            def read() -> tuple[Connection, Snapshot]:
                connection, responses = responses_of()
                return connection, self._snapshot(connection, names, known, responses, deadline)

            yield read

    def _queries(self, names: Collection[str] | None, ports: Sequence[str]) -> list[Operation]:
        queries = row_queries(names, mtu_request=self._mtu_request, members=is_many(names))
        return [*queries, *_holder_queries(ports)]

    def _snapshot(
        self,
        connection: Connection,
        names: Collection[str] | None,
        known: Sequence[str],
        responses: Sequence[Any],
        deadline: float,
    ) -> Snapshot:
        for _ in range(MAX_ATTEMPTS):
            error = error_in(responses)
            if "mtu_request" in error:
                # This Open vSwitch is too old for the column.
                self._mtu_request = False
            elif error:
                raise Refused(error)
            else:
                count = len(responses) - len(known)
                holders = dict(zip(known, responses[count:], strict=True))
                ports = {} if is_many(names) else _ports_in(responses[:count])
                unknown = [uuid for uuid in ports.values() if uuid not in holders]
                if unknown:
                    holders |= zip(unknown, connection.transact(_holder_queries(unknown), deadline), strict=True)
                bridges = {uuid: response["rows"][0]["name"] for uuid, response in holders.items() if response["rows"]}
                if bridges.keys() >= {*ports.values()}:
                    self._remember(ports)
                    found = None if is_many(names) else bridges
                    return snapshot_of(names, responses[:count], found, mtu_request=self._mtu_request)
            known = ()
            responses = connection.transact(self._queries(names, known), deadline)
        raise ExecutorError("the ports of Open vSwitch change faster than they can be read; call again")

    def _remember(self, ports: Mapping[str, str]) -> None:
        if len(self._ports) + len(ports) > CACHE_SIZE:
            self._ports = {}
        self._ports |= ports


def _ports_in(responses: Sequence[Any]) -> dict[str, str]:
    """Return the uuid of each Port in these responses, by name."""
    return {row["name"]: row["_uuid"][1] for row in rows_in(responses) if "interfaces" in row}


def _holder_queries(ports: Sequence[str]) -> list[Operation]:
    """Return the queries for the bridge of each of these Ports, one per Port."""
    return [select("Bridge", ["name"], ["ports", "includes", ["uuid", uuid]]) for uuid in ports]
