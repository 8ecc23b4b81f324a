"""ovs-vsctl commits, and then its read fails: simulated by a program, because a real one cannot be forced to."""

from __future__ import annotations

import time
from pathlib import Path

from hybridvif.executors.vsctl import VsctlExecutor
from hybridvif.model.port import desired_state
from hybridvif.model.report import Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import Create
from tests.functional.conftest import make_port

PORT = make_port()
SCRIPT = """#!/bin/sh
# Answers the first look, carries out what comes then, and fails from there on.
echo x >> {count}
case $(wc -l < {count}) in
    1)
        echo '{{"headings":["ovs_version"],"data":[["3.1.0"]]}}'
        echo '{{"headings":["name","ports","datapath_type"],"data":[["br-int",["set",[]],"netdev"]]}}'
        for table in 1 2; do echo '{{"headings":[],"data":[]}}'; done ;;
    2) ;;
    *) echo "ovs-vsctl: unix:/nowhere: database connection failed ()" >&2; exit 1 ;;
esac
"""


def test_committed_step_without_read_back_is_unknown(tmp_path: Path) -> None:
    program, count = tmp_path / "ovs-vsctl", tmp_path / "count"
    program.write_text(SCRIPT.format(count=count))
    program.chmod(0o755)
    executor = VsctlExecutor(Settings(program_path=f"{tmp_path}:/usr/bin:/bin"))
    (outcome,) = executor.apply([Create(desired_state(PORT).ports[PORT.names.switch_end])], time.monotonic() + 10)
    assert outcome.result is Result.UNKNOWN
    assert "committed in OVSDB, and not read back" in outcome.reason
    assert count.read_text().count("x") == 3
