"""The names of oslo.privsep that the client uses. All are public.

The daemon imports nothing of oslo.privsep (main.py, privileges.py, messages.py). The client's context is derived from
oslo.privsep's, so a program finds its options and methods in the usual place.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from oslo_privsep import priv_context

from hybridvif.model.errors import PreconditionError

REQUIRED = ("PrivContext",)
"""Names in oslo_privsep.priv_context. PrivContext is our base class and registers [hybridvif_privileged]."""
OPTIONS = ("helper_command", "logger_name")
"""The options that PrivContext registers and the client reads."""
TESTED_VERSIONS = "3.6.0 to 3.12.0"


def require() -> None:
    """Check that all required names exist. Raises PreconditionError."""
    for name in REQUIRED:
        if not hasattr(priv_context, name):
            raise unsupported(f"has no priv_context.{name}")


def unsupported(problem: str) -> PreconditionError:
    """Return the error for an unsupported version of oslo.privsep."""
    try:
        installed = version("oslo.privsep")
    except PackageNotFoundError:
        installed = "(version unknown)"
    return PreconditionError(
        f"oslo.privsep {installed} {problem}, which hybridvif relies on; install one of {TESTED_VERSIONS}"
    )
