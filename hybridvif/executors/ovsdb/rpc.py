"""A connection to ovsdb-server on which every wait ends: as much of RFC 7047 as plugging needs.

ovsdbapp keeps a replica of the database, so the first port of a process pays for all ports of the host, and the `ovs`
package of PyPI parses JSON in Python, 47 times slower than the standard library. Here a question is answered by the
server itself. ovsdbapp is its twin in the contract tests.
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
KEPT = 8
"""Idle connections that are kept."""
_ENCODE, _DECODE = json.JSONEncoder(separators=(",", ":")).encode, json.JSONDecoder(strict=False).raw_decode

Operation = Mapping[str, Any]
"""One operation of a transaction, as section 5.2 of RFC 7047 has it."""
Answered = Callable[[], tuple["Connection", list[Any]]]


class ConnectionLost(Exception):
    """The server went away."""


class Expired(Exception):
    """The deadline passed, and no answer had come."""


class Refused(Exception):
    """The server answers with an error, in its own words."""


class Connection:
    """One connection, for one thread at a time."""

    def __init__(self, settings: Settings, deadline: float) -> None:
        self._numbers = itertools.count()
        self._read = b""
        self._greeting: list[Mapping[str, Any]] = []
        self._socket = connected(settings, deadline)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def greet(self, questions: Sequence[Operation], deadline: float) -> None:
        """Ask whether the server is there; and, at once, these questions, which change nothing.

        Raises Expired, ConnectionLost.
        """
        self._greeting = [self._numbered("echo", []), self._numbered("transact", [DATABASE, *questions])]
        self._send(self._greeting, deadline)

    def greeted(self, deadline: float) -> list[Any]:
        """The answers to those questions, after the echo's. Raises Expired, ConnectionLost, Refused."""
        echo, asked = self._greeting
        self._answer_to(echo, deadline)
        answers: list[Any] = self._answer_to(asked, deadline)
        return answers

    def transact(self, operations: Sequence[Operation], deadline: float) -> list[Any]:
        """The results of a transaction, one an operation, and one more if it could not be committed.

        Raises Expired or ConnectionLost with the transaction sent and not answered; Refused.
        """
        results: list[Any] = self.ask("transact", [DATABASE, *operations], deadline)
        return results

    def ask(self, method: str, params: Sequence[Any], deadline: float) -> Any:
        """The result of one request. Raises Expired, ConnectionLost, Refused."""
        request = self._numbered(method, params)
        self._send([request], deadline)
        return self._answer_to(request, deadline)

    def _numbered(self, method: str, params: Sequence[Any]) -> Mapping[str, Any]:
        return {"method": method, "params": params, "id": next(self._numbers)}

    def _answer_to(self, request: Mapping[str, Any], deadline: float) -> Any:
        while True:
            message = self._receive(deadline)
            if message.get("method") == "echo":
                # The server asks whether we are there.
                self._send([{"result": message["params"], "error": None, "id": message["id"]}], deadline)
            elif message.get("id") == request["id"] and "method" not in message:
                # Open vSwitch 3.1 leaves "result" out beside an error.
                if message.get("error"):
                    raise Refused(_words(message["error"]))
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
            # A message ends with a brace and nothing else tells its end; what ends otherwise is not yet whole.
            if self._read.rstrip().endswith(b"}"):
                try:
                    text = self._read.decode(errors="replace")
                    message, end = _DECODE(text)
                except ValueError:
                    pass
                else:
                    self._read = text[end:].lstrip().encode()
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
            self._read += more


class Session:
    """Connections to one server: made when they are wanted, kept for the next call, given up when one went wrong."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: list[Connection] = []

    @contextlib.contextmanager
    def asking(self, questions: Sequence[Operation], deadline: float) -> Iterator[Answered]:
        """A function that tells a connection of the caller's own that has just answered, and its answers to these.

        The server is asked at once, where a connection is kept; it works while the caller does something else.
        The function raises ExecutorError if there is no server, or none that answers by the deadline; so does what is
        done with the connection, where the server goes away.
        """
        call = _Call(self._settings, self._idle, questions, deadline)
        try:
            yield call.answered
        except (Expired, ConnectionLost, Refused) as error:
            call.give_up()
            raise _useless(self._settings.ovsdb_connection, error) from error
        except BaseException:
            call.give_up()
            raise
        call.end()


class _Call:
    """One call's use of a connection, from the question on."""

    def __init__(
        self, settings: Settings, idle: list[Connection], questions: Sequence[Operation], deadline: float
    ) -> None:
        self._settings, self._remote = settings, settings.ovsdb_connection
        self._idle, self._questions, self._deadline = idle, questions, deadline
        self._connection = self._asked_at_once()
        self._has_answered = False

    def answered(self) -> tuple[Connection, list[Any]]:
        """The connection, and its answers. Raises ExecutorError."""
        try:
            connection, answers = self._on_a_kept_one() or self._on_another()
        except (Expired, ConnectionLost, Refused) as error:
            raise _useless(self._remote, error) from error
        if time.monotonic() >= self._deadline:
            # An answer that is there already is taken without a look at the clock.
            raise ExecutorError(f"the deadline had passed before OVSDB at {self._remote} was sent anything")
        self._has_answered = True
        return connection, answers

    def _on_a_kept_one(self) -> tuple[Connection, list[Any]] | None:
        while self._connection is not None:
            try:
                return self._connection, self._connection.greeted(self._deadline)
            except ConnectionLost:
                # It was lost while nobody used it.
                self._connection.close()
                self._connection = self._asked_at_once()
        return None

    def _on_another(self) -> tuple[Connection, list[Any]]:
        self._connection = connection = Connection(self._settings, self._deadline)
        connection.greet(self._questions, self._deadline)
        return connection, connection.greeted(self._deadline)

    def _asked_at_once(self) -> Connection | None:
        """A connection that was kept, asked; None: there is none that can be."""
        while self._idle:
            with contextlib.suppress(IndexError):
                connection = self._idle.pop()
                try:
                    connection.greet(self._questions, self._deadline)
                except (Expired, ConnectionLost):
                    connection.close()
                else:
                    return connection
        return None

    def give_up(self) -> None:
        """Close the connection, on which something went wrong."""
        if self._connection is not None:
            self._connection.close()

    def end(self) -> None:
        """Keep the connection for the next call; not one whose answers nobody has taken."""
        if self._connection is not None and self._has_answered and len(self._idle) < KEPT:
            self._idle.append(self._connection)
        else:
            self.give_up()


def _useless(remote: str, error: Expired | ConnectionLost | Refused) -> ExecutorError:
    match error:
        case Expired():
            return ExecutorError(f"OVSDB at {remote} does not answer; nothing was sent (is ovsdb-server hung?)")
        case ConnectionLost():
            return ExecutorError(closed(remote))
    return ExecutorError(
        f"the server at {remote} has no database {DATABASE} ({error}); is that ovs-vswitchd's?",
        precondition=True,
    )


def _words(error: Any) -> str:
    if isinstance(error, dict):
        return ": ".join(str(error[key]) for key in ("error", "details") if error.get(key))
    return str(error)
