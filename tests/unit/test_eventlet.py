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


INSTALLED = """
import sys
sys.path.insert(0, sys.argv[1])
from hybridvif import connect
finders = list(sys.meta_path)
connect()
print("eventlet" in sys.modules, sys.meta_path == finders)
import eventlet
"""
IN_A_THREAD = (
    "import threading\nother = threading.Thread(None, __import__, None, ['eventlet'])\nother.start()\nother.join()\n"
)
DAEMONS = {
    "import eventlet\n": True,
    "try:\n    import eventlet\nexcept ImportError:\n    pass\n": False,
    IN_A_THREAD: True,
}


@pytest.mark.parametrize("daemon", DAEMONS, ids=["needed", "optional", "of another thread"])
def test_connect_imports_eventlet_only_if_needed(tmp_path: Path, daemon: str) -> None:
    """The ban is for the thread that connects, and it ends with the import of oslo.privsep."""
    (tmp_path / "oslo_privsep").mkdir()
    (tmp_path / "oslo_privsep" / "__init__.py").touch()
    (tmp_path / "oslo_privsep" / "daemon.py").write_text(daemon)
    (tmp_path / "eventlet.py").touch()
    assert run(INSTALLED, str(tmp_path)).split() == [str(DAEMONS[daemon]), "True"]
