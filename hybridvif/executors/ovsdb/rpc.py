"""A connection to ovsdb-server on which every wait ends: the part of RFC 7047 that plugging needs.

ovsdbapp replicates the database, so the first port of a process waits for all ports of the host. The `ovs` package of
PyPI parses JSON in Python. Here the server itself answers each query. ovsdbapp verifies this module in the contract
tests.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from hybridvif.executors.base import ExecutorError
from hybridvif.executors.ovs_rows import Operation, error_in
from hybridvif.executors.sockets import closed, connected
from hybridvif.model.settings import Settings

DATABASE = "Open_vSwitch"
MAX_IDLE = 8
"""Maximum number of idle connections."""
_ENCODE, _DECODE = json.JSONEncoder(separators=(",", ":")).encode, json.JSONDecoder(strict=False).raw_decode


class ConnectionLost(Exception):
    """The server closed the connection."""


class Expired(Exception):
    """The deadline passed without a response."""


class Refused(Exception):
    """The server responded with an error; the message is its own."""


FAILURES = (ConnectionLost, Expired, Refused)


class Database(Protocol):
    """A connection to ovsdb-server, for one thread at a time. Its functions raise FAILURES."""

    def __init__(self, settings: Settings, deadline: float) -> None: ...

    def send_queries(self, queries: Sequence[Operation], deadline: float) -> None:
        """Send queries, for receive_responses()."""

    def receive_responses(self, deadline: float) -> list[Any]:
        """Return the responses to the queries. They contain everything committed before the queries were sent."""

    def transact(self, operations: Sequence[Operation], deadline: float) -> list[Any]:
        """Return the results of a transaction: one per operation, and an error if the commit failed.

        After Expired and ConnectionLost it may have been committed.
        """

    def close(self) -> None:
        """Close the connection."""


Responses = Callable[[], tuple[Database, list[Any]]]
"""A function that waits for a connection and the responses to queries."""


class Connection:
    """A connection on which the server itself answers each query."""

    def __init__(self, settings: Settings, deadline: float) -> None:
        self._number = 0
        self._unparsed = b""
        self._socket = connected(settings, deadline)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send_queries(self, queries: Sequence[Operation], deadline: float) -> None:
        """Send queries."""
        self._send("transact", [DATABASE, *queries], deadline)

    def receive_responses(self, deadline: float) -> Any:
        """Return the result of the last request."""
        while True:
            message = self.receive(deadline)
            if message.get("id") == self._number and "method" not in message:
                # Open vSwitch 3.1 omits "result" beside an error.
                if message.get("error"):
                    raise Refused(error_in([message["error"]]) or message["error"])
                return message["result"]

    def receive(self, deadline: float) -> dict[str, Any]:
        """Return the next message of the server. If it is a keepalive, it has been answered."""
        message = self._read(deadline)
        if message.get("method") == "echo":
            self._write({"result": message["params"], "error": None, "id": message["id"]}, deadline)
        return message

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def transact(self, operations: Sequence[Operation], deadline: float) -> Any:
        """Return the results of a transaction."""
        return self.ask("transact", [DATABASE, *operations], deadline)

    def ask(self, method: str, params: Sequence[Any], deadline: float) -> Any:
        """Return the result of one request."""
        self._send(method, params, deadline)
        return self.receive_responses(deadline)

    def _send(self, method: str, params: Sequence[Any], deadline: float) -> None:
        self._number += 1
        self._write({"method": method, "params": params, "id": self._number}, deadline)

    def _write(self, message: Mapping[str, Any], deadline: float) -> None:
        with self._waiting(deadline):
            self._socket.sendall(_ENCODE(message).encode())

    def _read(self, deadline: float) -> dict[str, Any]:
        while True:
            # Messages have no delimiter. One ends with a brace; other text is incomplete.
            if self._unparsed.rstrip().endswith(b"}"):
                text = self._unparsed.decode(errors="replace")
                with contextlib.suppress(ValueError):
                    message, end = _DECODE(text)
                    self._unparsed = text[end:].lstrip().encode()
                    return dict(message)
            with self._waiting(deadline):
                received = self._socket.recv(1 << 18)
            if not received:
                raise ConnectionLost
            self._unparsed += received

    @contextlib.contextmanager
    def _waiting(self, deadline: float) -> Iterator[None]:
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            yield
        except TimeoutError:
            raise Expired from None
        except OSError as error:
            raise ConnectionLost from error


class Session:
    """Connections to one server: created on demand, kept for the next call, closed after an error."""

    def __init__(self, settings: Settings, connect: type[Database], limit: int) -> None:
        self._settings, self._connect = settings, connect
        self._slots = threading.Semaphore(limit)
        self._idle: list[Database] = []

    @contextlib.contextmanager
    def query(self, queries: Sequence[Operation], deadline: float) -> Iterator[Responses]:
        """Send queries on a kept connection; yield a function that waits for the connection and the responses.

        So the server works while the caller does something else. Raises ExecutorError if there is no server or no
        response by the deadline. Any error on the connection inside the context becomes ExecutorError.
        """
        remote = self._settings.ovsdb_connection
        if not self._slots.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise ExecutorError(f"OVSDB at {remote} is busy with earlier calls; none ended before the deadline")
        borrowed: list[Database] = []
        is_live = False

        def responses() -> tuple[Database, list[Any]]:
            nonlocal is_live
            results = self._responses(borrowed, queries, deadline)
            is_live = True
            return borrowed[0], results

        try:
            borrowed += self._queried(queries, deadline)
            yield responses
        except BaseException as error:
            is_live = False
            if isinstance(error, FAILURES):
                raise unusable(remote, error) from error
            raise
        finally:
            if is_live and len(self._idle) < MAX_IDLE:
                self._idle += borrowed
            else:
                for connection in borrowed:
                    connection.close()
            self._slots.release()

    def _queried(self, queries: Sequence[Operation], deadline: float) -> list[Database]:
        """Return a kept connection on which the queries were sent; empty if there is none."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                try:
                    connection.send_queries(queries, deadline)
                except (Expired, ConnectionLost):
                    connection.close()
                else:
                    return [connection]
        return []

    def _responses(self, borrowed: list[Database], queries: Sequence[Operation], deadline: float) -> list[Any]:
        """Return the responses, on a new connection if the kept ones were closed while idle."""
        while borrowed:
            try:
                return borrowed[0].receive_responses(deadline)
            except ConnectionLost:
                borrowed.pop().close()
                borrowed += self._queried(queries, deadline)
        borrowed.append(self._connect(self._settings, deadline))
        borrowed[0].send_queries(queries, deadline)
        return borrowed[0].receive_responses(deadline)


def unusable(remote: str, error: Exception) -> ExecutorError:
    """Return the error of a call whose connection failed before a transaction was sent."""
    match error:
        case Expired():
            return ExecutorError(f"OVSDB at {remote} does not answer; nothing was sent (is ovsdb-server hung?)")
        case Refused():
            reason = f"the server at {remote} has no database {DATABASE} ({error}); is that ovs-vswitchd's?"
            return ExecutorError(reason, precondition=True)
    return ExecutorError(closed(remote))


# -- notifications -----------------------------------------------------------------------------------------------------

COLUMNS = {
    "Bridge": ["name", "datapath_type", "ports"],
    "Port": ["name", "interfaces", "tag"],
    "Interface": ["name", "type", "ofport", "error", "external_ids", "options"],
}
"""All observed columns but mtu_request. ovs-vswitchd writes others every few seconds, such as statistics."""
NEWER = ["mtu_request"]
"""The columns of an Interface that Open vSwitch before 2.6 lacks."""
MAX_READS = 4096
"""Messages to discard in one go. The socket stays readable if there are more."""


class RowSubscription:
    """A connection on which the server reports each change (`monitor`, RFC 7047, section 4.1.5).

    Every executor of Open vSwitch subscribes this way.
    """

    def __init__(self, settings: Settings, deadline: float) -> None:
        """Connect and subscribe. Raises ExecutorError."""
        self._remote = settings.ovsdb_connection
        self._connection = Connection(settings, deadline)
        self.fileno, self.close = self._connection.fileno, self._connection.close
        try:
            try:
                self._monitor(NEWER, deadline)
            except Refused as error:
                if NEWER[0] not in str(error):
                    raise
                self._monitor([], deadline)
        except FAILURES as error:
            self.close()
            raise unusable(self._remote, error) from error

    def _monitor(self, newer: list[str], deadline: float) -> None:
        tables = {**COLUMNS, "Interface": [*COLUMNS["Interface"], *newer]}
        requests = {name: {"columns": columns, "select": {"initial": False}} for name, columns in tables.items()}
        self._connection.ask("monitor", [DATABASE, None, requests], deadline)

    def drain(self) -> bool:
        """Discard the pending messages. Return whether one was a notification. Raises ExecutorError."""
        found = False
        try:
            with contextlib.suppress(Expired):
                for _ in range(MAX_READS):
                    found |= self._connection.receive(time.monotonic()).get("method") == "update"
        except ConnectionLost as error:
            raise ExecutorError(closed(self._remote)) from error
        return found
