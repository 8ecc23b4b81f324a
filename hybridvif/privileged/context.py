"""The oslo.privsep context of the privileged daemon, on the client's side. Its only capability is CAP_NET_ADMIN.

It differs from oslo.privsep's own context. It has its own channel (channel.py) and its own daemon (main.py). It can
start the daemon before the first request, and replaces a daemon that has died. A forked child starts without a channel.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from oslo_config import cfg

from hybridvif.engine import config
from hybridvif.engine.config_files import files_of
from hybridvif.privileged import ahead, upstream
from hybridvif.privileged.channel import START_DEADLINE, Channel, EndedAtOnce, TimedOut

upstream.require()

from oslo_privsep import priv_context  # noqa: E402  # once it is known to have what is used

LOG = logging.getLogger(__name__)
SECTION = config.PRIVILEGED
STARTS = 3
"""The number of attempts to start a daemon that exits before its first message, because it may have been killed."""
CAP_NET_ADMIN = 12

if str(getattr(cfg.CONF, "privsep_context", "")).startswith(f"{__package__.partition('.')[0]}."):
    # oslo.privsep's own helper imports this module, and would serve with its own daemon.
    sys.exit(
        "refused: privsep-helper cannot start the daemon of hybridvif; set [hybridvif_privileged] helper_command to "
        f"{ahead.HELPER}"
    )


class Context(priv_context.PrivContext):
    """oslo.privsep's context with our channel and our daemon."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._section = options["cfg_section"]
        missing = [name for name in upstream.OPTIONS if name not in cfg.CONF[self._section]]
        if missing:
            raise upstream.unsupported(f"registers no option {', '.join(missing)}")
        self.client_mode = True
        self.channel: Channel | None = None  # type: ignore[assignment]  # ours is of another class
        self._starting = threading.Lock()
        self._failed: Exception | None = None
        """The error of an early start of the daemon. The first request raises it."""
        self._wanted = True
        os.register_at_fork(after_in_child=self._forget)

    @property
    def conf(self) -> Any:
        """The options of [hybridvif_privileged]."""
        return cfg.CONF[self._section]

    def helper_command(self, sockpath: str) -> list[str]:
        """Return the command that starts the daemon. Raises OSError if a configuration path cannot be made absolute."""
        if self.conf.helper_command:
            command = shlex.split(self.conf.helper_command)
            return [*command, "--privsep_context", ahead.CONTEXT, "--privsep_sock_path", sockpath]
        return ahead.command_of(sockpath, files_of(cfg.CONF))

    def set_client_mode(self, enabled: bool) -> None:
        """Send requests to the daemon, or serve them in this process with its own privileges, as in a test."""
        self.client_mode = enabled

    def start(self, method: object = None) -> None:  # noqa: ARG002  # every method starts our daemon
        """Start the daemon and wait for it. Every method of oslo.privsep starts our daemon; none forks this process."""
        self.reach(time.monotonic() + START_DEADLINE)

    def begin(self, deadline: float) -> None:
        """Start the daemon without waiting for it, so that it starts while its client prepares a request."""
        if not self.client_mode:
            return
        self._wanted = True
        begun = threading.Event()
        threading.Thread(target=self._begin, args=(deadline, begun), name="hybridvif-start", daemon=True).start()
        # Until the thread has the lock, so that the first request waits for this daemon.
        begun.wait(max(deadline - time.monotonic(), 0))

    def _begin(self, deadline: float, begun: threading.Event) -> None:
        with self._starting:
            begun.set()
            try:
                if self.channel is None:
                    self.channel = self._connect(deadline)
            except Exception as error:  # noqa: BLE001  # the first request raises it
                self._failed = error
            if not self._wanted:
                # stop() was called before the channel existed.
                self.stop()

    def stop(self) -> None:
        """Close the channel. A daemon that is still starting exits too."""
        self._wanted, self._failed = False, None
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()

    def reach(self, deadline: float) -> Channel:
        """Return the channel to a running daemon, and start one if needed. Raises PreconditionError, TimedOut."""
        if not self._starting.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise TimedOut("another caller is still starting the privileged daemon")
        try:
            if self._failed is not None:
                failed, self._failed = self._failed, None
                raise failed
            if self.channel is not None and not self.channel.running:
                LOG.warning("the privileged daemon has died; starting another")
                self.stop()
            if self.channel is None:
                self.channel = self._connect(deadline)
            return self.channel
        finally:
            self._starting.release()

    def _connect(self, deadline: float) -> Channel:
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
        """Send a request to the daemon, and yield a function that waits for the response.

        Raises PreconditionError if there is no daemon, TimedOut, Untaken, OSError.
        """
        if not self.client_mode:
            yield lambda: func(*args, **kwargs)
            return
        deadline = time.monotonic() + timeout
        channel = self.reach(deadline)
        remaining = max(deadline - time.monotonic(), 0.001)
        with channel.calling(f"{func.__module__}.{func.__name__}", args, kwargs, remaining) as reply:
            yield reply

    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None = None
    ) -> Any:
        """Call a function in the daemon and return its result. Raises the errors of asking()."""
        with self.asking(func, args, kwargs, timeout or START_DEADLINE) as reply:
            return reply()

    def _forget(self) -> None:
        """Drop the parent's channel in a forked child."""
        if self.channel is not None:
            self.channel.writer.writesock.close()
        self.channel = self._failed = None
        self._starting = threading.Lock()


def _create() -> Context:
    try:
        return Context(
            prefix=__package__,
            cfg_section=SECTION,
            pypath=ahead.CONTEXT,
            capabilities=[CAP_NET_ADMIN],
            logger_name=__package__,
        )
    except (AttributeError, NameError, TypeError) as error:
        raise upstream.unsupported(f"makes no context as before ({error})") from error


config.register(cfg.CONF)
daemon_context = _create()
