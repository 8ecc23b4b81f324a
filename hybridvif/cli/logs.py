"""Logging on stderr: errors only by default, our own records with -v, all records with -vv."""

from __future__ import annotations

import logging
import sys
import warnings

from hybridvif.model.errors import escaped, escaped_lines

_FORMAT = "%(levelname)s %(name)s: %(message)s"


class _LongFormatter(logging.Formatter):
    """A formatter that keeps tracebacks and escapes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as lines."""
        return escaped_lines(super().format(record))


class _Formatter(logging.Formatter):
    """A formatter for one line, without a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line. exc_text is a traceback formatted by the daemon."""
        record.exc_info = record.exc_text = record.stack_info = None
        return escaped(super().format(record))


def set_up(verbose: int, *, quiet: bool = False) -> None:
    """Set up the loggers of this process. Repeated calls are harmless."""
    root, own = logging.getLogger(), logging.getLogger("hybridvif")
    for logger in (root, own):
        for handler in [handler for handler in logger.handlers if isinstance(handler, _Handler)]:
            logger.removeHandler(handler)
    level = logging.CRITICAL if quiet else {0: logging.ERROR, 1: logging.INFO}.get(verbose, logging.DEBUG)
    handler = _Handler(level)
    handler.setFormatter(_LongFormatter(_FORMAT) if verbose > 1 else _Formatter(_FORMAT))
    # Silence the root logger: Python prints warnings to stderr if it has no handler.
    silent = _Handler(logging.CRITICAL + 1)
    root.addHandler(handler if verbose > 1 else silent)
    if verbose > 1:
        root.setLevel(logging.DEBUG)
    else:
        own.addHandler(handler)
        # Records of the daemon come through our logger, those of oslo.privsep too.
        handler.addFilter(logging.Filter("hybridvif"))
    own.setLevel(level)
    if not sys.warnoptions:
        # oslo.privsep imports eventlet if it is installed. The user cannot prevent that.
        warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # generic only in its stubs
    """A handler for the current sys.stderr."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.setLevel(level)
