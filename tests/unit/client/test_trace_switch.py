"""trace: the files and responses of an ovs-vswitchd that runs as its own user, who may be captured."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hybridvif.client import filters, trace
from hybridvif.model.parts import OvsPort
from hybridvif.model.settings import Settings
from hybridvif.model.trace import SwitchView
from tests.support.strategies import WIRING, the

EVIDENCE: Any = SimpleNamespace(row=the(OvsPort, WIRING), fact=None, mac="")


def answer(directory: Path) -> tuple[SwitchView, list[str]]:
    notes: list[str] = []
    settings = Settings(ovsdb_connection=f"unix:{directory}/db.sock")
    return trace._switch(EVIDENCE, ("", ""), settings, notes), notes


@pytest.mark.parametrize("kind", ["fifo", "link", "large"])
def test_pid_file_of_another_kind_is_not_read(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "ovs-vswitchd.pid"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes(b"1" * 100)
    view, (note,) = answer(tmp_path)
    assert view == SwitchView()
    assert "ovs-vswitchd cannot be asked: it " in note


def test_bridge_that_the_switch_could_not_create_stops_packets(tmp_path: Path) -> None:
    (tmp_path / "ovs-vswitchd.pid").write_text("7\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "ovs-vswitchd.7.ctl"))
        listener.listen()

        def refuse() -> None:
            channel, _ = listener.accept()
            with channel:
                channel.recv(1000)
                channel.sendall(b'{"id": 0, "result": null, "error": "no such bridge\\n"}')

        server = threading.Thread(target=refuse)
        server.start()
        assert answer(tmp_path) == (SwitchView(failure="no-bridge"), [])
        server.join()


def test_endless_response_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "MAX_RESPONSE", 100_000)
    near, far = socket.socketpair()

    def send() -> None:
        with far, suppress(OSError):
            # If it were unread, closing would reset the connection.
            far.recv(1000)
            far.sendall(b"x" * 1_000_000)

    sender = threading.Thread(target=send)
    sender.start()
    with near, pytest.raises(ValueError, match="more than 100000 bytes"):
        filters.ask(near, "fdb/show")
    sender.join()


def test_deeply_nested_response_is_an_error() -> None:
    near, far = socket.socketpair()
    sender = threading.Thread(target=far.sendall, args=(b'{"a":' * 50_000 + b"}",))
    sender.start()
    with far, near, pytest.raises(ValueError, match="nested too deeply"):
        filters.ask(near, "version")
    sender.join()
