"""The client's end of the channel to the privileged daemon: send a request, wait for its response by a deadline.

The channel uses oslo.privsep's messages (messages.py). Unlike oslo.privsep's own client, it ends all waits when the
daemon dies.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from itertools import count
from typing import Any

import msgpack

from hybridvif.model.errors import HybridVifError
from hybridvif.privileged.messages import UNPACKING, Message, pack

LOG = logging.getLogger(__name__)
_CHUNK = 256 * 1024
_MAX_RESPONSE = 100 * 1024 * 1024
"""Largest size of a response in bytes. It is not a security limit, because the daemon is trusted."""


class NoResponse(HybridVifError):
    """No response: the daemon died or timed out. The request may have taken effect."""

    code = "no-answer"


class RequestNotSent(NoResponse):
    """The daemon did not receive the request, so nothing was changed."""


class Died(NoResponse):
    """The daemon died before it responded."""


class DiedBefore(Died, RequestNotSent):
    """The daemon died before it received the whole request."""


class Channel:
    """A connection to a daemon. Thread-safe."""

    def __init__(self, connection: socket.socket, log: logging.Logger) -> None:
        self.connection, self.log = connection, log
        self.running = True
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._names = count()
        self._pending: dict[str, Future[Any]] = {}
        self._reader = threading.Thread(target=self._read, name="hybridvif-reader", daemon=True)
        self._reader.start()

    def remote_call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float) -> Any:
        """Call a function of the daemon and return its result. Raises NoResponse, or the error in the response."""
        return _result_of(self.send_recv((Message.CALL.value, name, args, kwargs), timeout))

    def send_recv(self, message: Any, timeout: float) -> Any:
        """Send a message and return its response. Raises NoResponse."""
        deadline = time.monotonic() + timeout
        name = str(next(self._names))
        response: Future[Any] = Future()
        encoded = pack((name, message))
        with self._lock:
            if not self.running:
                raise _died_before("it has hung up")
            self._pending[name] = response
        try:
            self._send(encoded, deadline)
            return response.result(max(deadline - time.monotonic(), 0.001))
        except TimeoutError as error:
            raise NoResponse("the privileged daemon did not answer by the deadline") from error
        finally:
            with self._lock:
                self._pending.pop(name, None)

    def _send(self, encoded: bytes, deadline: float) -> None:
        """Send a message. A daemon that does not read cannot block the caller. Raises TimeoutError, DiedBefore."""
        if not self._sending.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise TimeoutError
        unsent = memoryview(encoded)
        try:
            while unsent:
                try:
                    unsent = unsent[self.connection.send(unsent, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        if len(unsent) < len(encoded):
                            # After a part of a message the daemon could not decode the next one.
                            self.connection.shutdown(socket.SHUT_RDWR)
                        raise TimeoutError from None
                    time.sleep(0.002)
        except TimeoutError:
            raise
        except OSError as error:
            # The reader may not have noticed yet, and the next caller must start another daemon.
            self.running = False
            raise _died_before(str(error)) from error
        finally:
            self._sending.release()

    def _read(self) -> None:
        try:
            for name, message in self._messages():
                if name is None:
                    self._log_line(message)
                    continue
                with self._lock:
                    response = self._pending.pop(name, None)
                if response is not None:
                    response.set_result(message)
        except ConnectionResetError:
            # The daemon died with an unread request. The waiting callers report it.
            LOG.info("the privileged daemon has hung up")
        except Exception as error:  # noqa: BLE001  # whatever ends the reader, no caller may wait forever
            LOG.warning("the channel to the privileged daemon broke: %s", error)
        finally:
            with self._lock:
                self.running = False
                for response in self._pending.values():
                    response.set_exception(Died("the privileged daemon died before it answered; call again"))
                self._pending.clear()

    def _messages(self) -> Iterator[Any]:
        # Large reads are faster than oslo.privsep's reads of 4 KiB.
        unpacker = msgpack.Unpacker(max_buffer_size=_MAX_RESPONSE, **UNPACKING)
        while received := self.connection.recv(_CHUNK):
            unpacker.feed(received)
            yield from unpacker

    def _log_line(self, message: Any) -> None:
        """Log a line of the daemon if its level is enabled."""
        match message:
            case (Message.LOG, {"levelno": int(level)} as line) if self.log.isEnabledFor(level):
                self.log.handle(logging.makeLogRecord(dict(line)))

    def close(self) -> None:
        """Close the channel, even if the daemon hangs. The daemon exits."""
        with contextlib.suppress(OSError):
            # Raised if the daemon has died.
            self.connection.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self.connection.close()


def _died_before(reason: str) -> DiedBefore:
    return DiedBefore(f"the privileged daemon died before it received the request ({reason}); call again")


def _result_of(response: Any) -> Any:
    """Return the value in a response, or raise its exception."""
    match response:
        case (Message.RET, value):
            return value
        case (Message.ERR, str(kind), args, *_):
            # Not SystemExit: the daemon must not end its client.
            raised = getattr(builtins, kind.removeprefix("builtins."), None)
            if isinstance(raised, type) and issubclass(raised, Exception):
                raise raised(*args)
    raise HybridVifError(f"the privileged daemon sent an invalid response: {str(response)[:80]!r}")
