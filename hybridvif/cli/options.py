"""The parsers of the command line. Common options are accepted before and after the sub-command."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from hybridvif import __version__
from hybridvif.cli import COMMANDS, EXIT_CODES
from hybridvif.cli.stdio import print_text
from hybridvif.model.errors import InvalidInput, did_you_mean

if TYPE_CHECKING:
    from hybridvif.client.host import Host

DEFAULT_FILE = "/etc/hybridvif/hybridvif.conf"
FORMATS = ("text", "tree", "table", "json", "yaml", "value", "shell", "dot", "prometheus")
DOCUMENT = ("text", "json", "yaml")
"""The formats of a command with a document."""
ROWS = (*DOCUMENT, "table", "value")
"""The formats of a command with a document and a table."""
_MODULES = {
    **dict.fromkeys(("unplug", "convert"), "plug"),
    "adopt": "repair",
    "wait": "check",
    "export": "ports",
    "gc": "reconcile",
    "demo": "sandbox",
}
"""The module of a sub-command, if it has another name."""


class UsageError(InvalidInput):
    """An invalid command line."""

    code = "usage"


Argument = tuple[Sequence[str], Mapping[str, Any]]
"""An argument of a sub-command: the parameters of add_argument()."""


def argument(*flags: str, text: str, **options: Any) -> Argument:
    """Create an argument. text: its help."""
    return flags, {"help": text, **options}


def flag(name: str, text: str) -> Argument:
    """Create an option without a value."""
    return argument(name, text=text, action="store_true")


class Command(NamedTuple):
    """A sub-command. Its module has it in a table COMMANDS."""

    run: Callable[[argparse.Namespace], Any]
    """A function that returns an Answer or an exit code."""
    formats: Sequence[str] = ()
    """The formats, the default first. Without any, there is no -f."""
    arguments: Sequence[Argument] = ()
    epilog: str = ""
    columns: Sequence[str] = ()
    """The columns of -f table and value."""
    narrow: Sequence[str] = ()
    """The columns of a table without -c, if all columns would not fit a terminal of 80 columns."""
    writes: bool = False
    """True if the command changes the host, so that an interrupted one may be half done."""


REPORTS: dict[str, Any] = {
    "formats": ROWS,
    "columns": ("port", "status", "changed", "retries", "code"),
    "narrow": ("port", "status", "changed", "code"),
    "writes": True,
}
"""The attributes of a Command with a report for each port."""
_VERBOSE = "print more, with the reason of each attribute; -vv: tracebacks too"
_CONFIG_FILE = f"an oslo.config file; may be repeated (default: {DEFAULT_FILE} if it exists)"
_COLORS = ("auto", "always", "never")
COMMON = (
    argument("-v", "--verbose", action="count", default=0, text=_VERBOSE),
    argument("-q", "--quiet", action="store_true", text="print only the result, and errors"),
    argument("--config-file", action="append", metavar="FILE", text=_CONFIG_FILE),
    argument("--color", choices=_COLORS, default="auto", text="auto: on a terminal without NO_COLOR"),
)
"""The options of all commands, besides those of its formats."""
DETAILED_EXITCODE = flag("--detailed-exitcode", "of a dry run: exit with 3 if there are changes, else with 0")
DRY_RUN = (flag("--dry-run", "write nothing; print the plan"), DETAILED_EXITCODE)


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError where argparse ends the process, and errors of its output."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        hint = did_you_mean(unknown[0].partition("=")[0], self._option_string_actions) if unknown else ""
        raise UsageError(f"{self.prog}: {message}{hint}; see: {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ARG002
        """Print the help or the version. Raises OutputLost, BrokenPipeError."""
        # That of argparse, which has no public name, ignores errors of the output.
        print_text(message)


def parse_common(words: Sequence[str]) -> argparse.Namespace:
    """Parse the options before the sub-command. `words` in the result: the sub-command and all after it, or None."""
    parser = main_parser()
    parser.add_argument("words", nargs=argparse.PARSER, help=argparse.SUPPRESS).required = False
    args = parser.parse_args(words)
    if args.words and args.words[0] == "--":
        # Newer releases of Python remove it.
        del args.words[0]
    return args


def command_of(name: str) -> Command:
    """Import a sub-command."""
    module = importlib.import_module(f"hybridvif.cli.commands.{_MODULES.get(name, name)}")
    command: Command = module.COMMANDS[name]
    return command


def main_parser() -> Parser:
    """Create the parser for the words before the sub-command."""
    parser = Parser(
        prog="hybridvif",
        usage="hybridvif [OPTION...] COMMAND [ARGUMENT...]",
        description="Plug VM ports the OpenStack hybrid way: tap - qbr (Linux bridge) - qvb = qvo - Open vSwitch.",
        epilog="\n".join(
            [
                "commands (see hybridvif COMMAND --help):",
                *(f"  {name:<9} {text}" for name, text in COMMANDS.items()),
                "",
                "exit codes (of several ports: the worst):",
                *(f"  {code:>3}  {text}" for code, text in EXIT_CODES.items()),
            ]
        ),
    )
    version = f"{parser.prog} {__version__}"
    parser.add_argument("--version", action="version", version=version, help="print the version and exit")
    _add_common(parser, FORMATS)
    return parser


def command_parser(name: str, command: Command) -> Parser:
    """Create the parser for the words after the sub-command."""
    text = COMMANDS[name]
    parser = Parser(prog=f"hybridvif {name}", description=f"{text[0].upper()}{text[1:]}.", epilog=command.epilog)
    for flags, options in command.arguments:
        parser.add_argument(*flags, **options)
    _add_common(parser, command.formats)
    return parser


def parse(parser: Parser, words: Sequence[str], args: argparse.Namespace) -> None:
    """Parse the words after the sub-command and add them to the arguments parsed before."""
    if any(action.nargs == argparse.REMAINDER for action in parser._actions):
        parser.parse_args(words, args)
    else:
        # parse_args() rejects options between positional arguments (bpo-14191).
        parser.parse_intermixed_args(words, args)
    if getattr(args, "detailed_exitcode", False) and not getattr(args, "dry_run", True):
        raise UsageError("--detailed-exitcode is for --dry-run; give both")


def check_output(args: argparse.Namespace, command: Command) -> None:
    """Resolve the format and the columns of a command. Raises InvalidInput for others than it has."""
    if not command.formats:
        args.columns = ()
        return
    if args.format not in (None, *command.formats):
        raise InvalidInput(f"{args.command} has no format {args.format!r}; it has {', '.join(command.formats)}")
    if args.column and args.format not in ("table", "value", None):
        raise InvalidInput(f"-c is for -f table and -f value, not for {args.format!r}")
    args.format = args.format or command.formats[0]
    narrow = command.narrow if args.format == "table" else ()
    args.columns = args.column or narrow or command.columns
    unknown = [name for name in args.columns if name not in command.columns]
    if unknown and args.format in ("table", "value"):
        hint = did_you_mean(unknown[0], command.columns)
        raise InvalidInput(f"there is no column {unknown[0]!r}; there are {', '.join(command.columns)}{hint}")


def config_files(args: argparse.Namespace) -> Sequence[str]:
    """Return the files given with --config-file, or the default file if it exists."""
    return args.config_file or ([DEFAULT_FILE] if os.path.exists(DEFAULT_FILE) else [])


def connected(args: argparse.Namespace) -> Host:
    """Connect to the configured host. The daemon starts with the first request. Raises ConfigurationError."""
    from hybridvif.client.host import connect

    return connect(config_files(args))


def repeated_options(args: argparse.Namespace) -> Sequence[str]:
    """Return the options that a command for the same host needs, too."""
    return [f"--config-file={name}" for name in args.config_file or ()]


def seconds(text: str) -> float:
    """Parse a number of seconds. Raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; give 0 or more")
    return number


def guess(words: Sequence[str]) -> tuple[str | None, int]:
    """Return (format, verbosity) of an invalid command line. Its error is reported in them, too."""
    parser = Parser(add_help=False)
    _add_common(parser, FORMATS)
    try:
        args, _ = parser.parse_known_args(words)
    except InvalidInput:
        return None, 0
    return args.format, args.verbose


def _add_common(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    group = parser.add_argument_group("options of all commands")
    for flags, options in COMMON:
        group.add_argument(*flags, **options)
    if formats:
        default = "by command" if formats == FORMATS else formats[0]
        text = f"{', '.join(formats)} (default: {default})"
        group.add_argument("-f", "--format", metavar="FORMAT", choices=FORMATS, help=text)
        text = "only this column of -f table or value"
        group.add_argument("-c", "--column", action="append", metavar="COL", help=text)
