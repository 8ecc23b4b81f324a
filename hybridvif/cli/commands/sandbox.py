"""hybridvif sandbox: run a shell or one command in a sandbox."""

from __future__ import annotations

import argparse

from hybridvif.testing.sandbox import enter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif sandbox`."""
    parser.add_argument(
        "--level",
        "--rung",
        choices=("packets",),
        help="the level: Open vSwitch with its netdev datapath, the only one",
    )
    parser.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="[--] CMD", help="the command; a shell if there is none"
    )


def run(args: argparse.Namespace) -> int:
    """Replace this process. The exit code is that of the command, 128+n for signal n, or 5 without a sandbox."""
    argv: list[str] = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    enter(argv, quiet=args.quiet)
