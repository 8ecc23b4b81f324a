"""The types of the public API hold for the code of users, with mypy and with pyright."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hybridvif import RecordingHost
from tests.support.answers import PORT
from tests.support.typed_user import Agent, mtu_of

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "support" / "typed_user.py"
WRONG = """
from hybridvif import HostProtocol, Port, RecordingHost, plug

class Half:
    def observe(self, names: object, deadline: float) -> None: ...

port = Port(id=1, mac="fa:16:3e:aa:bb:cc", instance_id="0b1c2d3e-0000-4000-8000-000000000002")
host: HostProtocol = Half()
plug(port, host).stauts
RecordingHost().fail(nmae="qvo5f2c0e1a-7b")
"""
"""Four mistakes: the lines of a type, of a protocol, of an attribute and of an argument."""
MISTAKES = [7, 8, 9, 10]
needs_mypy = pytest.mark.skipif(find_spec("mypy") is None, reason="mypy of the extra lint")
needs_pyright = pytest.mark.skipif(find_spec("basedpyright") is None, reason="basedpyright of the extra typing")


def wrong_in(directory: Path) -> Path:
    path = directory / "wrong.py"
    path.write_text(WRONG, encoding="utf-8")
    return path


def mypy(path: Path, cache: Path) -> list[tuple[int, str]]:
    """Return the lines and texts of the errors of mypy --strict."""
    options = ["--strict", "--no-error-summary", "--hide-error-context", f"--cache-dir={cache}", "--config-file="]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=path.parent,
        env={**os.environ, "MYPYPATH": str(ROOT)},
    )
    assert done.returncode in (0, 1), done.stderr
    return [(int(line.split(":")[1]), line) for line in done.stdout.splitlines() if line.startswith(path.name)]


def pyright(path: Path, directory: Path) -> list[tuple[int, str]]:
    """Return the lines and texts of the errors of pyright in its standard mode."""
    settings = {"include": [str(path)], "extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    config = directory / "pyrightconfig.json"
    config.write_text(json.dumps(settings), encoding="utf-8")
    argv = [sys.executable, "-m", "basedpyright", "-p", str(config), "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=directory)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [(entry["range"]["start"]["line"] + 1, entry["message"]) for entry in found if entry["severity"] == "error"]


@needs_mypy
def test_mypy_strict_accepts_the_code_of_a_user(tmp_path: Path) -> None:
    assert mypy(SAMPLE, tmp_path) == []


@needs_mypy
def test_mypy_strict_finds_the_mistakes_of_a_user(tmp_path: Path) -> None:
    assert sorted({line for line, _ in mypy(wrong_in(tmp_path), tmp_path / "cache")}) == MISTAKES


@needs_pyright
def test_pyright_accepts_the_code_of_a_user(tmp_path: Path) -> None:
    assert pyright(SAMPLE, tmp_path) == []


@needs_pyright
def test_pyright_finds_the_mistakes_of_a_user(tmp_path: Path) -> None:
    assert sorted({line for line, _ in pyright(wrong_in(tmp_path), tmp_path)}) == MISTAKES


def test_code_of_a_user_runs_on_a_recording_host() -> None:
    with RecordingHost() as host:
        assert Agent(host).plug(PORT).value == "done"
        Agent(host).clean([PORT])
        assert mtu_of(host.state, PORT) == PORT.mtu
