"""Executor by role: from the daemon's own configuration and the entry points that are installed."""

from __future__ import annotations

import contextlib
import functools
import os
import pkgutil
import re
import sys
from typing import Any

from oslo_config import cfg

from hybridvif import config
from hybridvif.errors import ConfigurationError
from hybridvif.executors.base import Executor
from hybridvif.parts import Role
from hybridvif.settings import Settings

GROUPS = {Role.LINK: "hybridvif.link_executors", Role.SWITCH: "hybridvif.switch_executors"}
_TARGET = re.compile(r"[\w.]+:\w+", re.ASCII)
_MEMBERS = ("role", "serves", "programs", "atomic", "observe", "apply")


@functools.cache
def configured() -> Settings:
    """What the daemon's own configuration says, read once. Raises ConfigurationError."""
    return config.settings_of(cfg.CONF)


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
    name = _configured_name(role, settings)
    try:
        cls = _loaded(GROUPS[role], name)
    except _NotInstalled as error:
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


class _NotInstalled(Exception):
    """Nothing is declared under a name."""


def _loaded(group: str, name: str) -> Any:
    """What is declared under this name. Raises _NotInstalled, or whatever its module does."""
    declared = [found for text in _declarations(tuple(sys.path)) for found in _targets(text, group, name)]
    if len(declared) == 1 and _TARGET.fullmatch(declared[0]):
        return pkgutil.resolve_name(declared[0])
    # One of another kind, two of a name, or one that only a finder of somebody's knows of.
    from stevedore import _cache
    from stevedore.driver import DriverManager
    from stevedore.exception import NoMatches

    # stevedore would otherwise believe a JSON file under ~/.cache of whoever started the daemon: a planted one made it
    # load `os:getcwd` as an executor (stevedore 5.x, _cache.Cache._get_data_for_path).
    _cache._c._internal[tuple(sys.path)] = _cache._build_cacheable_data()
    try:
        return DriverManager(group, name).driver
    except NoMatches as error:
        raise _NotInstalled from error


@functools.lru_cache(maxsize=1)
def _declarations(path: tuple[str, ...]) -> tuple[str, ...]:
    """The entry points of what is installed there, as each distribution declares them.

    importlib.metadata finds them as well, and is a fifth of what the daemon would import.
    """
    found: dict[str, str] = {}
    for place in path:
        with contextlib.suppress(OSError), os.scandir(place or ".") as inside:
            for entry in inside:
                whole, kind = os.path.splitext(entry.name)
                if kind in (".dist-info", ".egg-info"):
                    # Of what is installed twice, the first counts.
                    found.setdefault(whole.partition("-")[0].lower().replace(".", "_"), entry.path)
    texts = []
    for directory in found.values():
        with (
            contextlib.suppress(OSError, UnicodeDecodeError),
            open(os.path.join(directory, "entry_points.txt"), encoding="utf-8") as file,
        ):
            texts.append(file.read())
    return tuple(texts)


def _targets(text: str, group: str, name: str) -> list[str]:
    """What entry_points.txt says that this name is in this group."""
    section, found = "", []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif section == group and not line.startswith("#"):
            key, _, target = line.partition("=")
            if key.strip() == name:
                found.append(target.strip())
    return found
