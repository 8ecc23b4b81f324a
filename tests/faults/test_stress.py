"""Threads of two clients plug and unplug the same ports while their daemons are killed."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hybridvif import Status
from tests.faults.stress_client import POOL, THREADS
from tests.functional.conftest import Lab, until
from tests.functional.test_boundary import daemons
from tests.support.figures import note
from tests.support.likeness import differences, likeness
from tests.support.sizes import FULL

pytestmark = [pytest.mark.prove, pytest.mark.alone]
CLIENTS = 2
SECONDS = 40.0 if FULL else 2.5
PAUSE = (1.0, 3.0) if FULL else (0.4, 1.0)
"""Seconds between two kills. A short sample would otherwise have hardly any."""
ANSWERED = 60.0
"""Seconds after which a whole client counts as hung."""
SEED = int(os.environ.get("HYBRIDVIF_SEED", "0")) or random.randrange(1, 1 << 30)


class Client:
    """A program with calling threads and its own daemon (stress_client.py)."""

    def __init__(self, config: Path, number: int) -> None:
        self.program = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.stress_client", str(config), f"{SEED} {number}", str(SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def ask(self, verb: str) -> None:
        """Send a command."""
        assert self.program.stdin
        self.program.stdin.write(f"{verb}\n")
        self.program.stdin.flush()

    def read_line(self) -> dict[str, Any]:
        """Return its next line."""
        assert self.program.stdout
        assert select.select([self.program.stdout], [], [], ANSWERED)[0], "the client says nothing any more"
        line = self.program.stdout.readline()
        assert line, "the client has ended, and its last words are in what was written to stderr"
        return dict(json.loads(line))

    def query(self, verb: str) -> dict[str, Any]:
        """Return its next answer."""
        self.ask(verb)
        return self.read_line()

    def finish(self) -> dict[str, Any]:
        """Return its last answer."""
        return dict(json.loads(self.program.communicate(timeout=ANSWERED)[0]))


def killed_meanwhile(lab: Lab) -> int:
    """Kill one or both daemons while the clients call, and return the number of kills."""
    chance, kills = random.Random(SEED), 0
    end = time.monotonic() + SECONDS
    while (pause := chance.uniform(*PAUSE)) < end - time.monotonic():
        time.sleep(pause)
        running = daemons(lab.box)
        for pid in chance.sample(running, chance.randint(min(len(running), 1), len(running))):
            os.kill(pid, signal.SIGKILL)
            kills += 1
    return kills


def test_calls_while_daemons_are_killed_end_in_time_with_typed_errors(lab: Lab, tmp_path: Path) -> None:
    print(f"HYBRIDVIF_SEED={SEED}")
    empty = likeness(lab)
    clients = [Client(tmp_path / "lab" / "hybridvif.conf", number) for number in range(CLIENTS)]
    try:
        assert [client.read_line()["faults"] for client in clients] == [[]] * CLIENTS
        for client in clients:
            client.ask("call")
        kills = killed_meanwhile(lab)
        summaries = [client.read_line() for client in clients]
        hung = [name for summary in summaries for name in summary["hung"]]
        assert hung == []
        # No kills from here on.
        plugged, checked = clients[0].query("plug"), clients[1].query("check")
        unplugged = clients[1].query("unplug")
        rows = differences(empty, likeness(lab))
        ended = [client.finish() for client in clients]
    finally:
        for client in clients:
            client.program.kill()
            client.program.communicate()
    assert until(lambda: not daemons(lab.box)), "a daemon outlives its client"
    statuses = sum((Counter[str](summary["statuses"]) for summary in summaries), Counter[str]())
    faults = [fault for summary in ended for fault in summary["faults"]]
    leftovers = [*rows, *(leftover for summary in ended for leftover in summary["left"])]
    print(json.dumps([summary["reasons"] for summary in summaries], indent=1))
    note(
        "stress",
        {status.value: statuses[status.value] for status in Status},
        calls=sum(summary["calls"] for summary in summaries),
        kills=kills,
        hung=len(hung),
        faults=len(faults),
        left=len(leftovers),
        longest_late_s=round(max(summary["late"] for summary in summaries), 2),
        threads=CLIENTS * THREADS,
        ports=len(POOL),
    )
    assert faults == []
    assert (plugged["wrong"], checked["drift"], unplugged["wrong"]) == ([], [], [])
    assert leftovers == []
    assert kills
    assert statuses["done"]
