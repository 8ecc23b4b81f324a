"""Asks the daemon: the unprivileged twin of privileged/requests.py.

One process talks to one daemon (oslo.privsep's context is global), so all hosts that are connected at a time share
it; the last one to close ends it.
"""

from __future__ import annotations

import _thread
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from hybridvif.engine.config_files import absolute, files_of
from hybridvif.engine.host_protocol import Outcomes
from hybridvif.model.errors import REFUSALS, BridgeMissing, ConfigurationError, HybridVifError, PreconditionError
from hybridvif.model.facts import Observed
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.steps import Step
from hybridvif.postponed import found

GRACE_PERIOD = 0.2
"""Seconds the daemon is given beyond its deadline to say that it passed, before the caller stops waiting."""

START_SHARE = 0.75
"""Of the deadline, what a daemon may take to come up ahead of the first question; less than who asks that waits."""

OBSERVE_RETRIES = 2
"""How often another daemon is asked to look, where one died of it."""


class NoResponse(HybridVifError):
    """The daemon died, or did not answer by the deadline; what it was asked may or may not have been done."""

    code = "no-answer"


class RequestNotSent(NoResponse):
    """The daemon did not get the question, so nothing was tried."""


class Died(NoResponse):
    """The daemon died before it answered."""


class DiedBefore(Died, RequestNotSent):
    """The daemon was dead before it had the whole question."""


class Host:
    """This host, through the privileged daemon. Made by connect(); thread-safe; a context manager.

    A deadline is an instant of time.monotonic().
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._open = True

    def begin(self) -> None:
        """Have the daemon started now and not on first use, and do not wait: who asks first hears of a failure."""
        from hybridvif.privileged import ahead
        from hybridvif.privileged.context import daemon_context

        # Whoever asks first meets the limit again.
        with suppress(PreconditionError), ahead.within_limits():
            daemon_context.begin(time.monotonic() + self.settings.deadline * START_SHARE)
        # What the first question needs, imported while the daemon comes up.
        from hybridvif.privileged import (
            codec,  # noqa: F401
            requests,  # noqa: F401
        )

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """The parts and facts under these names; None: under all names of our grammar.

        Raises PreconditionError if the daemon or what it needs is not there, NoResponse if it did not
        answer.
        """
        with self.observing(names, deadline) as observed_then:
            return observed_then()

    @contextmanager
    def observing(self, names: Collection[str] | None, deadline: float) -> Iterator[Callable[[], Observed]]:
        """A function that tells the same; the daemon is asked at once, and works while the caller does as well."""
        from hybridvif.privileged import codec, requests

        asked = None if names is None else sorted(names)
        with ExitStack() as asking:
            answers: list[Callable[[], Any]] = []
            with suppress(Died):
                answers.append(asking.enter_context(self._asking(requests.observe, asked, deadline)))

            def observed() -> Observed:
                # To look changes nothing, so the next daemon may be asked the same.
                with suppress(Died):
                    if answers:
                        return codec.decode_observed(answers[0]())
                for _ in range(OBSERVE_RETRIES - 1):
                    with suppress(Died):
                        return codec.decode_observed(self._ask(requests.observe, asked, deadline))
                return codec.decode_observed(self._ask(requests.observe, asked, deadline))

            yield observed

    def apply(self, plans: Sequence[Sequence[Step]], deadline: float) -> Outcomes:
        """Carry out plans, one a port; the Outcomes of their steps. A lost answer is the outcome `unknown`.

        Raises PreconditionError or Refused if nothing was tried.
        """
        from hybridvif.privileged import codec, requests

        try:
            told, seen = self._ask(requests.apply, codec.encode_plans(plans), deadline)
            outcomes = Outcomes(codec.decode_outcomes(told, plans))
            outcomes.seen = None if seen is None else codec.decode_observed(seen)
            return outcomes
        except RequestNotSent as late:
            again = isinstance(late, Died)
            return Outcomes(
                tuple(Outcome(step, Result.FAILED, str(late), retry=again, code=late.code) for step in plan)
                for plan in plans
            )
        except NoResponse as lost:
            return Outcomes(tuple(Outcome(step, Result.UNKNOWN, str(lost)) for step in plan) for plan in plans)

    @contextmanager
    def locked(self, keys: Collection[str], deadline: float) -> Iterator[None]:
        """Hold the locks of these ports, by the first 11 characters of their ids. Raises locks.LockTimeout."""
        from hybridvif.engine import locks
        from hybridvif.privileged import ahead
        from hybridvif.privileged.channel import TimedOut
        from hybridvif.privileged.context import daemon_context

        # Who cannot have the daemon makes no lock directory either: it would be theirs, and root would refuse it.
        try:
            if daemon_context.client_mode:
                with ahead.within_limits():
                    daemon_context.reach(deadline)
        except TimedOut as error:
            raise NoResponse(f"{error}, and the deadline has passed; call again") from error
        with locks.holding(keys, self.settings.lock_path, deadline):
            yield

    def seconds_since_first_seen(self, signs: Collection[str], deadline: float) -> dict[str, float]:
        """For how many seconds each of these has been noted on this host; 0 for what is new. The others are forgotten.

        Raises PreconditionError if nothing can be noted, NoResponse if another caller is at it until the deadline.
        """
        from hybridvif.engine import first_seen, locks

        try:
            return first_seen.seconds_since_first_seen(signs, self.settings.lock_path, deadline)
        except locks.LockTimeout as error:
            raise NoResponse("another caller was noting what it found until the deadline; call again") from error

    def close(self) -> None:
        """Hang up; the daemon ends when the last host of this process is closed."""
        if self._open:
            self._open = False
            _connections.leave()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, entry: Any, question: object, deadline: float) -> Any:
        with self._asking(entry, question, deadline) as answer:
            return answer()

    @contextmanager
    def _asking(self, entry: Any, question: object, deadline: float) -> Iterator[Callable[[], Any]]:
        from hybridvif.privileged.context import daemon_context

        if not self._open:
            raise PreconditionError("this host is closed; connect() again")
        # From the deadline on, not from now: several questions in a row must not each be given the grace.
        left = deadline + GRACE_PERIOD - time.monotonic()
        if left <= 0:
            raise RequestNotSent("the deadline had passed before the privileged daemon was asked")
        with ExitStack() as asking:
            with _told():
                reply = asking.enter_context(daemon_context.asking(entry, (question, float(deadline)), {}, left))

            def answer() -> Any:
                with _told():
                    said = reply()
                if said[0] == "ok":
                    return said[1]
                _, code, sentence = said
                raise _ERRORS.get(code, HybridVifError)(sentence)

            yield answer


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong within, between the two processes, as an error of ours."""
    from hybridvif.privileged import ahead
    from hybridvif.privileged.channel import TimedOut, Untaken

    try:
        with ahead.within_limits():
            yield
    except TimedOut as error:
        raise NoResponse("the privileged daemon did not answer by the deadline") from error
    except Untaken as error:
        raise DiedBefore(f"the privileged daemon died before it was asked ({error}); call again") from error
    except OSError as error:
        raise Died(f"the privileged daemon died before it answered ({error}); call again") from error


_ERRORS: dict[str, type[HybridVifError]] = {
    cls.code: cls for cls in (PreconditionError, ConfigurationError, BridgeMissing, NoResponse)
} | dict(REFUSALS)


class _Connections:
    """The hosts of this process, which share one configuration and one daemon."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._files: tuple[str, ...] = ()
        self._read = False

    def join(self, files: Sequence[str]) -> Settings:
        """One host more. Raises ConfigurationError if those before it were connected otherwise."""
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
            if wanted and (self._read or not _parsed(cfg.CONF)):
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
        """One host less; the last one ends the daemon."""
        with self._lock:
            self._count -= 1
            # Where it could not be imported there is no daemon, and that has been raised already.
            context = sys.modules.get("hybridvif.privileged.context")
            if not self._count and context is not None:
                context.daemon_context.stop()


def _parsed(conf: Any) -> bool:
    return conf._namespace is not None


_connections = _Connections()


def connect(config_files: Sequence[str] = ()) -> Host:
    """This host. The privileged daemon is started on first use, and ends with the last host that is closed.

    config_files: oslo.config files. Without any, the program's own oslo.config configuration (cfg.CONF) is used as it
    is. Raises ConfigurationError if a file cannot be read or this process is connected with others, PreconditionError
    if oslo.privsep cannot be imported.
    """
    _load_eventlet_beside()
    return Host(_connections.join(config_files))


def _require_privsep_without_eventlet() -> None:
    try:
        import oslo_privsep.daemon  # noqa: F401
    except ImportError as error:
        raise PreconditionError(
            f"oslo.privsep cannot be imported in this program: {error}; install oslo.privsep 3.11 or newer, which "
            "works without eventlet"
        ) from error


def _load_eventlet_beside() -> None:
    """Have oslo.privsep import eventlet, where that is installed, in no thread that somebody is to join.

    eventlet executes Python's own module threading once more (patcher.original), which takes its thread for the main
    one; before Python 3.13 the end of that thread is then told to nobody, and a pool that it is of never shuts down.
    """
    if "eventlet" in sys.modules:
        return
    if found("eventlet") is None:
        _require_privsep_without_eventlet()
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
