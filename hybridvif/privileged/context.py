"""The oslo.privsep context of the privileged daemon, on the client's side. Its only capability is CAP_NET_ADMIN.

It is derived from oslo.privsep's, so a program finds its options and methods in the usual place. A test calls
set_client_mode(False) to serve requests with the privileges of its own process. The context has its own channel
(channel.py) and its own daemon (main.py), which imports nothing of oslo.privsep. It replaces a daemon that has died. A
forked child starts without a channel.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from oslo_config import cfg
from oslo_privsep import priv_context

from hybridvif.engine import config
from hybridvif.engine.config import files_of
from hybridvif.model.errors import PreconditionError
from hybridvif.privileged import launch
from hybridvif.privileged.channel import CONTEXT, Channel, Died, Message, NoResponse, RequestNotSent

LOG = logging.getLogger(__name__)
START_DEADLINE = 30.0
"""Seconds for start(), which has no deadline."""
STARTS = 3
"""The number of attempts to start a daemon that exits before its first message, because it may have been killed."""
CAP_NET_ADMIN = 12
OPTIONS = ("helper_command", "logger_name")
"""The options that oslo.privsep's context registers and this one reads."""
MEMBERS = ("conf", "set_client_mode")
"""The members of oslo.privsep's context that this one inherits and needs."""
TESTED_VERSIONS = "3.6.0 to 3.12.0"


def unsupported(problem: str) -> PreconditionError:
    """Return the error for an unsupported version of oslo.privsep."""
    try:
        installed = version("oslo.privsep")
    except PackageNotFoundError:
        installed = "(version unknown)"
    return PreconditionError(
        f"oslo.privsep {installed} {problem}, which hybridvif relies on; install one of {TESTED_VERSIONS}"
    )


if missing := [name for name in MEMBERS if not hasattr(getattr(priv_context, "PrivContext", None), name)]:
    raise unsupported(f"has no priv_context.PrivContext with {', '.join(missing)}")
if str(getattr(cfg.CONF, "privsep_context", "")).startswith(f"{__package__.partition('.')[0]}."):
    # oslo.privsep's own helper imports this module, and would serve with its own daemon.
    sys.exit(
        "refused: privsep-helper cannot start the daemon of hybridvif; set [hybridvif_privileged] helper_command to "
        f"{launch.HELPER}"
    )


class Context(priv_context.PrivContext):
    """oslo.privsep's context with our channel and our daemon."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if missing := [name for name in OPTIONS if name not in self.conf]:
            raise unsupported(f"registers no option {', '.join(missing)}")
        self.channel: Channel | None = None  # type: ignore[assignment]  # ours is of another class
        self._launch: launch.Launch | None = None
        """The start of a daemon that no request has waited for."""
        self._starting = threading.Lock()
        self._stops = 0
        """The number of calls of stop()."""
        os.register_at_fork(after_in_child=self._forget)

    def helper_command(self, sockpath: str) -> list[str]:
        """Return the command that starts the daemon. Raises ConfigurationError."""
        return launch.command_for(sockpath, self.conf.helper_command, partial(files_of, cfg.CONF))

    def start(self, method: object = None) -> None:  # noqa: ARG002  # every method starts our daemon
        """Start the daemon and wait for it. Every method of oslo.privsep starts our daemon; none forks this process."""
        self.reach(time.monotonic() + START_DEADLINE)

    def begin(self) -> None:
        """Start the daemon without waiting for it. The first request raises an error of the start."""
        if self.client_mode and self.channel is None and self._launch is None:
            with suppress(PreconditionError), launch.within_limits():
                self._launch = launch.Launch(self.helper_command)

    def stop(self) -> None:
        """Close the channel. A daemon that is still starting exits too."""
        self._stops += 1
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()
        started, self._launch = self._launch, None
        if started is not None:
            started.close()

    def reach(self, deadline: float) -> Channel:
        """Return the channel to a running daemon, and start one if needed. Raises PreconditionError, NoResponse."""
        if not self._starting.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise RequestNotSent(
                "another caller is still starting the privileged daemon, and the deadline has passed; call again"
            )
        try:
            # Another thread may call stop() at any time.
            channel = self.channel
            if channel is not None and not channel.running:
                LOG.warning("the privileged daemon has died; starting another")
                self.stop()
                channel = None
            if channel is None:
                stops = self._stops
                channel = self.channel = self._start(deadline)
                if self._stops != stops:
                    self.stop()
                    raise PreconditionError("this host was closed while its daemon started; connect() again")
            return channel
        finally:
            self._starting.release()

    def _start(self, deadline: float) -> Channel:
        for _ in range(STARTS - 1):
            try:
                return self._connect(deadline)
            except launch.EndedAtOnce as error:
                LOG.warning("%s", error)
        return self._connect(deadline)

    def _connect(self, deadline: float) -> Channel:
        started, self._launch = self._launch, None
        with launch.within_limits(), started or launch.Launch(self.helper_command) as started:
            channel = Channel(started.accept(deadline), logging.getLogger(self.conf.logger_name))
            with ExitStack() as failed:
                failed.callback(channel.close)
                try:
                    channel.send_recv((Message.PING.value,), deadline - time.monotonic())
                except Died as error:
                    raise started.lost(deadline) from error
                except NoResponse as error:
                    raise started.failure("it did not answer by the deadline") from error
                finally:
                    started.wait(deadline)
                failed.pop_all()
            return channel

    def _forget(self) -> None:
        """Drop the parent's channel in a forked child."""
        if self.channel is not None:
            self.channel.connection.close()
        self.channel = self._launch = None
        self._starting = threading.Lock()


def _create() -> Context:
    try:
        return Context(
            prefix=__package__,
            cfg_section=config.PRIVILEGED,
            pypath=CONTEXT,
            capabilities=[CAP_NET_ADMIN],
            logger_name=__package__,
        )
    except (AttributeError, NameError, TypeError) as error:
        raise unsupported(f"makes no context as before ({error})") from error


config.register(cfg.CONF)
daemon_context = _create()
