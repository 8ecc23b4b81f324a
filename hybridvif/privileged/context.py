"""The privileged daemon as its caller sees it: oslo.privsep's context, with CAP_NET_ADMIN and nothing else.

What differs from oslo.privsep's own client: starting the daemon ends by a deadline and says why it failed; a caller is
answered when the daemon dies (oslo.privsep 3.12 leaves it waiting for ever where the reader thread meets ECONNRESET); a
forked child starts without the parent's channel.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import re
import select
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import msgpack
from oslo_config import cfg
from oslo_privsep import capabilities, comm, daemon, priv_context
from oslo_utils import importutils, uuidutils

from hybridvif import config
from hybridvif.errors import PreconditionError

LOG = logging.getLogger(__name__)
SECTION = "hybridvif_privileged"
THREADS = 32
"""oslo.privsep's default is the number of CPUs: on a small host one hung switch would hold up every link."""
START_DEADLINE = 30.0
STARTS = 3
"""How often a daemon is started that ends before it has said a word: it may have been killed, which is no lack."""
HELPER = "hybridvif-privsep-helper"
ENTRY_POINTS = frozenset(f"{__package__}.entrypoints.{name}" for name in ("observe", "apply"))
_CHUNK = 256 * 1024
_NO_REPLY = (comm.Message.ERR.value, f"{comm.PrivsepTimeout.__module__}.{comm.PrivsepTimeout.__name__}", ())
_REMEDY = "run as root, or set [hybridvif_privileged] helper_command"
_PR_SET_NO_NEW_PRIVS = 38
_LOG_PREFIX = re.compile(r"^[\d-]+ [\d:.]+ \d+ [A-Z]+ \S+( |$)(\[.*?\] )?")
"""Of oslo.log, by default: date, time, process, level, logger, context."""


class _EndedAtOnce(PreconditionError):
    """The daemon ended before it greeted its caller."""


class Untaken(OSError):
    """A request did not reach the daemon whole, so nothing of it was begun."""


class Channel(daemon._ClientChannel):
    """A channel to a daemon that a helper command started."""

    def __init__(self, context: Context, deadline: float) -> None:
        with tempfile.TemporaryDirectory(prefix="hybridvif-") as private, socket.socket(socket.AF_UNIX) as listener:
            # Mode 0700: the daemon connects to us, so there is nothing privileged to attack here.
            path = os.path.join(private, "privsep.sock")
            listener.bind(path)
            listener.listen(1)
            helper, started = self._start(context.helper_command(path), listener, deadline)
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
        self, command: list[str], listener: socket.socket, deadline: float
    ) -> tuple[subprocess.Popen[str], socket.socket]:
        LOG.info("starting the privileged daemon: %s", shlex.join(command))
        try:
            # Both streams: oslo.log writes to stdout, and the caller's own stdout may be a document.
            helper = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        except OSError as error:
            missing = shutil.which(command[0]) is None
            _fail(f"{command[0]!r} is not installed" if missing else str(error), command)
        said: deque[str] = deque(maxlen=20)
        threading.Thread(target=_listen, args=(helper.stdout, said), name="hybridvif-helper", daemon=True).start()
        try:
            # A daemon that has connected is not held up by the helper's end.
            code = 0 if _called(listener, helper, deadline) else helper.wait(max(deadline - time.monotonic(), 0.1))
            if code < 0:
                _fail(f"the helper ended with code {code}", command, _EndedAtOnce)
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
        """Greet the daemon. Raises PreconditionError if it does not answer, _EndedAtOnce if it hangs up."""
        try:
            reply = self.send_recv((comm.Message.PING.value,), max(self._deadline - time.monotonic(), 0.1))
        except OSError:
            reply = (None,)
        if reply is _NO_REPLY:
            raise PreconditionError(f"the privileged daemon was started and did not answer by the deadline; {_REMEDY}")
        if reply[0] != comm.Message.PONG:
            raise _EndedAtOnce(
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
        deadline = time.monotonic() + (START_DEADLINE if timeout is None else timeout)
        name, future = uuidutils.generate_uuid(), comm.Future(self.lock)
        frame = msgpack.packb((name, msg), use_bin_type=True, unicode_errors="surrogateescape")
        with self.lock:
            if self._dead:
                raise Untaken("it has hung up")
            self.outstanding_msgs[name] = future
        try:
            try:
                if not self._send(frame, deadline):
                    return _NO_REPLY
            except OSError as error:
                # Before the reader has noticed; the next caller must not meet it as well.
                self.running = False
                raise Untaken(str(error)) from error
            with self.lock:
                if future.data is None and future.error is None:
                    future.timeout = max(deadline - time.monotonic(), 0.001)
                    return future.result()
            if future.error is not None:
                raise future.error
            return future.data
        finally:
            with self.lock:
                del self.outstanding_msgs[name]

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


class Context(priv_context.PrivContext):
    """oslo.privsep's context with our channel."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        cfg.CONF.set_default("thread_pool_size", THREADS, group=self.cfg_section)
        self._starting = threading.Lock()
        self._failed: Exception | None = None
        """Why the daemon that was started ahead of the first question did not come up; told to who asks that."""
        self._wanted = True
        os.register_at_fork(after_in_child=self._forget)

    def helper_command(self, sockpath: str) -> list[str]:
        """The command that starts the daemon. As root no sudo is needed."""
        if self.conf.helper_command:
            return super().helper_command(sockpath)
        command = helper_found()
        if os.geteuid() != 0:
            command = ["sudo", "--non-interactive", *(command or [HELPER])]
        elif not command:
            # An environment that borrows its libraries has no scripts. -P: not from the caller's working directory.
            command = [sys.executable, "-P", "-m", f"{__package__}.startup"]
        # What the program itself was configured with, so that both sides read the same files.
        for option in ("config_file", "config_dir"):
            for value in getattr(cfg.CONF, option, None) or ():
                command += [f"--{option.replace('_', '-')}", value]
        return [*command, "--privsep_context", str(self.pypath), "--privsep_sock_path", sockpath]

    def begin(self, deadline: float) -> None:
        """Start the daemon, and do not wait for it: it comes up while its caller gets ready to ask it."""
        self._wanted = True
        begun = threading.Event()
        threading.Thread(target=self._begin, args=(deadline, begun), name="hybridvif-start", daemon=True).start()
        # Until it has the lock, so that the first question waits for this daemon and starts no other.
        begun.wait(max(deadline - time.monotonic(), 0))

    def _begin(self, deadline: float, begun: threading.Event) -> None:
        with self._starting:
            begun.set()
            try:
                if self.channel is None:
                    self.channel = self._started(deadline)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is raised where it can be told
                self._failed = error
            if not self._wanted:
                # stop() came before there was anything to stop.
                self.stop()

    def stop(self) -> None:
        """Hang up; also on a daemon that is still being started."""
        self._wanted, self._failed = False, None
        super().stop()

    def reach(self, deadline: float) -> Channel:
        """The channel to a living daemon, started if need be. Raises PreconditionError, PrivsepTimeout."""
        if not self._starting.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise comm.PrivsepTimeout("another caller is still starting the privileged daemon")
        try:
            if self._failed is not None:
                failed, self._failed = self._failed, None
                raise failed
            if self.channel is not None and not self.channel.running:
                LOG.warning("the privileged daemon has died; starting another")
                self.stop()
            if self.channel is None:
                self.channel = self._started(deadline)
            return self.channel  # type: ignore[return-value]  # only ever set here
        finally:
            self._starting.release()

    def _started(self, deadline: float) -> Channel:
        for _ in range(STARTS - 1):
            try:
                return Channel(self, deadline)
            except _EndedAtOnce as error:
                LOG.warning("%s", error)
        return Channel(self, deadline)

    def _wrap(self, func: Callable[..., Any], *args: Any, _wrap_timeout: float | None = None, **kwargs: Any) -> Any:
        if not self.client_mode:
            return func(*args, **kwargs)
        deadline = time.monotonic() + (_wrap_timeout or START_DEADLINE)
        channel = self.reach(deadline)
        left = max(deadline - time.monotonic(), 0.001)
        return channel.remote_call(f"{func.__module__}.{func.__name__}", args, kwargs, left)

    def set_client_mode(self, enabled: bool) -> None:
        """Be the daemon: called once it has dropped its other capabilities, and before it answers anybody."""
        super().set_client_mode(enabled)
        if not enabled:
            # It is uid 0: a program that it runs would else have every capability of the bounding set (execve(2)).
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
            daemon.importutils = _ClosedTable  # type: ignore[assignment, attr-defined]

    def _forget(self) -> None:
        """In a forked child: the channel is the parent's, and must not outlive it here."""
        if self.channel is not None:
            self.channel.writer.writesock.close()
        self.channel = self._failed = None
        self._starting = threading.Lock()


class _ClosedTable:
    """What the daemon looks names up in: oslo.privsep imports whatever it is asked for, and then asks if it may."""

    @staticmethod
    def import_class(name: str) -> Any:
        """One of our two entry points. Raises NameError for any other name."""
        if name not in ENTRY_POINTS:
            raise NameError(f"refused: {str(name)[:80]!r} is no entry point")
        return importutils.import_class(name)


def helper_found() -> list[str]:
    """Our console script beside this interpreter; empty if there is none."""
    beside = os.path.join(os.path.dirname(sys.executable), HELPER)
    return [beside] if os.path.exists(beside) else []


def _called(listener: socket.socket, helper: subprocess.Popen[str], deadline: float) -> bool:
    """Whether the daemon connects before its helper ends, by the deadline."""
    ended = os.pidfd_open(helper.pid)
    try:
        either = select.poll()
        either.register(listener, select.POLLIN)
        either.register(ended, select.POLLIN)
        ready = either.poll(max(deadline - time.monotonic(), 0.1) * 1000)
        return any(descriptor == listener.fileno() for descriptor, _ in ready)
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


config.register(cfg.CONF)
daemon_context = Context(
    prefix=__package__,
    cfg_section=SECTION,
    pypath=f"{__name__}.daemon_context",
    capabilities=[capabilities.CAP_NET_ADMIN],
    logger_name=__package__,
)
entrypoint: Callable[[Callable[..., Any]], functools.partial[Any]] = daemon_context.entrypoint
