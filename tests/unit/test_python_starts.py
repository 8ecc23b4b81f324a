"""No Python that this project starts imports modules of the working directory, where other users may write.

Each start is found by its text, so a new one without -P or -I fails here. The functional tests start them in a
directory full of traps (tests/functional/test_working_directory.py).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STARTED = re.compile(r"""(?:python\d?(?:\.\d+)?|executable|candidate|\$1)["'`})]*,?\s+["']?-(?=[A-Za-z]*[\s"',])""")
"""A name of the interpreter and its first option: in a list, a shell command, or a text for people."""
SAFE = re.compile(r"[PI]\b")
PLACES = ("hybridvif", "tools", "benchmarks", "examples", "docs", "etc", ".ci/run", "tox.ini", "*.md")


def starts(text: str) -> list[tuple[str, bool]]:
    """Return each start of an interpreter with an option, and True if it is safe."""
    found = STARTED.finditer(text)
    return [(text[match.start() : match.end() + 12], bool(SAFE.match(text, match.end()))) for match in found]


def files() -> list[Path]:
    listed = [path for place in PLACES for path in ROOT.glob(place)]
    listed += [path for place in listed if place.is_dir() for path in place.rglob("*")]
    return sorted(path for path in set(listed) if path.is_file() and path.suffix not in (".pyc", ".svg", ".json"))


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ('[sys.executable, "-m", "hybridvif"]', False),
        ('[sys.executable, "-P", "-m", "hybridvif"]', True),
        ('[sys.executable, "-I", *more]', True),
        ('[python, "-c", code]', False),
        ('exec {quote(sys.executable)} -m hybridvif "$@"', False),
        ('exec {quote(sys.executable)} -P -m hybridvif "$@"', True),
        ('f"sudo {sys.executable} -m hybridvif"', False),
        ('"$venv/bin/python" -m pytest', False),
        ('"$venv/bin/python" - <<END', False),
        ('"$python" -I -m venv', True),
        ('"$1" -c pass', False),
        ("python3.12 -m venv", False),
    ],
)
def test_start_of_python_is_found_in_each_notation(text: str, safe: bool) -> None:
    assert [is_safe for _, is_safe in starts(text)] == [safe]


def test_python_is_started_with_a_safe_path_everywhere() -> None:
    unsafe = {
        f"{path.relative_to(ROOT)}: {start!r}"
        for path in files()
        for start, is_safe in starts(path.read_text(encoding="utf-8"))
        if not is_safe
    }
    assert unsafe == set()


def test_starts_of_python_are_found_in_the_files_that_have_some() -> None:
    having = {str(path.relative_to(ROOT)) for path in files() if starts(path.read_text(encoding="utf-8"))}
    assert having >= {
        ".ci/run",
        "benchmarks/made_of.py",
        "benchmarks/contest.py",
        "hybridvif/cli/host_checks.py",
        "hybridvif/testing/contract/bench.py",
        "hybridvif/privileged/launch.py",
        "hybridvif/testing/pytest_plugin.py",
        "hybridvif/testing/sandbox/box.py",
        "hybridvif/testing/sandbox/launch.py",
        "hybridvif/testing/sandbox/process.py",
        "tools/setup.sh",
        "tools/test",
        "tox.ini",
    }


def test_module_run_without_safe_path_imports_nothing_planted(tmp_path: Path) -> None:
    """`python -m hybridvif` has the working directory first in sys.path until the command removes it."""
    for name in ("argparse", "typing", "__future__", "gc", "json"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('planted {name}')")
    environment = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": ""}
    command = [sys.executable, "-m", "hybridvif", "--version"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
