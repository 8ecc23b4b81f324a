"""Medians, spreads and ratios of a run, and the bars that hybridvif is held against."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from hybridvif.bench.contest import CROWD, Record


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
    """One ratio in one run, and what it was to be."""

    name: str
    ratio: float
    limit: float
    at_least: bool = False

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
    # name, measure, of whom, against whom, at how many ports, limit
    ("plug {} ports, bulk / os-vif one by one", "plug", "os-vif", 1 / 30, False),
    ("plug {} ports, bulk / floor", "plug", "floor", 1.0, False),
    ("re-plug {} ports, bulk / os-vif", "plug again", "os-vif", 1 / 60, False),
    ("unplug {} ports, bulk / os-vif one by one", "unplug", "os-vif", 0.35, False),
    ("one port, plug / os-vif, {} ports there", "one plug", "os-vif", 0.25, False),
    ("one port, re-plug / os-vif, {} ports there", "one plug again", "os-vif", 0.12, False),
    ("one port, unplug / os-vif, {} ports there", "one unplug", "os-vif", 0.5, False),
    ("first plug of a process / os-vif", "first", "os-vif", 0.6, False),
    ("`hybridvif plug` / a script that calls os-vif once", "command", "os-vif", 0.6, False),
    ("ten threads, throughput / os-vif's, {} ports there", "ten threads", "os-vif", 5.0, True),
)


def bars_of(record: Record, ports: int) -> list[Bar]:
    """The bars that this run can tell of, at one size."""
    seconds = {(one.contender, one.measure): one.median for one in figures_of(record) if one.ports == ports}
    bars = []
    for name, measure, other, limit, at_least in RATIOS:
        ours, theirs = seconds.get(("hybridvif", measure)), seconds.get((other, measure))
        if ours and theirs:
            ratio = theirs / ours if at_least else ours / theirs
            bars.append(Bar(name.format(ports), ratio, limit, at_least))
    return bars


def throughput(figure: Figure) -> float:
    """Ports a second, of a figure of ten threads."""
    return CROWD / figure.median
