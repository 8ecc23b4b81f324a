"""The host that the command line and the configuration mean."""

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
    """The files given with --config-file; else the default one, if it exists."""
    if given:
        return tuple(given)
    return (DEFAULT_FILE,) if os.path.exists(DEFAULT_FILE) else ()


@contextmanager
def connected(args: argparse.Namespace, *, begun: bool = False) -> Iterator[Host]:
    """This host. Raises ConfigurationError; the daemon is started when it is first asked, which may raise more.

    begun: it will be asked in any case, so the daemon is started now, and comes up while this process loads the rest.
    """
    from hybridvif.client.host import connect

    with connect(config_files(args.config_file)) as host:
        if begun:
            host.begin()
        yield host
