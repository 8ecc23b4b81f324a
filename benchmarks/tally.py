"""Medians, spreads and ratios of a run, and the bars that hybridvif is held against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from statistics import median

from benchmarks.record import Record

CROWD = 40
"""Ports that threads plug at once."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What one contender took for one thing, over all rounds, in seconds."""

    contender: str
    measure: str
    ports: int
    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One ratio in one run, or a figure with its unit, and what it was to be."""

    name: str
    ratio: float
    limit: float
    at_least: bool = False
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """Whether it is as it was to be."""
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit


def figures_of(record: Record) -> list[Figure]:
    """One figure a contender, measure and size, in the order in which they were first taken."""
    taken: dict[tuple[str, str, int], list[float]] = {}
    for turn in record.turns:
        taken.setdefault((turn.contender, turn.measure, turn.ports), []).append(turn.seconds)
    return [Figure(*key, median(some), min(some), max(some)) for key, some in taken.items()]


RATIOS = (
    # name, measure, against whom, from how many ports on the bar is meant and to how many, limit
    ("one port, plug / os-vif, {} ports there", "one plug", "os-vif", range(1, 2), 0.25),
    ("one port, re-plug / os-vif, {} ports there", "one plug again", "os-vif", range(1, 2), 0.12),
    ("one port, unplug / os-vif, {} ports there", "one unplug", "os-vif", range(1, 2), 0.5),
    ("first plug of a process / os-vif, {} ports there", "first", "os-vif", range(1, 2), 0.6),
    ("`hybridvif plug` / a script that calls os-vif once, {} ports there", "command", "os-vif", range(1, 2), 0.6),
    ("plug {} ports, bulk / os-vif one by one", "plug", "os-vif", range(300, 5001), 1 / 30),
    ("plug {} ports, bulk / floor", "plug", "floor", range(300, 5001), 1.0),
    ("re-plug {} ports, bulk / os-vif", "plug again", "os-vif", range(300, 5001), 1 / 60),
    ("unplug {} ports, bulk / os-vif one by one", "unplug", "os-vif", range(300, 5001), 0.35),
)
GROWTH, THREADS = 1.3, 5.0
"""Cost of a port, in bulk, of 1,000 to 100 ports; throughput of ten threads to os-vif's."""
COMMAND = 450
"""Milliseconds of a whole process."""
MEMORY = 120
"""Megabytes of client and daemon together."""
FLAT = 1.05
"""What client and daemon hold at the end, to what they held after the first tenth of the operations."""


def bars_of(record: Record, *, everywhere: bool = False) -> list[Bar]:
    """The bars that this run can tell of, at the sizes that they are meant for, or everywhere."""
    seconds = {(one.contender, one.measure, one.ports): one.median for one in figures_of(record)}
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
    growth = cost_of_growth(seconds, 100, 1000)
    if growth:
        yield Bar("cost of a port, bulk of 1,000 / bulk of 100", growth, GROWTH)
    command = seconds.get(("hybridvif", "command", 1))
    if command:
        yield Bar("`hybridvif plug`, the whole process", 1000 * command, COMMAND, unit="ms")
    held = record.memory.get("hybridvif", {}).get("1000")
    if held:
        yield Bar("memory of client and daemon, 1,000 ports", held * 1024 / 1e6, MEMORY, unit="MB")
    if len(record.endurance) > 1:
        (_, early), (operations, late) = record.endurance[0], record.endurance[-1]
        yield Bar(f"memory after {operations:,} operations / after the first tenth", late / early, FLAT)


def cost_of_growth(seconds: Seconds, few: int, many: int) -> float:
    """What a port costs in a bulk plug of many, to one of few; 0 if that was not taken."""
    small, large = (seconds.get(("hybridvif", "plug", ports)) for ports in (few, many))
    return (large / many) / (small / few) if small and large else 0.0


def on_paper(figures: list[Figure], ports: int) -> float:
    """Seconds that a bulk plug of more ports would take, if the cost of a port grows on as between the last two sizes.

    0 where there are no two sizes, or that many were plugged.
    """
    curve = sorted((one.ports, one.median / one.ports) for one in figures
                   if (one.contender, one.measure) == ("hybridvif", "plug"))  # fmt: skip
    if len(curve) < 2 or curve[-1][0] >= ports:
        return 0.0
    (few, cheap), (many, dear) = curve[-2:]
    exponent = log(dear / cheap) / log(many / few)
    return float(dear * (ports / many) ** exponent * ports)
