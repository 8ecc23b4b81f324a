"""Libraries that may be missing."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from importlib.util import find_spec


def found(name: str) -> ModuleSpec | None:
    """Return the spec of a module. None: it is missing, or its import is forbidden.

    In its native threading mode, nova-compute has a finder that raises ImportError for eventlet. find_spec() raises
    the same error (nova/monkey_patch.py, poison_eventlet). A finder of another program may raise any other.
    """
    try:
        return find_spec(name)
    except (Exception, SystemExit):  # noqa: BLE001  # of foreign code
        # ValueError: a module in sys.modules without a spec. ModuleNotFoundError: a missing package.
        return None
