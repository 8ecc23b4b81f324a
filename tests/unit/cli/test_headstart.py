"""The early start of the daemon: conditions, use by the client, end without use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest

from hybridvif.cli import headstart
from hybridvif.model.errors import PreconditionError
from hybridvif.privileged import ahead
from hybridvif.privileged.channel import Channel

WAITS = ["sleep", "60"]
FAILS = ["sh", "-c", "echo no such luck; exit 3"]


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a short temporary directory. No daemon is started before or left after."""
    with TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield Path(directory)
        ahead.discard()


@pytest.mark.parametrize(
    ("words", "files"),
    [
        ("plug ID --mac MAC --instance ID -q", []),
        ("-v --config-file one unplug ID --config-file=two", ["one", "two"]),
        ("plug -F -", []),
        ("plug --config-file", []),
        ("plug ID --dry-run", None),
        ("plug --help", None),
        ("plug -vh", None),
        ("--version plug", None),
        ("plug -- ID", None),
        ("plan plug ID", None),
        ("-f json plug ID", None),
        ("check ID", None),
        ("", None),
    ],
)
def test_headstart_recognizes_commands_that_need_the_daemon(words: str, files: list[str] | None) -> None:
    assert headstart.config_files_in(words.split()) == files


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ("[hybridvif_privileged]\nhelper_command = sudo privsep-helper\n", ""),
        ("[DEFAULT]\nconfig_source = remote\n", ""),
        ("", "OS_HYBRIDVIF_PRIVILEGED__HELPER_COMMAND"),
        (None, ""),
    ],
)
def test_headstart_does_nothing_with_a_configured_helper_command(
    text: str | None, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    config = tmp_path / "hybridvif.conf"
    if text is not None:
        config.write_text(text)
    if variable:
        monkeypatch.setenv(variable, "sudo privsep-helper")
    with headstart.early_daemon(["plug", "--config-file", str(config)]):
        assert not list(place.iterdir())


def test_client_uses_only_an_early_daemon_with_its_own_command(place: Path) -> None:
    paths = []

    def command(path: str) -> list[str]:
        paths.append(path)
        return ["sh", "-c", "sleep 60", path]

    ahead.begin(command)
    awaited = ahead.taken(command)
    assert awaited is not None
    assert awaited.helper is not None
    assert paths == [awaited.path] * 2
    assert Path(awaited.path).parent.parent == place
    assert Path(awaited.path).parent.stat().st_mode & 0o777 == 0o700
    ahead.discard()
    assert awaited.helper.poll() is None
    assert ahead.taken(command) is None
    with awaited, awaited.helper:
        awaited.helper.kill()
    assert not list(place.iterdir())


@pytest.mark.parametrize("by", ["who would start another", "the end of the command"])
def test_unused_early_daemon_ends_without_leftovers(by: str, place: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    ahead.begin(lambda _: ["sh", "-c", f"echo $$ > {pid}.part; mv {pid}.part {pid}; exec sleep 60"])
    until = time.monotonic() + 10
    while not pid.exists() and time.monotonic() < until:
        time.sleep(0.01)
    if by == "who would start another":
        assert ahead.taken(lambda _: WAITS) is None
    else:
        ahead.discard()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), signal.SIGCONT)
    assert not list(place.iterdir())


@pytest.mark.parametrize("hindrance", ["no program", "no directory"])
def test_failed_headstart_leaves_the_start_to_the_client(
    hindrance: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hindrance == "no directory":
        monkeypatch.setenv("TMPDIR", str(place / "none"))
    command = ["/no/such/program"] if hindrance == "no program" else WAITS
    ahead.begin(lambda _: command)
    assert ahead.taken(lambda _: command) is None
    assert not list(place.iterdir())


def test_headstart_works_with_a_long_temporary_directory(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ("x" * 90)).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 90)))
    ahead.begin(lambda _: WAITS)
    awaited = ahead.taken(lambda _: WAITS)
    assert awaited is not None
    assert awaited.helper is not None
    with awaited, awaited.helper:
        assert len(awaited.path) <= 107
        awaited.helper.kill()


def test_error_of_the_early_daemon_is_raised_to_the_client(place: Path) -> None:
    ahead.begin(lambda _: FAILS)
    context: Any = SimpleNamespace(helper_command=lambda _: FAILS)
    with pytest.raises(PreconditionError, match=r"cannot start the privileged daemon: no such luck \(helper_command"):
        Channel(context, time.monotonic() + 10)
    assert not list(place.iterdir())
    assert ahead.taken(lambda _: FAILS) is None


def test_headstart_imports_only_the_standard_library() -> None:
    before = "import sys, hybridvif.cli.headstart, hybridvif.privileged.ahead; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", before], capture_output=True, text=True, check=True)
    assert not {"argparse", "tempfile", "logging", "dataclasses"} & set(loaded.stdout.split())
    assert "oslo" not in loaded.stdout
