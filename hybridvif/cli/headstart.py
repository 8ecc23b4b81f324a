"""Start the privileged daemon before anything else, if the command is sure to need it.

The command line and the configuration are not parsed yet, so this is a guess. A wrong guess is harmless: the client
uses the daemon only if it would start the same one. An unused daemon exits with the command.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hybridvif.cli.connection import config_files

ASKING = ("plug", "unplug")
"""Commands that need the daemon, unless an option below is given."""
_OTHERWISE = re.compile(r"--(help|version|dry-run)?|-[vq]*h.*")
_CONFIGURED = re.compile(rb"helper.command|config.source", re.IGNORECASE)
"""Options for another helper command (oslo.privsep) or another source of options (oslo.config)."""


@contextmanager
def early_daemon(words: Sequence[str]) -> Iterator[None]:
    """Start the daemon if the command needs it and no option or file sets the helper command."""
    named = config_files_in(words)
    files = None if named is None else config_files(named)
    # Only root can end the daemon again. Another user needs sudo to start it.
    if files is None or os.geteuid() != 0 or _has_helper_command(files):
        yield
        return
    from hybridvif.privileged import ahead

    try:
        options = {"config_file": [os.path.abspath(name) for name in files]}
    except FileNotFoundError:
        # The working directory has been deleted. The command itself reports it.
        yield
        return
    try:
        ahead.begin(lambda path: ahead.command_of(path, options))
        yield
    finally:
        ahead.discard()


def config_files_in(words: Sequence[str]) -> list[str] | None:
    """Return the configuration files of a command line; None if the command does not need the daemon."""
    files, command, rest = [], "", list(words)
    while rest:
        word = rest.pop(0)
        if _OTHERWISE.fullmatch(word):
            return None
        if word == "--config-file" and rest:
            files.append(rest.pop(0))
        elif word.startswith("--config-file="):
            files.append(word.partition("=")[2])
        elif not word.startswith("-"):
            command = command or word
    return files if command in ASKING else None


def _has_helper_command(files: Sequence[str]) -> bool:
    if any(_CONFIGURED.search(os.fsencode(name)) for name in os.environ):
        # oslo.config reads variables such as OS_HYBRIDVIF_PRIVILEGED__HELPER_COMMAND.
        return True
    try:
        for name in files:
            if not os.path.isfile(name):
                # A pipe can be read only once.
                return True
            with open(name, "rb") as file:
                if _CONFIGURED.search(file.read()):
                    return True
    except OSError:
        # The command itself reports an unreadable file.
        return True
    return False
