"""The parts of the time of a plug, a plug again and an unplug: kernel, ovsdb-server, ovs-vswitchd, Python.

    PYTHONPATH=. python -P -m benchmarks.made_of [--ports 300] [--rounds 5] [--page docs/performance.md]

Each round runs in a sandbox. First it measures the total time with the privileged daemon. Then it measures the parts,
with the executors in this process. The table is written between the marks of the page.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

BEGIN, END = "<!-- made of: begin -->", "<!-- made of: end -->"
VERBS = ("plug", "plug again", "unplug")
LINKS = "kernel: reading and changing links"
GRACE_PERIOD = "kernel: deleting links, mostly waits"
ROWS = "ovsdb-server: reading and changing rows"
SWITCH = "ovs-vswitchd: accepting the transaction"
PYTHON = "Python: locks, plans, messages, checks"
BOUNDARY = "process boundary: messages, minus parallel work"
PARTS = (LINKS, GRACE_PERIOD, ROWS, SWITCH, PYTHON, BOUNDARY)
Taken = dict[str, float]


class Clock:
    """The time of each part, without the time of nested parts."""

    def __init__(self) -> None:
        self.taken: defaultdict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def time(self, cls: Any, name: str, part: Callable[..., str]) -> None:
        """Time this function from now on. part: maps its arguments to the name of the part."""
        function = getattr(cls, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - started
                self.taken[part(*args, **kwargs)] += took - self._inner.pop()
                self._inner[-1] += took

        setattr(cls, name, timed)


def clocked() -> Clock:
    """Create a clock for all functions that wait for another process."""
    from hybridvif.executors.netlink.socket import RTM_DELLINK, NetlinkSocket
    from hybridvif.executors.ovsdb.rpc import Connection, Session

    clock = Clock()
    clock.time(NetlinkSocket, "dump", lambda *_, **__: LINKS)
    clock.time(
        NetlinkSocket, "_exchange", lambda _, requests: GRACE_PERIOD if requests[0].kind == RTM_DELLINK else LINKS
    )
    clock.time(Session, "_queried", lambda *_, **__: ROWS)
    clock.time(Connection, "transact", lambda _, operations, __: SWITCH if "cur_cfg" in str(operations[:1]) else ROWS)
    return clock


def inside(config: str, count: int, rounds: int) -> list[tuple[str, Taken]]:
    """Return the parts in seconds, by verb and round."""
    from benchmarks.contest import _port
    from hybridvif import Port, connect, plug_all, unplug_all
    from hybridvif.privileged import execute
    from hybridvif.privileged.context import daemon_context
    from hybridvif.privileged.main import GARBAGE

    host = connect([config])
    ports = [Port(id=name, mac=mac, instance_id=vm) for name, mac, vm in map(_port, range(1, count + 1))]
    ids = [port.id for port in ports]
    verbs = dict(zip(VERBS, (lambda: plug_all(ports, host),) * 2 + (lambda: unplug_all(ids, host),), strict=True))

    def timed(verb: str) -> float:
        started = time.perf_counter()
        reports = verbs[verb]()
        took = time.perf_counter() - started
        if not all(report.ok for report in reports):
            sys.exit(f"{verb}: {next(report.reason for report in reports if not report.ok)}")
        return took

    for verb in VERBS:
        timed(verb)
    wholes = [{verb: timed(verb) for verb in VERBS} for _ in range(rounds)]
    # From here on this process runs the executors itself, with the configuration and garbage collection of the daemon.
    daemon_context.client_mode = False
    execute.keep(lambda: host.settings)
    gc.freeze()
    gc.set_threshold(GARBAGE)
    for verb in VERBS:
        # Load the executors.
        timed(verb)
    clock, found = clocked(), []
    for whole in wholes:
        for verb in VERBS:
            clock.taken.clear()
            here = timed(verb)
            parts = dict(clock.taken)
            parts[PYTHON] = here - sum(parts.values())
            found.append((verb, {**parts, BOUNDARY: whole[verb] - here, "total": whole[verb]}))
    return found


def table_of(counts: Sequence[int], found: dict[int, list[tuple[str, Taken]]]) -> str:
    """Format the medians in milliseconds as Markdown."""
    columns = [(count, verb) for count in counts for verb in VERBS]
    heads = [f"{verb}, {count}" for count, verb in columns]
    lines = [f"| milliseconds | {' | '.join(heads)} |", "|---" * (len(columns) + 1) + "|"]
    for part in (*PARTS, "total"):
        cells = []
        for count, verb in columns:
            took = median(1000 * parts.get(part, 0.0) for name, parts in found[count] if name == verb)
            cells.append(f"{took:,.2f}" if took < 100 else f"{took:,.0f}")
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the measurement in a sandbox, print the table and write it into the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ports", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--page")
    parser.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        config, count, rounds = args.inside
        sys.stdout.write(json.dumps(inside(config, int(count), int(rounds))))
        return
    from benchmarks.contest import _configuration, temporary_directory
    from hybridvif.testing.sandbox.box import Sandbox

    counts = (1, args.ports)
    found: dict[int, list[tuple[str, Taken]]] = {}
    with Sandbox() as box, temporary_directory() as directory:
        config = _configuration(directory)
        for count in counts:
            rounds = args.rounds * 10 if count == 1 else args.rounds
            words = [sys.executable, "-P", __file__, "--inside", str(config), str(count), str(rounds)]
            found[count] = json.loads(box.run(words, timeout=900).stdout)
    table = table_of(counts, found)
    sys.stdout.write(table)
    if args.page:
        page = Path(args.page)
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
