"""Restrict imports in the daemon to the standard library and pyroute2, once its executors are loaded.

Then an attacker gains nothing from a way to import a module, or to write into a directory of sys.path.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from types import ModuleType

LOG = logging.getLogger(__name__)
DEFERRED = frozenset({"pyroute2"})
"""The packages that an executor imports on first use, because their import takes a tenth of a second."""
_STANDARD_LIBRARY = os.path.dirname(os.__file__)
STANDARD_PATH = (_STANDARD_LIBRARY, os.path.join(_STANDARD_LIBRARY, "lib-dynload"))


class Guard:
    """The first finder of sys.meta_path. Once closed, it refuses all other modules."""

    def __init__(self) -> None:
        self.closed = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the standard module of this name; None if other finders may search. Raises ImportError."""
        package = fullname.partition(".")[0]
        if not self.closed or package in DEFERRED:
            return None
        if package not in sys.stdlib_module_names:
            reason = f"refused: {fullname[:80]} was not imported when the executors were loaded"
            LOG.warning("%s", reason)
            raise ImportError(reason, name=fullname)
        # sys.path is not searched, so a file of that name in an earlier directory has no effect.
        for spec in (
            BuiltinImporter.find_spec(fullname, path, target),
            FrozenImporter.find_spec(fullname, path, target),
            PathFinder.find_spec(fullname, STANDARD_PATH if path is None else path, target),
        ):
            if spec is not None:
                return spec
        raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def arm() -> None:
    """Install an open guard. Only the daemon does so: close() has no effect in a test that runs executors itself."""
    sys.meta_path.insert(0, Guard())


def close() -> None:
    """Close the guard, if there is one."""
    for finder in sys.meta_path:
        if isinstance(finder, Guard):
            finder.closed = True
