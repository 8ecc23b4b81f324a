"""Write the man page and the shell completion from the parsers of the command.

    python docs/man_and_completion.py           write etc/man/ and etc/completions/
    python docs/man_and_completion.py --check   write nothing; exit with 1 if a file there is out of date

The files are kept, so that an installation needs neither argparse-manpage nor shtab.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from hybridvif.cli import COMMANDS, EXIT_CODES, options

ETC = Path(__file__).resolve().parents[1] / "etc"
FILES = {
    "/etc/hybridvif/hybridvif.conf": "The configuration, read if it exists and no --config-file is given.",
    "/run/lock/hybridvif": "The locks of the ports, and the notes of gc.",
}


def commands(*, with_common: bool) -> Iterator[tuple[str, options.Parser]]:
    """Yield the parser of every command, with or without the options of all commands."""
    for name in COMMANDS:
        command = options.command_of(name)
        parser = options.command_parser(name, command)
        if not with_common:
            _remove_common(parser)
        _mark_paths(parser)
        for action in parser._actions:
            if "--format" in action.option_strings:
                action.choices = list(command.formats)
        yield name, parser


def _remove_common(parser: argparse.ArgumentParser) -> None:
    """Remove the options that every command has; those of its formats stay."""
    for group in parser._action_groups:
        for action in list(group._group_actions):
            if {"-h", "-v", "-q", "--config-file", "--color"} & set(action.option_strings):
                group._group_actions.remove(action)
                parser._actions.remove(action)
        if group.title == "options of all commands":
            group.title = "output:"


def _mark_paths(parser: argparse.ArgumentParser) -> None:
    """Mark the arguments that are completed with the names of files or directories."""
    for action in parser._actions:
        if action.metavar in ("FILE", "DIRECTORY"):
            action.complete = getattr(shtab, action.metavar)  # type: ignore[attr-defined]


def whole_parser(*, with_common: bool) -> options.Parser:
    """Return one parser for the whole command line, with the commands as subparsers."""
    parser = options.main_parser()
    parser.epilog = None
    _mark_paths(parser)
    choices = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in commands(with_common=with_common):
        if with_common:
            choices.add_parser(name, help=COMMANDS[name])
        else:
            # One line: a man page breaks lines itself.
            command.usage = " ".join(command.format_usage().split()[1:]).replace("%", "%%")
        command.description = " ".join(filter(None, (command.description, command.epilog)))
        choices.choices[name] = command
    return parser


def man_page() -> str:
    """Return hybridvif(1)."""
    page = Manpage(
        whole_parser(with_common=False),
        {
            "manual_title": "User Commands",
            "description": "plug the hybrid network ports of OpenStack",
        },
        format="single-commands-section",
    )
    page.date = ""  # the page is compared, and a date would change it every day
    page.add_section("exit status", "=", "\n".join(_items({str(code): text for code, text in EXIT_CODES.items()})))
    page.add_section("files", "=", "\n".join(_items(FILES)))
    return str(page)


def _items(texts: dict[str, str]) -> Iterator[str]:
    for term, text in texts.items():
        yield from (".TP", rf"\fB{term}\fR", text.replace("-", r"\-"))


def completion(shell: str) -> str:
    """Return the completion script of a shell."""
    return shtab.complete(whole_parser(with_common=True), shell=shell)


def files() -> dict[Path, str]:
    """Return the content of every file."""
    return {
        ETC / "man" / "hybridvif.1": man_page(),
        ETC / "completions" / "hybridvif": completion("bash"),
        ETC / "completions" / "_hybridvif": completion("zsh"),
    }


def main() -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is out of date")
    check = parser.parse_args().check
    os.environ["COLUMNS"] = "80"  # argparse wraps at the width of the terminal
    is_outdated = False
    for path, content in files().items():
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            continue
        is_outdated = True
        if check:
            print(f"{path.relative_to(ETC.parent)} is out of date; run: python docs/man_and_completion.py")  # noqa: T201
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    return int(check and is_outdated)


if __name__ == "__main__":
    sys.exit(main())
