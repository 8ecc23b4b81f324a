"""A program that forbids the import of eventlet, with an oslo.privsep that needs it (before 3.11)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONNECTING = """
import sys
class Forbidding:
    def find_spec(self, fullname, path=None, target=None):
        if fullname.startswith("eventlet"):
            raise {error}("eventlet is forbidden here")
sys.meta_path.insert(0, Forbidding())
sys.path.insert(0, sys.argv[1])
from hybridvif import PreconditionError, connect
def connecting():
    try:
        connect()
    except PreconditionError as error:
        print(error)
"""
IN_THREAD = "import threading; thread = threading.Thread(target=connecting); thread.start(); thread.join()"
NEWER = "install oslo.privsep 3.11 or newer, which works without eventlet"


def run(code: str, *arguments: str) -> str:
    """Return the output of a separate Python process."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("call", ["connecting()", IN_THREAD], ids=["main thread", "other thread"])
@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("ImportError", NEWER),
        ("RuntimeError", "raise ImportError in place of RuntimeError to forbid an import"),
        ("SystemExit", "raise ImportError in place of SystemExit to forbid an import"),
    ],
)
def test_forbidden_import_of_privsep_is_a_precondition(tmp_path: Path, error: str, remedy: str, call: str) -> None:
    package = tmp_path / "oslo_privsep"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "daemon.py").write_text("import eventlet\n")
    assert run(CONNECTING.replace("{error}", error) + call, str(tmp_path)) == (
        f"oslo.privsep cannot be imported in this program: eventlet is forbidden here; {remedy}\n"
    )
