"""The hybridvif command. This file parses the command line and imports the module of the chosen sub-command.

    options, stdio, logs              common options, file descriptors and signals, logging
    ports, portfile, port_request     the ports of a command line: from options, or from a file (-F)
    infer                             the fields of a port that can be read from its plugged devices
    connection, headstart             the configured host, and the early start of its daemon
    planning, checking                dry runs (plan), and drift (check)
    diagnosis, system, firewall, osvif, check_result     the checks of doctor
    terminal, failure                 the output formats, and errors
    output/                           tables, documents, diffs, drawings, progress
    commands/                         one module for each sub-command

The module of a sub-command defines HELP (one line), add_arguments(parser) and run(args), which returns the exit code.
A sub-command that supports -f also defines FORMATS, the default first.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from gc import freeze, set_threshold
from typing import TYPE_CHECKING, Any

from hybridvif.model.errors import InvalidInput

if TYPE_CHECKING:
    import argparse

    from hybridvif.cli.terminal import Terminal

COMMANDS: Mapping[str, str] = {
    "plug": "plug ports, and roll back each port that fails",
    "unplug": "unplug ports, and delete all of their devices and rows",
    "plan": "print what plug or unplug would do, as a diff; nothing is written",
    "check": "print the drift of plugged ports by attribute",
    "adopt": "take over running ports plugged by another tool",
    "show": "draw the plugged ports of this host",
    "list": "list the plugged ports, one per line",
    "reconcile": "plug all ports of a host at once: after a reboot, or in a cron job",
    "gc": "delete orphaned devices and rows that were first seen some time ago",
    "doctor": "check every precondition: result, reason, and the command that fixes it",
    "executors": "list the installed executors: role, origin, requirements, and what is missing",
    "sandbox": "run a shell or one command on a throw-away host: own namespaces, own Open vSwitch",
    "demo": "plug two ports in a sandbox, ping, draw the ports, unplug",
}
"""The sub-commands and their help. A copy of each HELP, so that `hybridvif --help` imports no sub-command."""

EXIT_CODES: Mapping[int, str] = {
    0: "done, or nothing to do",
    1: "failed, and rolled back",
    2: "usage, or bad input; nothing was changed",
    3: "differences found (check, plan --detailed-exitcode, gc --dry-run)",
    4: "failed, and the rollback is incomplete: what is left over is named",
    5: "a precondition is not met (no root, no OVSDB, no integration bridge); nothing was changed",
    6: "refused, and nothing changed (name collision, stray device, running VM, bridge not allowed)",
    7: "unknown, since an answer was lost: look again",
    65: "committed in OVSDB, but not acknowledged by ovs-vswitchd",
    130: "interrupted (SIGINT, SIGTERM)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        from hybridvif.cli import stdio

        with stdio.interruptible(ends=argv is None):
            if argv is None:
                stdio.own_process()
            code = _run(sys.argv[1:] if argv is None else argv, own=argv is None)
            if argv is None:
                # Skip the last garbage collection, which takes 50 ms.
                freeze()
            return code
    except KeyboardInterrupt:
        # A signal before the handler is set, or a second one while the first is reported.
        return 130


def _run(words: Sequence[str], *, own: bool) -> int:
    from hybridvif.cli import stdio

    terminal = None
    stdio.secure()
    try:
        with _fast_start(words) if own else nullcontext():
            args = parse_arguments(words)
            args.terminal = terminal = _terminal_for(args)
            return int(args.module.run(args))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # the last resort: never a traceback
        return _fail(KeyboardInterrupt() if stdio.was_interrupted() else error, words, terminal)
    finally:
        stdio.flush()


@contextmanager
def _fast_start(words: Sequence[str]) -> Iterator[None]:
    """Start the daemon early and import lazily. Only for a process that runs nothing but this command."""
    from hybridvif.cli import headstart

    # A command creates hardly any garbage before it ends.
    set_threshold(100_000)
    with headstart.early_daemon(words):
        from hybridvif.postponed import OF_OSLO, postpone

        # Only the daemon loads executors with stevedore.
        postpone(*OF_OSLO, "stevedore")
        yield


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. `module` in the result is that of the sub-command. Raises InvalidInput."""
    from hybridvif.cli import options

    before, command, after = options.split(words)
    args = options.main_parser(COMMANDS, EXIT_CODES).parse_args(before)
    if command is None:
        raise InvalidInput(f"name a command: {', '.join(COMMANDS)}")
    if command not in COMMANDS:
        raise InvalidInput(f"there is no command {command!r}; there are {', '.join(COMMANDS)}")
    module: Any = importlib.import_module(f"hybridvif.cli.commands.{command}")
    formats: tuple[str, ...] = getattr(module, "FORMATS", ())
    args.module, args.command = module, command
    options.parse(options.command_parser(command, module, formats), after, args)
    if formats and args.format not in (None, *formats):
        raise InvalidInput(f"{command} has no format {args.format!r}; it has {', '.join(formats)}")
    if args.column and args.format not in ("table", "value", None):
        raise InvalidInput(f"-c is for -f table and -f value, not for {args.format!r}")
    return args


def _terminal_for(args: argparse.Namespace) -> Terminal:
    from hybridvif.cli import logs
    from hybridvif.cli.terminal import Terminal

    logs.set_up(args.verbose, quiet=args.quiet)
    terminal = Terminal(getattr(args, "format", None))
    terminal.configure(args)
    return terminal


def _fail(error: BaseException, words: Sequence[str], terminal: Terminal | None) -> int:
    from hybridvif.cli import options
    from hybridvif.cli.failure import failure_of
    from hybridvif.cli.terminal import Terminal

    if options.verbosity_in(words) > 1:
        import traceback

        from hybridvif.model.errors import escaped_lines

        sys.stderr.write(escaped_lines("".join(traceback.format_exception(error))))
    terminal = terminal or Terminal(options.format_in(words))
    return terminal.write_failure(failure_of(error))
