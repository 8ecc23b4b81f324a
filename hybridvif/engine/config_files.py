"""Absolute names of configuration files. They are for the daemon, which has another working directory.

oslo.config reads a file when it parses the option, and keeps the name as given. A relative name belongs to the
working directory at that time. The program may have changed its directory since then, as daemons do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from hybridvif.model.errors import ConfigurationError

if TYPE_CHECKING:
    from oslo_config import cfg

OPTIONS = ("config_file", "config_dir")
"""The options of oslo.config that name files and directories to read."""


def absolute(name: str) -> str:
    """Return an absolute name. Raises ConfigurationError if the name is relative to a deleted directory."""
    try:
        return os.path.abspath(name)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"configuration file {name}: its path is relative, and the working directory has been deleted; "
            "give an absolute path, or change to another directory"
        ) from error


def files_of(conf: cfg.ConfigOpts) -> dict[str, list[str]]:
    """Return the files and directories that a configuration was read from, by option, as absolute names.

    Raises ConfigurationError.
    """
    given = {option: _given(conf, option) for option in OPTIONS}
    files = set(getattr(conf._namespace, "_sections_to_file", {}).values())
    parsed = {"config_file": files, "config_dir": {os.path.dirname(name) for name in files}}
    start = _start((name, parsed[option]) for option in OPTIONS for name in given[option])
    return {option: [_resolved(name, start, parsed[option]) for name in given[option]] for option in OPTIONS}


def _given(conf: cfg.ConfigOpts, option: str) -> list[str]:
    """Return the names as given, with "~" expanded as in oslo.config, because root has another home directory."""
    names = list(getattr(conf, option, None) or ())
    if option == "config_dir" and conf.config_dirs:
        # The option itself keeps the last directory only (oslo.config, ConfigDirAction).
        names = conf.config_dirs
    return [os.path.expanduser(name) for name in names]


def _start(given: Iterable[tuple[str, Collection[str]]]) -> str | None:
    """Return the directory in which the relative names are those of the parsed files; None if unknown."""
    possible: set[str] | None = None
    for name, parsed in given:
        tail = f"/{os.path.normpath(name)}"
        directories = {path.removesuffix(tail) or "/" for path in parsed if path.endswith(tail)}
        if directories and not os.path.isabs(name):
            possible = directories if possible is None else possible & directories
    with contextlib.suppress(FileNotFoundError):
        if possible and os.getcwd() in possible:
            return os.getcwd()
    return min(possible) if possible else None


def _resolved(name: str, start: str | None, parsed: Collection[str]) -> str:
    if os.path.isabs(name):
        return name
    if start is not None:
        return os.path.normpath(os.path.join(start, name))
    # For a name that begins with "..", take the parsed file with the same tail if there is exactly one.
    tail = "/" + os.path.normpath(name).replace("../", "")
    matches = [path for path in parsed if path.endswith(tail)]
    return matches[0] if len(matches) == 1 else absolute(name)
