"""A connection to ovsdb-server on which every wait ends: the part of RFC 7047 that plugging needs.

ovsdbapp replicates the database, so the first port of a process waits for all ports of the host. The `ovs` package of
PyPI parses JSON in Python. Here the server itself answers each query. ovsdbapp verifies this module in the contract
tests.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hybridvif.executors.base import ExecutorError
from hybridvif.executors.sockets import closed, connected
from hybridvif.model.settings import Settings

DATABASE = "Open_vSwitch"
MAX_IDLE = 8
"""Maximum number of idle connections."""
_ENCODE, _DECODE = json.JSONEncoder(separators=(",", ":")).encode, json.JSONDecoder(strict=False).raw_decode

Operation = Mapping[str, Any]
"""One operation of a transaction (RFC 7047, section 5.2)."""
Responses = Callable[[], tuple["Connection", list[Any]]]


class ConnectionLost(Exception):
    """The server closed the connection."""


class Expired(Exception):
    """The deadline passed without a response."""


class Refused(Exception):
    """The server responded with an error; the message is its own."""


class Connection:
    """One connection, for one thread at a time."""

    def __init__(self, settings: Settings, deadline: float) -> None:
        self._numbers = itertools.count()
        self._unparsed = b""
        self._pending: list[Mapping[str, Any]] = []
        self._socket = connected(settings, deadline)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send_queries(self, queries: Sequence[Operation], deadline: float) -> None:
        """Send an echo, and these read-only queries with it.

        Raises Expired, ConnectionLost.
        """
        self._pending = [self._request("echo", []), self._request("transact", [DATABASE, *queries])]
        self._send(self._pending, deadline)

    def receive_responses(self, deadline: float) -> list[Any]:
        """Return the responses to the queries of send_queries(). Raises Expired, ConnectionLost, Refused."""
        echo, queried = self._pending
        self._response_to(echo, deadline)
        responses: list[Any] = self._response_to(queried, deadline)
        return responses

    def transact(self, operations: Sequence[Operation], deadline: float) -> list[Any]:
        """Return the results of a transaction: one per operation, and an error if the commit failed.

        Raises Expired or ConnectionLost if it was sent and the response is missing; Refused.
        """
        results: list[Any] = self.ask("transact", [DATABASE, *operations], deadline)
        return results

    def ask(self, method: str, params: Sequence[Any], deadline: float) -> Any:
        """Return the result of one request. Raises Expired, ConnectionLost, Refused."""
        request = self._request(method, params)
        self._send([request], deadline)
        return self._response_to(request, deadline)

    def _request(self, method: str, params: Sequence[Any]) -> Mapping[str, Any]:
        return {"method": method, "params": params, "id": next(self._numbers)}

    def _response_to(self, request: Mapping[str, Any], deadline: float) -> Any:
        while True:
            message = self._receive(deadline)
            if message.get("method") == "echo":
                # Keepalive of the server.
                self._send([{"result": message["params"], "error": None, "id": message["id"]}], deadline)
            elif message.get("id") == request["id"] and "method" not in message:
                # Open vSwitch 3.1 omits "result" beside an error.
                if message.get("error"):
                    raise Refused(_error_text(message["error"]))
                return message["result"]

    def _send(self, messages: Sequence[Mapping[str, Any]], deadline: float) -> None:
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            self._socket.sendall(b"".join(_ENCODE(message).encode() for message in messages))
        except TimeoutError:
            raise Expired from None
        except OSError as error:
            raise ConnectionLost from error

    def _receive(self, deadline: float) -> dict[str, Any]:
        while True:
            # Messages have no delimiter. One ends with a brace; other text is incomplete.
            if self._unparsed.rstrip().endswith(b"}"):
                try:
                    text = self._unparsed.decode(errors="replace")
                    message, end = _DECODE(text)
                except ValueError:
                    pass
                else:
                    self._unparsed = text[end:].lstrip().encode()
                    return dict(message)
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                more = self._socket.recv(1 << 18)
            except TimeoutError:
                raise Expired from None
            except OSError as error:
                raise ConnectionLost from error
            if not more:
                raise ConnectionLost
            self._unparsed += more


class Session:
    """Connections to one server: created on demand, kept for the next call, closed after an error."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: list[Connection] = []

    @contextlib.contextmanager
    def query(self, queries: Sequence[Operation], deadline: float) -> Iterator[Responses]:
        """Borrow a live connection and send queries on it; the yielded function waits for the results.

        A kept connection gets the queries at once, so the server works while the caller does something else. The
        function returns the connection and the responses. It raises ExecutorError if there is no server or no response
        by the deadline. Errors on the connection inside the context become ExecutorError too.
        """
        call = _Call(self._settings, self._idle, queries, deadline)
        try:
            yield call.responses
        except (Expired, ConnectionLost, Refused) as error:
            call.close()
            raise _unusable(self._settings.ovsdb_connection, error) from error
        except BaseException:
            call.close()
            raise
        call.end()


class _Call:
    """One call's use of a connection, from the queries on."""

    def __init__(
        self, settings: Settings, idle: list[Connection], queries: Sequence[Operation], deadline: float
    ) -> None:
        self._settings, self._remote = settings, settings.ovsdb_connection
        self._idle, self._queries, self._deadline = idle, queries, deadline
        self._connection = self._query_kept_connection()
        self._has_responded = False

    def responses(self) -> tuple[Connection, list[Any]]:
        """Return the connection and the responses. Raises ExecutorError."""
        try:
            connection, responses = self._on_kept_connection() or self._on_new_connection()
        except (Expired, ConnectionLost, Refused) as error:
            raise _unusable(self._remote, error) from error
        if time.monotonic() >= self._deadline:
            # A response that has already arrived is read without a look at the clock.
            raise ExecutorError(f"the deadline had passed before OVSDB at {self._remote} was sent anything")
        self._has_responded = True
        return connection, responses

    def _on_kept_connection(self) -> tuple[Connection, list[Any]] | None:
        while self._connection is not None:
            try:
                return self._connection, self._connection.receive_responses(self._deadline)
            except ConnectionLost:
                # It was closed while idle.
                self._connection.close()
                self._connection = self._query_kept_connection()
        return None

    def _on_new_connection(self) -> tuple[Connection, list[Any]]:
        self._connection = connection = Connection(self._settings, self._deadline)
        connection.send_queries(self._queries, self._deadline)
        return connection, connection.receive_responses(self._deadline)

    def _query_kept_connection(self) -> Connection | None:
        """Send the queries on a kept connection and return it; None if there is none."""
        while self._idle:
            with contextlib.suppress(IndexError):
                connection = self._idle.pop()
                try:
                    connection.send_queries(self._queries, self._deadline)
                except (Expired, ConnectionLost):
                    connection.close()
                else:
                    return connection
        return None

    def close(self) -> None:
        """Close the connection, after an error."""
        if self._connection is not None:
            self._connection.close()

    def end(self) -> None:
        """Keep the connection for the next call, unless its responses were not read."""
        if self._connection is not None and self._has_responded and len(self._idle) < MAX_IDLE:
            self._idle.append(self._connection)
        else:
            self.close()


def _unusable(remote: str, error: Expired | ConnectionLost | Refused) -> ExecutorError:
    match error:
        case Expired():
            return ExecutorError(f"OVSDB at {remote} does not answer; nothing was sent (is ovsdb-server hung?)")
        case ConnectionLost():
            return ExecutorError(closed(remote))
    return ExecutorError(
        f"the server at {remote} has no database {DATABASE} ({error}); is that ovs-vswitchd's?",
        precondition=True,
    )


def _error_text(error: Any) -> str:
    if isinstance(error, dict):
        return ": ".join(str(error[key]) for key in ("error", "details") if error.get(key))
    return str(error)
