"""ovsdbapp: ports of Open vSwitch through ovsdbapp's replica of the database.

It verifies `ovsdb` in the contract tests, and is an alternative on a host. It starts more slowly, since all ports of
the host are replicated first. Queries are answered from the replica; transactions go over its connection.

ovsdbapp's Idl is used, but not its Connection. That one fetches the schema and commits without a timeout, so a hung
server blocks a thread forever. Here the calling thread drives the Idl under one lock. An echo makes the replica
current: ovsdb-server sends all pending updates of a client before it reads that client's next request.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from ovs import jsonrpc, poller, stream
from ovs.db.idl import SchemaHelper
from ovsdbapp.backend.ovs_idl.connection import OvsdbIdl

from hybridvif.executors.base import ExecutorError
from hybridvif.executors.ovs_rows import Operation, Snapshot, elements, row_queries, snapshot_of
from hybridvif.executors.ovsdb.commit import Read, TransactionExecutor
from hybridvif.executors.ovsdb.rpc import DATABASE, Connection, ConnectionLost, Expired, Refused, unusable
from hybridvif.executors.sockets import numeric, tls_files
from hybridvif.model.settings import Settings

COLUMNS = {
    "Open_vSwitch": ["ovs_version"],
    "Bridge": ["name", "ports", "datapath_type"],
    "Port": ["name", "interfaces", "tag", "qos"],
    "QoS": ["external_ids"],
    "Interface": ["name", "type", "options", "external_ids", "ofport", "error", "mtu_request"],
}
"""All replicated columns: each costs time and memory for every port of the host."""
CONDITIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "includes": lambda value, wanted: all(element in elements(value) for element in elements(wanted)),
}
"""Functions of the conditions of a query (RFC 7047, 5.1)."""


class ReplicaExecutor(TransactionExecutor):
    """Ports of Open vSwitch through ovsdbapp."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, self._read_replica)
        self._lock = threading.Lock()
        self._replica: Replica | None = None

    @contextmanager
    def _read_replica(self, names: Collection[str] | None, deadline: float) -> Iterator[Read]:
        """Lock the replica; yield a function that makes it current and reads it."""
        remote = self._settings.ovsdb_connection
        if not self._lock.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise ExecutorError(f"OVSDB at {remote} is busy with earlier calls; none ended before the deadline")

        def read() -> tuple[Replica, Snapshot]:
            replica = self._current_replica(deadline)
            if time.monotonic() >= deadline:
                # A response that has already arrived is read without a look at the clock.
                raise ExecutorError(f"the deadline had passed before OVSDB at {remote} was sent anything")
            responses = replica.transact(row_queries(names, mtu_request=replica.has_mtu_request), deadline)
            return replica, snapshot_of(names, responses, mtu_request=replica.has_mtu_request)

        try:
            yield read
        except BaseException as error:
            self._drop_replica()
            if isinstance(error, Expired | ConnectionLost | Refused):
                raise unusable(remote, error) from error
            raise
        finally:
            self._lock.release()

    def _current_replica(self, deadline: float) -> Replica:
        """Return the kept replica, or a new one if it has lost its connection."""
        if self._replica is not None:
            try:
                self._replica.sync(deadline)
            except ConnectionLost:
                self._drop_replica()
            else:
                return self._replica
        self._replica = Replica(self._settings, deadline)
        self._replica.sync(deadline)
        return self._replica

    def _drop_replica(self) -> None:
        if self._replica is not None:
            self._replica.close()
            self._replica = None


class Replica:
    """ovsdbapp's Idl with its connection. All functions raise Expired, ConnectionLost, Refused."""

    def __init__(self, settings: Settings, deadline: float) -> None:
        with closing(Connection(settings, deadline)) as connection:
            schema = connection.ask("get_schema", [DATABASE], deadline)
        if files := tls_files(settings):
            # The library keeps them for all connections of the process.
            key, certificate, ca = files
            stream.Stream.ssl_set_private_key_file(key)
            stream.Stream.ssl_set_certificate_file(certificate)
            stream.Stream.ssl_set_ca_cert_file(ca)
        helper = SchemaHelper(None, schema)
        for table, names in COLUMNS.items():
            helper.register_columns(table, [name for name in names if name in schema["tables"][table]["columns"]])
        self.has_mtu_request = "mtu_request" in schema["tables"]["Interface"]["columns"]
        self._idl = OvsdbIdl(numeric(settings, deadline), helper)
        self._responses: dict[Any, Any] = {}
        self._record_responses()
        try:
            self._await(self._idl.has_ever_connected, deadline)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the socket."""
        self._idl.close()

    def sync(self, deadline: float) -> None:
        """Wait until the replica contains everything committed before now."""
        self._ask("echo", [], deadline)

    def transact(self, operations: Sequence[Operation], deadline: float) -> list[Any]:
        """Return the results of a transaction; queries alone are answered from the replica."""
        if all(operation["op"] == "select" for operation in operations):
            return [{"rows": self._rows(**operation)} for operation in operations]
        results: list[Any] = self._ask("transact", [DATABASE, *operations], deadline)
        return results

    def _rows(self, table: str, where: Sequence[Any], columns: Sequence[str], op: str) -> list[dict[str, Any]]:  # noqa: ARG002
        return [
            {column: _value_of(row, column) for column in columns}
            for row in self._idl.tables[table].rows.values()
            if all(CONDITIONS[test](_value_of(row, column), wanted) for column, test, wanted in where)
        ]

    def _ask(self, method: str, params: Sequence[Any], deadline: float) -> Any:
        request = jsonrpc.Message.create_request(method, params)
        if self._idl.send_request(request) is None:
            raise ConnectionLost
        self._responses[request.id] = None
        try:
            self._await(lambda: self._responses[request.id] is not None, deadline, connected=True)
            response = self._responses[request.id]
        finally:
            del self._responses[request.id]
        if response.error:
            raise Refused(response.error)
        return response.result

    def _record_responses(self) -> None:
        """Record the responses to our own requests, which the Idl ignores."""
        receive = self._idl._session.recv

        def recording() -> Any:
            message = receive()
            if message is not None and message.id in self._responses:
                self._responses[message.id] = message
            return message

        self._idl._session.recv = recording

    def _await(self, is_ready: Callable[[], bool], deadline: float, *, connected: bool = False) -> None:
        """Drive the Idl until a condition is true. connected: raise ConnectionLost if the connection is lost."""
        while True:
            try:
                self._idl.run()
            except OSError as error:
                # ENOTCONN: the server has ended a TLS connection during the handshake.
                raise ConnectionLost from error
            if is_ready():
                return
            if connected and not self._idl._session.is_connected():
                raise ConnectionLost
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise Expired
            block = poller.Poller()
            self._idl.wait(block)
            block.timer_wait(int(remaining * 1000) + 1)
            block.block()


def _value_of(row: Any, column: str) -> Any:
    """Return the value of a column, encoded as the server encodes it."""
    return ["uuid", str(row.uuid)] if column == "_uuid" else row._data[column].to_json()
