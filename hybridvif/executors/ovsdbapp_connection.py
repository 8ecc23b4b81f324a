"""One connection to ovsdb-server on which nothing waits longer than its deadline.

ovsdbapp's Idl, schema tables and commands, but not its Connection: that fetches the schema and commits without any
timeout, so that one hung server blocks a thread for ever, and it logs and drops what ovs-vswitchd answers. Here the
caller's own thread drives the Idl under one lock, and every wait ends.

Fresh before use: sync() sends an echo and waits for the answer. ovsdb-server writes out all updates due to a client
before it reads that client's next request, so after the answer the replica holds all that was committed before; and a
transaction is only ever sent to a server that answered in this very call.
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
"""All that is replicated: every further column costs time and memory for every port of the host."""


class ConnectionLost(Exception):
    """The server went away."""


class Expired(Exception):
    """The deadline passed. sent: whether a transaction had been sent, and so may yet take effect."""

    def __init__(self, *, sent: bool = False) -> None:
        super().__init__()
        self.sent = sent


class Session:
    """A connection that is made on first use, kept, and made anew when it was lost or did not answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._remote = settings, settings.ovsdb_connection
        self._lock = threading.Lock()
        self._api: _Api | None = None

    @contextmanager
    def fresh(self, deadline: float) -> Iterator[_Api]:
        """The connection, ours alone meanwhile, its replica up to date.

        Raises ExecutorError if there is no server, or none that answers by the deadline. A connection on which anything
        went wrong is not used again.
        """
        if not self._lock.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise ExecutorError(f"OVSDB at {self._remote} is busy with earlier calls; none ended before the deadline")
        try:
            api = self._synced(deadline)
            if time.monotonic() >= deadline:
                # An answer that is there already is taken without a look at the clock.
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
            # The library keeps them for all connections of the process, and raises what it meets in them.
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
        """The backend's view of the connection; ovsdbapp keeps it on the class, where a second endpoint is ignored."""
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
        self._answered = self._note_echo()
        super().__init__(self, start=False)
        self._await(self._idl.has_ever_connected, deadline)

    @property
    def idl(self) -> Any:
        """The replica."""
        return self._idl

    def close(self) -> None:
        """Give the socket back."""
        self._idl.close()

    def sync(self, deadline: float) -> None:
        """Wait until the replica holds all that was committed before now. Raises Expired, ConnectionLost."""
        request = jsonrpc.Message.create_request("echo", [])
        if self._idl.send_request(request) is None:
            raise ConnectionLost
        self._await(lambda: request.id in self._answered, deadline, watch=True)
        self._answered.clear()

    def await_cfg(self, number: int, deadline: float) -> bool:
        """Wait until ovs-vswitchd has taken the configuration of this number; whether it did by the deadline."""
        try:
            self._await(lambda: self._ovs.cur_cfg >= number, deadline, watch=True)
        except (Expired, ConnectionLost):
            return False
        return True

    def commit(self, compose: Callable[[Any], None], deadline: float) -> tuple[str, int | None, str]:
        """One transaction, next_cfg incremented with it: its status, the new next_cfg, and what the server said.

        Raises Expired or ConnectionLost with the transaction sent and not answered (Expired.sent).
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

    def _note_echo(self) -> set[Any]:
        """Watch the answers that come in for those to our own echo; the Idl itself ignores what it did not ask."""
        session, answered = self._idl._session, set[Any]()
        receive = session.recv

        def noting() -> Any:
            message = receive()
            if message is not None and message.type == jsonrpc.Message.T_REPLY:
                answered.add(message.id)
            return message

        session.recv = noting
        return answered

    def _await(self, ready: Callable[[], bool], deadline: float, *, watch: bool = False, sent: bool = False) -> None:
        """Drive the Idl until something is so. watch: a connection that is lost meanwhile ends it too."""
        while True:
            self._idl.run()
            if ready():
                return
            if watch and not self._idl._session.is_connected():
                raise ConnectionLost
            left = deadline - time.monotonic()
            if left <= 0:
                raise Expired(sent=sent)
            block = poller.Poller()
            self._idl.wait(block)
            block.timer_wait(int(left * 1000) + 1)
            block.block()


def _fetch_schema(remote: str, deadline: float) -> Any:
    """The schema, over a connection of its own; ovsdbapp's own fetch waits for ever."""
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
            left = deadline - time.monotonic()
            if left <= 0:
                raise Expired
            block = poller.Poller()
            rpc.wait(block)
            rpc.recv_wait(block)
            block.timer_wait(int(left * 1000) + 1)
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
