"""Start the privileged daemon, serve one client, and exit with it.

Replaces oslo.privsep's privsep-helper, of which nothing runs here. A user who may run privsep-helper as root with any
arguments has root: --privsep_context names code to import, and oslo.log's options name code to run. Here only the
configuration files can be chosen. The daemon reads [hybridvif], [hybridvif_privileged], and the options of [os_vif_ovs]
that [hybridvif] refers to. It logs to its client only.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from hybridvif.engine import config
from hybridvif.model.errors import HybridVifError, PreconditionError
from hybridvif.model.parts import Role
from hybridvif.privileged import execute, helper, privileges
from hybridvif.privileged.channel import CONTEXT
from hybridvif.privileged.requests import respond
from hybridvif.privileged.serve import Sender, Server, end, exit_on_eof

LOG = logging.getLogger(__name__)
_ONCE = frozenset({"--privsep_context", "--privsep_sock_path"})
_FILES = frozenset({"--config-file", "--config-dir"})
_OPTIONS = _ONCE | _FILES
GARBAGE = 20_000
"""The growth in the number of objects after which the garbage collector runs."""


def start(arguments: Sequence[str], caller: int | None) -> NoReturn:
    """Start the daemon and exit; the daemon keeps running. Print one sentence to stderr and exit if it cannot start.

    caller: the user who started the helper, if known (helper.py).
    """
    try:
        given = options_of(arguments)
        os.chdir("/")
        options = config.read_own([word for option, value in given if option in _FILES for word in (option, value)])
        # An error in [hybridvif] is reported in the response to a request.
        execute.keep(lambda: config.settings_of(options))
        channel = helper.connect(dict(given)["--privsep_sock_path"], caller)
        sender = Sender(channel)
        logging.getLogger().handlers = [sender]
        logging.getLogger().setLevel(logging.INFO)
        _harden(channel, options)
    except (HybridVifError, OSError) as error:
        sentence = str(error) if isinstance(error, HybridVifError) else f"the privileged daemon cannot start: {error}"
        # sys.stderr is None if the helper was started without one.
        with contextlib.suppress(OSError):
            os.write(2, f"{sentence}\n".encode(errors="replace"))
        os._exit(1)
    # Modules stay, and requests leave few reference cycles. With its default threshold the collector takes a tenth of
    # the time of a plug of 300 ports.
    gc.freeze()
    gc.set_threshold(GARBAGE)
    gc.enable()
    if os.fork():
        # The parent is the helper. Cleaning up would only compete with the daemon for a processor.
        os._exit(0)
    os.setsid()
    with open(os.devnull, "r+b") as null:
        for descriptor in (0, 1):
            os.dup2(null.fileno(), descriptor)
    # Not earlier: a thread keeps the capabilities that it started with.
    threading.Thread(target=exit_on_eof, args=(channel,), name="hybridvif-client", daemon=True).start()
    Server(channel, sender, respond, options.hybridvif_privileged.thread_pool_size).serve()
    end()


def options_of(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Return the options with their values. Raises PreconditionError with one sentence."""
    given, rest = [], list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name not in _OPTIONS:
            raise _refused(
                f"{name[:40]!r} is no option of hybridvif-privsep-helper; it takes {', '.join(sorted(_OPTIONS))}"
            )
        if not equals:
            value = rest.pop(0) if rest else ""
        if not value or value.startswith("-"):
            raise _refused(f"{name} lacks its value")
        if name == "--privsep_context" and value != CONTEXT:
            raise _refused(f"{value[:80]!r} is not the context {CONTEXT}")
        # The working directory changes.
        given.append((name, value if name == "--privsep_context" else os.path.abspath(value)))
    for option in sorted(_ONCE):
        if [name for name, _ in given].count(option) != 1:
            raise _refused(f"{option} must be given once")
    return given


def _refused(reason: str) -> PreconditionError:
    return PreconditionError(f"refused: {reason}")


def _harden(channel: socket.socket, options: Any) -> None:
    """Drop all privileges that the daemon does not need, and verify it. Raises PrivilegeError, OSError."""
    ours = options.hybridvif_privileged
    privileges.close_files(channel.fileno())
    # Before the first thread: these attributes are per thread, and inherited by new ones.
    uid, gid = privileges.account_of(ours.user, ours.group)
    narrowed = privileges.narrow()
    privileges.become(uid, gid)
    privileges.seal()
    _confine()
    privileges.verify(narrowed=narrowed, uid=uid, gid=gid)
    LOG.info("the privileged daemon runs as uid %d, gid %d, with CAP_NET_ADMIN", os.getuid(), os.getgid())


def _confine() -> None:
    with contextlib.suppress(HybridVifError):
        settings = execute.configured()
        privileges.restrict_files_to([execute.class_of(role, settings) for role in Role], settings)
