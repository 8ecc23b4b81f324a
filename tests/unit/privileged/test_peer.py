"""The helper connects to the socket of its caller only."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridvif.model.errors import PreconditionError
from hybridvif.privileged import helper

STRANGER = 54321


class Listener:
    """A socket on which this process listens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.socket.setblocking(False)

    def was_reached(self) -> bool:
        try:
            self.socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def private() -> Iterator[Path]:
    """A directory of mode 0700, short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="hybridvif-") as name:
        yield Path(name)


@pytest.fixture
def listener(private: Path) -> Iterator[Listener]:
    made = Listener(private / "privsep.sock")
    with made.socket:
        yield made


def as_root() -> None:
    if os.geteuid() != 0:
        # The gate runs this test as root too.
        pytest.skip("only root can give a file away")


def refused(path: Path | str, reason: str, caller: int | None = None) -> None:
    with pytest.raises(PreconditionError, match=f"^refused: --privsep_sock_path: .*{reason}"):
        helper.connect(str(path), caller)


@pytest.mark.parametrize("is_known", [True, False])
def test_socket_of_the_caller_is_used(listener: Listener, is_known: bool) -> None:
    with helper.connect(str(listener.path), os.getuid() if is_known else None) as channel:
        served, _ = listener.socket.accept()
        channel.sendall(b"greeting")
        assert served.recv(16) == b"greeting"
        served.close()


def test_link_to_a_socket_is_refused(private: Path, listener: Listener) -> None:
    """The listener would receive the log of the daemon."""
    (private / "link").symlink_to(listener.path)
    refused(private / "link", "it is not a socket")
    assert not listener.was_reached()


def test_link_to_a_directory_is_refused(private: Path, listener: Listener, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(private)
    refused(tmp_path / "link" / listener.path.name, "")
    assert not listener.was_reached()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_socket_in_a_shared_directory_is_refused(private: Path, listener: Listener, mode: int) -> None:
    private.chmod(mode)
    refused(listener.path, f"others may use its directory .mode {mode:04o}")
    assert not listener.was_reached()


def test_socket_of_root_is_refused_for_another_caller(listener: Listener) -> None:
    """A captured client can pass the path of a socket of root."""
    refused(listener.path, f"belongs to user {os.getuid()}, and the caller is user {STRANGER}", STRANGER)
    assert not listener.was_reached()


def test_socket_with_another_owner_than_its_directory_is_refused(private: Path, listener: Listener) -> None:
    as_root()
    os.chown(private, STRANGER, -1)
    refused(listener.path, f"it belongs to user 0, and its directory to user {STRANGER}", STRANGER)
    assert not listener.was_reached()


def test_socket_on_which_another_user_listens_is_refused(private: Path, listener: Listener) -> None:
    as_root()
    os.chown(private, STRANGER, -1)
    os.chown(listener.path, STRANGER, -1)
    refused(listener.path, f"user 0 listens on it, and it belongs to user {STRANGER}", STRANGER)
    with listener.socket.accept()[0] as served:
        assert served.recv(16) == b""


def test_path_without_a_listening_socket_is_refused(private: Path, listener: Listener) -> None:
    os.mkfifo(private / "fifo")
    (private / "file").touch()
    refused(private / "fifo", "it is not a socket")
    refused(private / "file", "it is not a socket")
    refused(private, "")
    refused(private / "absent", "No such file")
    refused("relative.sock", "it is not an absolute path")
    listener.socket.close()
    refused(listener.path, "Connection refused")


def test_refusal_leaves_no_descriptor_open(private: Path, listener: Listener) -> None:
    before = len(os.listdir("/proc/self/fd"))
    refused(listener.path, "", STRANGER)
    refused(private / "absent", "")
    assert len(os.listdir("/proc/self/fd")) == before


def test_caller_is_read_from_sudo_and_unknown_without_it() -> None:
    if os.getuid() == 0:
        assert helper.caller_of({"SUDO_UID": "1000"}) == 1000
        assert helper.caller_of({"PKEXEC_UID": "1000", "SUDO_UID": "x"}) == 1000
        assert helper.caller_of({}) is None
    else:
        assert helper.caller_of({"SUDO_UID": "0"}) == os.getuid()
