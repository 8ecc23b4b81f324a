"""The time of deletes: the kernel's, by the state of the devices, and that of an unplug beside a bare script.

    PYTHONPATH=. python -P -m benchmarks.deletes [--ports 300] [--rounds 5] [--devices 40] [--page docs/performance.md]

Both run in a sandbox. First many devices of one kind are deleted: one by one, and in one request as a link group. Then
hybridvif and a bare script unplug the same ports in turns. The bare script is one `ovs-vsctl` for all rows, one
`ip -batch` that sets the link group, and one delete of the group. It observes nothing. The table is written between the
marks of the page.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from benchmarks.contest import Contest, _compile, _configuration, _port, _Turns, temporary_directory
from benchmarks.record import Record
from hybridvif.testing.sandbox.box import Sandbox

BEGIN, END = "<!-- deletes: begin -->", "<!-- deletes: end -->"
GROUP = 70_000
KINDS: dict[str, tuple[str, ...]] = {
    "veth pair, down": ("link add v{0} type veth peer name w{0}",),
    "veth pair, up": ("link add v{0} up type veth peer name w{0}", "link set w{0} up"),
    "veth pair, up and promiscuous": (
        "link add v{0} type veth peer name w{0}",
        "link set v{0} up promisc on",
        "link set w{0} up promisc on",
    ),
    "bridge, down": ("link add v{0} type bridge",),
    "bridge, up": ("link add v{0} up type bridge",),
    "bridge with a veth pair in it, both deleted": (
        "link add b{0} up type bridge",
        "link add v{0} master b{0} up type veth peer name w{0}",
        "link set w{0} up",
    ),
}
"""The commands that create one device or port, by its name in the table."""
OWNED = "v", "b"
"""Prefixes of the devices that are deleted; the other end of a pair goes with it."""


def kernel_times(box: Sandbox, count: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Return the seconds per device or port, deleted one by one and as a group."""
    times = {}
    for kind, commands in KINDS.items():
        names = [f"{end}{n}" for n in range(count) for end in OWNED if f" {end}{{0}}" in "".join(commands)]
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for way, seconds in enumerate(taken):
                _batch(box, [command.format(n) for n in range(count) for command in commands])
                _batch(box, [f"link set {name} group {GROUP}" for name in names])
                deletes = [f"link delete {name}" for name in names], [f"link delete group {GROUP}"]
                started = time.perf_counter()
                _batch(box, deletes[way])
                seconds.append((time.perf_counter() - started) / count)
        times[kind] = median(taken[0]), median(taken[1])
    return times


def unplug_times(box: Sandbox, config: Path, count: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds to unplug all ports, by hybridvif and by the bare script."""
    ports = [_port(number) for number in range(1, count + 1)]
    taken: dict[str, list[float]] = {"hybridvif": [], "bare script": []}
    contest = Contest([count], rounds, ["hybridvif"])
    with _Turns(contest, box, config, "hybridvif", count, Record({}, 0)).worker() as tell:
        for number in range(rounds):
            for name in sorted(taken, reverse=number % 2 == 1):
                tell("plug", ports)
                ends = [port[0][:11] for port in ports]
                started = time.perf_counter()
                if name == "hybridvif":
                    tell("unplug", ports)
                else:
                    _bare(box, ends)
                taken[name].append(time.perf_counter() - started)
    return taken


def _bare(box: Sandbox, ends: Iterable[str]) -> None:
    words = [word for end in ends for word in ("--", "del-port", "br-int", f"qvo{end}")]
    box.run(["ovs-vsctl", *words[1:]], timeout=600)
    _batch(box, [f"link set {kind}{end} group {GROUP}" for end in ends for kind in ("qvb", "qbr")])
    _batch(box, [f"link delete group {GROUP}"])


def _batch(box: Sandbox, lines: Iterable[str]) -> None:
    box.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", timeout=600)


def table_of(kernel: dict[str, tuple[float, float]], unplugs: dict[str, list[float]], count: int) -> str:
    """Format the medians as Markdown."""
    lines = ["| deleted | one by one, ms each | as a group, ms each |", "|---|---|---|"]
    lines += [f"| {kind} | {1000 * alone:.1f} | {1000 * group:.1f} |" for kind, (alone, group) in kernel.items()]
    lines += ["", f"| unplug of {count} ports | s | ratio |", "|---|---|---|"]
    bare = median(unplugs["bare script"])
    lines += [f"| {name} | {median(taken):.2f} | {median(taken) / bare:.2f} |" for name, taken in unplugs.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table and write it into the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ports", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, default=40)
    parser.add_argument("--page")
    args = parser.parse_args()
    _compile()
    with Sandbox() as box, temporary_directory() as directory:
        kernel = kernel_times(box, args.devices, args.rounds)
        unplugs = unplug_times(box, _configuration(directory), args.ports, args.rounds)
    table = table_of(kernel, unplugs, args.ports)
    sys.stdout.write(table)
    if args.page:
        page = Path(args.page)
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
