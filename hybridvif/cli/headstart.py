"""A head start for the privileged daemon: where a command is sure to ask it, it is started before all else.

What the command line and the configuration say is not known yet, so this is a guess, and a wrong one does no harm:
who asks the daemon takes what was started only if it would start the same, and what nobody takes ends with the command.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hybridvif.cli.connection import config_files

ASKING = ("plug", "unplug")
"""The commands that ask the daemon in any case, unless they are told otherwise."""
_OTHERWISE = re.compile(r"--(help|version|dry-run)?|-[vq]*h.*")
_CONFIGURED = re.compile(rb"helper.command|config.source", re.IGNORECASE)
"""Options by which another command, or another place for options, is named (oslo.privsep, oslo.config)."""


@contextmanager
def given(words: Sequence[str]) -> Iterator[None]:
    """Start the daemon, if this command line is for a command that asks it and nothing says how to start it."""
    named = files_in(words)
    files = None if named is None else config_files(named)
    # Only root can end again what it has started; sudo is somebody else's.
    if files is None or os.geteuid() != 0 or _says_how(files):
        yield
        return
    from hybridvif.privileged import ahead

    try:
        options = {"config_file": [os.path.abspath(name) for name in files]}
    except FileNotFoundError:
        # The working directory has been deleted, which is told when it is due.
        yield
        return
    try:
        ahead.begin(lambda path: ahead.command_of(path, options))
        yield
    finally:
        ahead.discard()


def files_in(words: Sequence[str]) -> list[str] | None:
    """The configuration files that a command line names; None where it is not for a command that asks the daemon."""
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


def _says_how(files: Sequence[str]) -> bool:
    if any(_CONFIGURED.search(os.fsencode(name)) for name in os.environ):
        # oslo.config reads OS_HYBRIDVIF_PRIVILEGED__HELPER_COMMAND and its like.
        return True
    try:
        for name in files:
            if not os.path.isfile(name):
                # What is read once, as a pipe, is not for us to read.
                return True
            with open(name, "rb") as file:
                if _CONFIGURED.search(file.read()):
                    return True
    except OSError:
        # What cannot be read is told when it is due.
        return True
    return False
