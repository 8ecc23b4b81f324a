"""A proxy in front of ovsdb-server. It passes everything on, and checks each writing transaction by the oracle."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

from hybridvif.executors.ovsdb.rpc import Connection
from hybridvif.executors.side_effects import qos_id_of
from hybridvif.model.names import is_trunk_bridge, key_of
from hybridvif.model.settings import Settings
from hybridvif.testing.sandbox.box import Sandbox
from tests.support.transaction_oracle import Known, objection_to

COLUMNS = {"Interface": ["name"], "Port": ["name"], "QoS": ["external_ids"], "Bridge": ["name"]}
PATIENCE = 10.0


class OvsdbProxy:
    """One socket for the executor under test. `objections` has the messages of the oracle."""

    def __init__(self, server: Path, path: Path, settings: Settings) -> None:
        self._server, self._settings = server, settings
        self.remote = f"unix:{path}"
        self.judged = 0
        """Number of writing transactions so far."""
        self.objections: list[str] = []
        self._selector = selectors.DefaultSelector()
        self._other_end: dict[socket.socket, socket.socket] = {}
        self._from_clients: dict[socket.socket, bytes] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        # The daemon may have become another user.
        path.chmod(0o666)
        self._listener.listen(64)
        self._stopped, self._stop = socket.socketpair()
        for channel in (self._listener, self._stopped):
            self._selector.register(channel, selectors.EVENT_READ)
        self._thread = Thread(target=self._serve, name="ovsdb-proxy")
        self._thread.start()

    def close(self) -> None:
        """Close every connection, and wait for the thread to end."""
        self._stop.close()
        self._thread.join()

    def __enter__(self) -> OvsdbProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                channel = key.fileobj
                assert isinstance(channel, socket.socket)
                if channel is self._stopped:
                    for opened in (*self._other_end, self._listener, self._stopped):
                        opened.close()
                    self._selector.close()
                    return
                if channel is self._listener:
                    self._accept()
                elif channel in self._other_end:
                    self._pass_on(channel)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(str(self._server))
        except OSError:
            client.close()
            server.close()
            return
        self._from_clients[client] = b""
        self._other_end |= {client: server, server: client}
        for channel in (client, server):
            self._selector.register(channel, selectors.EVENT_READ)

    def _pass_on(self, channel: socket.socket) -> None:
        try:
            received = channel.recv(1 << 18)
            if received and channel in self._from_clients:
                self._judge(channel, received)
            if received:
                self._other_end[channel].sendall(received)
        except OSError:
            received = b""
        if not received:
            for end in (channel, self._other_end.pop(channel)):
                self._other_end.pop(end, None)
                self._from_clients.pop(end, None)
                self._selector.unregister(end)
                end.close()

    def _judge(self, client: socket.socket, received: bytes) -> None:
        """Judge the messages that these bytes complete, before the bytes are passed on."""
        text = self._from_clients[client] + received
        while text:
            try:
                message, end = json.JSONDecoder().raw_decode(text.decode())
            except ValueError:
                break
            text = text.decode()[end:].encode()
            if message.get("method") == "transact":
                operations = message["params"][1:]
                if any(operation["op"] not in ("select", "wait") for operation in operations):
                    self._judge_transaction(operations)
        self._from_clients[client] = text

    def _judge_transaction(self, operations: list[Any]) -> None:
        objection = objection_to(operations, self._known(operations))
        self.judged += 1
        if objection:
            self.objections.append(f"{objection}: {operations}")

    def _known(self, operations: list[Any]) -> Known:
        """Read the rows of our ports from the server itself."""
        deadline = time.monotonic() + PATIENCE
        select = [
            {"op": "select", "table": table, "where": [], "columns": ["_uuid", *columns]}
            for table, columns in COLUMNS.items()
        ]
        with contextlib.closing(Connection(Settings(ovsdb_connection=f"unix:{self._server}"), deadline)) as connection:
            answers = connection.transact(select, deadline)
        rows = {table: answer["rows"] for table, answer in zip(COLUMNS, answers, strict=True)}
        names = {table: {row["_uuid"][1]: row.get("name", "") for row in found} for table, found in rows.items()}
        ours = {table: [uuid for uuid, name in names[table].items() if key_of(name)] for table in ("Interface", "Port")}
        inserted = {operation["row"].get("name", "") for operation in operations if operation["op"] == "insert"}
        qos_ids = {qos_id_of(name) for name in (*names["Port"].values(), *inserted)}
        ours["QoS"] = [row["_uuid"][1] for row in rows["QoS"] if dict(row["external_ids"][1]).get("id") in qos_ids]
        ours["Bridge"] = [uuid for uuid, name in names["Bridge"].items() if is_trunk_bridge(name)]
        settings = self._settings
        return Known(settings.allows, ours, settings.creates, names["Interface"], settings.vhost_socket_dir)


@contextlib.contextmanager
def judged(box: Sandbox, directory: Path, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield options that connect an executor of OVSDB through a proxy. At the end there must be no objection."""
    settings = {name: value for name, value in options.items() if name in Settings.__dataclass_fields__}
    if settings.get("switch_executor", "ovsdb") not in ("ovsdb", "ovsdbapp"):
        yield dict(options)
        return
    for name in ("integration_bridges", "create_bridges"):
        if isinstance(settings.get(name), str):
            settings[name] = tuple(settings[name].split(","))
    server = box.run_dir / "openvswitch" / "db.sock"
    with OvsdbProxy(server, directory / "ovsdb.sock", Settings(**settings)) as proxy:
        yield {**options, "ovsdb_connection": proxy.remote}
    assert not proxy.objections, proxy.objections
