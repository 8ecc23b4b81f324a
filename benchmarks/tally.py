"""Medians, spreads and ratios of a run, and the required bars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from statistics import median

from benchmarks.record import Record

WITH_NOVA = "with Nova"
"""The contender that is hybridvif in an environment with Nova."""
IN_MEMORY = ("plan", "check", "list")
"""The measures on a host in memory, in CPU time."""
CROWD = 40
"""The number of ports that threads plug concurrently."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The time of one contender for one operation over all rounds, in seconds."""

    contender: str
    measure: str
    ports: int
    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A ratio, or a figure with its unit, and its limit."""

    name: str
    ratio: float
    limit: float
    at_least: bool = False
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """True if the limit is kept."""
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit


def figures_of(record: Record) -> list[Figure]:
    """Return a figure for each contender, measure and size, in the order of the run."""
    taken: dict[tuple[str, str, int], list[float]] = {}
    for turn in record.turns:
        taken.setdefault((turn.contender, turn.measure, turn.ports), []).append(turn.seconds)
    return [Figure(*key, median(some), min(some), max(some)) for key, some in taken.items()]


RATIOS = (
    # name, measure, competitor, range of ports for the bar, limit
    ("one port, plug / os-vif, {} ports there", "one plug", "os-vif", range(1, 2), 0.25),
    ("one port, re-plug / os-vif, {} ports there", "one plug again", "os-vif", range(1, 2), 0.12),
    ("one port, unplug / os-vif, {} ports there", "one unplug", "os-vif", range(1, 2), 0.5),
    ("first plug of a process / os-vif, {} ports there", "first", "os-vif", range(1, 2), 0.6),
    ("`hybridvif plug` / a script that calls os-vif once, {} ports there", "command", "os-vif", range(1, 2), 0.6),
    ("plug {} ports, bulk / os-vif one by one", "plug", "os-vif", range(300, 5001), 1 / 30),
    ("plug {} ports, bulk / floor", "plug", "floor", range(300, 5001), 1.0),
    ("re-plug {} ports, bulk / os-vif", "plug again", "os-vif", range(300, 5001), 1 / 60),
    ("reconcile {} ports after a reboot / os-vif one by one", "reconcile", "os-vif", range(300, 5001), 1 / 20),
    ("unplug {} ports, bulk / os-vif one by one", "unplug", "os-vif", range(300, 5001), 0.35),
    ("unplug {} ports, bulk / a bare script of its deletes", "unplug", "floor", range(300, 5001), 1.1),
)
GROWTH = ((100, 1000, 1.15), (1000, 2000, 1.3))
"""The limits of the time per port of a large bulk to that of a small one."""
LINEAR = 11
"""The limit of the CPU time of a command for ten times as many ports."""
REPAIR, THREADS, IN_NOVA = 1.5, 5.0, 1.2
"""The time of a reconcile after a reboot to that of a fresh plug; the throughput of ten threads to that of os-vif; the
time of a first plug in Nova's environment to that in one of our own."""
COMMAND = 450
"""The limit of a whole process in milliseconds."""
MEMORY = (("1000", 120), ("2000", 150))
"""The limits of client and daemon in megabytes, by the number of ports."""
FLAT = 1.05
"""The limit of memory growth: the end to the first tenth of the operations."""


def bars_of(record: Record, *, everywhere: bool = False) -> list[Bar]:
    """Return the bars of this run, at their own sizes or everywhere."""
    seconds = {(figure.contender, figure.measure, figure.ports): figure.median for figure in figures_of(record)}
    sizes = sorted({ports for _, _, ports in seconds})
    bars = []
    for name, measure, other, meant, limit in RATIOS:
        for ports in sizes:
            ours, theirs = seconds.get(("hybridvif", measure, ports)), seconds.get((other, measure, ports))
            if ours and theirs and (everywhere or ports in meant):
                bars.append(Bar(name.format(ports), ours / theirs, limit))
    return [*bars, *_bars_of_threads(seconds), *_bars_of_ours(record, seconds)]


Seconds = dict[tuple[str, str, int], float]


def _bars_of_threads(seconds: Seconds) -> Iterator[Bar]:
    for (name, measure, ports), ours in seconds.items():
        if (name, measure) == ("hybridvif", "ten threads") and ("os-vif", measure, ports) in seconds:
            ratio = seconds["os-vif", measure, ports] / ours
            yield Bar(f"ten threads, throughput / os-vif's, {ports} ports there", ratio, THREADS, at_least=True)


def _bars_of_ours(record: Record, seconds: Seconds) -> Iterator[Bar]:
    for few, many, limit in GROWTH:
        if growth := cost_of_growth(seconds, few, many):
            yield Bar(f"cost of a port, bulk of {many:,} / bulk of {few:,}", growth, limit)
    yield from _bars_of_measures(seconds)
    command = seconds.get(("hybridvif", "command", 1))
    if command:
        yield Bar("`hybridvif plug`, the whole process", 1000 * command, COMMAND, unit="ms")
    for number, limit in MEMORY:
        if held := record.memory.get("hybridvif", {}).get(number):
            yield Bar(f"memory of client and daemon, {int(number):,} ports", held * 1024 / 1e6, limit, unit="MB")
    if len(record.endurance) > 1:
        (_, early), (operations, late) = record.endurance[0], record.endurance[-1]
        yield Bar(f"memory after {operations:,} operations / after the first tenth", late / early, FLAT)


def _bars_of_measures(seconds: Seconds) -> Iterator[Bar]:
    for (name, measure, ports), ours in seconds.items():
        if (name, measure) == ("hybridvif", "reconcile") and ports >= 300:
            ratio = ours / seconds[name, "plug", ports]
            yield Bar(f"reconcile {ports:,} ports after a reboot / plug of new ones", ratio, REPAIR)
        if measure in IN_MEMORY and (fewer := seconds.get((name, measure, ports // 10))):
            yield Bar(f"{measure} of {ports:,} ports / of {ports // 10:,}", ours / fewer, LINEAR)
        if (name, measure) == (WITH_NOVA, "first") and (own := seconds.get(("hybridvif", measure, ports))):
            yield Bar("first plug in Nova's environment / in one of our own", ours / own, IN_NOVA)


def cost_of_growth(seconds: Seconds, few: int, many: int) -> float:
    """Return the ratio of the times per port in a large and a small bulk plug; 0 if one is missing."""
    small, large = (seconds.get(("hybridvif", "plug", ports)) for ports in (few, many))
    return (large / many) / (small / few) if small and large else 0.0


def on_paper(figures: list[Figure], ports: int) -> float:
    """Extrapolate the seconds of a bulk plug of more ports from the last two sizes.

    Returns 0 if there are fewer than two sizes, or if that many ports were plugged.
    """
    curve = sorted((figure.ports, figure.median / figure.ports) for figure in figures
                   if (figure.contender, figure.measure) == ("hybridvif", "plug"))  # fmt: skip
    if len(curve) < 2 or curve[-1][0] >= ports:
        return 0.0
    (few, cheap), (many, dear) = curve[-2:]
    exponent = log(dear / cheap) / log(many / few)
    return float(dear * (ports / many) ** exponent * ports)
