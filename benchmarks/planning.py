"""The CPU time of plan, check and list for many ports: what grows faster than the ports shows here.

    PYTHONPATH=. python -P -m benchmarks.planning

The commands run in this process, on a host in memory. So the figures contain neither the start of Python nor the kernel
nor Open vSwitch. The output is one JSON list of turns.
"""

from __future__ import annotations

import gc
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import patch

from benchmarks.record import Turn
from hybridvif import Port, cli, plug_all
from hybridvif.client import host as client
from hybridvif.engine.any_host import SimulatedHost, nothing_seen
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed

SIZES = (1000, 10_000)
ROUNDS = 5
FIELDS = ("id", "mac", "instance_id")
THRESHOLD = 100_000
"""The threshold of the garbage collector in the process of a command."""


def turns(sizes: tuple[int, ...], rounds: int) -> Iterator[Turn]:
    """Time each command at each size, in turns. Raises RuntimeError if one fails."""
    empty = _in_memory(SimulatedHost(Settings(), nothing_seen(["br-int"])))
    with tempfile.TemporaryDirectory() as directory:
        commands: list[tuple[str, int, SimulatedHost, list[str]]] = []
        for size in sizes:
            ports = [_port(number) for number in range(1, size + 1)]
            file = Path(directory) / f"{size}.json"
            file.write_text(json.dumps([{name: getattr(port, name) for name in FIELDS} for port in ports]))
            plugged = SimulatedHost(Settings(), empty.seen)
            plug_all(ports, plugged)
            commands += [
                ("plan", size, empty, ["plan", "plug", "-F", str(file)]),
                ("check", size, plugged, ["check", "--all"]),
                ("list", size, plugged, ["list"]),
            ]
        for _ in range(rounds):
            for measure, size, host, argv in commands:
                yield Turn("hybridvif", measure, size, _seconds_of(argv, host, size))


def _in_memory(host: SimulatedHost) -> SimulatedHost:
    # A simulated host has no flows and no locks. Those of this machine are not read.
    host.seen = Observed(host.seen.state, replace(host.seen.facts, simulated=True))
    return host


def _port(number: int) -> Port:
    return Port(
        id=f"{number:08x}-7b00-4c00-8000-{number:012x}",
        mac=f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}",
        instance_id="0b1c2d3e-0000-4000-8000-000000000002",
    )


def _seconds_of(argv: list[str], host: SimulatedHost, size: int) -> float:
    """Run a command on this host and return its CPU seconds."""
    with redirect_stdout(io.StringIO()) as output, patch.object(client, "connect", lambda _: nullcontext(host)):
        started = time.process_time()
        code = cli.main(argv)
        seconds = time.process_time() - started
    if code != 0 or len(output.getvalue().splitlines()) < size:
        raise RuntimeError(f"{argv} ended with {code}")
    return seconds


if __name__ == "__main__":
    gc.set_threshold(THRESHOLD)
    sys.stdout.write(json.dumps([asdict(turn) for turn in turns(SIZES, ROUNDS)]))
