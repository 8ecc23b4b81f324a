"""The privileged daemon as its caller sees it: oslo.privsep's context, with CAP_NET_ADMIN and nothing else.

What differs from oslo.privsep's own: its channel (channel.py); a daemon can be begun ahead of the first question, and
is replaced when it has died; a forked child starts without the parent's channel; the daemon is ours (main.py).
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
"""How often a daemon is started that ends before it has said a word: it may have been killed, which is no lack."""
CAP_NET_ADMIN = 12

if str(getattr(cfg.CONF, "privsep_context", "")).startswith(f"{__package__.partition('.')[0]}."):
    # oslo.privsep's own helper imports what it is named, and would serve with its own daemon.
    sys.exit(
        "refused: privsep-helper cannot start the daemon of hybridvif; set [hybridvif_privileged] helper_command to "
        f"{ahead.HELPER}"
    )


class Context(priv_context.PrivContext):
    """oslo.privsep's context with our channel and our daemon."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._section = options["cfg_section"]
        lacking = [name for name in upstream.OPTIONS if name not in cfg.CONF[self._section]]
        if lacking:
            raise upstream.unknown(f"registers no option {', '.join(lacking)}")
        self.client_mode = True
        self.channel: Channel | None = None  # type: ignore[assignment]  # ours is of another class
        self._starting = threading.Lock()
        self._failed: Exception | None = None
        """Why the daemon that was started ahead of the first question did not come up; told to who asks that."""
        self._wanted = True
        os.register_at_fork(after_in_child=self._forget)

    @property
    def conf(self) -> Any:
        """The section of the options."""
        return cfg.CONF[self._section]

    def helper_command(self, sockpath: str) -> list[str]:
        """The command that starts the daemon. As root no sudo is needed. Raises OSError where a path leads nowhere."""
        if self.conf.helper_command:
            command = shlex.split(self.conf.helper_command)
            return [*command, "--privsep_context", ahead.CONTEXT, "--privsep_sock_path", sockpath]
        return ahead.command_of(sockpath, files_of(cfg.CONF))

    def set_client_mode(self, enabled: bool) -> None:
        """Have the daemon asked, or have this process do the work with what it may do itself, as in a test."""
        self.client_mode = enabled

    def start(self, method: object = None) -> None:  # noqa: ARG002  # the daemon is ours by either
        """Start the daemon and wait for it. A fork of this process would have all that this process has."""
        self.reach(time.monotonic() + START_DEADLINE)

    def begin(self, deadline: float) -> None:
        """Start the daemon, and do not wait for it: it comes up while its caller gets ready to ask it."""
        if not self.client_mode:
            return
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
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()

    def reach(self, deadline: float) -> Channel:
        """The channel to a living daemon, started if need be. Raises PreconditionError, TimedOut."""
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
                self.channel = self._started(deadline)
            return self.channel
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

        Raises PreconditionError where there is no daemon, TimedOut, Untaken, OSError.
        """
        if not self.client_mode:
            yield lambda: func(*args, **kwargs)
            return
        deadline = time.monotonic() + timeout
        channel = self.reach(deadline)
        left = max(deadline - time.monotonic(), 0.001)
        with channel.calling(f"{func.__module__}.{func.__name__}", args, kwargs, left) as reply:
            yield reply

    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None = None
    ) -> Any:
        """Call a function in the daemon, and return what it returns. Raises as asking() does."""
        with self.asking(func, args, kwargs, timeout or START_DEADLINE) as reply:
            return reply()

    def _forget(self) -> None:
        """In a forked child: the channel is the parent's, and must not outlive it here."""
        if self.channel is not None:
            self.channel.writer.writesock.close()
        self.channel = self._failed = None
        self._starting = threading.Lock()


def _made() -> Context:
    try:
        return Context(
            prefix=__package__,
            cfg_section=SECTION,
            pypath=ahead.CONTEXT,
            capabilities=[CAP_NET_ADMIN],
            logger_name=__package__,
        )
    except (AttributeError, NameError, TypeError) as error:
        raise upstream.unknown(f"makes no context as before ({error})") from error


config.register(cfg.CONF)
daemon_context = _made()
