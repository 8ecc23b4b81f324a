"""Lazy loading of modules that libraries import and that hybridvif does not use.

oslo.config and oslo.log import modules for kinds of options and messages that hybridvif does not have. They take a
third of the start-up time of a process. Only the command and the daemon use lazy loading, never a program that imports
hybridvif. importlib.util.LazyLoader is not enough, because an import statement loads the module (Python 3.11).
"""

from __future__ import annotations

import sys
import threading
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

OF_OSLO = (
    # oslo.config: types of addresses and URIs. None of our options has them.
    *("netaddr", "rfc3986"),
    # All libraries: deprecation warnings. It reads its version with importlib.metadata, which is the slowest import.
    "debtcollector",
    # oslo.log, which oslo.privsep imports in the client: its configuration files and date formats.
    *("configparser", "logging.config", "dateutil.tz", "iso8601", "zoneinfo", "xmlrpc.client", "decimal"),
    # oslo.privsep: the directory of its own client.
    "tempfile",
)
"""Modules that the oslo libraries use only for features that hybridvif does not need."""

_lock = threading.RLock()
_in_progress: set[str] = set()
"""Modules that the thread with the lock is loading."""


class _Postponed(ModuleType):
    """A module that is loaded at its first attribute access."""

    def __getattr__(self, name: str) -> Any:
        with _lock:
            is_started = type(self) is not _Postponed or self.__name__ in _in_progress
            if not is_started and self.__spec__ is not None and self.__spec__.loader is not None:
                _in_progress.add(self.__name__)
                try:
                    self.__spec__.loader.exec_module(self)
                    # Only after the module is complete: until then, another thread must wait for the lock.
                    self.__class__ = ModuleType  # type: ignore[assignment]
                finally:
                    _in_progress.remove(self.__name__)
        return ModuleType.__getattribute__(self, name)


def postpone(*names: str) -> None:
    """Load these modules lazily, at their first attribute access. Ignore missing ones."""
    for name in names:
        spec = None if name in sys.modules else found(name)
        if spec is not None and spec.loader is not None:
            module = module_from_spec(spec)
            module.__class__ = _Postponed
            sys.modules[name] = module
            package, _, last = name.rpartition(".")
            if package:
                setattr(sys.modules[package], last, module)


def found(name: str) -> ModuleSpec | None:
    """Return the spec of a module. None: it is missing, or its import is forbidden.

    In its native threading mode, nova-compute has a finder that raises ImportError for eventlet. find_spec() raises
    the same error (nova/monkey_patch.py, poison_eventlet).
    """
    try:
        return find_spec(name)
    except (ImportError, ValueError):
        # ValueError: a module in sys.modules without a spec. ModuleNotFoundError: a missing package.
        return None
