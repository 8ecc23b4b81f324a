"""What the daemon imports once its executors are loaded: Python's own modules and one library, and nothing else.

Whoever finds a way to have something imported in it, or to write where Python looks, gains nothing by that any more.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from types import ModuleType

LOG = logging.getLogger(__name__)
LATER = frozenset({"pyroute2"})
"""What an executor of ours imports when it is first needed, for it costs a tenth of a second (netlink.py)."""
_PYTHONS_OWN = os.path.dirname(os.__file__)
OWN_PATH = (_PYTHONS_OWN, os.path.join(_PYTHONS_OWN, "lib-dynload"))


class Guard:
    """Comes before all other finders and, once it is closed, keeps from them what may not be imported any more."""

    def __init__(self) -> None:
        self.closed = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None where another finder may look; else Python's own module of this name. Raises ImportError."""
        package = fullname.partition(".")[0]
        if not self.closed or package in LATER:
            return None
        if package not in sys.stdlib_module_names:
            why = f"refused: {fullname[:80]} was not imported when the executors were loaded"
            LOG.warning("%s", why)
            raise ImportError(why, name=fullname)
        # A file of that name in a directory that comes earlier is not even looked at.
        for found in (
            BuiltinImporter.find_spec(fullname, path, target),
            FrozenImporter.find_spec(fullname, path, target),
            PathFinder.find_spec(fullname, OWN_PATH if path is None else path, target),
        ):
            if found is not None:
                return found
        raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def arm() -> None:
    """Put up a guard that is yet to be closed: in the daemon, and in no test that has its executors in itself."""
    sys.meta_path.insert(0, Guard())


def close() -> None:
    """Close the guard, if there is one."""
    for finder in sys.meta_path:
        if isinstance(finder, Guard):
            finder.closed = True
