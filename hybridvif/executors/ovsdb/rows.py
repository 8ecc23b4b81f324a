"""Read the rows of some names in as few round trips as possible.

One transaction answers all queries, but the bridge of a Port can be queried only by the uuid of the Port. Known uuids
are therefore sent with the first queries. Their result counts if the row still has this uuid.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hybridvif.executors import ovs_rows
from hybridvif.executors.base import ExecutorError
from hybridvif.executors.ovs_rows import Operation, Snapshot
from hybridvif.executors.ovsdb.rpc import Database, Refused, Session

MAX_ATTEMPTS = 8
CACHE_SIZE = 4096
"""Maximum number of cached Port uuids."""


Rows = Callable[[], tuple[Database, Snapshot]]
"""A function that waits for a connection and the rows."""


class RowReader:
    """Reads rows over the connections of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._has_mtu_request = True
        self._ports: dict[str, str] = {}
        """The uuid of each known Port, by name."""

    @contextmanager
    def reading(self, names: Collection[str] | None, deadline: float) -> Iterator[Rows]:
        """Send the queries at once; yield a function that returns the connection and the rows.

        Raises ExecutorError, also for any error on the connection inside the context.
        """
        known = [] if ovs_rows.is_many(names) else [self._ports[name] for name in names or () if name in self._ports]
        with self._session.query(self._queries(names, known), deadline) as responses_of:

            def read() -> tuple[Database, Snapshot]:
                database, responses = responses_of()
                return database, self._snapshot(database, names, responses, known, deadline)

            yield read

    def _snapshot(
        self,
        database: Database,
        names: Collection[str] | None,
        responses: Sequence[Any],
        known: Sequence[str],
        deadline: float,
    ) -> Snapshot:
        for _ in range(MAX_ATTEMPTS):
            error = ovs_rows.error_in(responses)
            if "mtu_request" in error:
                # This Open vSwitch is too old for the column.
                self._has_mtu_request = False
            elif error:
                raise Refused(error)
            elif ovs_rows.is_many(names):
                return ovs_rows.snapshot_of(names, responses, mtu_request=self._has_mtu_request)
            else:
                rows, found = responses[: len(responses) - len(known)], responses[len(responses) - len(known) :]
                ports = {row["name"]: row["_uuid"][1] for row in ovs_rows.rows_in(rows) if "interfaces" in row}
                unknown = [uuid for uuid in ports.values() if uuid not in known]
                if unknown:
                    found = [*found, *database.transact(_holder_queries(unknown), deadline)]
                pairs = zip([*known, *unknown], found, strict=True)
                holders = {uuid: response["rows"][0]["name"] for uuid, response in pairs if response["rows"]}
                if holders.keys() >= {*ports.values()}:
                    if len(self._ports) > CACHE_SIZE:
                        self._ports = {}
                    self._ports |= ports
                    return ovs_rows.snapshot_of(names, rows, holders, mtu_request=self._has_mtu_request)
            # The rows have changed between the queries.
            known = ()
            responses = database.transact(self._queries(names, known), deadline)
        raise ExecutorError("the ports of Open vSwitch change faster than they can be read; call again")

    def _queries(self, names: Collection[str] | None, ports: Sequence[str]) -> list[Operation]:
        queries = ovs_rows.row_queries(names, mtu_request=self._has_mtu_request, members=ovs_rows.is_many(names))
        return [*queries, *_holder_queries(ports)]


def _holder_queries(ports: Sequence[str]) -> list[Operation]:
    """Return the queries for the bridge of each of these Ports, one per Port."""
    return [ovs_rows.select("Bridge", ["name"], ["ports", "includes", ["uuid", uuid]]) for uuid in ports]
