"""What is made of the figures of a run: medians, ratios, pictures; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hybridvif import cli
from hybridvif.bench import svg
from hybridvif.bench.contest import Record, Turn
from hybridvif.bench.tally import bars_of, figures_of

SECONDS = {"hybridvif": (0.1, 0.3, 0.2), "os-vif": (9.0, 6.0, 7.0), "floor": (0.5, 0.4, 0.3)}
RECORD = Record(
    on={"kernel": "6.18"},
    rounds=3,
    turns=[
        Turn(name, measure, ports, ports * seconds)
        for name, taken in SECONDS.items()
        for measure in ("plug", "one plug", "ten threads")
        for ports in (1, 100)
        for seconds in taken
    ],
)


def test_a_figure_is_the_median_of_its_turns_with_the_least_and_the_most() -> None:
    figure = next(one for one in figures_of(RECORD) if (one.contender, one.ports) == ("hybridvif", 1))
    assert (figure.median, figure.least, figure.most) == (0.2, 0.1, 0.3)


def test_the_bars_are_ratios_of_medians_at_one_size() -> None:
    bars = {bar.name: bar for bar in bars_of(RECORD, 100)}
    assert bars["plug 100 ports, bulk / os-vif one by one"].ratio == pytest.approx(0.2 / 7)
    assert bars["plug 100 ports, bulk / os-vif one by one"].is_met
    assert bars["plug 100 ports, bulk / floor"].ratio == pytest.approx(0.5)
    threads = bars["ten threads, throughput / os-vif's, 100 ports there"]
    assert threads.ratio == pytest.approx(35)
    assert threads.is_met


def test_what_was_not_taken_has_no_bar() -> None:
    assert bars_of(Record({}, 1, [Turn("hybridvif", "plug", 1, 1.0)]), 1) == []


def test_a_run_is_read_as_it_was_written() -> None:
    assert Record.of_json(RECORD.as_json()) == RECORD


def test_the_pictures_are_svg_and_name_every_contender(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = figures_of(RECORD)
    for drawn in (svg.growth(figures, "plug", "a <title>"), svg.bars(figures, ["one plug"], 100, "a <title>")):
        texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.text]
        assert {"hybridvif", "os-vif", "floor", "a <title>"} <= set(texts)


def test_a_run_that_was_written_is_told_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    path.write_text(RECORD.as_json())
    assert cli.main(["bench", "--read", str(path), "--plot", str(tmp_path), "-f", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["figures"][0]["median"] == 0.2
    assert {path.name for path in tmp_path.glob("*.svg")} == {"growth.svg", "bars.svg"}


@pytest.mark.parametrize("words", [["--ports", "many"], ["--ports", "0"], ["--rounds", "0"], ["--read", "/dev/null"]])
def test_what_cannot_be_timed_is_bad_input(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *words]) == 2
    assert capsys.readouterr().err.startswith("error: ")
