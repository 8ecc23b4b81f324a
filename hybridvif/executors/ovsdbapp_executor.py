"""ovsdbapp: ports of Open vSwitch through ovsdbapp's replica of the database.

It verifies `ovsdb` in the contract tests, and is an alternative on a host. It starts more slowly, since all ports of
the host are replicated first. Queries are answered from the replica; transactions go over its connection.

ovsdbapp's Idl is used, but not its Connection. That one fetches the schema and commits without a timeout, so a hung
server blocks a thread forever. Here the calling thread drives the Idl under one lock. An echo makes the replica
current: ovsdb-server sends all pending updates of a client before it reads that client's next request.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, ClassVar

from ovs import jsonrpc, poller, stream
from ovs.db.idl import SchemaHelper
from ovsdbapp.backend.ovs_idl.connection import OvsdbIdl

from hybridvif.executors.ovs_rows import Operation, elements
from hybridvif.executors.ovsdb.executor import OvsdbExecutor
from hybridvif.executors.ovsdb.rpc import (
    DATABASE,
    Connection,
    ConnectionLost,
    Database,
    Expired,
    ServerError,
    numeric,
    tls_files,
)
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


class Replica:
    """A connection on which queries are answered from ovsdbapp's Idl."""

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
        self._idl = OvsdbIdl(numeric(settings, deadline), helper)
        self._receive, self._idl._session.recv = self._idl._session.recv, self._recorded
        self._received: dict[Any, Any] = {}
        try:
            self._await(self._idl.has_ever_connected, deadline)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the socket."""
        self._idl.close()

    def query(self, queries: Sequence[Operation], deadline: float) -> list[Any]:
        """Return the responses to queries. Before the response to an echo, the server sends all pending updates."""
        self._ask("echo", [], deadline)
        return self.transact(queries, deadline)

    def transact(self, operations: Sequence[Operation], deadline: float) -> list[Any]:
        """Return the results of a transaction. Queries for named columns alone are answered from the replica."""
        if all(operation["op"] == "select" and "columns" in operation for operation in operations):
            return [self._rows(**operation) for operation in operations]
        results: list[Any] = self._ask("transact", [DATABASE, *operations], deadline)
        return results

    def _rows(self, op: str, table: str, where: Sequence[Any], columns: Sequence[str]) -> dict[str, Any]:  # noqa: ARG002
        unknown = {*columns} - {"_uuid", *self._idl.tables[table].columns}
        if unknown:
            return {"error": "unknown column", "details": ", ".join(unknown)}
        return {
            "rows": [
                {column: _value_of(row, column) for column in columns}
                for row in self._idl.tables[table].rows.values()
                if all(CONDITIONS[test](_value_of(row, column), wanted) for column, test, wanted in where)
            ]
        }

    def _ask(self, method: str, params: Sequence[Any], deadline: float) -> Any:
        """Return the result of one request."""
        request = jsonrpc.Message.create_request(method, params)
        if self._idl.send_request(request) is None:
            raise ConnectionLost
        self._received = {request.id: None}
        self._await(lambda: self._received[request.id] is not None, deadline, connected=True)
        response = self._received[request.id]
        if response.error:
            raise ServerError(response.error)
        return response.result

    def _recorded(self) -> Any:
        """Receive a message for the Idl, and record responses to our own requests, which the Idl ignores."""
        message = self._receive()
        if message is not None and message.id in self._received:
            self._received[message.id] = message
        return message

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


class ReplicaExecutor(OvsdbExecutor):
    """Ports of Open vSwitch through ovsdbapp."""

    connection: ClassVar[type[Database]] = Replica
    max_connections: ClassVar[int] = 1
