"""One connection to ovsdb-server through ovsdbapp, on which every wait ends by the deadline.

ovsdbapp's Idl, schema tables and commands are used, but not its Connection. That one fetches the schema and commits
without a timeout, so a hung server blocks a thread forever. It also logs and drops the errors of ovs-vswitchd. Here the
calling thread drives the Idl under one lock.

sync() makes the replica current: it sends an echo and waits for the response. ovsdb-server sends all pending updates of
a client before it reads that client's next request. After the response, the replica therefore contains everything
committed before. A transaction is sent only to a server that has responded within the same call.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ovs import jsonrpc, poller, stream
from ovs.db import idl as ovs_idl
from ovsdbapp.backend.ovs_idl.connection import OvsdbIdl
from ovsdbapp.schema.open_vswitch import impl_idl

from hybridvif.executors.base import ExecutorError
from hybridvif.executors.sockets import closed, numeric, tls_context, tls_files
from hybridvif.model.settings import Settings

SCHEMA = "Open_vSwitch"
COLUMNS = {
    "Open_vSwitch": ["bridges", "next_cfg", "cur_cfg", "ovs_version"],
    "Bridge": ["name", "ports", "datapath_type"],
    "Port": ["name", "interfaces", "tag", "vlan_mode", "trunks", "qos"],
    "QoS": ["type", "external_ids"],
    "Interface": ["name", "type", "options", "external_ids", "ofport", "error", "mtu_request"],
}
"""All replicated columns: each costs time and memory for every port of the host."""


class ConnectionLost(Exception):
    """The server closed the connection."""


class Expired(Exception):
    """The deadline passed. sent: a transaction had been sent, which may still take effect."""

    def __init__(self, *, sent: bool = False) -> None:
        super().__init__()
        self.sent = sent


class Session:
    """A connection that is created on first use, kept, and replaced after an error."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._remote = settings, settings.ovsdb_connection
        self._lock = threading.Lock()
        self._api: _Api | None = None

    @contextmanager
    def fresh(self, deadline: float) -> Iterator[_Api]:
        """Lock the connection and yield it with a current replica.

        Raises ExecutorError if there is no server or no response by the deadline. A connection with any error is not
        used again.
        """
        if not self._lock.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise ExecutorError(f"OVSDB at {self._remote} is busy with earlier calls; none ended before the deadline")
        try:
            api = self._synced(deadline)
            if time.monotonic() >= deadline:
                # A response that has already arrived is read without a look at the clock.
                raise ExecutorError(f"the deadline had passed before OVSDB at {self._remote} was sent anything")
            yield api
        except BaseException:
            self._drop()
            raise
        finally:
            self._lock.release()

    def _synced(self, deadline: float) -> _Api:
        try:
            if self._api is not None:
                try:
                    self._api.sync(deadline)
                    return self._api
                except ConnectionLost:
                    self._drop()
            self._api = self._connected(deadline)
            self._api.sync(deadline)
            return self._api
        except Expired as error:
            raise ExecutorError(
                f"OVSDB at {self._remote} does not answer; nothing was sent (is ovsdb-server hung?)"
            ) from error
        except (ConnectionLost, OSError) as error:
            # The `ovs` library raises ENOTCONN if the server ends a TLS connection during the handshake.
            raise ExecutorError(closed(self._remote)) from error

    def _connected(self, deadline: float) -> _Api:
        files = tls_files(self._settings)
        if files:
            # The library keeps them for all connections of the process, and raises errors in them.
            tls_context(self._settings)
            key, certificate, ca = files
            stream.Stream.ssl_set_private_key_file(key)
            stream.Stream.ssl_set_certificate_file(certificate)
            stream.Stream.ssl_set_ca_cert_file(ca)
        return _Api(numeric(self._settings, deadline), deadline)

    def _drop(self) -> None:
        if self._api is not None:
            self._api.close()
            self._api = None


class _Api(impl_idl.OvsdbIdl):  # type: ignore[misc]  # ovsdbapp has no types
    """ovsdbapp's Open_vSwitch API over an Idl that the calling thread drives."""

    @property
    def ovsdb_connection(self) -> Any:
        """Return the connection of the backend.

        ovsdbapp keeps it on the class, where a second endpoint would be ignored.
        """
        return self

    @ovsdb_connection.setter
    def ovsdb_connection(self, connection: Any) -> None:
        pass

    is_running = False
    timeout = None

    def __init__(self, remote: str, deadline: float) -> None:
        helper = ovs_idl.SchemaHelper(None, _fetch_schema(remote, deadline))
        self.columns = {
            table: [name for name in names if name in helper.schema_json["tables"].get(table, {}).get("columns", {})]
            for table, names in COLUMNS.items()
        }
        for table, names in self.columns.items():
            helper.register_columns(table, names)
        self._idl = OvsdbIdl(remote, helper)
        self._responded = self._record_responses()
        super().__init__(self, start=False)
        self._await(self._idl.has_ever_connected, deadline)

    @property
    def idl(self) -> Any:
        """Return the replica."""
        return self._idl

    def close(self) -> None:
        """Close the socket."""
        self._idl.close()

    def sync(self, deadline: float) -> None:
        """Wait until the replica contains everything committed before now. Raises Expired, ConnectionLost."""
        request = jsonrpc.Message.create_request("echo", [])
        if self._idl.send_request(request) is None:
            raise ConnectionLost
        self._await(lambda: request.id in self._responded, deadline, watch=True)
        self._responded.clear()

    def await_cfg(self, number: int, deadline: float) -> bool:
        """Wait until ovs-vswitchd has applied this configuration; return False if not by the deadline."""
        try:
            self._await(lambda: self._ovs.cur_cfg >= number, deadline, watch=True)
        except (Expired, ConnectionLost):
            return False
        return True

    def commit(self, compose: Callable[[Any], None], deadline: float) -> tuple[str, int | None, str]:
        """Commit one transaction with an increment of next_cfg; return its status, the new next_cfg and the error.

        Raises Expired with `sent` if it was sent and the response is missing.
        """
        transaction = ovs_idl.Transaction(self._idl)
        try:
            transaction.expected_ifaces = set()
            compose(transaction)
            self._ovs.increment("next_cfg")
            status = transaction.commit()
        except BaseException:
            transaction.abort()
            raise
        try:
            self._await(lambda: transaction.commit() != transaction.INCOMPLETE, deadline, watch=True, sent=True)
        except ConnectionLost as error:
            raise Expired(sent=True) from error
        status = transaction.commit()
        number = transaction.get_increment_new_value() if status == transaction.SUCCESS else None
        return str(status), number, str(transaction.get_error() or "")

    def _record_responses(self) -> set[Any]:
        """Record the responses to our own echo requests, which the Idl ignores."""
        session, responded = self._idl._session, set[Any]()
        receive = session.recv

        def recording() -> Any:
            message = receive()
            if message is not None and message.type == jsonrpc.Message.T_REPLY:
                responded.add(message.id)
            return message

        session.recv = recording
        return responded

    def _await(self, ready: Callable[[], bool], deadline: float, *, watch: bool = False, sent: bool = False) -> None:
        """Drive the Idl until a condition is true. watch: raise ConnectionLost if the connection is lost."""
        while True:
            self._idl.run()
            if ready():
                return
            if watch and not self._idl._session.is_connected():
                raise ConnectionLost
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise Expired(sent=sent)
            block = poller.Poller()
            self._idl.wait(block)
            block.timer_wait(int(remaining * 1000) + 1)
            block.block()


def _fetch_schema(remote: str, deadline: float) -> Any:
    """Return the schema, over a connection of its own; ovsdbapp's own fetch has no timeout."""
    error, channel = stream.Stream.open_block(
        stream.Stream.open(remote), max(int((deadline - time.monotonic()) * 1000), 1)
    )
    if error:
        raise ExecutorError(_unreachable(remote, error), precondition=True)
    rpc = jsonrpc.Connection(channel)
    try:
        request = jsonrpc.Message.create_request("get_schema", [SCHEMA])
        rpc.send(request)
        while True:
            rpc.run()
            error, reply = rpc.recv()
            if error not in (0, None, errno.EAGAIN):
                raise ConnectionLost
            if reply is not None and reply.id == request.id:
                if reply.error:
                    raise ExecutorError(
                        f"the server at {remote} has no database {SCHEMA}; is that ovs-vswitchd's?", precondition=True
                    )
                return reply.result
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise Expired
            block = poller.Poller()
            rpc.wait(block)
            rpc.recv_wait(block)
            block.timer_wait(int(remaining * 1000) + 1)
            block.block()
    finally:
        rpc.close()


def _unreachable(remote: str, error: int) -> str:
    if error == errno.ETIMEDOUT:
        return f"OVSDB at {remote} does not accept connections; is ovsdb-server hung?"
    remedy = {
        errno.EACCES: "run as root, or let the daemon's group read and write the socket",
    }.get(error, "start Open vSwitch (systemctl start openvswitch-switch), or set [hybridvif] ovsdb_connection")
    return f"cannot reach OVSDB at {remote}: {os.strerror(error)}; {remedy}"
