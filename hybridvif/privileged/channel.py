"""The client's end of the channel to the privileged daemon. Every wait ends by a deadline.

The channel uses oslo.privsep's protocol (messages.py). Unlike oslo.privsep's own client, it reports why the daemon
cannot start, and ends all waits when the daemon dies.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import re
import select
import selectors
import shlex
import socket
import subprocess
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import msgpack

from hybridvif.children import LOST
from hybridvif.model.errors import PreconditionError
from hybridvif.privileged import ahead
from hybridvif.privileged.messages import UNPACKING, Message, pack

LOG = logging.getLogger(__name__)
START_DEADLINE = 30.0
_CHUNK = 256 * 1024
_MAX_RESPONSE = 100 * 1024 * 1024
"""Largest size of a response in bytes. It is not a security limit, because the daemon is trusted."""
_REMEDY = "run as root, or set [hybridvif_privileged] helper_command"
_LOG_PREFIX = re.compile(r"^[\d-]+ [\d:.]+ \d+ [A-Z]+ \S+( |$)(\[.*?\] )?")
"""The default prefix of oslo.log: date, time, process, level, logger, context."""


class EndedAtOnce(PreconditionError):
    """The daemon exited before its first message."""


class TimedOut(Exception):  # as Untaken
    """The daemon did not respond by the deadline."""


class Untaken(OSError):
    """A request did not reach the daemon completely, so nothing was executed."""


class ProtocolError(Exception):
    """The daemon sent an invalid response."""


class _PendingRequest:
    """A request that waits for its response."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._response: Any = None
        self._error: OSError | None = None

    def end(self, response: Any, error: OSError | None = None) -> None:
        """Store the response, or the error in its place."""
        self._response, self._error = response, error
        self._is_over.set()

    def result(self, deadline: float) -> Any:
        """Wait for the response and return it. Raises TimedOut; OSError if the daemon died."""
        if not self._is_over.wait(max(deadline - time.monotonic(), 0.001)):
            raise TimedOut
        if self._error is not None:
            raise self._error
        return self._response


@dataclass(frozen=True, slots=True)
class Writer:
    """The writing end of a channel, under oslo.privsep's name for it."""

    writesock: socket.socket


class Channel:
    """The channel to a daemon that the helper command of a context starts."""

    def __init__(self, context: Any, deadline: float) -> None:
        self.lock = threading.Lock()
        self._sending = threading.Lock()
        self._pending: dict[str, _PendingRequest] = {}
        self._dead = False
        self._output: deque[str] = deque(maxlen=20)
        with ahead.taken(context.helper_command) or ahead.Awaited() as awaited:
            helper, started = self._start(awaited, context.helper_command, deadline)
        self.log = logging.getLogger(context.conf.logger_name)
        self.writer = Writer(started)
        self.running = True
        self.reader_thread = threading.Thread(target=self._read, args=(started,), name="hybridvif-reader", daemon=True)
        self.reader_thread.start()
        try:
            self._greet(helper, awaited.command, deadline)
        except BaseException:
            self.close()
            raise
        finally:
            # The helper exits as soon as the daemon runs.
            with contextlib.suppress(subprocess.TimeoutExpired):
                helper.wait(max(deadline - time.monotonic(), 0.1))

    def _start(
        self, awaited: ahead.Awaited, command_of: Callable[[str], list[str]], deadline: float
    ) -> tuple[subprocess.Popen[str], socket.socket]:
        try:
            command, listener = awaited.command or command_of(awaited.path), awaited.listener
        except OSError as error:
            _fail(f"a configuration file has a relative path, and the working directory is gone ({error})", [])
        LOG.info("starting the privileged daemon: %s", shlex.join(command))
        try:
            helper = awaited.helper or awaited.start(command)
        except OSError as error:
            from shutil import which

            missing = which(command[0]) is None
            _fail(f"{command[0]!r} is not installed" if missing else str(error), command)
        self._output_thread = threading.Thread(
            target=_collect_output, args=(helper.stdout, self._output), name="hybridvif-helper", daemon=True
        )
        self._output_thread.start()
        try:
            # A daemon that has connected need not wait for the helper to exit.
            code = (
                0 if _has_connected(listener, helper, deadline) else helper.wait(max(deadline - time.monotonic(), 0.1))
            )
            if code < 0 and code != LOST:
                _fail(f"the helper ended with code {code}", command, EndedAtOnce)
            if code > 0:
                self._output_thread.join(0.05)
                _fail(_last_line(self._output) or f"the helper ended with code {code}", command)
            listener.settimeout(max(deadline - time.monotonic(), 0.1))
            channel, _ = listener.accept()
        except subprocess.TimeoutExpired:
            with contextlib.suppress(PermissionError, subprocess.TimeoutExpired):
                # sudo runs as root, so an ordinary user cannot kill it.
                helper.kill()
                helper.wait(1)
            _fail("the helper did not end by the deadline (does it ask for a password?)", command)
        except TimeoutError:
            reason = _last_line(self._output) if helper.poll() == LOST else ""
            _fail(reason or "it did not connect by the deadline", command)
        channel.settimeout(None)
        return helper, channel

    def _greet(self, helper: subprocess.Popen[str], command: Sequence[str], deadline: float) -> None:
        """Ping the daemon. Raises PreconditionError if it does not respond, EndedAtOnce if it disconnects."""
        try:
            response = self.send_recv((Message.PING.value,), max(deadline - time.monotonic(), 0.1))
        except TimedOut as error:
            raise PreconditionError(
                f"the privileged daemon was started and did not answer by the deadline; {_REMEDY}"
            ) from error
        except OSError:
            response = (None,)
        if response[0] != Message.PONG:
            # A helper that cannot drop its privileges prints the reason and exits.
            with contextlib.suppress(subprocess.TimeoutExpired):
                helper.wait(max(min(deadline - time.monotonic(), 1.0), 0.1))
            if helper.returncode and helper.returncode > 0:
                self._output_thread.join(0.05)
                _fail(_last_line(self._output) or f"the helper ended with code {helper.returncode}", command)
            raise EndedAtOnce(f"the privileged daemon ended at once; {_REMEDY}")

    def _read(self, channel: socket.socket) -> None:
        try:
            for name, message in _messages(channel):
                if name is None:
                    self._log(message)
                    continue
                with self.lock:
                    request = self._pending.get(name)
                if request is not None:
                    request.end(message)
        except ConnectionResetError:
            # The daemon died with an unread request. The waiting callers report it.
            LOG.info("the privileged daemon has hung up")
        except Exception as error:  # noqa: BLE001  # whatever ends the reader, no caller may wait forever
            LOG.warning("the channel to the privileged daemon broke: %s", error)
        finally:
            with self.lock:
                self.running, self._dead = False, True
                for request in self._pending.values():
                    request.end(None, OSError("the privileged daemon has died"))

    def _log(self, message: Any) -> None:
        """Log a line of the daemon if its level is enabled."""
        match message:
            case (Message.LOG, {"levelno": int(level)} as line) if self.log.isEnabledFor(level):
                self.log.handle(logging.makeLogRecord(dict(line)))

    def send_recv(self, msg: Any, timeout: float | None = None) -> Any:
        """Send a request and wait for its response. A daemon that does not read cannot block the caller.

        Raises TimedOut; Untaken if the daemon died before it received the whole request; OSError if it died later.
        """
        with self._request(msg, timeout) as reply:
            return reply()

    @contextlib.contextmanager
    def calling(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float
    ) -> Iterator[Callable[[], Any]]:
        """Call a function of the daemon, and yield a function that waits for its result or raises its error."""
        with self._request((Message.CALL.value, name, args, kwargs), timeout) as reply:
            yield lambda: _result_of(reply())

    def remote_call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float | None) -> Any:
        """Call a function of the daemon, and return its result or raise its error."""
        return _result_of(self.send_recv((Message.CALL.value, name, args, kwargs), timeout))

    @contextlib.contextmanager
    def _request(self, msg: Any, timeout: float | None) -> Iterator[Callable[[], Any]]:
        deadline = time.monotonic() + (START_DEADLINE if timeout is None else timeout)
        name, request = str(uuid.uuid4()), _PendingRequest()
        frame = pack((name, msg))
        with self.lock:
            if self._dead:
                raise Untaken("it has hung up")
            self._pending[name] = request
        try:
            try:
                sent = self._send(frame, deadline)
            except OSError as error:
                # The reader may not have noticed yet, and the next caller must start another daemon.
                self.running = False
                raise Untaken(str(error)) from error

            def reply() -> Any:
                if not sent:
                    raise TimedOut
                return request.result(deadline)

            yield reply
        finally:
            with self.lock:
                del self._pending[name]

    def _send(self, frame: bytes, deadline: float) -> bool:
        """Send a frame, and return whether that was possible by the deadline."""
        if not self._sending.acquire(timeout=max(deadline - time.monotonic(), 0)):
            return False
        try:
            unsent = memoryview(frame)
            while unsent:
                try:
                    unsent = unsent[self.writer.writesock.send(unsent, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        if len(unsent) < len(frame):
                            # After a part of a frame the daemon could not decode the next one.
                            self.writer.writesock.shutdown(socket.SHUT_RDWR)
                        return False
                    time.sleep(0.002)
            return True
        finally:
            self._sending.release()

    def close(self) -> None:
        """Close the channel, even if the daemon hangs. The daemon exits."""
        with contextlib.suppress(OSError):
            # Raised if the daemon has died.
            self.writer.writesock.shutdown(socket.SHUT_RDWR)
        self.reader_thread.join()
        self.writer.writesock.close()


def _messages(channel: socket.socket) -> Iterator[Any]:
    """Yield the messages of the daemon. Large reads are faster than oslo.privsep's reads of 4 KiB."""
    unpacker = msgpack.Unpacker(max_buffer_size=_MAX_RESPONSE, **UNPACKING)
    while received := channel.recv(_CHUNK):
        unpacker.feed(received)
        yield from unpacker


def _result_of(reply: Any) -> Any:
    """Return the value in a reply, or raise its exception. Raises ProtocolError for another reply."""
    match reply:
        case (Message.RET, value):
            return value
        case (Message.ERR, str(kind), args, *_):
            # Not SystemExit: the daemon must not end its client.
            raised = getattr(builtins, kind.removeprefix("builtins."), None)
            if isinstance(raised, type) and issubclass(raised, Exception):
                raise raised(*args)
    raise ProtocolError(f"Unexpected response: {str(reply)[:80]!r}")


def _has_connected(listener: socket.socket, helper: subprocess.Popen[str], deadline: float) -> bool:
    """Return whether the daemon connects by the deadline and before its helper exits."""
    try:
        helper_exit = os.pidfd_open(helper.pid)
    except ProcessLookupError:
        # This process ignores SIGCHLD, so the kernel has reaped the helper.
        return bool(select.select([listener], [], [], 0)[0])
    try:
        # Not poll(2) itself, which is not available under eventlet.
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(helper_exit, selectors.EVENT_READ)
            ready = selector.select(max(deadline - time.monotonic(), 0.1))
        return any(key.fileobj is listener for key, _ in ready)
    finally:
        os.close(helper_exit)


def _collect_output(stream: Any, output: deque[str]) -> None:
    with stream:
        for line in stream:
            output.append(line.strip())
            LOG.info("privileged daemon: %s", line.rstrip())


def _last_line(output: Iterable[str]) -> str:
    """Return the last line that contains more than oslo.log's prefix, without the prefix."""
    lines = [text for line in output if (text := _LOG_PREFIX.sub("", line).strip())]
    return lines[-1].rstrip(".") if lines else ""


def _fail(reason: str, command: Sequence[str], error: type[PreconditionError] = PreconditionError) -> NoReturn:
    raise error(
        f"cannot start the privileged daemon: {reason} (helper_command = {shlex.join(command[:3])} ...); {_REMEDY}; "
        "without root you can still look: hybridvif plan, hybridvif demo"
    )
