"""The benchmark in its own sandbox."""

from __future__ import annotations

import json

import pytest

from benchmarks.__main__ import main

WORDS = ("--ports", "2", "--rounds", "1", "--threads-on", "3", "--operations", "100")


@pytest.mark.usefixtures("sandbox")
def test_a_small_contest_has_a_figure_of_everything_it_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "-q", "-f", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    taken = {(figure["contender"], figure["measure"]) for figure in document["figures"]}
    alone = {"plug again", "one plug", "one plug again", "one unplug", "ten threads", "command"}
    assert taken == {(name, measure) for name in ("hybridvif", "floor") for measure in ("first", "plug", "unplug")} | {
        ("hybridvif", measure) for measure in alone
    }
    assert all(figure["median"] > 0 for figure in document["figures"])
    assert [done for done, held in document["endurance"] if held] == list(range(10, 101, 10))
    assert [bar["name"] for bar in document["bars"]] == [
        "plug 2 ports, bulk / floor",
        "unplug 2 ports, bulk / a bare script of its deletes",
        "memory after 100 operations / after the first tenth",
    ]
