"""Common options, accepted before and after the sub-command."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from hybridvif.model.errors import InvalidInput

FORMATS = ("text", "tree", "table", "json", "yaml", "value", "shell", "dot")
_WITH_VALUE = ("--config-file", "-f", "--format", "-c", "--column", "--color")
_SHORT_WITH_VALUE = re.compile(r"-[vqh]*[fc]")
_FORMAT = re.compile(r"(?:--format=|-[vq]*f)(.+)", re.DOTALL)


class UsageError(InvalidInput):
    """An invalid command line."""

    code = "usage"


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError where argparse ends the process."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{self.prog}: {message}; see: {self.prog} --help")


def split(words: Sequence[str]) -> tuple[Sequence[str], str | None, Sequence[str]]:
    """Split a command line into the words before the sub-command, the sub-command and the words after it."""
    index = 0
    while index < len(words):
        word = words[index]
        if not word.startswith("-") or word == "-":
            return words[:index], word, words[index + 1 :]
        index += 2 if word in _WITH_VALUE or _SHORT_WITH_VALUE.fullmatch(word) else 1
    return words, None, ()


def main_parser(commands: Mapping[str, str], exit_codes: Mapping[int, str]) -> Parser:
    """Create the parser for the words before the sub-command."""
    parser = Parser(
        prog="hybridvif",
        usage="hybridvif [OPTION...] COMMAND [ARGUMENT...]",
        description="Plug VM ports the OpenStack hybrid way: tap - qbr (Linux bridge) - qvb = qvo - Open vSwitch.",
        epilog="\n".join(
            [
                "commands (see hybridvif COMMAND --help):",
                *(f"  {name:<9} {text}" for name, text in commands.items()),
                "",
                "exit codes (of several ports: the worst):",
                *(f"  {code:>3}  {text}" for code, text in exit_codes.items()),
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    _add_common(parser, FORMATS)
    return parser


def command_parser(command: str, module: Any, formats: Sequence[str]) -> Parser:
    """Create the parser for the words after the sub-command."""
    text = str(module.HELP)
    parser = Parser(
        prog=f"hybridvif {command}",
        description=f"{text[0].upper()}{text[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    _add_common(parser, formats)
    return parser


def parse(parser: Parser, words: Sequence[str], args: argparse.Namespace) -> None:
    """Parse the words after the sub-command and add them to the arguments parsed before."""
    if any(action.nargs == argparse.REMAINDER for action in parser._actions):
        parser.parse_args(words, args)
    else:
        # parse_args() rejects options between positional arguments (bpo-14191).
        parser.parse_intermixed_args(words, args)


def format_in(words: Sequence[str]) -> str | None:
    """Return the value of -f in an unparsed command line. A usage error is reported in this format, too."""
    found = None
    for index, word in enumerate(words):
        match = _FORMAT.fullmatch(word)
        if word == "--":
            break
        if word in ("-f", "--format") and index + 1 < len(words):
            found = words[index + 1]
        elif match:
            found = match[1]
    return found


def verbosity_in(words: Sequence[str]) -> int:
    """Count -v in an unparsed command line."""
    own = words[: words.index("--")] if "--" in words else words
    return sum(word.count("v") if re.fullmatch("-[vq]+", word) else word == "--verbose" for word in own)


def _add_common(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    group = parser.add_argument_group("options of all commands")
    group.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="print more, with the reason of each attribute; -vv: tracebacks too",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="print only the result, and errors")
    group.add_argument(
        "--config-file",
        action="append",
        metavar="FILE",
        help="an oslo.config file; may be repeated (default: /etc/hybridvif/hybridvif.conf if it exists)",
    )
    if formats:
        default = "by command" if formats == FORMATS else formats[0]
        text = f"{', '.join(formats)} (default: {default})"
        group.add_argument("-f", "--format", metavar="FORMAT", choices=FORMATS, help=text)
        group.add_argument(
            "-c", "--column", action="append", metavar="COL", help="only this column of -f table or value"
        )
    group.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="auto: on a terminal without NO_COLOR"
    )


class _Version(argparse.Action):
    """The --version option. Only this option reads the metadata of the installed package."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("hybridvif")
        except PackageNotFoundError:
            number = "of a checkout, not installed"
        print(f"hybridvif {number}")
        parser.exit()
