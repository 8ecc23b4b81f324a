"""A transaction that ovsdb-server does not answer: an honest outcome, and a connection that is not used again."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hybridvif import Create, Port, Result, desired_state
from hybridvif.executors.base import ExecutorError
from hybridvif.executors.ovsdb.executor import OvsdbExecutor
from hybridvif.executors.vsctl import VsctlExecutor
from hybridvif.model.settings import Settings
from tests.support.answers import PORT

ROWS = {
    "Bridge": [{"name": "br-int", "datapath_type": "netdev", "ports": ["set", []]}],
    "Open_vSwitch": [{"ovs_version": "3.1.0", "next_cfg": 1, "cur_cfg": 1}],
}


class Server:
    """Answers queries. It closes the connection, or says nothing, when it gets a change."""

    def __init__(self, path: Path, *, closes: bool) -> None:
        self.connections = 0
        self._closes = closes
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        text = ""
        with suppress(OSError):
            while received := connection.recv(1 << 16):
                text += received.decode()
                while text:
                    message, end = json.JSONDecoder().raw_decode(text)
                    text = text[end:]
                    operations: list[dict[str, Any]] = message["params"][1:]
                    if all(operation["op"] == "select" for operation in operations):
                        results = [{"rows": ROWS.get(operation["table"], [])} for operation in operations]
                        answer = {"id": message["id"], "result": results, "error": None}
                        connection.sendall(json.dumps(answer).encode())
                    elif self._closes:
                        connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for opened in (self._listener, *self._open):
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for opened in (self._listener, *self._open):
            opened.close()


@pytest.fixture(params=[False, True], ids=["silent", "closing"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    made = Server(tmp_path / "db.sock", closes=request.param)
    yield made
    made.close()


def creation_of(port: Port) -> Create:
    return Create(desired_state(port).ports[port.names.switch_end])


def settings_of(directory: Path) -> Settings:
    program = directory / "ovs-vsctl"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    return Settings(ovsdb_connection=f"unix:{directory}/db.sock", program_path=f"{directory}:/usr/bin:/bin")


def drop_connections(server: Server, executor: OvsdbExecutor) -> None:
    """Let the executor find its kept connections lost, and close them."""
    server.close()
    with suppress(ExecutorError):
        executor.observe(set(PORT.names), time.monotonic() + 5)


def test_connection_of_an_unanswered_transaction_is_not_used_again(server: Server, tmp_path: Path) -> None:
    executor = OvsdbExecutor(settings_of(tmp_path))
    (outcome,) = executor.apply([creation_of(PORT)], time.monotonic() + 1)
    assert outcome.result is Result.UNKNOWN
    assert server.connections == 1
    executor.observe(set(PORT.names), time.monotonic() + 5)
    assert server.connections == 2
    drop_connections(server, executor)


def test_change_that_ovs_vsctl_has_committed_is_configured(server: Server, tmp_path: Path) -> None:
    """The server answers no more, after the program has ended with 0."""
    executor = VsctlExecutor(settings_of(tmp_path))
    (outcome,) = executor.apply([creation_of(PORT)], time.monotonic() + 1)
    assert outcome.result is Result.CONFIGURED
    drop_connections(server, executor)
