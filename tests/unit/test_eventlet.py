"""A program that forbids the import of eventlet, with an oslo.privsep that needs it (before 3.11)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONNECTING = """
import sys
class Forbidding:
    def find_spec(self, fullname, path=None, target=None):
        if fullname.startswith("eventlet"):
            raise ImportError("eventlet is forbidden here")
sys.meta_path.insert(0, Forbidding())
sys.path.insert(0, sys.argv[1])
from hybridvif import PreconditionError, connect
try:
    connect()
except PreconditionError as error:
    print(error)
"""


def test_old_privsep_without_eventlet_is_a_precondition(tmp_path: Path) -> None:
    package = tmp_path / "oslo_privsep"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "daemon.py").write_text("import eventlet\n")
    command = [sys.executable, "-c", CONNECTING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "oslo.privsep cannot be imported in this program: eventlet is forbidden here; install oslo.privsep 3.11 or "
        "newer, which works without eventlet\n"
    )
