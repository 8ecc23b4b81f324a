"""ovsdb.rpc: a connection is kept for the next call, and closed after an error."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridvif.executors.base import ExecutorError
from hybridvif.executors.ovsdb.rpc import Connection, Session
from hybridvif.model.settings import Settings

QUERY = {"op": "select", "table": "Bridge", "where": [], "columns": ["name"]}


class Server:
    """Responds to a transaction with the number of its connection."""

    def __init__(self, path: Path) -> None:
        self.remote = f"unix:{path}"
        self.methods: list[str] = []
        self.before = b""
        """Bytes inserted before the number of the connection."""
        self.answers = threading.Event()
        self.answers.set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection, len(self._open)), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        text = ""
        # A client may close its connection at any time.
        with contextlib.suppress(OSError):
            while received := connection.recv(1 << 16):
                text += received.decode()
                while text:
                    message, end = json.JSONDecoder().raw_decode(text)
                    text = text[end:]
                    self.methods.append(message["method"])
                    self.answers.wait()
                    answer = json.dumps(
                        {"id": message["id"], "result": [{"connection": number}], "error": None}
                    ).encode()
                    connection.sendall(answer.replace(b'"connection"', self.before + b'"connection"'))

    def hang_up(self) -> None:
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.answers.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.hang_up()
        for thread in self._threads[1:]:
            thread.join()
        for open_socket in (self._listener, *self._open):
            open_socket.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "db.sock")
    yield made
    made.close()


@pytest.fixture
def session(server: Server) -> Iterator[Session]:
    made = Session(Settings(ovsdb_connection=server.remote), Connection, 8)
    yield made
    server.close()
    # The session finds its kept connections lost and closes the sockets.
    with contextlib.suppress(ExecutorError):
        number_of(made)


def number_of(session: Session, seconds: float = 5.0) -> int:
    """Return the number of the server's connection on which a call was answered."""
    with session.query([QUERY], time.monotonic() + seconds) as (_, responses):
        number: int = responses[0]["connection"]
        return number


def ask_too_late(session: Session, server: Server) -> None:
    """Make a call whose second query is not answered in time."""
    with session.query([QUERY], time.monotonic() + 5) as (connection, _):
        server.answers.clear()
        connection.transact([QUERY], time.monotonic() + 0.05)


def test_connection_is_kept_for_the_next_call(server: Server, session: Session) -> None:
    assert [number_of(session) for _ in range(3)] == [1, 1, 1]
    assert server.methods == ["transact"] * 3


def test_lost_connection_is_replaced(server: Server, session: Session) -> None:
    number_of(session)
    server.hang_up()
    assert number_of(session) == 2


def test_connection_with_failed_call_is_not_reused(server: Server, session: Session) -> None:
    with pytest.raises(ExecutorError):
        ask_too_late(session, server)
    server.answers.set()
    assert number_of(session) == 2


def test_hung_server_is_reported_by_the_deadline(server: Server, session: Session) -> None:
    number_of(session)
    server.answers.clear()
    with pytest.raises(ExecutorError, match="does not answer; nothing was sent"):
        number_of(session, 0.2)
    server.answers.set()
    assert number_of(session) == 2


@pytest.mark.parametrize(
    "text", [b"\xff", b"\x1b[31m\x01", b"\xe2\x80\xa8", b"\\ud800", b"\xed\xa0\x80", b"}\n{", b"\x00"]
)
def test_response_with_any_text_is_read(server: Server, session: Session, text: bytes) -> None:
    server.before = b'"name": "a' + text + b'b", '
    assert number_of(session) == 1
    assert number_of(session) == 1
