"""The figures of a run as Markdown, between two marks of a page."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.record import Record
from benchmarks.tally import Bar, Figure, bars_of, figures_of, on_paper

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
CONTENDERS = ("hybridvif", "os-vif", "recipe", "floor")


def with_figures(page: str, record: Record) -> str:
    """Return the page with the figures of this run. Raises ValueError if a mark is missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"it has no lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{written(record)}\n{END}{after}"


def written(record: Record) -> str:
    """Return the figures of a run as Markdown."""
    figures = figures_of(record)
    lines = [f"- {key}: {value}" for key, value in record.on.items()]
    lines += [f"- rounds: at least {record.rounds}", ""]
    lines += ["### Medians, in milliseconds", "", *_table(figures), ""]
    lines += ["### Targets", "", "| ratio | target | measured | |", "|---|---|---|---|"]
    lines += [_row_of(bar) for bar in bars_of(record)]
    far = on_paper(figures, 2000)
    if far:
        lines += ["", f"Extrapolated from the last two sizes: a bulk plug of 2,000 ports takes {far:.1f} s."]
    lines += _memory(record)
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
