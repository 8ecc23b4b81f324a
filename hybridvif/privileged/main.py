"""hybridvif-privsep-helper: starts the privileged daemon for this context only, as oslo.privsep's privsep-helper would.

Nothing of oslo.privsep runs here. Whoever may run privsep-helper as root with arguments of their own has root:
--privsep_context names code that is imported, and oslo.log's options name code that is run. Here a configuration file
is all that is left to choose, and of it the daemon obeys [hybridvif], [hybridvif_privileged] and what [hybridvif] takes
from [os_vif_ovs]. It logs to its caller only.
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

from hybridvif.engine import config
from hybridvif.model.errors import HybridVifError
from hybridvif.model.parts import Role
from hybridvif.privileged import imports, landlock, peer, privileges, registry
from hybridvif.privileged.ahead import CONTEXT
from hybridvif.privileged.frames import Frames
from hybridvif.privileged.lograte import LogRate
from hybridvif.privileged.messages import Message
from hybridvif.privileged.replies import LogHandler, Replies
from hybridvif.privileged.requests import REQUESTS, respond
from hybridvif.privileged.serving import Question, Servers

LOG = logging.getLogger(__name__)
_ONCE = frozenset({"--privsep_context", "--privsep_sock_path"})
_FILES = frozenset({"--config-file", "--config-dir"})
_OPTIONS = _ONCE | _FILES
GARBAGE = 20_000
"""How many more objects there are than at the last look for garbage, before Python looks again."""
_NO_REQUEST = "builtins.ValueError"
_NO_ENTRY_POINT = "builtins.NameError"


def start(arguments: Sequence[str], caller: int | None) -> NoReturn:
    """Start the daemon and end; the daemon goes on. Ends with one sentence on standard error if it cannot start.

    caller: the user who had the helper started, if that is known (peer.py).
    """
    try:
        lacking = objection(arguments)
        if lacking:
            _refuse(f"refused: {lacking}")
        given = _absolute(arguments)
        os.chdir("/")
        options = config.read_own([word for option, value in given if option in _FILES for word in (option, value)])
        # What is wrong with [hybridvif] is told when the daemon is asked for something, in an answer.
        registry.keep(lambda: config.settings_of(options))
        channel = peer.connect(dict(given)["--privsep_sock_path"], caller)
        replies = Replies(channel)
        _log_to_the_caller_only(replies)
        _harden(channel, options)
    except HybridVifError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"the privileged daemon cannot start: {error}")
    # What has been imported stays, so nobody need look through it again and again; and what a request makes goes with
    # it, all but a few cycles. By default Python looks for those 100 times while 300 ports are plugged, for a tenth of
    # the time.
    gc.freeze()
    gc.set_threshold(GARBAGE)
    gc.enable()
    if os.fork():
        # This is the helper itself, which leaves the daemon behind. To tidy up, it would compete for a processor.
        os._exit(0)
    os.setsid()
    _serve(channel, replies, options.hybridvif_privileged.thread_pool_size)


def _refuse(sentence: str) -> NoReturn:
    # sys.stderr is None where the helper was started without one.
    with contextlib.suppress(OSError):
        os.write(2, f"{sentence}\n".encode(errors="replace"))
    os._exit(1)


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
        if name == "--privsep_context" and value != CONTEXT:
            return f"{value[:80]!r} is not the context {CONTEXT}"
        seen.append(name)
    wrong = [name for name in sorted(_ONCE) if seen.count(name) != 1]
    return f"{wrong[0]} must be given once" if wrong else ""


def _absolute(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Options and values of arguments without objection; paths from the working directory on, before that changes."""
    given, rest = [], list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        value = value if equals else rest.pop(0)
        given.append((name, value if name == "--privsep_context" else os.path.abspath(value)))
    return given


def _harden(channel: socket.socket, options: Any) -> None:
    """Give up all but what the daemon needs, and prove it. Raises PrivilegeError, OSError."""
    ours = options.hybridvif_privileged
    privileges.close_files(channel.fileno())
    # Before the first thread: all of this is per thread, and inherited by those to come.
    uid, gid = privileges.account_of(ours.user, ours.group)
    narrowed = privileges.narrow()
    privileges.become(uid, gid)
    privileges.seal()
    imports.arm()
    _confine()
    privileges.prove(narrowed=narrowed, uid=uid, gid=gid)
    LOG.info("the privileged daemon runs as uid %d, gid %d, with CAP_NET_ADMIN", os.getuid(), os.getgid())


def _confine() -> None:
    with contextlib.suppress(HybridVifError):
        settings = registry.configured()
        executors = [registry.class_of(role, settings) for role in Role]
        own = [path for executor in executors for path in getattr(executor, "writes", ())]
        modules = [sys.modules[executor.__module__].__file__ for executor in executors]
        tls = filter(None, (settings.ssl_key_file, settings.ssl_cert_file, settings.ssl_ca_cert_file))
        read = [*landlock.READ, *tls, *sys.path, *(os.path.dirname(path) for path in modules if path)]
        if any(executor.programs for executor in executors):
            # What a program has to read, nobody here can tell, and it is held alike.
            read, own = ["/"], [*landlock.FREE, *own]
        try:
            landlock.restrict(read, own)
        except OSError as error:
            # Some of its calls are there and some are kept from us, by a container's filter of system calls.
            LOG.warning("the daemon may open what its user may: %s", error)


def _log_to_the_caller_only(replies: Replies) -> None:
    root, handler = logging.getLogger(), LogHandler(replies)
    handler.addFilter(LogRate())
    root.handlers = [handler]
    root.setLevel(logging.INFO)


def _serve(channel: socket.socket, replies: Replies, threads: int) -> NoReturn:
    """Answer until the caller hangs up, and then end: what is still queued would be done for nobody."""
    # Not earlier: a thread keeps the capabilities that it began with.
    threading.Thread(target=_end_with_the_caller, args=(channel,), name="hybridvif-caller", daemon=True).start()
    with open(os.devnull, "r+b") as nothing:
        for standard in (0, 1):
            os.dup2(nothing.fileno(), standard)
    frames = Frames(channel, replies.send)
    Servers(frames, lambda question: _answer(question, replies), threads, _end, lambda: frames.size).serve()


def _answer(question: Question, replies: Replies) -> None:
    """Carry out a request, and send what came of it. Raises OSError where the caller has hung up."""
    name, request = question
    try:
        replies.send((name, response(request)))
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  # an answer that cannot be sent
        replies.send((name, (Message.ERR.value, _NO_REQUEST, (f"{type(error).__name__}: {error}",))))


def response(request: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the answer to a request. A request of another form, or for another function, is refused."""
    match request:
        case (Message.PING.value,):
            return (Message.PONG.value,)
        case (Message.CALL.value, str(name), tuple(arguments), dict(named)) if not named:
            if name not in REQUESTS:
                return Message.ERR.value, _NO_ENTRY_POINT, (f"refused: {name[:80]!r} is no entry point",)
            return Message.RET.value, respond(REQUESTS[name], arguments)
    return Message.ERR.value, _NO_REQUEST, ("refused: no such request",)


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
