"""Executor by role: from the daemon's own configuration and the entry points that are installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from oslo_config import cfg

from hybridvif.engine import config
from hybridvif.executors.base import Executor
from hybridvif.model.errors import ConfigurationError, HybridVifError
from hybridvif.model.parts import Role
from hybridvif.model.settings import Settings

GROUPS = {Role.LINK: "hybridvif.link_executors", Role.SWITCH: "hybridvif.switch_executors"}
_MEMBERS = ("role", "serves", "programs", "atomic", "observe", "apply")


_kept: list[Settings | HybridVifError] = []
"""What the daemon read at its start, or why it could not: one, or none in a process that does the work itself."""


def keep(read: Callable[[], Settings]) -> None:
    """Read the daemon's own configuration, once. What is wrong with it is raised when it is asked for."""
    try:
        _kept[:] = [read()]
    except HybridVifError as error:
        _kept[:] = [error]


def configured() -> Settings:
    """The daemon's own configuration; in a process that is no daemon, this one's. Raises ConfigurationError."""
    if not _kept:
        return config.settings_of(cfg.CONF)
    (kept,) = _kept
    if isinstance(kept, HybridVifError):
        raise kept.with_traceback(None)
    return kept


def executor_of(role: Role, settings: Settings) -> Executor:
    """The configured executor of a role, loaded and made. Raises ConfigurationError."""
    cls, name = class_of(role, settings), _configured_name(role, settings)
    try:
        executor: Executor = cls(settings)
    except Exception as error:
        raise _useless(role, f"{name!r} cannot be started ({error})") from error
    return executor


def class_of(role: Role, settings: Settings) -> Any:
    """The configured executor of a role, loaded.

    Raises ConfigurationError, naming the installed ones, if it is misspelt, missing, broken, or of the other role.
    """
    # The caller imports this module as well, and loads no executor; the two take longest of all to import.
    from stevedore.driver import DriverManager
    from stevedore.exception import NoMatches

    name = _configured_name(role, settings)
    _prime()
    try:
        cls: Any = DriverManager(GROUPS[role], name).driver
    except NoMatches as error:
        raise _useless(role, f"no executor named {name!r} is installed") from error
    except Exception as error:
        # Somebody else's module is run here, which may fail in any way.
        raise _useless(role, f"{name!r} is installed but cannot be loaded ({error}); reinstall it") from error
    lacking = [member for member in _MEMBERS if not hasattr(cls, member)]
    if lacking:
        raise _useless(role, f"{name!r} is no executor, it lacks {', '.join(lacking)}")
    writes = getattr(cls, "writes", ())
    if not isinstance(writes, tuple) or not all(isinstance(path, str) and os.path.isabs(path) for path in writes):
        # A text is one path after another of one letter each, of which the first is "/".
        raise _useless(role, f"{name!r} is no executor, for its writes are not a tuple of absolute paths")
    if cls.role is not role:
        raise _useless(role, f"{name!r} is a {getattr(cls.role, 'value', cls.role)} executor")
    return cls


def _configured_name(role: Role, settings: Settings) -> str:
    return settings.link_executor if role is Role.LINK else settings.switch_executor


def _useless(role: Role, why: str) -> ConfigurationError:
    there = ", ".join(installed(role)) or "none"
    return ConfigurationError(f"[hybridvif] {role.value}_executor: {why}; of {role.value} executors there are {there}")


def installed(role: Role) -> list[str]:
    """The names of the installed executors of a role."""
    from importlib.metadata import entry_points

    return sorted({point.name for point in entry_points(group=GROUPS[role])})


def _prime() -> None:
    """Fill stevedore's cache from what is installed, before it is asked.

    It would otherwise believe a JSON file under ~/.cache of whoever started the daemon: a planted one made it load
    `os:getcwd` as an executor (stevedore 5.x, _cache.Cache._get_data_for_path).
    """
    from stevedore import _cache

    _cache._c._internal[tuple(sys.path)] = _cache._build_cacheable_data()
