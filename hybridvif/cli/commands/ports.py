"""hybridvif ports: the desired ports of this host, as a file for -F."""

from __future__ import annotations

import argparse
import json

from hybridvif.cli.neutron import add_neutron_options, ports_from_neutron
from hybridvif.cli.options import UsageError
from hybridvif.cli.stdio import print_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif ports`."""
    add_neutron_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the ports as a list in JSON."""
    if not args.from_neutron:
        raise UsageError("ports needs a source; give --from-neutron")
    print_text(json.dumps([dict(request.fields) for request in ports_from_neutron(args)], indent=2) + "\n")
    return 0
