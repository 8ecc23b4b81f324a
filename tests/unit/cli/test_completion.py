"""The man page and completion scripts contain every command and option."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hybridvif.cli import COMMANDS, EXIT_CODES, options

ETC = Path(__file__).parents[3] / "etc"
SCRIPT = ETC / "completions" / "hybridvif"
COMPLETE = """
source "$1"; shift
function=$(complete -p hybridvif | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"$function" hybridvif "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completions(*words: str) -> set[str]:
    """Return the completions that bash offers for the last word."""
    argv = ["bash", "--norc", "-c", COMPLETE, "bash", str(SCRIPT), "hybridvif", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20)
    assert not done.stderr
    return {line.strip() for line in done.stdout.splitlines() if line.strip()}


def long_options(command: str) -> set[str]:
    """Return the options of a command, without those that every command has."""
    parser = options.command_parser(command, options.command_of(command))
    return {word for action in parser._actions for word in action.option_strings if word.startswith("--")}


def test_bash_completes_the_commands() -> None:
    assert completions("pl") == {"plug", "plan"}
    assert completions("") >= set(COMMANDS)


def test_bash_completes_an_option_before_the_command() -> None:
    assert completions("--vers") == {"--version"}


def test_bash_completes_the_formats_of_a_command() -> None:
    assert completions("show", "--format", "") == {"tree", "json", "yaml", "dot"}


def test_bash_completes_an_argument() -> None:
    assert completions("plan", "un") == {"unplug"}


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_completes_every_option_of_a_command(command: str) -> None:
    assert completions(command, "--") == long_options(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_man_page_has_every_option_of_a_command(command: str) -> None:
    page = (ETC / "man" / "hybridvif.1").read_text(encoding="utf-8").replace("\\-", "-")
    general, *sections = page.split(".SS ")
    [section] = [text for text in sections if text.startswith(f"\\fBhybridvif {command}\\fR")]
    missing = [option for option in long_options(command) - {"--help"} if option not in section + general]
    assert missing == []


def test_man_page_has_every_exit_code() -> None:
    section = (ETC / "man" / "hybridvif.1").read_text(encoding="utf-8").partition(".SH EXIT STATUS")[2]
    assert all(f"\\fB{code}\\fR\n" in section for code in EXIT_CODES)
