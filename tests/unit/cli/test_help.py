from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hybridvif import cli
from hybridvif.cli import COMMANDS, EXIT_CODES, options
from hybridvif.model.report import Status
from tests.support.answers import ID

HEAVY = ("pyroute2", "ovsdbapp", "ovs", "oslo_config", "oslo_privsep", "oslo_concurrency", "stevedore", "rich", "yaml")
OWN_COMMANDS = [name for name in COMMANDS if name not in ("sandbox", "demo")]
LOADED = "import sys; sys.argv[0] = 'hybridvif'\nfrom hybridvif import cli\n{}\nprint(*sys.modules)"


def loaded_by(statement: str) -> set[str]:
    code = LOADED.format(statement)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    return set(done.stdout.splitlines()[-1].split())


def cpu_seconds(*argv: str) -> float:
    """Return the minimum of several runs, because other programs run, too."""
    spent = []
    for _ in range(7):
        process = subprocess.Popen([sys.executable, *argv], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        spent.append(usage.ru_utime + usage.ru_stime)
    return min(spent)


@pytest.mark.parametrize("name", COMMANDS)
def test_table_of_commands_lists_modules(name: str) -> None:
    command = options.command_of(name)
    assert callable(command.run)
    assert options.command_parser(name, command).prog == f"hybridvif {name}"


def test_help_lists_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    output = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(f"  {name} " in output and text in output for name, text in COMMANDS.items())
    assert all(f"{code:>5}  {text}" in output for code, text in EXIT_CODES.items())


def test_table_of_exit_codes_has_those_of_every_status() -> None:
    assert {status.exit_code for status in Status} <= set(EXIT_CODES)


def test_help_imports_no_command() -> None:
    loaded = loaded_by("try: cli.main(['--help'])\nexcept SystemExit: pass")
    # From Python 3.14 on argparse itself needs dataclasses, for its colors.
    code = "import argparse, sys; argparse.ArgumentParser().format_help(); print(*sys.modules)"
    of_argparse = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not loaded & {*HEAVY, *({"dataclasses"} - set(of_argparse.split()))}
    assert {name for name in loaded if name.startswith("hybridvif.cli.")} == {
        "hybridvif.cli.options",
        "hybridvif.cli.stdio",
    }


def test_help_takes_less_than_60_ms() -> None:
    assert cpu_seconds("-m", "hybridvif", "--help") - cpu_seconds("-c", "pass") < 0.060


@pytest.mark.parametrize("name", OWN_COMMANDS)
def test_parser_imports_only_the_chosen_command(name: str) -> None:
    words = [name, *{"plan": ["plug", ID], "trace": [ID]}.get(name, [])]
    loaded = loaded_by(f"cli.parse_arguments({words!r})")
    assert not loaded & set(HEAVY)
    prefix = "hybridvif.cli.commands."
    assert {module.removeprefix(prefix) for module in loaded if module.startswith(prefix)} == {
        options.command_of(name).run.__module__.removeprefix(prefix),
        # Its options --from-neutron are those of `ports`.
        *(["ports"] if options.command_of(name).run.__module__ == f"{prefix}reconcile" else []),
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: hybridvif {name} ")


def test_version_option_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("hybridvif ")


@pytest.mark.parametrize(
    "words",
    [
        ["-f", "json", "-v", "--config-file", "a", "show", ID],
        ["show", ID, "-f", "json", "-v", "--config-file", "a"],
        ["-v", "show", "--config-file=a", ID, "--format=json"],
        ["-vfjson", "show", "--config-file", "a", ID],
        ["-vfjson", "--config-file", "a", "--", "show", ID],
    ],
)
def test_common_options_are_accepted_before_and_after(words: list[str]) -> None:
    args = cli.parse_arguments(words)
    assert (args.command, args.format, args.verbose, args.config_file) == ("show", "json", 1, ["a"])
    assert args.port == ID


def test_options_before_and_after_add_up() -> None:
    args = cli.parse_arguments(
        ["-v", "--config-file", "a", "list", "-v", "--config-file", "b", "-c", "mtu", "-c", "mac"]
    )
    assert (args.verbose, args.config_file, args.column) == (2, ["a", "b"], ["mtu", "mac"])


def test_options_are_accepted_between_arguments() -> None:
    args = cli.parse_arguments(["plan", "-v", "unplug", "--force", ID])
    assert (args.goal, args.port, args.force, args.verbose) == ("unplug", [ID], True, 1)


def test_sandbox_command_keeps_its_options() -> None:
    args = cli.parse_arguments(["-q", "sandbox", "--", "ls", "-v", "-f", "json"])
    assert args.argv[-4:] == ["ls", "-v", "-f", "json"]
    assert (args.quiet, args.verbose) == (True, 0)


@pytest.mark.parametrize(
    ("words", "form"),
    [
        (["plug", "-f", "json"], "json"),
        (["-vfjson", "plug"], "json"),
        (["plug", "--format=yaml", "-f", "json"], "json"),
        (["plug", "-F", "json"], None),
        (["sandbox", "--", "x", "-f", "json"], None),
        (["plug", "-f"], None),
    ],
)
def test_format_is_read_from_an_invalid_command_line(words: list[str], form: str | None) -> None:
    assert options.guess(words)[0] == form


def test_usage_error_is_one_line_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["plug", "--macc", "x"], ["plgu"], [], ["show", "-f", "value"], ["list", "-f", "json", "-c", "mtu"]):
        assert cli.main(words) == 2
        output = capsys.readouterr().err
        assert output.startswith("error: ")
        assert len(output.splitlines()) == 1
