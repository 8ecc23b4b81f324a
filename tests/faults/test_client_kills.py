"""The client is killed before any system call, from start to end: its daemon exits, and the next call is right."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hybridvif import Report, plug, unplug
from hybridvif.model.report import Status
from hybridvif.testing.sandbox.box import Sandbox
from tests.faults.test_kills import BEYOND, Trial, numbers, trial_of
from tests.functional.conftest import until
from tests.functional.test_boundary import daemons
from tests.support.sizes import FULL
from tests.support.strace import counted, counting, killed, killing_at, require_strace

pytestmark = pytest.mark.prove
CLIENT = """
import sys
from hybridvif import connect, plug, unplug
from tests.functional.conftest import make_port
port = make_port()
with connect([sys.argv[2]]) as host:
    report = plug(port, host) if sys.argv[1] == "plug" else unplug(port.id, host)
    print("ok" if report.ok else "not ok", flush=True)
"""
LINGERS = 5.0
"""Seconds in which the daemon of a dead client must exit, on a busy machine."""


class Caller:
    """A program that makes one call and exits, traced in its main thread."""

    def __init__(self, trial: Trial, verb: str, directory: Path) -> None:
        self.trial, self.verb, self.directory = trial, verb, directory
        self.log = directory / "log"

    def run(self, rules: Sequence[str]) -> str:
        """Return its answer, or "" if it died before. Its daemon has exited when this returns."""
        config = str(self.directory / "lab" / "hybridvif.conf")
        command = ["strace", "-o", str(self.log), *rules, sys.executable, "-c", CLIENT, self.verb, config]
        mine = daemons(self.trial.lab.box)
        # A separate directory, because a killed process leaves its socket's directory; short, for the socket's name.
        with TemporaryDirectory(prefix="hv-") as place:
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": place}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert until(lambda: set(daemons(self.trial.lab.box)) <= set(mine), LINGERS), "its daemon outlives it"
        return done.stdout.strip()

    def points(self) -> dict[str, int]:
        """Count its system calls that may change something, by kind."""
        assert self.run(counting()) == "ok"
        made = counted(self.log)
        # The call by which strace starts the program is not counted.
        made["execve"] -= 1
        return {kind: count for kind, count in made.items() if count}


@pytest.mark.parametrize("verb", ["plug", "unplug"])
def test_client_killed_before_any_call_is_repaired_by_next_call(sandbox: Sandbox, tmp_path: Path, verb: str) -> None:
    require_strace()
    with trial_of(sandbox, tmp_path / "lab", "iproute2-netlink", "ovsdb") as trial:
        caller = Caller(trial, verb, tmp_path)
        port, host = trial.port, trial.lab.host
        before, wanted = (trial.empty, trial.whole) if verb == "plug" else (trial.whole, trial.empty)

        def begin() -> None:
            if verb == "unplug":
                assert plug(port, host).ok

        begin()
        points = caller.points()
        assert unplug(port.id, host).ok
        for kind, places in numbers(points):
            missed = 0
            for number in places:
                where = f"{verb}: the caller killed at {kind} {number}"
                begin()
                answer = caller.run(killing_at(number, kind))
                dead = killed(caller.log)
                counts = number <= points[kind]
                missed = missed + 1 if not dead and not counts else 0
                trial.counts["points"] += counts
                trial.counts["missed"] += counts and not dead
                trial.counts["kills"] += dead
                status = Status.DONE if answer == "ok" else Status.UNKNOWN
                trial.survived(where, Report(port_id=port.id, status=status), before, wanted)
                if FULL or number % 2:
                    trial.plugged(where)
                trial.unplugged(where)
                if missed >= BEYOND:
                    break
        trial.end(verb, "kills-client")
