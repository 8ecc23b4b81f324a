"""The names of oslo.privsep that hybridvif relies on, in one place; all are public.

The daemon relies on none: it imports nothing of oslo.privsep (main.py, privileges.py, messages.py). In the caller its
context is oslo.privsep's, so that a program finds the options where oslo.privsep has them, and what it calls there.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from oslo_privsep import priv_context

from hybridvif.model.errors import PreconditionError

RELIED_ON = ("PrivContext",)
"""Of oslo_privsep.priv_context: the base of our context, which registers the options of [hybridvif_privileged]."""
OPTIONS = ("helper_command", "logger_name")
"""The options that PrivContext registers, and the caller reads."""
SEEN_TO_WORK = "3.6.0 to 3.12.0"


def require() -> None:
    """Make sure that all of the names are there. Raises PreconditionError."""
    lacking = [name for name in RELIED_ON if not hasattr(priv_context, name)]
    if lacking:
        raise unknown(f"has no priv_context.{lacking[0]}")


def unknown(lack: str) -> PreconditionError:
    """Return the error for an oslo.privsep that is not as expected."""
    try:
        installed = version("oslo.privsep")
    except PackageNotFoundError:
        installed = "(version unknown)"
    return PreconditionError(
        f"oslo.privsep {installed} {lack}, which hybridvif relies on; install one of {SEEN_TO_WORK}"
    )
