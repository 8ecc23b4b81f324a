"""The command and the first plug of a program: in an environment with Nova, and in one of hybridvif's own.

    tools/cloud --collect-only --quiet      # creates .cloud/venv with Nova
    PYTHONPATH=. python -P -m benchmarks.nova_environment --nova .cloud/venv/bin/python --page docs/performance.md

Both environments take turns in one sandbox, and each is the first in every second round. The CPU time includes the
daemon. The table is written between the marks of the page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

from benchmarks.contest import _compile, _configuration, _port, temporary_directory
from hybridvif.testing.sandbox.box import Sandbox

BEGIN, END = "<!-- nova environment: begin -->", "<!-- nova environment: end -->"
TIMED = """
import ctypes, json, os, resource, subprocess, sys, time
PR_SET_CHILD_SUBREAPER = 36  # the daemon is a child too, and is waited for
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
start = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
wall = time.perf_counter() - start
try:
    while os.wait():
        pass
except ChildProcessError:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([wall, used.ru_utime + used.ru_stime]))
sys.exit(code)
"""
PROGRAM = """
import sys
from hybridvif import Port, connect, plug
report = plug(Port(id=sys.argv[2], mac=sys.argv[3], instance_id=sys.argv[4]), connect([sys.argv[1]]))
sys.exit(0 if report.ok else report.reason)
"""
Taken = dict[tuple[str, str], list[list[float]]]


def measured(pythons: dict[str, str], rounds: int) -> Taken:
    """Return pairs of wall and CPU seconds, by measure and environment."""
    taken: Taken = defaultdict(list)
    port_id, mac, instance = _port(1)
    with Sandbox() as box, temporary_directory() as directory:
        config = str(_configuration(directory))
        plug = ["plug", port_id, "--mac", mac, "--instance", instance, "-q"]
        for number in range(-1, rounds):
            for name in sorted(pythons, reverse=number % 2 == 1):
                command = [pythons[name], "-P", "-m", "hybridvif"]
                for measure, argv in {
                    "`hybridvif --help`": [*command, "--help"],
                    "`hybridvif plug`": [*command, "--config-file", config, *plug],
                    "first plug of a program": [pythons[name], "-P", "-c", PROGRAM, config, port_id, mac, instance],
                }.items():
                    output = box.run([sys.executable, "-I", "-c", TIMED, *argv]).stdout
                    if number >= 0:  # the first round fills the caches
                        taken[measure, name].append(json.loads(output))
                    box.run([*command, "--config-file", config, "unplug", port_id, "-q"])
    return taken


def table_of(taken: Taken) -> str:
    """Format the medians as Markdown."""
    lines = ["| measure | own, s | Nova's, s | ratio | own, CPU s | Nova's, CPU s | ratio |", "|---" * 7 + "|"]
    for measure in dict.fromkeys(measure for measure, _ in taken):
        cells = [measure]
        for index in (0, 1):
            own, nova = (median(pair[index] for pair in taken[measure, name]) for name in ("own", "nova"))
            cells += [f"{own:.3f}", f"{nova:.3f}", f"{nova / own:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table and write it into the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nova", required=True, help="the Python interpreter of an environment with Nova")
    parser.add_argument("--own", default=sys.executable, help="one of an environment without eventlet")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--page")
    args = parser.parse_args()
    _compile()
    table = table_of(measured({"own": args.own, "nova": args.nova}, args.rounds))
    sys.stdout.write(table)
    if args.page:
        page = Path(args.page)
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
