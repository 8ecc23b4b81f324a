"""hybridvif bench: how long plugging takes here, against what else there is, in a throw-away host.

Its document:

    command     "bench"
    on          what the figures are figures of: kernel, processors, Open vSwitch, datapath, Python, date, load
    rounds      how often each contender had its turn
    figures     each: contender, measure, ports, and in seconds median, least, most
    bars        ratios of hybridvif to os-vif or the floor: name, ratio, limit, met
    memory      kilobytes of client and daemon together, by contender and ports
    endurance   [operations, kilobytes] of hybridvif's client and daemon, ten times
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hybridvif.errors import InvalidInput

if TYPE_CHECKING:
    from hybridvif.bench.record import Record
    from hybridvif.cli.screen import Answer

HELP = "times plug, re-plug and unplug in a sandbox, against os-vif, the old recipe and the floor"
FORMATS = ("text", "json", "yaml", "table", "value")
COLUMNS = ("ports", "measure", "contender", "milliseconds", "least", "most")
SINGLE = ("first", "command", "one plug", "one plug again", "one unplug")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif bench`."""
    parser.add_argument("--ports", default="1,100", metavar="N,...", help="how many ports (default: 1,100)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each contender (default: 5)")
    parser.add_argument("--os-vif", metavar="PYTHON", help="the Python of an environment that has os-vif installed")
    parser.add_argument("--recipe", action="store_true", help="time the commands that Nova once ran, as well")
    parser.add_argument("--threads-on", type=int, default=0, metavar="N", help="ten threads plug on a host of N ports")
    parser.add_argument("--operations", type=int, default=0, metavar="N", help="see whether memory grows over so many")
    parser.add_argument("--out", metavar="FILE", help="write every single figure to this file, as JSON")
    parser.add_argument("--read", metavar="FILE", nargs="+", help="time nothing: tell of what --out wrote, as one run")
    parser.add_argument("--plot", metavar="DIRECTORY", help="draw growth.svg and bars.svg there")
    parser.add_argument("--page", metavar="FILE", help="write the figures into this Markdown page, between its marks")


def run(args: argparse.Namespace) -> int:
    """Time it, and tell; 5 if no sandbox can be had."""
    from hybridvif.bench.record import together

    record = together(_read(path) for path in args.read) if args.read else _held(args)
    if args.out:
        Path(args.out).write_text(record.as_json(), encoding="utf-8")
    if args.plot:
        _plot(record, Path(args.plot))
    if args.page:
        _write_page(record, Path(args.page))
    return int(args.screen.tell(answer_of(record)))


def _read(path: str) -> Record:
    from hybridvif.bench.record import Record

    try:
        return Record.of_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is no run of `hybridvif bench --out`: {error}") from error


def _write_page(record: Record, path: Path) -> None:
    from hybridvif.bench.page import with_figures

    try:
        path.write_text(with_figures(path.read_text(encoding="utf-8"), record), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidInput(f"the figures cannot be written into {path}: {error}") from error


def _held(args: argparse.Namespace) -> Record:
    from hybridvif.bench.contest import Contest

    try:
        sizes = [int(word) for word in args.ports.split(",")]
    except ValueError as error:
        raise InvalidInput(f"--ports {args.ports!r} is no list of numbers; write it as 1,100,300") from error
    if args.rounds < 1 or not all(0 < size <= 5000 for size in sizes) or not 0 <= args.threads_on <= 5000:
        raise InvalidInput("bench needs at least one round, and from 1 to 5000 ports")
    if args.operations and args.operations < 100:
        raise InvalidInput(f"--operations {args.operations} are too few to see memory grow; take at least 100")
    contenders = ["floor", "hybridvif", *(["os-vif"] if args.os_vif else []), *(["recipe"] if args.recipe else [])]

    def say(line: str) -> None:
        if not args.quiet:
            print(line, file=sys.stderr)

    crowded, operations = args.threads_on, args.operations
    contest = Contest(sizes, args.rounds, contenders, os_vif=args.os_vif or "", crowded=crowded, operations=operations)
    return contest.run(say)


def answer_of(record: Record) -> Answer:
    """What a run has to tell."""
    from hybridvif.bench.tally import bars_of, figures_of
    from hybridvif.cli.screen import Answer

    figures = figures_of(record)
    bars = bars_of(record, everywhere=True)
    rows: list[dict[str, object]] = [
        {
            "ports": one.ports,
            "measure": one.measure,
            "contender": one.contender,
            "milliseconds": f"{1000 * one.median:.1f}",
            "least": f"{1000 * one.least:.1f}",
            "most": f"{1000 * one.most:.1f}",
        }
        for one in figures
    ]

    def lines() -> list[str]:
        told = [", ".join(f"{key} {value}" for key, value in record.on.items()), ""]
        told += [
            f"{row['ports']:>5}  {row['measure']:<15} {row['contender']:<10} {row['milliseconds']:>9} ms"
            f"  ({row['least']} to {row['most']})"
            for row in rows
        ]
        told += [
            "",
            *(f"{'met ' if bar.is_met else 'NOT '} {bar.name}: {bar.ratio:.3f} {bar.unit}".rstrip() for bar in bars),
        ]
        return told

    return Answer(
        document={
            "command": "bench",
            "on": record.on,
            "rounds": record.rounds,
            "figures": [
                {
                    "contender": one.contender,
                    "measure": one.measure,
                    "ports": one.ports,
                    "median": one.median,
                    "least": one.least,
                    "most": one.most,
                }
                for one in figures
            ],
            "bars": [{"name": bar.name, "ratio": bar.ratio, "limit": bar.limit, "met": bar.is_met} for bar in bars],
            "memory": record.memory,
            "endurance": [list(one) for one in record.endurance],
        },
        lines=lambda _: lines(),
        columns=COLUMNS,
        rows=rows,
    )


def _plot(record: Record, directory: Path) -> None:
    from hybridvif.bench import svg
    from hybridvif.bench.tally import figures_of

    figures = figures_of(record)
    most = max(one.ports for one in figures)
    directory.mkdir(parents=True, exist_ok=True)
    growth = svg.growth(figures, "plug", "Plugging many ports")
    (directory / "growth.svg").write_text(growth, encoding="utf-8")
    bars = svg.bars(figures, SINGLE, most, f"One port, on a host of {most}")
    (directory / "bars.svg").write_text(bars, encoding="utf-8")
