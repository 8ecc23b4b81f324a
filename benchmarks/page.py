"""The figures of a run as Markdown, between two marks of a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from statistics import median

from benchmarks.record import Record
from benchmarks.tally import IN_MEMORY, WITH_NOVA, Bar, Figure, bars_of, figures_of, on_paper

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
CONTENDERS = ("hybridvif", WITH_NOVA, "os-vif", "recipe", "floor")

ROWS = {
    "plug 300 ports": ("plug", 300),
    "plug them again, all in order": ("plug again", 300),
    "unplug 300 ports": ("unplug", 300),
    "the first plug of a process": ("first", 1),
    "one plug, one port there": ("one plug", 1),
    "one plug again": ("one plug again", 1),
    "one unplug": ("one unplug", 1),
}
"""The rows of README.md: the measure and the number of ports."""
BULK = 100
"""The smallest number of ports whose CPU time is shown. The clock of a process has ticks of 10 ms."""


def with_figures(page: str, record: Record) -> str:
    """Return the page with the figures of this run. Raises ValueError if a mark is missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"it has no lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{written(record)}\n{END}{after}"


def with_rows(page: str, record: Record) -> str:
    """Return a page whose table has the medians of hybridvif and of os-vif in ROWS, with those of this run."""
    medians = {(figure.contender, figure.measure, figure.ports): figure.median for figure in figures_of(record)}
    for row, (measure, ports) in ROWS.items():
        cells = [seconds_of(medians[name, measure, ports]) for name in ("hybridvif", "os-vif")]
        page = re.sub(rf"^\| {row} \|.*$", f"| {row} | {' | '.join(cells)} |", page, flags=re.MULTILINE)
    return page


def seconds_of(seconds: float) -> str:
    """Format a time for people."""
    return f"{seconds * 1000:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def written(record: Record) -> str:
    """Return the figures of a run as Markdown."""
    figures = [figure for figure in figures_of(record) if figure.measure not in IN_MEMORY]
    lines = [f"- {key}: {value}" for key, value in record.on.items()]
    lines += [f"- rounds: at least {record.rounds}", ""]
    lines += ["### Medians, in milliseconds", "", *_table(figures), ""]
    lines += ["### Targets", "", "| ratio | target | measured | |", "|---|---|---|---|"]
    lines += [_row_of(bar) for bar in bars_of(record)]
    far = on_paper(figures, 2000)
    if far:
        lines += ["", f"Extrapolated from the last two sizes: a bulk plug of 2,000 ports takes {far:.1f} s."]
    lines += [*_cpu(record), *_memory(record)]
    return "\n".join(lines).rstrip() + "\n"


def _table(figures: list[Figure]) -> Iterator[str]:
    there = [name for name in CONTENDERS if any(figure.contender == name for figure in figures)]
    yield f"| ports | measure | {' | '.join(there)} |"
    yield "|---" * (len(there) + 2) + "|"
    by_place = {(figure.ports, figure.measure, figure.contender): figure for figure in figures}
    order = {measure: index for index, measure in reversed(list(enumerate(figure.measure for figure in figures)))}
    for ports, measure in sorted(
        {(figure.ports, figure.measure) for figure in figures}, key=lambda row: (row[0], order[row[1]])
    ):
        cells = [milliseconds(by_place.get((ports, measure, name))) for name in there]
        yield f"| {ports:,} | {measure} | {' | '.join(cells)} |"


def milliseconds(figure: Figure | None) -> str:
    """Format the median for a table; "" for a missing figure."""
    if figure is None:
        return ""
    value = 1000 * figure.median
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _row_of(bar: Bar) -> str:
    aim = f"{'at least' if bar.at_least else 'at most'} {_number(bar, bar.limit)}"
    return f"| {bar.name} | {aim} | {_number(bar, bar.ratio)} | {'met' if bar.is_met else 'not met'} |"


def _number(bar: Bar, value: float) -> str:
    return f"{value:.0f} {bar.unit}" if bar.unit else f"{value:.3f}"


def _cpu(record: Record) -> Iterator[str]:
    plugs = [turn for turn in record.turns if turn.measure == "plug" and turn.ports >= BULK and turn.cpu]
    if not plugs:
        return
    processes = list(plugs[0].cpu)
    yield from ("", "### CPU time of a bulk plug, in milliseconds a port", "")
    yield f"| ports | contender | {' | '.join(processes)} | all |"
    yield "|---" * (len(processes) + 3) + "|"
    for ports, name in sorted({(turn.ports, turn.contender) for turn in plugs}):
        used = [turn.cpu for turn in plugs if (turn.ports, turn.contender) == (ports, name)]
        cells = [median(cpu[process] for cpu in used) for process in processes]
        cells.append(median(sum(cpu.values()) for cpu in used))
        yield f"| {ports:,} | {name} | {' | '.join(f'{1000 * seconds / ports:.2f}' for seconds in cells)} |"


def _memory(record: Record) -> Iterator[str]:
    contenders = [name for name in ("hybridvif", "os-vif") if record.memory.get(name)]
    if contenders:
        yield from ("", "### Memory", "", "Maximum resident memory of client and daemon together, in MB:", "")
        yield f"| ports | {' | '.join(contenders)} |"
        yield "|---" * (len(contenders) + 1) + "|"
        for ports in sorted({int(ports) for name in contenders for ports in record.memory[name]}):
            held = [record.memory[name].get(str(ports)) for name in contenders]
            yield f"| {ports:,} | {' | '.join(f'{kib * 1024 / 1e6:.0f}' if kib else '' for kib in held)} |"
    if record.endurance:
        yield from ("", "The same of hybridvif after many plugs, repeated plugs and unplugs:", "")
        yield from ("| operations | MB |", "|---|---|")
        yield from (f"| {done:,} | {kib * 1024 / 1e6:.1f} |" for done, kib in record.endurance[::3])
