"""The command line of the benchmark.

With -f json it writes one document:

    on          the conditions of the run: kernel, processors, Open vSwitch, datapath, Python, date, load
    rounds      turns of each contender
    figures     each: contender, measure, ports, and in seconds median, least, most
    bars        ratios of hybridvif to os-vif or the floor: name, ratio, limit, met
    memory      kilobytes of client and daemon together, by contender and ports
    endurance   [operations, kilobytes] of hybridvif's client and daemon, ten times
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import svg
from benchmarks.contest import Contest
from benchmarks.page import with_figures, with_rows
from benchmarks.record import Record, merge_observed
from benchmarks.tally import IN_MEMORY, WITH_NOVA, bars_of, figures_of
from hybridvif.model.errors import HybridVifError, InvalidInput

SINGLE = ("first", "command", "one plug", "one plug again", "one unplug")


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0, 2 for bad input, or 1 for a benchmark that failed."""
    args = _parser().parse_args(argv)
    try:
        record = merge_observed(_read(path) for path in args.read) if args.read else _run(args)
        if args.out:
            Path(args.out).write_text(record.as_json(), encoding="utf-8")
        if args.plot:
            _plot(record, Path(args.plot))
        if args.page:
            _write_page(record, "--page", Path(args.page), with_figures)
        if args.readme:
            _write_page(record, "--readme", Path(args.readme), with_rows)
    except HybridVifError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1
    print(json.dumps(_document(record), indent=2) if args.format == "json" else "\n".join(_lines(record)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/bench", description="Time hybridvif in a sandbox, against others.")
    parser.add_argument("--ports", default="1,100", metavar="N,...", help="numbers; 1x20: 20 rounds (default: 1,100)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each contender (default: 5)")
    parser.add_argument("--os-vif", metavar="PYTHON", help="the Python of an environment that has os-vif installed")
    parser.add_argument("--nova", metavar="PYTHON", help="the Python of an environment that has Nova and hybridvif")
    parser.add_argument("--recipe", action="store_true", help="time the commands that Nova once ran, as well")
    parser.add_argument("--reboot", action="store_true", help="time the repair of 300 ports or more after a reboot")
    parser.add_argument("--in-memory", action="store_true", help="time plan, check and list of 10,000 ports, as well")
    parser.add_argument("--datapath", choices=("netdev", "system"), default="netdev", help="that of br-int")
    parser.add_argument("--threads-on", type=int, default=0, metavar="N", help="ten threads plug on a host of N ports")
    parser.add_argument("--operations", type=int, default=0, metavar="N", help="measure memory over N operations")
    parser.add_argument("--out", metavar="FILE", help="write every single figure to this file, as JSON")
    parser.add_argument("--read", metavar="FILE", nargs="+", help="time nothing: read files of --out, as one run")
    parser.add_argument("--plot", metavar="DIRECTORY", help="draw growth.svg and bars.svg there")
    parser.add_argument("--page", metavar="FILE", help="write the figures into this Markdown page, between its marks")
    parser.add_argument("--readme", metavar="FILE", help="write the medians into the table of README.md")
    parser.add_argument("-f", "--format", choices=("text", "json"), default="text", help="format of the figures")
    parser.add_argument("-q", "--quiet", action="store_true", help="no line for each turn")
    return parser


def _read(path: str) -> Record:
    try:
        return Record.of_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"--read {path}: not a file of --out: {error}") from error


def _write_page(record: Record, option: str, path: Path, written: Callable[[str, Record], str]) -> None:
    try:
        path.write_text(written(path.read_text(encoding="utf-8"), record), encoding="utf-8")
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInput(f"{option} {path}: cannot write the figures: {error}") from error


def _run(args: argparse.Namespace) -> Record:
    try:
        words = [word.partition("x")[::2] for word in args.ports.split(",")]
        sizes = {int(size): int(times or args.rounds) for size, times in words}
    except ValueError as error:
        raise InvalidInput(f"--ports {args.ports!r}: not a list of numbers; write it as 1x20,100,300") from error
    if min(sizes.values()) < 1 or not all(0 < size <= 5000 for size in sizes) or not 0 <= args.threads_on <= 5000:
        raise InvalidInput("--ports, --rounds, --threads-on: at least one round, and 1 to 5000 ports")
    if args.operations and args.operations < 100:
        raise InvalidInput(f"--operations {args.operations}: too few to see memory grow; take at least 100")
    asked = {"os-vif": args.os_vif, "recipe": args.recipe, WITH_NOVA: args.nova}
    contest = Contest(
        sizes,
        ["floor", "hybridvif", *(name for name, wanted in asked.items() if wanted)],
        os_vif=args.os_vif or "",
        nova=args.nova or "",
        in_memory=args.in_memory,
        crowded=args.threads_on,
        reboots=args.reboot,
        datapath=args.datapath,
        operations=args.operations,
    )
    return contest.run(lambda line: None if args.quiet else print(line, file=sys.stderr))


def _document(record: Record) -> dict[str, object]:
    return {
        "on": record.on,
        "rounds": record.rounds,
        "figures": [
            {
                "contender": figure.contender,
                "measure": figure.measure,
                "ports": figure.ports,
                "median": figure.median,
                "least": figure.least,
                "most": figure.most,
            }
            for figure in figures_of(record)
        ],
        "bars": [
            {"name": bar.name, "ratio": bar.ratio, "limit": bar.limit, "met": bar.is_met}
            for bar in bars_of(record, everywhere=True)
        ],
        "memory": record.memory,
        "endurance": [list(entry) for entry in record.endurance],
    }


def _lines(record: Record) -> Iterator[str]:
    yield ", ".join(f"{key} {value}" for key, value in record.on.items())
    yield ""
    for figure in figures_of(record):
        median, least, most = (1000 * seconds for seconds in (figure.median, figure.least, figure.most))
        place = f"{figure.ports:>5}  {figure.measure:<15} {figure.contender:<10}"
        yield f"{place} {median:>9.1f} ms  ({least:.1f} to {most:.1f})"
    yield ""
    for bar in bars_of(record, everywhere=True):
        yield f"{'met ' if bar.is_met else 'NOT '} {bar.name}: {bar.ratio:.3f} {bar.unit}".rstrip()


def _plot(record: Record, directory: Path) -> None:
    figures = [figure for figure in figures_of(record) if figure.measure not in IN_MEMORY]
    most = max((figure.ports for figure in figures if figure.measure in SINGLE[2:]), default=1)
    directory.mkdir(parents=True, exist_ok=True)
    growth = svg.growth(figures, "plug", "Plugging many ports")
    (directory / "growth.svg").write_text(growth, encoding="utf-8")
    bars = svg.bars(figures, SINGLE, most, f"One port, on a host of {most}")
    (directory / "bars.svg").write_text(bars, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
