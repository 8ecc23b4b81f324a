"""Start the privileged daemon, serve one client, and exit with it.

Replaces oslo.privsep's privsep-helper, of which nothing runs here. A user who may run privsep-helper as root with any
arguments has root: --privsep_context names code to import, and oslo.log's options name code to run. Here only the
configuration files can be chosen. The daemon reads [hybridvif], [hybridvif_privileged], and the options of [os_vif_ovs]
that [hybridvif] refers to. It logs to its client only.
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
from hybridvif.privileged.serving import QueuedRequest, ThreadPool

LOG = logging.getLogger(__name__)
_ONCE = frozenset({"--privsep_context", "--privsep_sock_path"})
_FILES = frozenset({"--config-file", "--config-dir"})
_OPTIONS = _ONCE | _FILES
GARBAGE = 20_000
"""The growth in the number of objects after which the garbage collector runs."""
_NO_REQUEST = "builtins.ValueError"
_NO_ENTRY_POINT = "builtins.NameError"


def start(arguments: Sequence[str], caller: int | None) -> NoReturn:
    """Start the daemon and exit; the daemon keeps running. Print one sentence to stderr and exit if it cannot start.

    caller: the user who started the helper, if known (peer.py).
    """
    try:
        invalid = objection(arguments)
        if invalid:
            _refuse(f"refused: {invalid}")
        given = _absolute(arguments)
        os.chdir("/")
        options = config.read_own([word for option, value in given if option in _FILES for word in (option, value)])
        # An error in [hybridvif] is reported in the response to a request.
        registry.keep(lambda: config.settings_of(options))
        channel = peer.connect(dict(given)["--privsep_sock_path"], caller)
        replies = Replies(channel)
        _log_to_client_only(replies)
        _harden(channel, options)
    except HybridVifError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"the privileged daemon cannot start: {error}")
    # Modules stay, and requests leave few reference cycles. With its default threshold the collector takes a tenth of
    # the time of a plug of 300 ports.
    gc.freeze()
    gc.set_threshold(GARBAGE)
    gc.enable()
    if os.fork():
        # The parent is the helper. Cleaning up would only compete with the daemon for a processor.
        os._exit(0)
    os.setsid()
    _serve(channel, replies, options.hybridvif_privileged.thread_pool_size)


def _refuse(sentence: str) -> NoReturn:
    # sys.stderr is None if the helper was started without one.
    with contextlib.suppress(OSError):
        os.write(2, f"{sentence}\n".encode(errors="replace"))
    os._exit(1)


def objection(arguments: Sequence[str]) -> str:
    """Return what is wrong with the arguments, as one sentence; empty if nothing is."""
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
    """Return the options with their values. Paths become absolute, because the working directory changes."""
    given, rest = [], list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        value = value if equals else rest.pop(0)
        given.append((name, value if name == "--privsep_context" else os.path.abspath(value)))
    return given


def _harden(channel: socket.socket, options: Any) -> None:
    """Drop all privileges that the daemon does not need, and verify it. Raises PrivilegeError, OSError."""
    ours = options.hybridvif_privileged
    privileges.close_files(channel.fileno())
    # Before the first thread: these attributes are per thread, and inherited by new ones.
    uid, gid = privileges.account_of(ours.user, ours.group)
    narrowed = privileges.narrow()
    privileges.become(uid, gid)
    privileges.seal()
    imports.arm()
    _confine()
    privileges.verify(narrowed=narrowed, uid=uid, gid=gid)
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
            # The files that a program reads are unknown, and the restriction applies to it too.
            read, own = ["/"], [*landlock.FREE, *own]
        try:
            landlock.restrict(read, own)
        except OSError as error:
            # The filter of system calls of a container may refuse some calls of Landlock.
            LOG.warning("the daemon may open what its user may: %s", error)


def _log_to_client_only(replies: Replies) -> None:
    root, handler = logging.getLogger(), LogHandler(replies)
    handler.addFilter(LogRate())
    root.handlers = [handler]
    root.setLevel(logging.INFO)


def _serve(channel: socket.socket, replies: Replies, threads: int) -> NoReturn:
    """Serve requests until the client disconnects, then exit. Queued requests are discarded."""
    # Not earlier: a thread keeps the capabilities that it started with.
    threading.Thread(target=_exit_on_eof, args=(channel,), name="hybridvif-caller", daemon=True).start()
    with open(os.devnull, "r+b") as null:
        for descriptor in (0, 1):
            os.dup2(null.fileno(), descriptor)
    frames = Frames(channel, replies.send)
    ThreadPool(frames, lambda request: _respond(request, replies), threads, _end, lambda: frames.size).serve()


def _respond(queued: QueuedRequest, replies: Replies) -> None:
    """Serve a request and send the response. Raises OSError if the client has disconnected."""
    name, request = queued
    try:
        replies.send((name, response(request)))
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  # a response that cannot be encoded
        replies.send((name, (Message.ERR.value, _NO_REQUEST, (f"{type(error).__name__}: {error}",))))


def response(request: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the response to a message. A message of another form, or for another function, is refused."""
    match request:
        case (Message.PING.value,):
            return (Message.PONG.value,)
        case (Message.CALL.value, str(name), tuple(arguments), dict(named)) if not named:
            if name not in REQUESTS:
                return Message.ERR.value, _NO_ENTRY_POINT, (f"refused: {name[:80]!r} is no entry point",)
            return Message.RET.value, respond(REQUESTS[name], arguments)
    return Message.ERR.value, _NO_REQUEST, ("refused: no such request",)


def _exit_on_eof(channel: socket.socket) -> None:
    """Exit on EOF of the client, even if unread requests are queued."""
    hung_up = select.poll()
    hung_up.register(channel, select.POLLRDHUP)
    hung_up.poll()
    _end()


def _end() -> NoReturn:
    _kill_children()
    # sys.exit would wait for threads of third parties.
    os._exit(0)


def _kill_children() -> None:
    """Kill the programs that requests run. Each one leads its own process group (executors/command.py)."""
    for listed in glob.glob("/proc/self/task/*/children"):
        with contextlib.suppress(OSError), open(listed, encoding="ascii") as children:
            for pid in map(int, children.read().split()):
                for kill in (os.killpg, os.kill):
                    with contextlib.suppress(ProcessLookupError):
                        kill(pid, signal.SIGKILL)
