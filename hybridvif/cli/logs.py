"""What is logged on stderr: errors only, or what hybridvif does (-v), or all that anybody logs (-vv)."""

from __future__ import annotations

import logging
import sys
import warnings

from hybridvif.model.text import escaped, escaped_lines

_FORMAT = "%(levelname)s %(name)s: %(message)s"


class _LongFormatter(logging.Formatter):
    """Lines with their tracebacks, and control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        return escaped_lines(super().format(record))


class _Formatter(logging.Formatter):
    """One line, without a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. exc_text is a traceback that the daemon formatted."""
        record.exc_info = record.exc_text = record.stack_info = None
        return escaped(super().format(record))


def set_up(verbose: int, *, quiet: bool = False) -> None:
    """Set the loggers of this process up; again is harmless."""
    root, own = logging.getLogger(), logging.getLogger("hybridvif")
    for logger in (root, own):
        for handler in [handler for handler in logger.handlers if isinstance(handler, _Handler)]:
            logger.removeHandler(handler)
    level = logging.CRITICAL if quiet else {0: logging.ERROR, 1: logging.INFO}.get(verbose, logging.DEBUG)
    handler = _Handler(level)
    handler.setFormatter(_LongFormatter(_FORMAT) if verbose > 1 else _Formatter(_FORMAT))
    # Other people's loggers are silent: without any handler Python would print their warnings.
    silent = _Handler(logging.CRITICAL + 1)
    root.addHandler(handler if verbose > 1 else silent)
    if verbose > 1:
        root.setLevel(logging.DEBUG)
    else:
        own.addHandler(handler)
        # What the daemon logs comes through our logger, oslo.privsep's own lines too.
        handler.addFilter(logging.Filter("hybridvif"))
    own.setLevel(level)
    if not sys.warnoptions:
        # oslo.privsep imports it wherever it is installed, which is nothing that who calls this could mend.
        warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # generic only in its stubs
    """To stderr as it is now."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.setLevel(level)
