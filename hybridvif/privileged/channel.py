"""The messages between client and daemon, and the client's end of the channel.

The messages are msgpack, one after the other, as in oslo.privsep (oslo_privsep/comm.py). The daemon imports nothing of
oslo.privsep, so no version of it can weaken the daemon. A unit test compares the numbers with those of oslo.privsep.

The daemon does not trust its client. It finds the end of a message before it decodes the message, so it refuses a bad
one by its name and goes on with the next. The values of a message are counted while it is decoded, because an empty map
takes 1 byte in the message and 64 bytes in memory.

Unlike oslo.privsep's own client, this one ends all waits when the daemon dies.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import Future
from itertools import count
from typing import Any

import msgpack

from hybridvif.model.errors import HybridVifError, Refused

# -- messages ----------------------------------------------------------------------------------------------------------


UNPACKING = {"use_list": False, "raw": False, "strict_map_key": False, "unicode_errors": "surrogateescape"}
MAX_MESSAGE = 6 * 1024 * 1024
"""Largest size of a request in bytes. 2,000 plans to plug new ports have 1.7 MB, and to repair every part 5.2 MB."""
MAX_VALUES = 750_000
"""Largest number of values of a request, with lists and maps and their elements. The same plans have 712,000."""
VALUE_SIZE = 8
"""Size of a value in bytes, at least, for the bound of main.py: an empty map of 1 byte takes 64 in memory."""
MAX_BUFFER = 16 * 1024 * 1024
"""Largest size of a single text in bytes. A client that sends a longer one is disconnected."""
_NAME_BYTES = 64
"""The size of the beginning of a message that contains its name."""
_CHUNK = 64 * 1024
_LIMITS = {
    **UNPACKING,
    # Above the limits of codec.py, which returns better messages.
    "max_array_len": 2 * 16_384,
    "max_map_len": 256,
    "max_str_len": 4 * 65_536,
    "max_bin_len": 65_536,
    "max_ext_len": 0,
}
OBSERVE, APPLY, WATCH = (f"{__package__}.requests.{name}" for name in ("observe", "apply", "watch"))
"""The names of the three requests (requests.py)."""
CONTEXT = f"{__package__}.context.daemon_context"
"""The name of the client's context, which the arguments of the helper contain."""
Request = tuple[str, tuple[Any, ...]]
"""The name of a request, which its response repeats, and its content."""


@enum.unique
class Message(enum.IntEnum):
    """The kind of a message."""

    PING = 1
    PONG = 2
    CALL = 3
    RET = 4
    LOG = 6


def pack(message: Any) -> bytes:
    """Encode a message as msgpack. Raises TypeError, ValueError, OverflowError if msgpack cannot encode it."""
    encoded: bytes = msgpack.packb(message, use_bin_type=True, unicode_errors="surrogatepass")
    return encoded


def refusal(reason: str) -> tuple[Any, ...]:
    """Return the response to a request that is refused."""
    return Message.RET.value, ["failed", Refused.code, f"refused: {reason}"]


def requests_from(channel: socket.socket, answer: Callable[[Request], None]) -> Iterator[tuple[Request, int]]:
    """Yield the requests of a client with their costs, until EOF or until the next message cannot be found.

    The cost of a request is its size, or that of its values if they are many.
    answer: sends the refusal of a bad message. A message without a name is ignored.
    """
    splitter = msgpack.Unpacker(max_buffer_size=MAX_BUFFER)
    pending, start, end = bytearray(), 0, 0
    while received := channel.recv(_CHUNK):
        pending += received
        end += len(received)
        try:
            splitter.feed(received)
            while True:
                splitter.skip()
                size, start = splitter.tell() - start, splitter.tell()
                behind = len(pending) - (end - start)
                encoded, pending = bytes(pending[:behind]), pending[behind:]
                found = _decoded(encoded) if size <= MAX_MESSAGE else f"a message is larger than {MAX_MESSAGE} bytes"
                if not isinstance(found, str):
                    request, values = found
                    yield request, max(size, values * VALUE_SIZE)
                    # Not kept while the next message is read.
                    del found, request
                elif name := _name_of(encoded):
                    answer((name, refusal(found)))
        except msgpack.OutOfData:
            if len(pending) > MAX_MESSAGE:
                # Read to the end of the message without storing it.
                del pending[_NAME_BYTES:]
        except (ValueError, msgpack.UnpackException):
            # No msgpack, nested too deeply, or a text that is too long.
            return


def _decoded(encoded: bytes) -> tuple[Request, int] | str:
    """Return the request and the number of its values, or what is wrong with the message."""
    number = 0

    def counted(items: Sized) -> Sized:
        nonlocal number
        number += 1 + len(items) * (1 + isinstance(items, dict))
        if number > MAX_VALUES:
            raise Refused(f"a message has more than {MAX_VALUES} values")
        return items

    try:
        message = msgpack.unpackb(encoded, list_hook=counted, object_hook=counted, **_LIMITS)
    except Refused as error:
        return str(error)
    except Exception:  # noqa: BLE001  # many types: too long, a list as a key
        return "a message cannot be read"
    match message:
        # An extension type of msgpack is a subclass of tuple.
        case (str(), (int(), *_) as content) if type(message) is type(content) is tuple:
            return message, number
    return "a message is no request"


def _name_of(encoded: bytes) -> str:
    """Return the name of a message that begins like a request; empty for another."""
    head = msgpack.Unpacker(**_LIMITS)
    head.feed(encoded[:_NAME_BYTES])
    try:
        name = head.unpack() if head.read_array_header() else None
    except Exception:  # noqa: BLE001  # as in _decoded
        return ""
    return name if type(name) is str else ""


# -- the end of the client ---------------------------------------------------------------------------------------------


LOG = logging.getLogger(__name__)
_READ_SIZE = 256 * 1024
TIMER_SLACK = 0.05
"""Seconds by which a wait of Python may end too early."""
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

    def call(self, name: str, arguments: tuple[Any, ...], timeout: float) -> Any:
        """Send a request and return its result (requests.py). Raises NoResponse."""
        response = self.send_recv((Message.CALL.value, name, arguments, {}), timeout)
        match response:
            case (Message.RET, result):
                return result
        raise HybridVifError(f"the privileged daemon sent an invalid response: {str(response)[:80]!r}")

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
            if time.monotonic() < deadline - TIMER_SLACK:
                # Raised by a signal handler of the program.
                raise
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
        while received := self.connection.recv(_READ_SIZE):
            unpacker.feed(received)
            yield from unpacker

    def _log_line(self, message: Any) -> None:
        """Log a line of the daemon if its level is enabled.

        Its audit becomes `extra`, which the formatters of oslo.log write, and fields for a handler of journald.
        """
        match message:
            case (Message.LOG, {"levelno": int(level)} as line) if self.log.isEnabledFor(level):
                fields = {
                    f"HYBRIDVIF_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
                    for name, value in line.get("extra", {}).items()
                }
                record = logging.makeLogRecord({**line, **fields})
                try:
                    self.log.handle(record)
                except Exception:  # noqa: BLE001  # of a filter or handler of the program; the responses must go on
                    logging.Handler().handleError(record)

    def close(self) -> None:
        """Close the channel, even if the daemon hangs. The daemon exits."""
        with contextlib.suppress(OSError):
            # Raised if the daemon has died.
            self.connection.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self.connection.close()


def _died_before(reason: str) -> DiedBefore:
    return DiedBefore(f"the privileged daemon died before it received the request ({reason}); call again")
