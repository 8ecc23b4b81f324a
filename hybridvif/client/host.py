"""The client's end of the boundary: sends requests to the privileged daemon and decodes its responses.

oslo.privsep's context is global, so one process has one daemon. All open hosts of the process share it, and it exits
when the last of them is closed.
"""

from __future__ import annotations

import _thread
import math
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace
from typing import Any

from hybridvif.engine import locks
from hybridvif.engine.any_host import HostClosed
from hybridvif.engine.config import absolute, files_of
from hybridvif.model.errors import (
    REFUSALS,
    BridgeMissing,
    ConfigurationError,
    HybridVifError,
    InvalidInput,
    PreconditionError,
)
from hybridvif.model.report import Outcome, Outcomes, Result
from hybridvif.model.settings import MAX_DEADLINE, Settings
from hybridvif.model.state import Observed, Step
from hybridvif.privileged import codec
from hybridvif.privileged.channel import APPLY, OBSERVE, WATCH, Died, NoResponse, RequestNotSent
from hybridvif.spans import add, is_collecting, span

__all__ = ["Host", "NoResponse", "RequestNotSent", "connect"]
GRACE_PERIOD = 0.2
"""Seconds beyond the deadline in which the daemon may still report that the deadline has passed."""

OBSERVE_RETRIES = 2
"""Repeated observations if the daemon dies. An observation changes nothing, so the next daemon can repeat it."""


class Host:
    """This host, through the privileged daemon. Create it with connect(). Thread-safe, and a context manager.

    A deadline is an instant of time.monotonic().
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._open = True

    def begin(self) -> None:
        """Start the daemon now, without waiting for it. The first request raises an error of the start."""
        self._context().begin()

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the parts and facts under these names. None: all names of the grammar.

        Raises PreconditionError if the daemon or a service that it needs is missing, NoResponse.
        """
        return codec.decode_observed(self._repeated(OBSERVE, None if names is None else sorted(names), deadline))

    def next_observation(
        self, names: Collection[str] | None, digest: str, deadline: float
    ) -> tuple[str, Observed] | None:
        """Wait until an observation differs from the one with this digest; "": return at once. None: the deadline.

        Return the digest of the new observation, too. Nothing runs while nothing changes. If the host is busy, the call
        may take longer, by the option `deadline` at most. Raises as observe().
        """
        question = [None if names is None else sorted(names), digest]
        # A daemon that observes a busy host may be late. A second request would not be answered sooner.
        response = self._repeated(WATCH, question, deadline, grace=self.settings.deadline)
        return None if response is None else (response[0], codec.decode_observed(response[1]))

    def _repeated(self, name: str, argument: object, deadline: float, grace: float = GRACE_PERIOD) -> Any:
        """Send a request that changes nothing. Repeat it if the daemon dies."""
        for _ in range(OBSERVE_RETRIES):
            with suppress(Died):
                return self._request(name, argument, deadline, grace)
        return self._request(name, argument, deadline, grace)

    def apply(self, plans: Sequence[Sequence[Step]], deadline: float) -> Outcomes:
        """Carry out plans, one per port. Return the outcomes of their steps; `unknown` after a lost response.

        Raises PreconditionError or Refused if nothing was changed.
        """
        try:
            results, observed = self._request(APPLY, codec.encode_plans(plans), deadline)
            outcomes = Outcomes(codec.decode_outcomes(results, plans))
            outcomes.observed = None if observed is None else codec.decode_observed(observed)
            return outcomes
        except NoResponse as error:
            return Outcomes(tuple(_without_response(step, error) for step in plan) for plan in plans)

    @contextmanager
    def locked(self, keys: Collection[str], deadline: float) -> Iterator[None]:
        """Hold the locks of these ports, named by the first 11 characters of their ids. Raises locks.LockTimeout."""
        deadline = bounded(deadline)
        # The daemon starts first: a user who may not start it must not create the lock directory. Root would refuse a
        # directory that another user owns.
        context = self._context()
        if context.client_mode:
            with span("start the daemon"):
                context.reach(deadline)
        with ExitStack() as held:
            with span("lock"):
                held.enter_context(locks.holding(keys, self.settings.lock_path, deadline))
            yield

    def seconds_since_first_seen(self, signs: Collection[str], deadline: float) -> dict[str, float]:
        """Return the age of each orphan in seconds, by its fingerprint; 0 for a new one. Forget all others.

        Raises PreconditionError if the file cannot be written, NoResponse if another caller locks it until the
        deadline.
        """
        try:
            return locks.seconds_since_first_seen(signs, self.settings.lock_path, bounded(deadline))
        except locks.LockTimeout as error:
            raise NoResponse(
                "another caller was updating the first-seen times until the deadline; call again"
            ) from error

    def filtered_ofports(self, bridge: str, deadline: float) -> Collection[int]:
        """Return the ports of a bridge that the OpenFlow firewall of Neutron's agent knows, by number.

        This process reads them from ovs-vswitchd. Raises NotReady if it may not, or if ovs-vswitchd does not respond.
        """
        from hybridvif.client import filters

        return filters.filtered_ofports(self.settings, bridge, bounded(deadline))

    def calls_iptables(self) -> bool:
        """Return whether every Linux bridge of this host calls iptables."""
        from hybridvif.client import filters

        return filters.calls_iptables()

    def close(self) -> None:
        """Close the host. The daemon exits with the last host of this process."""
        if self._open:
            self._open = False
            _disconnect()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, name: str, argument: object, deadline: float, grace: float = GRACE_PERIOD) -> Any:
        """Send a request to the daemon and return its result. Raises HybridVifError."""
        deadline, context = bounded(deadline), self._context()
        # The grace period counts from the deadline. Several requests in a row must not add up theirs.
        end = deadline + grace
        if time.monotonic() >= end:
            raise RequestNotSent("the deadline had passed before the request to the privileged daemon")
        arguments = (argument, deadline, True) if is_collecting() else (argument, deadline)
        with span(name.rpartition(".")[2]):
            if context.client_mode:
                result = context.reach(end).call(name, arguments, end - time.monotonic())
            else:
                from hybridvif.privileged import requests

                result = requests.call(requests.REQUESTS[name], arguments)
        if result[0] == "ok":
            for thread, spans in result[2:]:
                add(thread, spans)
            return result[1]
        _, code, message = result
        raise _ERRORS.get(code, HybridVifError)(message)

    def _context(self) -> Any:
        """Return oslo.privsep's context of the daemon. Raises PreconditionError if this host is closed."""
        if not self._open:
            raise HostClosed("this host is closed; connect() again")
        # This import registers options, and takes a tenth of a second.
        from hybridvif.privileged.context import daemon_context

        return daemon_context


def bounded(deadline: float) -> float:
    """Return a deadline, at most MAX_DEADLINE from now: no wait takes infinity. Raises InvalidInput for no number."""
    # In this order, NaN passes both comparisons.
    instant = max(min(deadline, time.monotonic() + MAX_DEADLINE), 0.0)
    if math.isnan(instant):
        raise InvalidInput(f"deadline {deadline!r} is not a number; pass an instant of time.monotonic()")
    return float(instant)


def _without_response(step: Step, error: NoResponse) -> Outcome:
    if isinstance(error, RequestNotSent):
        return Outcome(step, Result.FAILED, str(error), retry=isinstance(error, Died), code=error.code)
    return Outcome(step, Result.UNKNOWN, str(error))


_ERRORS: dict[str, type[HybridVifError]] = {
    cls.code: cls for cls in (PreconditionError, ConfigurationError, BridgeMissing, NoResponse)
} | dict(REFUSALS)
"""Error classes by the code in a response."""


_lock = threading.Lock()
_open_hosts = 0
"""The open hosts of this process. They share one configuration and one daemon."""
_files: tuple[str, ...] = ()
"""The configuration files of the open hosts."""
_owns_configuration = False
"""True if this module has read cfg.CONF, not the program."""


def connect(config_files: Sequence[str] = ()) -> Host:
    """Return this host. The privileged daemon starts at the first request and exits with the last open host.

    config_files: oslo.config files. Default: the program's own oslo.config configuration (cfg.CONF), unchanged.
    Raises ConfigurationError if a file cannot be read or an open host of this process has other files. Raises
    PreconditionError if oslo.privsep cannot be imported, or if eventlet has patched threads and not what they
    wait for.
    """
    global _open_hosts, _files  # a property of the process, as cfg.CONF is
    if isinstance(config_files, str):
        raise ConfigurationError(f"config_files is a text, not a list of files; pass [{config_files!r}]")
    _require_whole_patch()
    _import_privsep()
    wanted = tuple(absolute(name) for name in config_files)
    with _lock:
        if _open_hosts and wanted != _files:
            raise ConfigurationError(
                f"this process is connected with {', '.join(_files) or 'its own configuration'}; "
                f"close() that host before connecting with {', '.join(wanted) or 'another'}"
            )
        settings = _read(wanted)
        _open_hosts, _files = _open_hosts + 1, wanted
    return Host(settings)


def _read(wanted: Sequence[str]) -> Settings:
    """Read these files into cfg.CONF, unless the program has read its own. Raises ConfigurationError."""
    from oslo_config import cfg

    from hybridvif.engine import config

    global _owns_configuration  # noqa: PLW0603  # as above
    config.register(cfg.CONF)
    if wanted and (_owns_configuration or cfg.CONF._namespace is None):
        config.read(cfg.CONF, wanted)
        _owns_configuration = True
    elif wanted and not set(wanted) <= set(read := files_of(cfg.CONF)["config_file"]):
        raise ConfigurationError(
            f"this program's configuration was read from {', '.join(read) or 'no file'}; "
            f"add {', '.join(wanted)} there, and call connect() without files"
        )
    elif not wanted and _owns_configuration:
        cfg.CONF.clear()
        cfg.CONF(args=[], project=config.GROUP, default_config_files=[], default_config_dirs=[])
    return config.settings_of(cfg.CONF)


def _disconnect() -> None:
    """Stop the daemon after the last host."""
    global _open_hosts  # noqa: PLW0603  # as above
    with _lock:
        _open_hosts -= 1
        # If the import of this module failed, no daemon was started.
        context = sys.modules.get("hybridvif.privileged.context")
        if not _open_hosts and context is not None:
            context.daemon_context.stop()


def _require_whole_patch() -> None:
    """Refuse green threads that wait for real sockets or pipes: the first wait would block them all, forever."""
    is_patched = getattr(sys.modules.get("eventlet.patcher"), "is_monkey_patched", None)
    if is_patched is None or not is_patched("thread"):
        return
    for module in ("socket", "subprocess"):
        if not is_patched(module):
            raise PreconditionError(
                f"eventlet has patched the threads of this program but not the module {module}, so a wait for the "
                "privileged daemon would block all threads; call eventlet.monkey_patch() without arguments, or with "
                "thread=False"
            )


@contextmanager
def _without_eventlet() -> Iterator[None]:
    """Import nothing of eventlet in this thread: it takes longer than all other imports."""
    thread = _thread.get_ident()

    def find_spec(name: str, *_: object) -> None:
        if name == "eventlet" and _thread.get_ident() == thread:
            raise ImportError("eventlet is not needed")

    ban: Any = SimpleNamespace(find_spec=find_spec)
    sys.meta_path.insert(0, ban)
    try:
        yield
    finally:
        sys.meta_path.remove(ban)


def _import_privsep() -> None:
    """Import oslo.privsep. Raises PreconditionError if its import fails, for example because it needs eventlet.

    It imports eventlet if that is installed, and before 3.11 it needs it. Then a thread that is never joined imports
    it: eventlet executes the module threading a second time (patcher.original) and takes the current thread for the
    main one. Before Python 3.13, a pool with that thread never shuts down.
    """
    loaded: Future[None] = Future()

    def load() -> None:
        try:
            with _without_eventlet(), suppress(ImportError):
                import oslo_privsep.daemon
            import oslo_privsep.daemon  # noqa: F401

            loaded.set_result(None)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # of a finder, which may raise any
            loaded.set_exception(error)

    if "eventlet" not in sys.modules and threading.current_thread() is not threading.main_thread():
        _thread.start_new_thread(load, ())
    else:
        load()
    try:
        loaded.result()
    except (Exception, SystemExit) as error:
        remedy = "install oslo.privsep 3.11 or newer, which works without eventlet"
        if not isinstance(error, ImportError):
            remedy = f"raise ImportError in place of {type(error).__name__} to forbid an import"
        raise PreconditionError(f"oslo.privsep cannot be imported in this program: {error}; {remedy}") from error
