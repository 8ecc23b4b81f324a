"""A connection to ovsdb-server on which every wait ends: the part of RFC 7047 that plugging needs.

ovsdbapp replicates the database, so the first port of a process waits for all ports of the host. The `ovs` package of
PyPI parses JSON in Python. Here the server itself answers each query. ovsdbapp verifies this module in the contract
tests.

TLS as in Open vSwitch: both sides have a certificate of one CA. No host name is compared, since the certificates of
ovs-pki(8) contain none (python/ovs/stream.py, SSLStream).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from hybridvif.executors.base import ExecutorError, seconds_until
from hybridvif.executors.ovs_rows import Operation, error_in
from hybridvif.model.settings import Settings, endpoint_of

if TYPE_CHECKING:
    import ssl

DATABASE = "Open_vSwitch"
MAX_IDLE = 8
"""Maximum number of idle connections."""
_ENCODE, _DECODE = json.JSONEncoder(separators=(",", ":")).encode, json.JSONDecoder(strict=False).raw_decode


class ConnectionLost(Exception):
    """The server closed the connection."""


class Expired(Exception):
    """The deadline passed without a response."""


class ServerError(Exception):
    """The server responded with an error; the message is its own."""


FAILURES = (ConnectionLost, Expired, ServerError)


class Database(Protocol):
    """A connection to ovsdb-server, for one thread at a time. Its functions raise FAILURES."""

    def __init__(self, settings: Settings, deadline: float) -> None: ...

    def query(self, queries: Sequence[Operation], deadline: float) -> list[Any]:
        """Return the responses to queries. They contain everything committed before."""

    def transact(self, operations: Sequence[Operation], deadline: float) -> list[Any]:
        """Return the results of a transaction: one per operation, and an error if the commit failed.

        A transaction of queries alone may be answered as of the last query(). After Expired and ConnectionLost it may
        have been committed.
        """

    def close(self) -> None:
        """Close the connection."""


class Connection:
    """A connection on which the server itself answers each query."""

    def __init__(self, settings: Settings, deadline: float) -> None:
        self._number = 0
        self._unparsed = b""
        self._socket = connected(settings, deadline)
        self.close, self.fileno = self._socket.close, self._socket.fileno

    def transact(self, operations: Sequence[Operation], deadline: float) -> Any:
        """Return the results of a transaction."""
        return self.ask("transact", [DATABASE, *operations], deadline)

    query = transact

    def ask(self, method: str, params: Sequence[Any], deadline: float) -> Any:
        """Return the result of one request."""
        self._number += 1
        self._write({"method": method, "params": params, "id": self._number}, deadline)
        while True:
            message = self.receive(deadline)
            if message.get("id") == self._number and "method" not in message:
                # Open vSwitch 3.1 omits "result" beside an error.
                if message.get("error"):
                    raise ServerError(error_in([message["error"]]) or message["error"])
                return message["result"]

    def receive(self, deadline: float) -> dict[str, Any]:
        """Return the next message of the server. If it is a keepalive, it has been answered."""
        message = self._read(deadline)
        if message.get("method") == "echo":
            self._write({"result": message["params"], "error": None, "id": message["id"]}, deadline)
        return message

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
        self._socket.settimeout(seconds_until(deadline))
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
    def query(self, queries: Sequence[Operation], deadline: float) -> Iterator[tuple[Database, list[Any]]]:
        """Yield a connection, and the responses to these queries on it.

        Raises ExecutorError if there is no server or no response by the deadline. Any error on the connection inside
        the context becomes ExecutorError.
        """
        remote = self._settings.ovsdb_connection
        if not self._slots.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise ExecutorError(f"OVSDB at {remote} is busy with earlier calls; none ended before the deadline")
        try:
            connection, responses = self._queried(queries, deadline)
            with contextlib.ExitStack() as failed:
                failed.callback(connection.close)
                yield connection, responses
                if len(self._idle) < MAX_IDLE:
                    failed.pop_all()
                    self._idle.append(connection)
        except FAILURES as error:
            raise unusable(remote, error) from error
        finally:
            self._slots.release()

    def _queried(self, queries: Sequence[Operation], deadline: float) -> tuple[Database, list[Any]]:
        """Query a kept connection, or a new one if all kept ones were closed while idle."""
        while True:
            try:
                connection, is_kept = self._idle.pop(), True
            except IndexError:
                connection, is_kept = self._connect(self._settings, deadline), False
            try:
                return connection, connection.query(queries, deadline)
            except BaseException as error:
                connection.close()
                if not (is_kept and isinstance(error, ConnectionLost)):
                    raise


def unusable(remote: str, error: Exception) -> ExecutorError:
    """Return the error of a call whose connection failed before a transaction was sent."""
    match error:
        case Expired():
            return ExecutorError(f"OVSDB at {remote} does not answer; nothing was sent (is ovsdb-server hung?)")
        case ServerError():
            reason = f"the server at {remote} has no database {DATABASE} ({error}); is that ovs-vswitchd's?"
            return ExecutorError(reason, precondition=True)
    return ExecutorError(closed(remote))


# -- notifications -----------------------------------------------------------------------------------------------------

COLUMNS = {
    "Bridge": ["name", "datapath_type", "ports"],
    "Port": ["name", "interfaces", "tag"],
    "Interface": ["name", "type", "ofport", "error", "external_ids", "options", "mtu_request"],
}
"""All observed columns. ovs-vswitchd writes others every few seconds, such as statistics."""
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
            tables = self._connection.ask("get_schema", [DATABASE], deadline)["tables"]
            requests = {}
            for table, names in COLUMNS.items():
                # Open vSwitch before 2.6 lacks mtu_request.
                columns = [name for name in names if name in tables[table]["columns"]]
                requests[table] = {"columns": columns, "select": {"initial": False}}
            self._connection.ask("monitor", [DATABASE, None, requests], deadline)
        except FAILURES as error:
            self.close()
            raise unusable(self._remote, error) from error

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


# -- sockets -----------------------------------------------------------------------------------------------------------

START = "start Open vSwitch (systemctl start openvswitch-switch), or set [hybridvif] ovsdb_connection"


def connected(settings: Settings, deadline: float) -> socket.socket:
    """Return a socket connected to the configured server: Unix, TCP or TLS. Raises ExecutorError."""
    remote = settings.ovsdb_connection
    context = tls_context(settings) if tls_files(settings) else None
    try:
        return _connected(remote, context, deadline)
    except (TimeoutError, BlockingIOError) as error:
        # BlockingIOError: the backlog of a Unix socket is full.
        reason = f"OVSDB at {remote} does not accept connections; is ovsdb-server hung?"
        raise ExecutorError(reason, precondition=True) from error
    except (OSError, ValueError, OverflowError) as error:
        # ValueError: only for Settings built in code, since those of a file have been validated.
        remedy = START
        if context is not None and not isinstance(error, ConnectionError | socket.gaierror):
            remedy = "let the server and [hybridvif] ssl_cert_file have certificates of the CA in ssl_ca_cert_file"
        elif isinstance(error, PermissionError):
            remedy = "run as root, or let the daemon's group read and write the socket"
        reason = f"cannot reach OVSDB at {remote}: {_reason_of(error)}; {remedy}"
        raise ExecutorError(reason, precondition=True) from error


def _connected(remote: str, context: ssl.SSLContext | None, deadline: float) -> socket.socket:
    endpoint = endpoint_of(remote)
    with contextlib.ExitStack() as unfinished:
        if endpoint.scheme == "unix":
            channel = unfinished.enter_context(socket.socket(socket.AF_UNIX))
            channel.settimeout(seconds_until(deadline))
            channel.connect(endpoint.path)
        else:
            address = endpoint.host, endpoint.port
            channel = unfinished.enter_context(socket.create_connection(address, timeout=seconds_until(deadline)))
            channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            channel.settimeout(seconds_until(deadline))
            channel = context.wrap_socket(channel)
        unfinished.pop_all()
    return channel


def closed(remote: str) -> str:
    """Return the error message about a server that closed a connection."""
    # In TLS 1.3 a server rejects a client's certificate after the handshake.
    if remote.startswith("ssl:"):
        return f"OVSDB at {remote} closed the connection; is [hybridvif] ssl_cert_file of the CA that the server has?"
    return f"OVSDB at {remote} closed the connection; is ovsdb-server restarting?"


def numeric(settings: Settings, deadline: float) -> str:
    """Return the configured connection with an IP address in place of the host name.

    The `ovs` library cannot resolve a name to an IPv4 address, and ovs-vsctl not to an IPv6 address or not at all.
    Neither reports what is wrong with a certificate. So a connection is tried first.
    """
    if settings.ovsdb_connection.startswith("unix:"):
        return settings.ovsdb_connection
    with connected(settings, deadline) as channel:
        try:
            address = channel.getpeername()[0]
        except OSError as error:
            # ENOTCONN: the server has closed the connection already.
            raise ExecutorError(closed(settings.ovsdb_connection)) from error
    return str(endpoint_of(settings.ovsdb_connection)._replace(host=str(address)))


def tls_files(settings: Settings) -> tuple[str, ...]:
    """Return the files of a TLS connection: key, certificate, CA; none for any other connection."""
    if not settings.ovsdb_connection.startswith("ssl:"):
        return ()
    return settings.ssl_key_file, settings.ssl_cert_file, settings.ssl_ca_cert_file


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Return the context of a TLS connection. Raises ExecutorError, naming the option and the file."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    key, certificate, ca = tls_files(settings)
    for option, path in (("ssl_key_file", key), ("ssl_cert_file", certificate), ("ssl_ca_cert_file", ca)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise _unusable_file(f"{option} {path} cannot be read: {error.strerror}") from error
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise _unusable_file(f"ssl_ca_cert_file {ca} holds no certificate in PEM form") from error
    try:
        # Without this, OpenSSL would prompt for the password of an encrypted key on a terminal.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except OSError as error:
        pair = f"ssl_cert_file {certificate} and ssl_key_file {key}"
        raise _unusable_file(f"{pair} are no certificate and its key without a password, in PEM form") from error
    return context


def _unusable_file(problem: str) -> ExecutorError:
    return ExecutorError(f"[hybridvif] {problem}; give the daemon's user a file that it can use", precondition=True)


def _reason_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno and type(error).__module__ != "ssl":
        return str(error.strerror) if isinstance(error, socket.gaierror) else os.strerror(error.errno)
    # A TLS error, for example "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: ... (_ssl.c:992)".
    message = str(getattr(error, "verify_message", "") or getattr(error, "reason", "") or error)
    return message.replace("_", " ").lower()
