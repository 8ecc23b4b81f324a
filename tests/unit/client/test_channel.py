"""Errors that the program raises in its own log handlers and signal handlers while it waits for the daemon."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import pytest

from hybridvif.engine.locks import holding
from hybridvif.privileged.channel import Channel, Message, NoResponse
from hybridvif.privileged.launch import Launch

LOG = logging.getLogger("program")
LINE = {"name": "daemon", "levelno": logging.WARNING, "levelname": "WARNING", "msg": "a line", "args": ()}
SOON = 20.0


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel, and the daemon's end of it."""
    near, daemon = socket.socketpair()
    with daemon:
        channel = Channel(near, LOG)
        yield channel, daemon
        channel.close()


def refuse(_record: logging.LogRecord) -> bool:
    raise RuntimeError("the program refuses this line")


class Refusing(logging.Handler):
    """A handler that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        refuse(record)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread after some seconds, as many programs do."""

    def expire(*_: object) -> None:
        raise TimeoutError("the time of the program is over")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def killed(helper: subprocess.Popen[str]) -> Iterator[None]:
    """Kill a helper at the end of the block."""
    try:
        yield
    finally:
        helper.kill()


@pytest.mark.parametrize("kind", ["filter", "handler"])
def test_raising_log_filter_or_handler_loses_no_response(
    ends: tuple[Channel, socket.socket], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each request failed with "cannot start the privileged daemon: it ended at once"."""
    (channel, daemon), handler = ends, Refusing()

    def answer() -> None:
        name, _ = msgpack.unpackb(daemon.recv(4096))
        line = msgpack.packb((None, (Message.LOG.value, LINE)))
        daemon.sendall(line + msgpack.packb((name, (Message.PONG.value,))))

    threading.Thread(target=answer).start()
    LOG.addFilter(refuse) if kind == "filter" else LOG.addHandler(handler)
    try:
        assert channel.send_recv((Message.PING.value,), SOON) == (Message.PONG.value,)
    finally:
        LOG.removeFilter(refuse)
        LOG.removeHandler(handler)
    assert "the program refuses this line" in capsys.readouterr().err


def test_timeout_of_the_program_ends_the_wait_for_a_response(ends: tuple[Channel, socket.socket]) -> None:
    """It was reported as a response that had not come by the deadline."""
    with alarm(0.3), pytest.raises(TimeoutError, match="the time of the program"):
        ends[0].send_recv((Message.PING.value,), SOON)


def test_late_response_is_no_timeout_of_the_program(ends: tuple[Channel, socket.socket]) -> None:
    with pytest.raises(NoResponse):
        ends[0].send_recv((Message.PING.value,), 0.2)


def test_timeout_of_the_program_ends_the_wait_for_a_start() -> None:
    silent = [sys.executable, "-c", "import time; time.sleep(600)"]
    with (
        alarm(0.3),
        pytest.raises(TimeoutError, match="the time of the program"),
        Launch(lambda _: silent) as started,
        killed(started.helper),
    ):
        started.accept(time.monotonic() + SOON)


def test_timeout_of_the_program_ends_the_wait_for_a_lock(tmp_path: Path) -> None:
    """It was reported as a lock directory that cannot be used."""
    path, key = str(tmp_path / "locks"), "5f2c0e1a-7b"
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        with holding([key], path, time.monotonic() + SOON):
            os.write(writing, b"held")
            signal.pause()
    try:
        os.read(reading, 4)
        with (
            alarm(0.3),
            pytest.raises(TimeoutError, match="the time of the program"),
            holding([key], path, time.monotonic() + SOON),
        ):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)
