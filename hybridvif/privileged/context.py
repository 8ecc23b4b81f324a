"""The privileged daemon as its caller sees it: oslo.privsep's context, with CAP_NET_ADMIN and nothing else.

What differs from oslo.privsep's own: its channel (channel.py); a daemon can be begun ahead of the first question, and
is replaced when it has died; a forked child starts without the parent's channel; the daemon looks up two names alone.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from oslo_config import cfg
from oslo_privsep import capabilities, comm, daemon, priv_context
from oslo_utils import importutils

from hybridvif import config
from hybridvif.configfiles import files_of
from hybridvif.privileged import ahead
from hybridvif.privileged.channel import START_DEADLINE, Channel, EndedAtOnce

LOG = logging.getLogger(__name__)
SECTION = "hybridvif_privileged"
THREADS = 32
"""oslo.privsep's default is the number of CPUs: on a small host one hung switch would hold up every link."""
STARTS = 3
"""How often a daemon is started that ends before it has said a word: it may have been killed, which is no lack."""
ENTRY_POINTS = frozenset(f"{__package__}.entrypoints.{name}" for name in ("observe", "apply"))
_PR_SET_NO_NEW_PRIVS = 38


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
        return ahead.command_of(sockpath, files_of(cfg.CONF))

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
            except EndedAtOnce as error:
                LOG.warning("%s", error)
        return Channel(self, deadline)

    @contextmanager
    def asking(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float
    ) -> Iterator[Callable[[], Any]]:
        """Call a function in the daemon; a function that waits for what it returns, so that its caller works meanwhile.

        Raises PreconditionError where there is no daemon, PrivsepTimeout, Untaken, OSError.
        """
        if not self.client_mode:
            yield lambda: func(*args, **kwargs)
            return
        deadline = time.monotonic() + timeout
        channel = self.reach(deadline)
        left = max(deadline - time.monotonic(), 0.001)
        with channel.calling(f"{func.__module__}.{func.__name__}", args, kwargs, left) as reply:
            yield reply

    def _wrap(self, func: Callable[..., Any], *args: Any, _wrap_timeout: float | None = None, **kwargs: Any) -> Any:
        if not self.client_mode:
            return func(*args, **kwargs)
        with self.asking(func, args, kwargs, _wrap_timeout or START_DEADLINE) as reply:
            return reply()

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


config.register(cfg.CONF)
daemon_context = Context(
    prefix=__package__,
    cfg_section=SECTION,
    pypath=ahead.CONTEXT,
    capabilities=[capabilities.CAP_NET_ADMIN],
    logger_name=__package__,
)
entrypoint: Callable[[Callable[..., Any]], functools.partial[Any]] = daemon_context.entrypoint
