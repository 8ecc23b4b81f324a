"""A channel to the privileged daemon: it is started, greeted, asked and hung up on, each by a deadline.

It speaks oslo.privsep's protocol (messages.py). Unlike oslo.privsep's own client, starting the daemon ends by a
deadline and reports why it failed, and every caller is answered when the daemon dies.
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
from hybridvif.privileged.messages import UNPACKING, Message, packed

LOG = logging.getLogger(__name__)
START_DEADLINE = 30.0
_CHUNK = 256 * 1024
_MOST = 100 * 1024 * 1024
"""Bytes of one answer. The daemon is trusted, so this is no limit of a boundary."""
_REMEDY = "run as root, or set [hybridvif_privileged] helper_command"
_LOG_PREFIX = re.compile(r"^[\d-]+ [\d:.]+ \d+ [A-Z]+ \S+( |$)(\[.*?\] )?")
"""Of oslo.log, by default: date, time, process, level, logger, context."""


class EndedAtOnce(PreconditionError):
    """The daemon ended before it greeted its caller."""


class TimedOut(Exception):  # as Untaken
    """The daemon did not answer by the deadline."""


class Untaken(OSError):
    """A request did not reach the daemon whole, so nothing of it was begun."""


class ProtocolError(Exception):
    """The daemon sent something that is no answer."""


class _Waiting:
    """A request that waits for its answer."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._answer: Any = None
        self._error: OSError | None = None

    def end(self, answer: Any, error: OSError | None = None) -> None:
        """Hand over the answer, or why there is none."""
        self._answer, self._error = answer, error
        self._is_over.set()

    def result(self, deadline: float) -> Any:
        """The answer. Raises TimedOut, OSError where the daemon died."""
        if not self._is_over.wait(max(deadline - time.monotonic(), 0.001)):
            raise TimedOut
        if self._error is not None:
            raise self._error
        return self._answer


@dataclass(frozen=True, slots=True)
class Writer:
    """The writing end of a channel, under the name that oslo.privsep gives it."""

    writesock: socket.socket


class Channel:
    """A channel to a daemon that the helper command of a context started."""

    def __init__(self, context: Any, deadline: float) -> None:
        self.lock = threading.Lock()
        self._sending = threading.Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._dead = False
        self._said: deque[str] = deque(maxlen=20)
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
            # It does not answer.
            self.close()
            raise
        finally:
            # It has left the daemon behind, and is about to end, or has ended long ago.
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
        self._listening = threading.Thread(
            target=_listen, args=(helper.stdout, self._said), name="hybridvif-helper", daemon=True
        )
        self._listening.start()
        try:
            # A daemon that has connected is not held up by the helper's end.
            code = 0 if _called(listener, helper, deadline) else helper.wait(max(deadline - time.monotonic(), 0.1))
            if code < 0 and code != LOST:
                _fail(f"the helper ended with code {code}", command, EndedAtOnce)
            if code > 0:
                self._listening.join(0.05)
                _fail(_last_words(self._said) or f"the helper ended with code {code}", command)
            listener.settimeout(max(deadline - time.monotonic(), 0.1))
            channel, _ = listener.accept()
        except subprocess.TimeoutExpired:
            with contextlib.suppress(PermissionError, subprocess.TimeoutExpired):
                # sudo is root, and only gives up when it finds nobody to ask.
                helper.kill()
                helper.wait(1)
            _fail("the helper did not end by the deadline (does it ask for a password?)", command)
        except TimeoutError:
            lost = _last_words(self._said) if helper.poll() == LOST else ""
            _fail(lost or "it did not connect by the deadline", command)
        channel.settimeout(None)
        return helper, channel

    def _greet(self, helper: subprocess.Popen[str], command: Sequence[str], deadline: float) -> None:
        """Greet the daemon. Raises PreconditionError if it does not answer, EndedAtOnce if it hangs up."""
        try:
            answer = self.send_recv((Message.PING.value,), max(deadline - time.monotonic(), 0.1))
        except TimedOut as error:
            raise PreconditionError(
                f"the privileged daemon was started and did not answer by the deadline; {_REMEDY}"
            ) from error
        except OSError:
            answer = (None,)
        if answer[0] != Message.PONG:
            # Whoever cannot drop what it has ends before it leaves a daemon behind, and says why.
            with contextlib.suppress(subprocess.TimeoutExpired):
                helper.wait(max(min(deadline - time.monotonic(), 1.0), 0.1))
            if helper.returncode and helper.returncode > 0:
                self._listening.join(0.05)
                _fail(_last_words(self._said) or f"the helper ended with code {helper.returncode}", command)
            raise EndedAtOnce(f"the privileged daemon ended at once; {_REMEDY}")

    def _read(self, channel: socket.socket) -> None:
        try:
            for name, message in _messages(channel):
                if name is None:
                    self._log(message)
                    continue
                with self.lock:
                    waiting = self._waiting.get(name)
                if waiting is not None:
                    waiting.end(message)
        except ConnectionResetError:
            # It died with a request unread. What that came to is told by those who wait.
            LOG.info("the privileged daemon has hung up")
        except Exception as error:  # noqa: BLE001  # whatever ends the reader, its callers must be answered
            LOG.warning("the channel to the privileged daemon broke: %s", error)
        finally:
            with self.lock:
                self.running, self._dead = False, True
                for waiting in self._waiting.values():
                    waiting.end(None, OSError("the privileged daemon has died"))

    def _log(self, message: Any) -> None:
        """Log a line of the daemon's, if anybody listens; else it is not even made a record of."""
        match message:
            case (Message.LOG, {"levelno": int(level)} as line) if self.log.isEnabledFor(level):
                self.log.handle(logging.makeLogRecord(dict(line)))

    def send_recv(self, msg: Any, timeout: float | None = None) -> Any:
        """Send a request and wait for its reply; a daemon that takes nothing in holds nobody up.

        Raises TimedOut; Untaken where the daemon was dead before it had all of the request, OSError where it died with
        it.
        """
        with self._asking(msg, timeout) as reply:
            return reply()

    @contextlib.contextmanager
    def calling(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float
    ) -> Iterator[Callable[[], Any]]:
        """Call a function of the daemon; a function that waits for what it returns, or raises what it raised."""
        with self._asking((Message.CALL.value, name, args, kwargs), timeout) as reply:
            yield lambda: _returned(reply())

    def remote_call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float | None) -> Any:
        """Call a function of the daemon, and return what it returns, or raise what it raised."""
        return _returned(self.send_recv((Message.CALL.value, name, args, kwargs), timeout))

    @contextlib.contextmanager
    def _asking(self, msg: Any, timeout: float | None) -> Iterator[Callable[[], Any]]:
        deadline = time.monotonic() + (START_DEADLINE if timeout is None else timeout)
        name, waiting = str(uuid.uuid4()), _Waiting()
        frame = packed((name, msg))
        with self.lock:
            if self._dead:
                raise Untaken("it has hung up")
            self._waiting[name] = waiting
        try:
            try:
                sent = self._send(frame, deadline)
            except OSError as error:
                # Before the reader has noticed; the next caller must not meet it as well.
                self.running = False
                raise Untaken(str(error)) from error

            def reply() -> Any:
                if not sent:
                    raise TimedOut
                return waiting.result(deadline)

            yield reply
        finally:
            with self.lock:
                del self._waiting[name]

    def _send(self, frame: bytes, deadline: float) -> bool:
        """Whether the frame went out by the deadline."""
        if not self._sending.acquire(timeout=max(deadline - time.monotonic(), 0)):
            return False
        try:
            left = memoryview(frame)
            while left:
                try:
                    left = left[self.writer.writesock.send(left, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        if len(left) < len(frame):
                            # Half a frame: nothing that came after it would be understood.
                            self.writer.writesock.shutdown(socket.SHUT_RDWR)
                        return False
                    time.sleep(0.002)
            return True
        finally:
            self._sending.release()

    def close(self) -> None:
        """Hang up, also on a daemon that hangs; it ends with the channel."""
        with contextlib.suppress(OSError):
            # It raises where the daemon's death has shut it down already.
            self.writer.writesock.shutdown(socket.SHUT_RDWR)
        self.reader_thread.join()
        self.writer.writesock.close()


def _messages(channel: socket.socket) -> Iterator[Any]:
    """What the daemon sends, read in large pieces: oslo.privsep reads 4 KiB at a time, 300 times for 300 ports."""
    unpacker = msgpack.Unpacker(max_buffer_size=_MOST, **UNPACKING)
    while received := channel.recv(_CHUNK):
        unpacker.feed(received)
        yield from unpacker


def _returned(reply: Any) -> Any:
    """What a reply says: the value that was returned, or the exception that was raised, which is raised here."""
    match reply:
        case (Message.RET, value):
            return value
        case (Message.ERR, str(kind), args, *_):
            # A daemon ends no caller: SystemExit is none of these.
            raised = getattr(builtins, kind.removeprefix("builtins."), None)
            if isinstance(raised, type) and issubclass(raised, Exception):
                raise raised(*args)
    raise ProtocolError(f"Unexpected response: {str(reply)[:80]!r}")


def _called(listener: socket.socket, helper: subprocess.Popen[str], deadline: float) -> bool:
    """Whether the daemon connects before its helper ends, by the deadline."""
    try:
        ended = os.pidfd_open(helper.pid)
    except ProcessLookupError:
        # Its end was not waited for, since this process ignores SIGCHLD.
        return bool(select.select([listener], [], [], 0)[0])
    try:
        # Not poll(2) itself, which a program that runs on eventlet has not.
        with selectors.DefaultSelector() as either:
            either.register(listener, selectors.EVENT_READ)
            either.register(ended, selectors.EVENT_READ)
            ready = either.select(max(deadline - time.monotonic(), 0.1))
        return any(key.fileobj is listener for key, _ in ready)
    finally:
        os.close(ended)


def _listen(stream: Any, said: deque[str]) -> None:
    with stream:
        for line in stream:
            said.append(line.strip())
            LOG.info("privileged daemon: %s", line.rstrip())


def _last_words(said: Iterable[str]) -> str:
    """The last line that says something, without oslo.log's prefix; it ends a traceback with that prefix alone."""
    telling = [text for line in said if (text := _LOG_PREFIX.sub("", line).strip())]
    return telling[-1].rstrip(".") if telling else ""


def _fail(why: str, command: Sequence[str], error: type[PreconditionError] = PreconditionError) -> NoReturn:
    raise error(
        f"cannot start the privileged daemon: {why} (helper_command = {shlex.join(command[:3])} ...); {_REMEDY}; "
        "without root you can still look: hybridvif plan, hybridvif demo"
    )
