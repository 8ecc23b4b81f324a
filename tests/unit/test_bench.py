"""Evaluation of the figures of a run: medians, ratios, pictures, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import planning, svg
from benchmarks.__main__ import main
from benchmarks.page import BEGIN, END, with_figures
from benchmarks.record import Record, Turn, merge_observed
from benchmarks.tally import bars_of, figures_of, on_paper

SECONDS = {"hybridvif": (0.1, 0.3, 0.2), "os-vif": (9.0, 6.0, 7.0), "floor": (0.5, 0.4, 0.3)}
RECORD = Record(
    on={"kernel": "6.18"},
    rounds=3,
    turns=[
        Turn(name, measure, ports, ports * seconds)
        for name, taken in SECONDS.items()
        for measure in ("plug", "one plug", "ten threads")
        for ports in (1, 300)
        for seconds in taken
    ],
)


def test_a_figure_is_the_median_of_its_turns_with_the_least_and_the_most() -> None:
    figure = next(item for item in figures_of(RECORD) if (item.contender, item.ports) == ("hybridvif", 1))
    assert (figure.median, figure.least, figure.most) == (0.2, 0.1, 0.3)


def test_bars_are_ratios_of_medians_at_their_own_sizes() -> None:
    bars = {bar.name: bar for bar in bars_of(RECORD)}
    assert set(bars) == {
        "one port, plug / os-vif, 1 ports there",
        "plug 300 ports, bulk / os-vif one by one",
        "plug 300 ports, bulk / floor",
        "ten threads, throughput / os-vif's, 1 ports there",
        "ten threads, throughput / os-vif's, 300 ports there",
    }
    assert bars["plug 300 ports, bulk / os-vif one by one"].ratio == pytest.approx(0.2 / 7)
    assert bars["plug 300 ports, bulk / os-vif one by one"].is_met
    assert bars["plug 300 ports, bulk / floor"].ratio == pytest.approx(0.5)
    threads = bars["ten threads, throughput / os-vif's, 300 ports there"]
    assert threads.ratio == pytest.approx(35)
    assert threads.is_met


def test_elsewhere_they_can_be_told_as_well() -> None:
    assert "plug 1 ports, bulk / floor" in {bar.name for bar in bars_of(RECORD, everywhere=True)}


def test_what_was_not_taken_has_no_bar() -> None:
    assert bars_of(Record({}, 1, [Turn("hybridvif", "plug", 1, 1.0)]), everywhere=True) == []


def test_what_hybridvif_is_held_to_alone_has_a_bar_each() -> None:
    turns = [Turn("hybridvif", "plug", 100, 0.2), Turn("hybridvif", "plug", 1000, 3.0)]
    turns += [Turn("hybridvif", "command", 1, 0.4), Turn("hybridvif", "reconcile", 1000, 3.6)]
    turns += [Turn("hybridvif", "list", 1000, 0.3), Turn("hybridvif", "list", 10_000, 3.6)]
    turns += [Turn("hybridvif", "first", 1, 0.5), Turn("with Nova", "first", 1, 0.55)]
    record = Record({}, 1, turns, {"hybridvif": {"1000": 100_000}}, [(1000, 50_000), (10_000, 55_000)])
    bars = {bar.name: (round(bar.ratio, 3), bar.unit, bar.is_met) for bar in bars_of(record)}
    assert bars == {
        "cost of a port, bulk of 1,000 / bulk of 100": (1.5, "", False),
        "list of 10,000 ports / of 1,000": (12.0, "", False),
        "first plug in Nova's environment / in one of our own": (1.1, "", True),
        "reconcile 1,000 ports after a reboot / plug of new ones": (1.2, "", True),
        "`hybridvif plug`, the whole process": (400.0, "ms", True),
        "memory of client and daemon, 1,000 ports": (102.4, "MB", True),
        "memory after 10,000 operations / after the first tenth": (1.1, "", False),
    }


def test_the_curve_goes_on_on_paper_as_between_the_last_two_sizes() -> None:
    turns = [Turn("hybridvif", "plug", ports, ports * each) for ports, each in ((10, 9.0), (500, 1.0), (1000, 2.0))]
    assert on_paper(figures_of(Record({}, 1, turns)), 2000) == pytest.approx(2000 * 4.0)
    assert on_paper(figures_of(Record({}, 1, turns)), 1000) == 0


def test_runs_are_told_together_with_what_each_was_a_run_on() -> None:
    other = Record({"kernel": "6.18", "load": "1"}, 2, [Turn("floor", "plug", 1000, 1.0)], {"floor": {"1000": 7}})
    whole = merge_observed([RECORD, other, Record({"kernel": "6.19"}, 5)])
    assert whole.on == {"kernel": "6.18 and 6.19", "load": "1"}
    assert (whole.rounds, len(whole.turns), whole.memory) == (2, len(RECORD.turns) + 1, {"floor": {"1000": 7}})


def test_figures_are_written_only_between_the_marks_of_a_page() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    written = with_figures(page, RECORD)
    assert written.startswith(f"before\n{BEGIN}\n")
    assert written.endswith(f"\n{END}\nafter\n")
    assert "| 300 | plug | 60,000 | 2,100,000 | 120,000 |" in written
    assert "| plug 300 ports, bulk / floor | at most 1.000 | 0.500 | met |" in written
    assert "old" not in written
    assert with_figures(written, RECORD) == written
    with pytest.raises(ValueError, match="begin"):
        with_figures("a page without marks", RECORD)


def test_page_has_the_cpu_time_of_a_bulk_plug_by_process() -> None:
    used = {"client": 0.1, "daemon": 0.2}
    turns = [Turn(name, "plug", 100, 1.0, used) for name in ("hybridvif", "floor")]
    turns += [Turn("hybridvif", "plug", 100, 1.0, {"client": 0.3, "daemon": 0.6}) for _ in range(2)]
    turns += [Turn("hybridvif", "plug", 1, 1.0, used), Turn("hybridvif", "list", 1000, 1.0)]
    text = with_figures(f"{BEGIN}{END}", Record({}, 1, turns))
    assert text.partition("### CPU time")[2].splitlines()[2:6] == [
        "| ports | contender | client | daemon | all |",
        "|---|---|---|---|---|",
        "| 100 | floor | 1.00 | 2.00 | 3.00 |",
        "| 100 | hybridvif | 3.00 | 6.00 | 9.00 |",
    ]
    assert "list" not in text


def test_commands_are_timed_on_a_host_in_memory() -> None:
    turns = list(planning.turns((10, 20), 1))
    assert [(turn.measure, turn.ports) for turn in turns] == [
        (measure, ports) for ports in (10, 20) for measure in ("plan", "check", "list")
    ]
    assert all(turn.seconds > 0 for turn in turns)


def test_a_run_is_read_as_it_was_written() -> None:
    assert Record.of_json(RECORD.as_json()) == RECORD


def test_the_pictures_are_svg_and_name_every_contender(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = figures_of(RECORD)
    for drawn in (svg.growth(figures, "plug", "a <title>"), svg.bars(figures, ["one plug"], 300, "a <title>")):
        texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.text]
        assert {"hybridvif", "os-vif", "floor", "a <title>"} <= set(texts)


def test_runs_that_were_written_are_told_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, page = tmp_path / "run.json", tmp_path / "page.md"
    path.write_text(RECORD.as_json())
    page.write_text(f"{BEGIN}{END}")
    words = ["--read", str(path), str(path), "--plot", str(tmp_path), "--page", str(page)]
    assert main([*words, "-f", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["figures"][0]["median"] == 0.2
    assert "| plug 300 ports, bulk / floor |" in page.read_text()
    assert {path.name for path in tmp_path.glob("*.svg")} == {"growth.svg", "bars.svg"}


@pytest.mark.parametrize(
    "words",
    [
        ["--ports", "many"],
        ["--ports", "0"],
        ["--rounds", "0"],
        ["--ports", "1x0"],
        ["--ports", "1xmany"],
        ["--threads-on", "-1"],
        ["--operations", "9"],
        ["--read", "/dev/null"],
    ],
)
def test_what_cannot_be_timed_is_bad_input(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_page_without_marks_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    path.write_text(RECORD.as_json())
    assert main(["--read", str(path), "--page", str(path)]) == 2
    assert f"--page {path}: cannot write the figures" in capsys.readouterr().err
