"""The time of deletes, the functions of the kernel that they wait in, and the effect of expedited grace periods.

    PYTHONPATH=. python -P -m benchmarks.deletes [--devices 40] [--rounds 5] [--page docs/performance.md]
    PYTHONPATH=. python -P -m benchmarks.deletes --expedited [--ports 100] ...

All runs in a sandbox. Devices of one kind are deleted one by one, and in one request as a link group. The stack of the
deleting thread is sampled. With --expedited, ports are unplugged and converted as well, with 0 and 1 in
/sys/kernel/rcu_expedited in turns. That is a setting of the whole machine, and gets its old value back at the end.
The tables are written between the marks of the page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Event, Thread

from benchmarks.contest import Contest, _compile, _configuration, _port, _Turns, temporary_directory
from benchmarks.record import Record
from benchmarks.worker import GROUP
from hybridvif.testing.sandbox.box import Sandbox

BEGIN, END = "<!-- deletes: begin -->", "<!-- deletes: end -->"
EXPEDITED = Path("/sys/kernel/rcu_expedited")
WAITS = ("rcu_barrier", "synchronize_rcu_expedited", "synchronize_rcu_normal")
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


Waits = Counter[str]
"""Samples of a thread, by the function that it waits in and its caller; "": it does not wait for RCU."""


@contextmanager
def sampled(pid_of: Callable[[], int]) -> Iterator[Waits]:
    """Sample the stack of a thread while the block runs."""
    waits: Waits = Counter()
    done = Event()

    def sample() -> None:
        while not done.wait(0.001):
            try:
                stack = Path(f"/proc/{pid_of()}/stack").read_text(encoding="ascii")
            except OSError:
                continue
            frames = [line.split()[-1].partition("+")[0] for line in stack.splitlines()]
            waits[f"`{frames[0]}` of `{frames[1]}`" if frames and frames[0] in WAITS else ""] += 1

    thread = Thread(target=sample)
    thread.start()
    try:
        yield waits
    finally:
        done.set()
        thread.join()


def kernel_times(box: Sandbox, count: int, rounds: int) -> Iterator[tuple[str, float, float, Waits]]:
    """Yield each kind, with the seconds per device deleted one by one and as a group, and the waits of the first."""
    for kind, commands in KINDS.items():
        names = [f"{end}{n}" for n in range(count) for end in OWNED if f" {end}{{0}}" in "".join(commands)]
        taken: tuple[list[float], list[float]] = ([], [])
        waits: Waits = Counter()
        for _ in range(rounds):
            for way, seconds in enumerate(taken):
                _batch(box, [command.format(n) for n in range(count) for command in commands])
                _batch(box, [f"link set {name} group {GROUP}" for name in names])
                deletes = [f"link delete {name}" for name in names], [f"link delete group {GROUP}"]
                started = time.perf_counter()
                seen = _sampled_batch(box, deletes[way])
                seconds.append((time.perf_counter() - started) / count)
                waits += seen if way == 0 else Counter()
        yield kind, median(taken[0]), median(taken[1]), waits


def _sampled_batch(box: Sandbox, lines: Iterable[str]) -> Waits:
    with tempfile.NamedTemporaryFile("w", suffix=".batch") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        with box.popen(["ip", "-batch", file.name]) as process, sampled(lambda: _last_child(process.pid)) as waits:
            if process.wait():
                raise RuntimeError(f"ip -batch ended with {process.returncode}")
    return waits


def _last_child(pid: int) -> int:
    """Return the process that has no child, from this one down."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return _last_child(int(children[0])) if children else pid


def expedited_times(box: Sandbox, config: Path, count: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds per port with 0 and 1 in rcu_expedited, by operation."""
    ports = [_port(number) for number in range(1, count + 1)]
    ends = [port[0][:11] for port in ports]
    words = [word for end in ends for word in ("--", "del-port", "br-int", f"qvo{end}")]
    taps = [f"link add tap{end} up master qbr{end} type veth peer name hv{end}" for end in ends]
    taps += [f"link set hv{end} up" for end in ends]
    group = [f"link set {kind}{end} group {GROUP}" for end in ends for kind in ("qvb", "qbr")]
    taken: dict[str, dict[str, list[float]]] = {}
    before = EXPEDITED.read_text(encoding="ascii")
    contest = Contest({count: rounds}, ["hybridvif"])
    with _Turns(contest, box, config, "hybridvif", count, Record({}, 0)).worker() as tell:

        def timed(operation: str, value: str, work: Callable[[], object]) -> None:
            EXPEDITED.write_text(value, encoding="ascii")
            started = time.perf_counter()
            try:
                work()
            finally:
                EXPEDITED.write_text(before, encoding="ascii")
            taken.setdefault(operation, {}).setdefault(value, []).append((time.perf_counter() - started) / count)

        for number in range(rounds):
            for value in ("01", "10")[number % 2]:
                tell("plug", ports)
                timed("unplug", value, lambda: tell("unplug", ports))
                tell("plug", ports)
                timed("`ovs-vsctl` with all rows", value, lambda: box.run(["ovs-vsctl", *words[1:]], timeout=600))
                timed("`ip` with all links", value, lambda: _batch(box, [*group, f"link delete group {GROUP}"]))
                tell("plug", ports)
                _batch(box, taps)
                timed("convert to native ports", value, lambda: tell("convert", ports))
                _batch(box, [f"link delete tap{end}" for end in ends])
                tell("unplug", ports)
    return taken


def _batch(box: Sandbox, lines: Iterable[str]) -> None:
    box.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", timeout=600)


def table_of(kernel: Iterable[tuple[str, float, float, Waits]]) -> Iterator[str]:
    """Yield the table of the kernel's deletes. A wait is shown from a tenth of the samples on."""
    yield "| deleted | one by one, ms each | as a group, ms each | one by one, it waits in |"
    yield "|---" * 4 + "|"
    for kind, alone, group, waits in kernel:
        shares = [f"{share:.0%} {name}" for name, number in waits.most_common() if name
                  and (share := number / waits.total()) >= 0.1]  # fmt: skip
        yield f"| {kind} | {1000 * alone:.1f} | {1000 * group:.1f} | {', '.join(shares)} |"


def expedited_table_of(taken: dict[str, dict[str, list[float]]], count: int) -> Iterator[str]:
    """Yield the table of the operations with normal and with expedited grace periods."""
    yield f"| {count} ports, ms each | `rcu_expedited` 0 | 1 | ratio |"
    yield "|---" * 4 + "|"
    for operation, by_value in taken.items():
        normal, expedited = (1000 * median(by_value[value]) for value in "01")
        yield f"| {operation} | {normal:.1f} | {expedited:.1f} | {expedited / normal:.2f} |"


def main() -> None:
    """Measure, print the tables and write them into the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--expedited", action="store_true", help="write /sys/kernel/rcu_expedited, too")
    parser.add_argument("--ports", type=int, default=100)
    parser.add_argument("--page")
    args = parser.parse_args()
    _compile()
    with Sandbox() as box, temporary_directory() as directory:
        lines = [*table_of(kernel_times(box, args.devices, args.rounds))]
        if args.expedited:
            taken = expedited_times(box, _configuration(directory), args.ports, args.rounds)
            lines += ["", *expedited_table_of(taken, args.ports)]
    table = "\n".join(lines) + "\n"
    sys.stdout.write(table)
    if args.page:
        page = Path(args.page)
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
