"""hybridvif-privsep-helper: starts the privileged daemon, as oslo.privsep's privsep-helper does, for this context only.

Who may run privsep-helper as root with arguments of their own has root: --privsep_context names code that is imported,
and oslo.log's options name code that is run. Here a configuration file is all that is left to choose.
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
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from oslo_privsep import comm, daemon
from oslo_privsep.priv_context import PrivContext

from hybridvif.errors import HybridVifError
from hybridvif.parts import Role
from hybridvif.privileged import imports, landlock, posture, registry
from hybridvif.privileged.context import daemon_context
from hybridvif.privileged.frames import Frames
from hybridvif.privileged.lograte import LogRate
from hybridvif.privileged.replies import Replies
from hybridvif.privileged.serving import Question, Servers

_ONCE = frozenset({"--privsep_context", "--privsep_sock_path"})
_OPTIONS = _ONCE | {"--config-file", "--config-dir"}
GARBAGE = 20_000
"""How many more objects there are than at the last look for garbage, before Python looks again."""
_NO_REQUEST = f"{daemon.ProtocolError.__module__}.{daemon.ProtocolError.__name__}"


def main() -> None:
    """Start the daemon and end; the daemon goes on."""
    lacking = objection(sys.argv[1:])
    if lacking:
        sys.exit(f"refused: {lacking}")
    daemon.Daemon = Hardened  # type: ignore[misc]  # helper_main has no other way to be told
    # What has been imported stays, so nobody need look through it again and again; and what a request makes goes with
    # it, all but a few cycles. By default Python looks for those 100 times while 300 ports are plugged, for a tenth of
    # the time.
    gc.freeze()
    gc.set_threshold(GARBAGE)
    gc.enable()
    daemon.helper_main()
    # This is the helper itself, which leaves the daemon behind. To tidy up, it would compete with that for a processor.
    os._exit(0)


def objection(arguments: Sequence[str]) -> str:
    """Why these are not the arguments of our context, as one sentence; empty if they are."""
    seen: list[str] = []
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name not in _OPTIONS:
            return f"{name[:40]!r} is no option of hybridvif-privsep-helper; it takes {', '.join(sorted(_OPTIONS))}"
        if not equals:
            value = rest.pop(0) if rest else ""
        if not value or value.startswith("-"):
            return f"{name} lacks its value"
        if name == "--privsep_context" and value != daemon_context.pypath:
            return f"{value[:80]!r} is not the context {daemon_context.pypath}"
        seen.append(name)
    wrong = [name for name in sorted(_ONCE) if seen.count(name) != 1]
    return f"{wrong[0]} must be given once" if wrong else ""


class Hardened(daemon.Daemon):
    """oslo.privsep's daemon, with less to lose and an end that is prompt."""

    def __init__(self, channel: comm.ServerChannel, context: PrivContext) -> None:
        super().__init__(channel, context)
        channel.writer = Replies(channel.writer)
        channel.reader_iter = Frames(channel.writer.writesock, channel.send)

    def _drop_privs(self) -> None:
        self._read_settings()
        # Before the first thread: all of this is per thread, and inherited by those to come.
        self._log_to_the_caller_only()
        posture.detach(self.channel.writer.writesock.fileno())
        posture.narrow()
        # Whatever `capabilities` may say: more is not needed, less does not work.
        self.caps = {posture.KEPT}
        super()._drop_privs()
        posture.seal()
        imports.arm()
        self._confine()

    def _process_cmd(self, msgid: str, cmd: comm.Message, *args: Any) -> tuple[Any, ...]:
        match cmd, args:
            case comm.Message.PING.value, ():
                pass
            case comm.Message.CALL.value, (str(), tuple(), dict(named)) if all(type(name) is str for name in named):
                pass
            case _:
                return comm.Message.ERR.value, _NO_REQUEST, ("refused: no such request",)
        return super()._process_cmd(msgid, cmd, *args)

    def loop(self) -> NoReturn:
        """Answer until the caller hangs up, and then end: what is still queued would be done for nobody."""
        # Not earlier: a thread keeps the capabilities that it began with.
        channel = self.channel.writer.writesock
        threading.Thread(target=_end_with_the_caller, args=(channel,), name="hybridvif-caller", daemon=True).start()
        # From here on it is this context: what calls through it is done here.
        self.context.set_client_mode(False)
        Servers(self.channel, self._answer, self.context.conf.thread_pool_size, _end).serve()

    def _answer(self, question: Question) -> None:
        """Carry out a request, and send what came of it. Raises OSError where the caller has hung up."""
        name, request = question
        try:
            self.channel.send((name, self._process_cmd(name, *request)))
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  # an answer that cannot be sent
            kind = f"{type(error).__module__}.{type(error).__name__}"
            self.channel.send((name, (comm.Message.ERR.value, kind, (str(error),))))

    @staticmethod
    def _read_settings() -> None:
        # As who started it: the user that it becomes may not read the files. What is wrong with them is told when it is
        # asked for something, in an answer.
        with contextlib.suppress(HybridVifError):
            registry.configured()

    @staticmethod
    def _confine() -> None:
        with contextlib.suppress(HybridVifError):
            settings = registry.configured()
            executors = [registry.class_of(role, settings) for role in Role]
            own = [path for executor in executors for path in getattr(executor, "writes", ())]
            modules = [sys.modules[executor.__module__].__file__ for executor in executors]
            tls = (settings.ssl_key_file, settings.ssl_cert_file, settings.ssl_ca_cert_file)
            read = [*landlock.READ, *filter(None, tls), *sys.path, *(os.path.dirname(path) for path in modules if path)]
            if any(executor.programs for executor in executors):
                # What a program has to read, nobody here can tell, and it is held alike.
                read, own = ["/"], [*landlock.FREE, *own]
            try:
                landlock.restrict(read, own)
            except OSError as error:
                # Some of its calls are there and some are kept from us, by a container's filter of system calls.
                logging.getLogger(__name__).warning("the daemon may open what its user may: %s", error)

    @staticmethod
    def _log_to_the_caller_only() -> None:
        # oslo.privsep removes handlers from the list that it walks, so every other one stays, with its file.
        root = logging.getLogger()
        root.handlers = [one for one in root.handlers if isinstance(one, daemon.PrivsepLogHandler)]
        rate = LogRate()
        for handler in root.handlers:
            handler.addFilter(rate)
        # At DEBUG it logs every reply whole.
        logging.getLogger(daemon.__name__).setLevel(logging.INFO)


def _end_with_the_caller(channel: socket.socket) -> None:
    """End when the caller hangs up or dies, though much of what it had asked for has not been read yet."""
    hung_up = select.poll()
    hung_up.register(channel, select.POLLRDHUP)
    hung_up.poll()
    _end()


def _end() -> NoReturn:
    _kill_children()
    # sys.exit would wait for the threads of third parties.
    os._exit(0)


def _kill_children() -> None:
    """End the programs that run for requests, each of which leads a process group of its own (executors/command.py)."""
    for listed in glob.glob("/proc/self/task/*/children"):
        with contextlib.suppress(OSError), open(listed, encoding="ascii") as children:
            for pid in map(int, children.read().split()):
                for kill in (os.killpg, os.kill):
                    with contextlib.suppress(ProcessLookupError):
                        kill(pid, signal.SIGKILL)
