"""Modules that others import and that we have no use for, loaded when they are used and not before.

oslo.config and oslo.log import what some kinds of options and messages need, none of which are ours: a third of what a
process does before it begins. Only a process of our own does this, the command and the daemon, never the program that
hybridvif is a library of. Python's own LazyLoader does not do: an import statement makes it load (3.11).
"""

from __future__ import annotations

import sys
import threading
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

OF_OSLO = (
    # oslo.config: types of addresses and of URIs, which no option of ours has.
    *("netaddr", "rfc3986"),
    # All of them: warnings of what is deprecated. It asks importlib.metadata for its own version, which loads the most.
    "debtcollector",
    # oslo.log, which oslo.privsep has the caller import: its files, and dates in ways that nobody asked for.
    *("configparser", "logging.config", "dateutil.tz", "iso8601", "zoneinfo", "xmlrpc.client", "decimal"),
    # oslo.privsep: its own client's directory.
    "tempfile",
)
"""What oslo's libraries use in cases that are not ours."""

_loading = threading.RLock()
_begun: set[str] = set()
"""The modules that are being loaded, by the thread that has the lock."""


class _Postponed(ModuleType):
    """A module of which nothing has been used yet."""

    def __getattr__(self, name: str) -> Any:
        with _loading:
            begun = type(self) is not _Postponed or self.__name__ in _begun
            if not begun and self.__spec__ is not None and self.__spec__.loader is not None:
                _begun.add(self.__name__)
                try:
                    self.__spec__.loader.exec_module(self)
                    # Not before it is whole: another thread that uses it meanwhile is to wait here.
                    self.__class__ = ModuleType  # type: ignore[assignment]
                finally:
                    _begun.remove(self.__name__)
        return ModuleType.__getattribute__(self, name)


def postpone(*names: str) -> None:
    """Have these modules loaded when something in them is used for the first time, if they are there at all."""
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
    """Return the spec of a module that may be imported, or None.

    A module whose import is forbidden is absent: nova-compute in its native threading mode has a finder that raises
    ImportError for eventlet (nova/monkey_patch.py, poison_eventlet), and find_spec passes that on.
    """
    try:
        return find_spec(name)
    except (ImportError, ValueError):
        # ValueError: a stand-in in sys.modules that has no spec. ModuleNotFoundError: its package is absent.
        return None
