"""hybridvif sandbox: a shell, or one command, on a throw-away host."""

from __future__ import annotations

import argparse

HELP = "a throw-away host: own namespaces, a private Open vSwitch; a shell or one command"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif sandbox`."""
    parser.add_argument(
        "--level",
        "--rung",
        choices=("packets", "dummy"),
        help="accept no other: Open vSwitch with its netdev datapath, or with its dummy datapath (default: the best "
        "this host has)",
    )
    parser.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="[--] CMD", help="the command; a shell if there is none"
    )


def run(args: argparse.Namespace) -> int:
    """Become the sandbox; its exit code is the command's, 128+n for signal n, 5 if it cannot be had."""
    from hybridvif.testing.sandbox import Level, enter

    argv: list[str] = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    enter(argv, level=Level(args.level) if args.level else None, quiet=bool(getattr(args, "quiet", False)))
