"""A channel to the privileged daemon: it is started, greeted, asked and hung up on, each by a deadline.

What differs from oslo.privsep's own client: starting the daemon ends by a deadline and says why it failed; a caller is
answered when the daemon dies (oslo.privsep 3.12 leaves it waiting for ever where the reader thread meets ECONNRESET).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import selectors
import shlex
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import msgpack
from oslo_privsep import comm, daemon, priv_context
from oslo_utils import importutils, uuidutils

from hybridvif.errors import PreconditionError
from hybridvif.privileged import ahead

LOG = logging.getLogger(__name__)
START_DEADLINE = 30.0
_CHUNK = 256 * 1024
_NO_REPLY = (comm.Message.ERR.value, f"{comm.PrivsepTimeout.__module__}.{comm.PrivsepTimeout.__name__}", ())
_REMEDY = "run as root, or set [hybridvif_privileged] helper_command"
_LOG_PREFIX = re.compile(r"^[\d-]+ [\d:.]+ \d+ [A-Z]+ \S+( |$)(\[.*?\] )?")
"""Of oslo.log, by default: date, time, process, level, logger, context."""


class EndedAtOnce(PreconditionError):
    """The daemon ended before it greeted its caller."""


class Untaken(OSError):
    """A request did not reach the daemon whole, so nothing of it was begun."""


class Channel(daemon._ClientChannel):
    """A channel to a daemon that a helper command started."""

    def __init__(self, context: priv_context.PrivContext, deadline: float) -> None:
        with ahead.taken(context.helper_command) or ahead.Awaited() as awaited:
            helper, started = self._start(awaited, context, deadline)
        self._deadline = deadline
        self._sending = threading.Lock()
        self._dead = False
        try:
            super().__init__(started, context)
        except BaseException:
            # It does not answer.
            self.close()
            raise
        finally:
            # It has left the daemon behind, and is about to end, or has ended long ago.
            with contextlib.suppress(subprocess.TimeoutExpired):
                helper.wait(max(deadline - time.monotonic(), 0.1))

    def _start(
        self, awaited: ahead.Awaited, context: priv_context.PrivContext, deadline: float
    ) -> tuple[subprocess.Popen[str], socket.socket]:
        command, listener = awaited.command or context.helper_command(awaited.path), awaited.listener
        LOG.info("starting the privileged daemon: %s", shlex.join(command))
        try:
            helper = awaited.helper or awaited.start(command)
        except OSError as error:
            from shutil import which

            missing = which(command[0]) is None
            _fail(f"{command[0]!r} is not installed" if missing else str(error), command)
        said: deque[str] = deque(maxlen=20)
        threading.Thread(target=_listen, args=(helper.stdout, said), name="hybridvif-helper", daemon=True).start()
        try:
            # A daemon that has connected is not held up by the helper's end.
            code = 0 if _called(listener, helper, deadline) else helper.wait(max(deadline - time.monotonic(), 0.1))
            if code < 0:
                _fail(f"the helper ended with code {code}", command, EndedAtOnce)
            if code:
                time.sleep(0.05)
                _fail(_last_words(said) or f"the helper ended with code {code}", command)
            listener.settimeout(max(deadline - time.monotonic(), 0.1))
            channel, _ = listener.accept()
        except subprocess.TimeoutExpired:
            with contextlib.suppress(PermissionError, subprocess.TimeoutExpired):
                # sudo is root, and only gives up when it finds nobody to ask.
                helper.kill()
                helper.wait(1)
            _fail("the helper did not end by the deadline (does it ask for a password?)", command)
        except TimeoutError:
            _fail("it did not connect by the deadline", command)
        channel.settimeout(None)
        return helper, channel

    def exchange_ping(self) -> None:
        """Greet the daemon. Raises PreconditionError if it does not answer, EndedAtOnce if it hangs up."""
        try:
            reply = self.send_recv((comm.Message.PING.value,), max(self._deadline - time.monotonic(), 0.1))
        except OSError:
            reply = (None,)
        if reply is _NO_REPLY:
            raise PreconditionError(f"the privileged daemon was started and did not answer by the deadline; {_REMEDY}")
        if reply[0] != comm.Message.PONG:
            raise EndedAtOnce(
                f"the privileged daemon ended at once, probably because it could not keep CAP_NET_ADMIN; {_REMEDY}"
            )

    def _reader_main(self, reader: Any) -> None:
        try:
            super()._reader_main(_Answers(reader.readsock))
        except Exception as error:  # noqa: BLE001  # whatever ends the reader, its callers must be answered
            LOG.warning("the channel to the privileged daemon broke: %s", error)
        finally:
            # oslo.privsep does this at end of file only; after ECONNRESET or a broken frame the callers would hang.
            with self.lock:
                self.running, self._dead = False, True
                for waiting in self.outstanding_msgs.values():
                    waiting.set_exception(OSError("the privileged daemon has died"))

    def out_of_band(self, msg: Any) -> None:
        """Log a line of the daemon's, if anybody listens; else it is not even made a record of."""
        match msg:
            case (comm.Message.LOG, {"levelno": int(level)}) if not self.log.isEnabledFor(level):
                return
        super().out_of_band(msg)

    def send_recv(self, msg: Any, timeout: float | None = None) -> Any:
        """Send a request and wait for its reply; a daemon that takes nothing in holds nobody up.

        Raises Untaken where the daemon was dead before it had all of the request, OSError where it died with it.

        oslo.privsep sends under the lock that every caller needs, for as long as it takes.
        """
        with self._asking(msg, timeout) as reply:
            return reply()

    @contextlib.contextmanager
    def calling(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float
    ) -> Iterator[Callable[[], Any]]:
        """Call a function of the daemon; a function that waits for what it returns, or raises what it raised."""
        with self._asking((comm.Message.CALL.value, name, args, kwargs), timeout) as reply:
            yield lambda: _returned(reply())

    @contextlib.contextmanager
    def _asking(self, msg: Any, timeout: float | None) -> Iterator[Callable[[], Any]]:
        deadline = time.monotonic() + (START_DEADLINE if timeout is None else timeout)
        name, future = uuidutils.generate_uuid(), comm.Future(self.lock)
        frame = msgpack.packb((name, msg), use_bin_type=True, unicode_errors="surrogatepass")
        with self.lock:
            if self._dead:
                raise Untaken("it has hung up")
            self.outstanding_msgs[name] = future
        try:
            try:
                sent = self._send(frame, deadline)
            except OSError as error:
                # Before the reader has noticed; the next caller must not meet it as well.
                self.running = False
                raise Untaken(str(error)) from error
            yield lambda: self._reply_of(future, deadline) if sent else _NO_REPLY
        finally:
            with self.lock:
                del self.outstanding_msgs[name]

    def _reply_of(self, future: comm.Future, deadline: float) -> Any:
        with self.lock:
            if future.data is None and future.error is None:
                future.timeout = max(deadline - time.monotonic(), 0.001)
                return future.result()
        if future.error is not None:
            raise future.error
        return future.data

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


class _Answers(comm.Deserializer):
    """What the daemon sends, read in large pieces: oslo.privsep reads 4 KiB at a time, 300 times for 300 ports."""

    def __next__(self) -> Any:
        while True:
            try:
                return next(self.unpacker)
            except StopIteration:
                received = self.readsock.recv(_CHUNK)
                if not received:
                    raise
                self.unpacker.feed(received)


def _returned(reply: Any) -> Any:
    """What a reply says: the value that was returned, or the exception that was raised, which is raised here."""
    match reply:
        case (comm.Message.RET.value, value):
            return value
        case (comm.Message.ERR.value, str(kind), args, *_):
            raised = importutils.import_class(kind)
            # A daemon ends no caller: SystemExit is none of these.
            if isinstance(raised, type) and issubclass(raised, Exception):
                raise raised(*args)
    raise daemon.ProtocolError(f"Unexpected response: {str(reply)[:80]!r}")


def _called(listener: socket.socket, helper: subprocess.Popen[str], deadline: float) -> bool:
    """Whether the daemon connects before its helper ends, by the deadline."""
    ended = os.pidfd_open(helper.pid)
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


def _fail(why: str, command: list[str], error: type[PreconditionError] = PreconditionError) -> NoReturn:
    raise error(
        f"cannot start the privileged daemon: {why} (helper_command = {shlex.join(command[:3])} ...); {_REMEDY}; "
        "without root you can still look: hybridvif plan, hybridvif demo"
    )
