"""Find the executor of a role by the daemon's own configuration and the installed entry points."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints, distributions
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
"""The configuration read at the start of the daemon, or the error. Empty in a process without a daemon."""


def keep(read: Callable[[], Settings]) -> None:
    """Read the daemon's configuration once. An error is raised when the configuration is used."""
    try:
        _kept[:] = [read()]
    except HybridVifError as error:
        _kept[:] = [error]


def configured() -> Settings:
    """Return the daemon's configuration, or that of a process without a daemon. Raises ConfigurationError."""
    if not _kept:
        return config.settings_of(cfg.CONF)
    (kept,) = _kept
    if isinstance(kept, HybridVifError):
        raise kept.with_traceback(None)
    return kept


def executor_of(role: Role, settings: Settings) -> Executor:
    """Create the configured executor of a role. Raises ConfigurationError."""
    cls, name = class_of(role, settings), _configured_name(role, settings)
    try:
        executor: Executor = cls(settings)
    except Exception as error:
        raise _unusable(role, f"{name!r} cannot be started ({error})") from error
    return executor


def class_of(role: Role, settings: Settings) -> Any:
    """Load the class of the configured executor of a role.

    Raises ConfigurationError if it is misspelled, missing, broken, or of the other role. The error lists the installed
    executors.
    """
    # The client imports this module too, but loads no executor.
    from stevedore.driver import DriverManager
    from stevedore.exception import NoMatches

    name = _configured_name(role, settings)
    # Otherwise stevedore trusts a JSON file in ~/.cache of the user who started the daemon. A planted file makes it
    # load any object as an executor.
    DriverManager.ENTRY_POINT_CACHE[GROUPS[role]] = _entry_points(role)
    try:
        cls: Any = DriverManager(GROUPS[role], name).driver
    except NoMatches as error:
        raise _unusable(role, f"no executor named {name!r} is installed") from error
    except Exception as error:
        # The module of a third party may raise anything.
        raise _unusable(role, f"{name!r} is installed but cannot be loaded ({error}); reinstall it") from error
    missing = [member for member in _MEMBERS if not hasattr(cls, member)]
    if missing:
        raise _unusable(role, f"{name!r} is no executor, it lacks {', '.join(missing)}")
    writes = getattr(cls, "writes", ())
    if not isinstance(writes, tuple) or not all(isinstance(path, str) and os.path.isabs(path) for path in writes):
        # A string would count as a sequence of paths of one character, "/" among them.
        raise _unusable(role, f"{name!r} is no executor, for its writes are not a tuple of absolute paths")
    if cls.role is not role:
        raise _unusable(role, f"{name!r} is a {getattr(cls.role, 'value', cls.role)} executor")
    return cls


def _configured_name(role: Role, settings: Settings) -> str:
    return settings.link_executor if role is Role.LINK else settings.switch_executor


def _unusable(role: Role, reason: str) -> ConfigurationError:
    names = ", ".join(installed(role)) or "none"
    return ConfigurationError(
        f"[hybridvif] {role.value}_executor: {reason}; of {role.value} executors there are {names}"
    )


def installed(role: Role) -> list[str]:
    """Return the names of the installed executors of a role."""
    return sorted({point.name for point in _entry_points(role)})


def _entry_points(role: Role) -> list[EntryPoint]:
    """Return the entry points of a role. The entry points of all of Nova's libraries take 0.1 s to parse."""
    group = GROUPS[role]
    points: dict[str, EntryPoints] = {}
    for distribution in distributions():
        if group in (distribution.read_text("entry_points.txt") or ""):
            # The first of a name in sys.path is the one that is imported.
            points.setdefault(distribution.name, distribution.entry_points.select(group=group))
    return list({(point.name, point.value): point for own in points.values() for point in own}.values())
