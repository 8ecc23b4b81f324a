"""The hybridvif command. This file parses the command line, runs the chosen sub-command and writes its answer.

    options, stdio            common options and the configured host; file descriptors and signals
    ports, portfile           the ports of a command line: from options, or from a file (-F)
    infer                     the fields of a port that can be read from its plugged devices
    host_checks               the checks of doctor that need no privileges
    terminal                  the output formats, and logs
    output/                   the parts of answers: changes, reports and errors, plugged ports and their names
    commands/                 the sub-commands

The module of a sub-command has a table COMMANDS, in which each of its commands has its arguments, its formats and a
function that returns an Answer or an exit code. docs/cli.md describes the documents of all answers.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from gc import freeze, set_threshold
from typing import TYPE_CHECKING

from hybridvif.model.errors import InvalidInput, did_you_mean

if TYPE_CHECKING:
    import argparse

COMMANDS: Mapping[str, str] = {
    "plug": "plug ports, and roll back each port that fails",
    "unplug": "unplug ports, and delete all of their devices and rows",
    "convert": "convert ports under running VMs: to native ports without a Linux bridge, or back",
    "plan": "print what plug, unplug or convert would do, as a diff; nothing is written",
    "check": "print the drift of plugged ports by attribute",
    "repair": "bring drifted ports back to the values of their own rows",
    "wait": "wait until Open vSwitch has accepted ports, as after exit code 65",
    "adopt": "take over running ports plugged by another tool",
    "show": "draw the plugged ports of this host",
    "list": "list the plugged ports, one per line",
    "watch": "print what changes on the plugged ports, as it changes, and repair it",
    "trace": "watch the packets of a port: the hop where they stop, and the reason",
    "ports": "print the hybrid ports that Neutron has bound to this host, as a file for -F",
    "export": "print the plugged ports of this host, as a file for -F",
    "reconcile": "plug all ports of a host at once: after a reboot, or in a cron job",
    "gc": "delete orphaned devices and rows that were first seen some time ago",
    "doctor": "check every precondition: result, reason, and the command that fixes it",
    "explain": "print the reason and the legal values of an attribute, or the meaning of a code",
    "executors": "list the installed executors: role, origin, requirements, and what is missing",
    "sandbox": "run a shell or one command on a throw-away host: own namespaces, own Open vSwitch",
    "demo": "plug two ports in a sandbox, ping, draw the ports, unplug",
}
"""The sub-commands and their help."""

EXIT_CODES: Mapping[int, str] = {
    0: "done, or nothing to do",
    1: "failed, and rolled back",
    2: "usage, or bad input; nothing was changed",
    3: "differences found (check, gc --dry-run, export, any dry run with --detailed-exitcode), or packets stop (trace)",
    4: "failed, and the rollback is incomplete: what is left over is named",
    5: "a precondition is not met (no root, no OVSDB, no integration bridge); nothing was changed",
    6: "refused, and nothing changed (name collision, stray device, running VM, bridge not allowed, no filter)",
    7: "unknown, since an answer was lost: look again",
    65: "committed in OVSDB, but not acknowledged by ovs-vswitchd",
    130: "interrupted (SIGINT, SIGTERM)",
}
DIFFERENCES, INTERRUPTED = 3, 130
BROKEN_PIPE = 141
"""The exit code after the reader of the output has gone: that of a shell for SIGPIPE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        from hybridvif.cli import stdio

        with stdio.interruptible(ends=argv is None):
            if argv is None:
                stdio.own_process()
                # A command creates hardly any garbage before it ends.
                set_threshold(100_000)
            code = _run(sys.argv[1:] if argv is None else argv)
            if argv is None:
                # Skip the last garbage collection, which takes 50 ms.
                freeze()
            return code
    except KeyboardInterrupt:
        # A signal before the handler is set, or a second one while the first is reported.
        return INTERRUPTED
    finally:
        from hybridvif.cli import stdio

        stdio.forget_interrupt()


def _run(words: Sequence[str]) -> int:
    from hybridvif.cli import stdio

    args = None
    stdio.secure()
    try:
        args = parse_arguments(words)
        from hybridvif.cli.terminal import Terminal, set_up_logs

        set_up_logs(args.verbose, quiet=args.quiet)
        args.terminal = Terminal(args.format, args)
        answer = args.spec.run(args)
        return answer if isinstance(answer, int) else int(args.terminal.write_answer(answer))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # the last resort: never a traceback
        return _fail(KeyboardInterrupt() if stdio.was_interrupted() else error, words, args)
    finally:
        stdio.flush()


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. `spec` in the result is the Command. Raises InvalidInput."""
    from hybridvif.cli import options

    args = options.parse_common(words)
    if not args.words:
        raise InvalidInput(f"name a command: {', '.join(COMMANDS)}")
    command, *after = args.words
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS)
        raise InvalidInput(f"there is no command {command!r}; there are {', '.join(COMMANDS)}{hint}")
    args.command, args.spec = command, options.command_of(command)
    options.parse(options.command_parser(command, args.spec), after, args)
    options.check_output(args, args.spec)
    return args


def _fail(error: BaseException, words: Sequence[str], args: argparse.Namespace | None) -> int:
    from hybridvif.cli import options, stdio
    from hybridvif.cli.output.report import failure_of
    from hybridvif.cli.terminal import Terminal

    form, verbose = (args.format, args.verbose) if args else options.guess(words)
    if verbose > 1:
        import traceback

        from hybridvif.model.errors import escaped_lines

        stdio.write(sys.stderr, escaped_lines("".join(traceback.format_exception(error))))
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    terminal: Terminal = getattr(args, "terminal", None) or Terminal(form)
    writes = args is not None and args.spec.writes and not getattr(args, "dry_run", False)
    return terminal.write_failure(failure_of(error, writes=writes))
