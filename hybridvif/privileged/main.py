"""Start the privileged daemon, serve one client, and exit with it.

Replaces oslo.privsep's privsep-helper, of which nothing runs here. A user who may run privsep-helper as root with any
arguments has root: --privsep_context names code to import, and oslo.log's options name code to run. Here only the
configuration files can be chosen. The daemon reads [hybridvif], [hybridvif_privileged], and the options of [os_vif_ovs]
that [hybridvif] refers to. It logs to its client only.
"""

from __future__ import annotations

import contextlib
import gc
import glob
import logging
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from hybridvif.engine import config
from hybridvif.model.errors import HybridVifError, PreconditionError
from hybridvif.model.parts import Role
from hybridvif.privileged import execute, helper, privileges
from hybridvif.privileged.channel import CONTEXT, WATCH, Message, Request, pack, requests_from
from hybridvif.privileged.requests import MAX_WATCHERS, respond

LOG = logging.getLogger(__name__)
_ONCE = frozenset({"--privsep_context", "--privsep_sock_path"})
_FILES = frozenset({"--config-file", "--config-dir"})
_OPTIONS = _ONCE | _FILES
GARBAGE = 20_000
"""The growth in the number of objects after which the garbage collector runs."""


def start(arguments: Sequence[str], caller: int | None) -> NoReturn:
    """Start the daemon and exit; the daemon keeps running. Print one sentence to stderr and exit if it cannot start.

    caller: the user who started the helper, if known (helper.py).
    """
    try:
        given = options_of(arguments)
        os.chdir("/")
        options = config.read_own([word for option, value in given if option in _FILES for word in (option, value)])
        # An error in [hybridvif] is reported in the response to a request.
        execute.keep(lambda: config.settings_of(options))
        channel = helper.connect(dict(given)["--privsep_sock_path"], caller)
        sender = Sender(channel)
        logging.getLogger().handlers = [sender]
        logging.getLogger().setLevel(logging.INFO)
        _harden(channel, options)
    except (HybridVifError, OSError) as error:
        sentence = str(error) if isinstance(error, HybridVifError) else f"the privileged daemon cannot start: {error}"
        # sys.stderr is None if the helper was started without one.
        with contextlib.suppress(OSError):
            os.write(2, f"{sentence}\n".encode(errors="replace"))
        os._exit(1)
    # Modules stay, and requests leave few reference cycles. With its default threshold the collector takes a tenth of
    # the time of a plug of 300 ports.
    gc.freeze()
    gc.set_threshold(GARBAGE)
    gc.enable()
    if os.fork():
        # The parent is the helper. Cleaning up would only compete with the daemon for a processor.
        os._exit(0)
    os.setsid()
    with open(os.devnull, "r+b") as null:
        for descriptor in (0, 1):
            os.dup2(null.fileno(), descriptor)
    # Not earlier: a thread keeps the capabilities that it started with.
    threading.Thread(target=exit_on_eof, args=(channel,), name="hybridvif-client", daemon=True).start()
    Server(channel, sender, respond, options.hybridvif_privileged.thread_pool_size).serve()
    end()


def options_of(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Return the options with their values. Raises PreconditionError with one sentence."""
    given, rest = [], list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name not in _OPTIONS:
            raise _refused(
                f"{name[:40]!r} is no option of hybridvif-privsep-helper; it takes {', '.join(sorted(_OPTIONS))}"
            )
        if not equals:
            value = rest.pop(0) if rest else ""
        if not value or value.startswith("-"):
            raise _refused(f"{name} lacks its value")
        if name == "--privsep_context" and value != CONTEXT:
            raise _refused(f"{value[:80]!r} is not the context {CONTEXT}")
        # The working directory changes.
        given.append((name, value if name == "--privsep_context" else os.path.abspath(value)))
    for option in sorted(_ONCE):
        if [name for name, _ in given].count(option) != 1:
            raise _refused(f"{option} must be given once")
    return given


def _refused(reason: str) -> PreconditionError:
    return PreconditionError(f"refused: {reason}")


def _harden(channel: socket.socket, options: Any) -> None:
    """Drop all privileges that the daemon does not need, and verify it. Raises PrivilegeError, OSError."""
    ours = options.hybridvif_privileged
    privileges.close_files(channel.fileno())
    # Before the first thread: these attributes are per thread, and inherited by new ones.
    uid, gid = privileges.account_of(ours.user, ours.group)
    narrowed = privileges.narrow()
    privileges.become(uid, gid)
    privileges.seal()
    _confine()
    privileges.verify(narrowed=narrowed, uid=uid, gid=gid)
    LOG.info("the privileged daemon runs as uid %d, gid %d, with CAP_NET_ADMIN", os.getuid(), os.getgid())


def _confine() -> None:
    with contextlib.suppress(HybridVifError):
        settings = execute.configured()
        privileges.restrict_files_to([execute.class_of(role, settings) for role in Role], settings)


# -- serve the client --------------------------------------------------------------------------------------------------


MAX_PENDING = 1024
"""Largest number of requests without a response. Beyond, nothing is read."""
MAX_PENDING_BYTES = 6 * 1024 * 1024
"""Largest cost of these requests in bytes (channel.py), that of one message. Beyond, nothing is read."""
MAX_LINE = 16_384
"""Largest number of characters of a log line or a traceback."""
BURST = 32_768
"""Log lines at once: one per port of sixteen requests of the largest size (codec.py)."""
RATE = 200.0
"""Log lines per second after a burst."""
_FIELDS = ("name", "levelno", "levelname", "pathname", "filename", "module", "lineno", "funcName", "created", "msecs")


class Sender(logging.Handler):
    """Sends responses to the client, and the log lines since the last one. A warning is sent at once.

    A message per log line would wake the client up. The rate of log lines is limited, because the client writes them
    into the log of the host. oslo_log.rate_limit counts no dropped lines, and is not safe with several threads.
    """

    def __init__(self, channel: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._channel, self._sending = channel, threading.Lock()
        pid, uid, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self._client = {"client_pid": pid, "client_uid": uid}
        self._lines: list[bytes] = []
        self._clock, self._refilled = clock, clock()
        self._tokens, self._dropped = float(BURST), 0

    def send(self, message: Any) -> None:
        """Send a message behind the waiting log lines. A client that does not read blocks. Raises OSError."""
        encoded = pack(message)
        with self._sending:
            lines, self._lines = self._lines, []
            self._channel.sendall(b"".join([*lines, encoded]))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep or send a line with its standard attributes and our audit. Additional ones may not be encodable."""
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._refilled) * RATE, BURST) - 1
        self._refilled = now
        if self._tokens < 0:
            self._tokens, self._dropped = self._tokens + 1, self._dropped + 1
            return
        dropped, self._dropped = self._dropped, 0
        line = {name: getattr(record, name) for name in _FIELDS}
        line["msg"], line["args"] = record.getMessage()[:MAX_LINE], ()
        if audit := getattr(record, "audit", None):
            line["extra"] = {**audit, **self._client}
        if dropped:
            line["msg"] += f" (after {dropped} lines that were dropped, as too many at once)"
        if record.exc_info and record.exc_info[0] is not None:
            line["exc_text"] = logging.Formatter().formatException(record.exc_info)[-MAX_LINE:]
        message = (None, (Message.LOG.value, line))
        if record.levelno < logging.WARNING:
            with self._sending:
                self._lines.append(pack(message))
            return
        # If the client has disconnected, the daemon is about to exit.
        with contextlib.suppress(OSError):
            self.send(message)


class Server:
    """The threads that serve one client, and the requests that have no response yet."""

    def __init__(
        self, channel: socket.socket, sender: Sender, respond: Callable[[tuple[Any, ...]], Any], threads: int
    ) -> None:
        self._channel, self._sender, self._respond = channel, sender, respond
        self._pool = ThreadPoolExecutor(threads, "hybridvif-server")
        # Watch requests wait, and must leave all threads to the others. One more thread refuses those beyond the limit.
        self._watchers = ThreadPoolExecutor(MAX_WATCHERS + 1, "hybridvif-watch")
        self._room = threading.Condition()
        self._number = self._size = 0

    def serve(self) -> None:
        """Serve requests until EOF, or until the client cannot be reached."""
        requests = requests_from(self._channel, self._sender.send)
        try:
            # One thread of each is enough. If none can be started, the daemon ends.
            self._pool.submit(int)
            self._watchers.submit(int)
            while True:
                with self._room:
                    # Bounds the memory of the daemon if the client reads no responses.
                    self._room.wait_for(lambda: self._number < MAX_PENDING and self._size < MAX_PENDING_BYTES)
                read = next(requests, None)
                if read is None:
                    return
                self._count(1, read[1])
                self._submit(*read)
                del read
        except Exception as error:  # noqa: BLE001  # the client cannot be reached any more
            LOG.warning("the daemon ends: %s", error)

    def _submit(self, request: Request, size: int) -> None:
        pool = self._watchers if request[1][1:2] == (WATCH,) else self._pool
        try:
            pool.submit(self._serve_one, request, size)
        except RuntimeError as error:
            # A limit on processes. The request is queued, and the existing threads continue.
            LOG.warning("the daemon goes on with the threads that it has: %s", error)

    def _serve_one(self, request: Request, size: int) -> None:
        name, content = request
        try:
            try:
                self._sender.send((name, self._respond(content)))
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001  # a response that cannot be encoded
                reason = f"{type(error).__name__}: {error}"
                self._sender.send((name, (Message.RET.value, ["failed", HybridVifError.code, reason])))
        except OSError:
            # The client cannot be reached. This ends the reading.
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_RDWR)
        self._count(-1, -size)

    def _count(self, number: int, size: int) -> None:
        with self._room:
            self._number, self._size = self._number + number, self._size + size
            self._room.notify()


def exit_on_eof(channel: socket.socket) -> NoReturn:
    """Exit on EOF of the client, even if unread requests are queued."""
    hung_up = select.poll()
    hung_up.register(channel, select.POLLRDHUP)
    hung_up.poll()
    end()


def end() -> NoReturn:
    """Kill the programs that requests run, and exit."""
    # Each program leads its own process group (executors/command.py).
    for listed in glob.glob("/proc/self/task/*/children"):
        with contextlib.suppress(OSError), open(listed, encoding="ascii") as children:
            for pid in map(int, children.read().split()):
                for kill in (os.killpg, os.kill):
                    with contextlib.suppress(ProcessLookupError):
                        kill(pid, signal.SIGKILL)
    # sys.exit would wait for threads of third parties.
    os._exit(0)
