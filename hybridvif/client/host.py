"""The client's end of the boundary: sends requests to the privileged daemon and decodes its responses.

oslo.privsep's context is global, so one process has one daemon. All open hosts of the process share it, and it exits
when the last of them is closed.
"""

from __future__ import annotations

import _thread
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from hybridvif.engine.config_files import absolute, files_of
from hybridvif.model.errors import REFUSALS, BridgeMissing, ConfigurationError, HybridVifError, PreconditionError
from hybridvif.model.report import Outcome, Outcomes, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed
from hybridvif.model.steps import Step
from hybridvif.postponed import found

GRACE_PERIOD = 0.2
"""Seconds beyond the deadline in which the daemon may still report that the deadline has passed."""

START_SHARE = 0.75
"""Share of the deadline for a daemon started by begin(). It must be less than the first request waits."""

OBSERVE_RETRIES = 2
"""Repeated observations if the daemon dies. An observation changes nothing, so the next daemon can repeat it."""


class NoResponse(HybridVifError):
    """No response: the daemon died or timed out. The request may have taken effect."""

    code = "no-answer"


class RequestNotSent(NoResponse):
    """The daemon did not receive the request, so nothing was changed."""


class Died(NoResponse):
    """The daemon died before it responded."""


class DiedBefore(Died, RequestNotSent):
    """The daemon died before it received the whole request."""


class Host:
    """This host, through the privileged daemon. Create it with connect(). Thread-safe, and a context manager.

    A deadline is an instant of time.monotonic().
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._open = True

    def begin(self) -> None:
        """Start the daemon now, without waiting for it. The first request raises an error of the start."""
        from hybridvif.privileged import ahead
        from hybridvif.privileged.context import daemon_context

        # The first request checks the limits again and raises.
        with suppress(PreconditionError), ahead.within_limits():
            daemon_context.begin(time.monotonic() + self.settings.deadline * START_SHARE)
        # The first request needs these modules; their import overlaps with the start of the daemon.
        from hybridvif.privileged import (
            codec,  # noqa: F401
            requests,  # noqa: F401
        )

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the parts and facts under these names. None: all names of the grammar.

        Raises PreconditionError if the daemon or a service that it needs is missing, NoResponse.
        """
        from hybridvif.privileged import codec, requests

        encoded = None if names is None else sorted(names)
        for _ in range(OBSERVE_RETRIES):
            with suppress(Died):
                return codec.decode_observed(self._request(requests.observe, encoded, deadline))
        return codec.decode_observed(self._request(requests.observe, encoded, deadline))

    def apply(self, plans: Sequence[Sequence[Step]], deadline: float) -> Outcomes:
        """Carry out plans, one per port. Return the outcomes of their steps; `unknown` after a lost response.

        Raises PreconditionError or Refused if nothing was changed.
        """
        from hybridvif.privileged import codec, requests

        try:
            results, observed = self._request(requests.apply, codec.encode_plans(plans), deadline)
            outcomes = Outcomes(codec.decode_outcomes(results, plans))
            outcomes.observed = None if observed is None else codec.decode_observed(observed)
            return outcomes
        except RequestNotSent as error:
            retry = isinstance(error, Died)
            return Outcomes(
                tuple(Outcome(step, Result.FAILED, str(error), retry=retry, code=error.code) for step in plan)
                for plan in plans
            )
        except NoResponse as error:
            return Outcomes(tuple(Outcome(step, Result.UNKNOWN, str(error)) for step in plan) for plan in plans)

    @contextmanager
    def locked(self, keys: Collection[str], deadline: float) -> Iterator[None]:
        """Hold the locks of these ports, named by the first 11 characters of their ids. Raises locks.LockTimeout."""
        from hybridvif.engine import locks
        from hybridvif.privileged import ahead
        from hybridvif.privileged.channel import TimedOut
        from hybridvif.privileged.context import daemon_context

        # The daemon starts first: a user who may not start it must not create the lock directory. Root would refuse a
        # directory that another user owns.
        try:
            if daemon_context.client_mode:
                with ahead.within_limits():
                    daemon_context.reach(deadline)
        except TimedOut as error:
            raise NoResponse(f"{error}, and the deadline has passed; call again") from error
        with locks.holding(keys, self.settings.lock_path, deadline):
            yield

    def seconds_since_first_seen(self, signs: Collection[str], deadline: float) -> dict[str, float]:
        """Return the age of each orphan in seconds, by its fingerprint; 0 for a new one. Forget all others.

        Raises PreconditionError if the file cannot be written, NoResponse if another caller locks it until the
        deadline.
        """
        from hybridvif.engine import first_seen, locks

        try:
            return first_seen.seconds_since_first_seen(signs, self.settings.lock_path, deadline)
        except locks.LockTimeout as error:
            raise NoResponse(
                "another caller was updating the first-seen times until the deadline; call again"
            ) from error

    def close(self) -> None:
        """Close the host. The daemon exits with the last host of this process."""
        if self._open:
            self._open = False
            _connections.leave()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, entry: Any, argument: object, deadline: float) -> Any:
        """Send a request to the daemon and return its response. Raises HybridVifError."""
        from hybridvif.privileged.context import daemon_context

        if not self._open:
            raise PreconditionError("this host is closed; connect() again")
        # The grace period counts from the deadline. Several requests in a row must not add up theirs.
        timeout = deadline + GRACE_PERIOD - time.monotonic()
        if timeout <= 0:
            raise RequestNotSent("the deadline had passed before the request to the privileged daemon")
        with _channel_errors():
            response = daemon_context.call(entry, (argument, float(deadline)), {}, timeout)
        if response[0] == "ok":
            return response[1]
        _, code, message = response
        raise _ERRORS.get(code, HybridVifError)(message)


@contextmanager
def _channel_errors() -> Iterator[None]:
    """Raise errors of the channel as PreconditionError or NoResponse."""
    from hybridvif.privileged import ahead
    from hybridvif.privileged.channel import TimedOut, Untaken

    try:
        with ahead.within_limits():
            yield
    except TimedOut as error:
        raise NoResponse("the privileged daemon did not answer by the deadline") from error
    except Untaken as error:
        raise DiedBefore(f"the privileged daemon died before it received the request ({error}); call again") from error
    except OSError as error:
        raise Died(f"the privileged daemon died before it answered ({error}); call again") from error


_ERRORS: dict[str, type[HybridVifError]] = {
    cls.code: cls for cls in (PreconditionError, ConfigurationError, BridgeMissing, NoResponse)
} | dict(REFUSALS)
"""Error classes by the code in a response."""


class _Connections:
    """Open hosts of this process. They share one configuration and one daemon."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._files: tuple[str, ...] = ()
        self._read = False

    def join(self, files: Sequence[str]) -> Settings:
        """Add a host and return its settings. Raises ConfigurationError if an open host has other files."""
        from oslo_config import cfg

        from hybridvif.engine import config

        wanted = tuple(absolute(name) for name in files)
        with self._lock:
            if self._count and wanted != self._files:
                raise ConfigurationError(
                    f"this process is connected with {', '.join(self._files) or 'its own configuration'}; "
                    f"close() that host before connecting with {', '.join(wanted) or 'another'}"
                )
            config.register(cfg.CONF)
            if wanted and (self._read or not _is_parsed(cfg.CONF)):
                config.read(cfg.CONF, wanted)
                self._read = True
            elif wanted and not set(wanted) <= set(read := files_of(cfg.CONF)["config_file"]):
                raise ConfigurationError(
                    f"this program's configuration was read from {', '.join(read) or 'no file'}; "
                    f"add {', '.join(wanted)} there, and call connect() without files"
                )
            elif not wanted and self._read:
                cfg.CONF.clear()
                cfg.CONF(args=[], project=config.GROUP, default_config_files=[], default_config_dirs=[])
            settings = config.settings_of(cfg.CONF)
            self._files = wanted
            self._count += 1
            return settings

    def leave(self) -> None:
        """Remove a host. Stop the daemon after the last one."""
        with self._lock:
            self._count -= 1
            # If the import of this module failed, no daemon was started.
            context = sys.modules.get("hybridvif.privileged.context")
            if not self._count and context is not None:
                context.daemon_context.stop()


def _is_parsed(conf: Any) -> bool:
    return conf._namespace is not None


_connections = _Connections()


def connect(config_files: Sequence[str] = ()) -> Host:
    """Return this host. The privileged daemon starts at the first request and exits with the last open host.

    config_files: oslo.config files. Default: the program's own oslo.config configuration (cfg.CONF), unchanged.
    Raises ConfigurationError if a file cannot be read or an open host of this process has other files. Raises
    PreconditionError if oslo.privsep cannot be imported.
    """
    _import_privsep()
    return Host(_connections.join(config_files))


def _import_privsep() -> None:
    """Import oslo.privsep. Raises PreconditionError if it needs eventlet and eventlet is not installed.

    With eventlet, a thread that is never joined imports it. eventlet executes the module threading a second time
    (patcher.original), which takes the current thread for the main one. Before Python 3.13, a pool with that thread
    never shuts down.
    """
    if "eventlet" in sys.modules:
        return
    if found("eventlet") is None:
        try:
            import oslo_privsep.daemon  # noqa: F401
        except ImportError as error:
            raise PreconditionError(
                f"oslo.privsep cannot be imported in this program: {error}; install oslo.privsep 3.11 or newer, which "
                "works without eventlet"
            ) from error
        return
    loaded = threading.Event()

    def load() -> None:
        try:
            import oslo_privsep.daemon  # noqa: F401
        finally:
            loaded.set()

    if threading.current_thread() is threading.main_thread():
        load()
    else:
        _thread.start_new_thread(load, ())
        loaded.wait()
