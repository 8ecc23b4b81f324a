"""Connect to the configured host."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from hybridvif.client.host import Host


DEFAULT_FILE = "/etc/hybridvif/hybridvif.conf"


def config_files(given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the files given with --config-file, or the default file if it exists."""
    if given:
        return tuple(given)
    return (DEFAULT_FILE,) if os.path.exists(DEFAULT_FILE) else ()


@contextmanager
def connected(args: argparse.Namespace, *, begun: bool = False) -> Iterator[Host]:
    """Connect to this host. The daemon starts with the first request. Raises ConfigurationError.

    begun: start the daemon now, while this process imports the rest.
    """
    from hybridvif.client.host import connect

    with connect(config_files(args.config_file)) as host:
        if begun:
            host.begin()
        yield host
