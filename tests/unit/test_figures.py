"""The page of the proofs shows their counts, and "not measured" for missing ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.figures import DIRECTORY, THEIRS, Figure, kept_figures, note
from tests.support.page import BARS, cell, page

ROOT = Path(__file__).parents[2]
BAR = next(bar for bar in BARS if bar.key == "races")


def test_the_counts_of_all_cases_add_up_and_a_sample_says_so() -> None:
    figures = [
        Figure("races", case="2", full=True, counts={"rounds": 3, "calls": 6, "errors": 1, "wrong": 0}),
        Figure("races", case="4", full=False, counts={"rounds": 3, "calls": 12, "errors": 1, "wrong": 0}),
    ]
    text = "18 calls in 6 rounds: 2 errors, 0 wrong end states. Cases: `2`; `4`. A sample"
    assert cell(BAR, "hybridvif", figures) == text
    assert cell(BAR, THEIRS, figures) == "not measured"
    assert f"| {text} | not measured |" in page(figures)


def test_reliability_md_has_the_kept_figures() -> None:
    kept = kept_figures(ROOT / "benchmarks" / "reliability")
    assert (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8") == page(kept)


def test_what_a_proof_notes_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    note("races", case="2", rounds=3)
    (figure,) = kept_figures(tmp_path)
    assert (figure.bar, figure.side, figure.case, figure.counts) == ("races", "hybridvif", "2", {"rounds": 3})


def test_nothing_is_written_unless_it_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DIRECTORY, raising=False)
    monkeypatch.chdir(tmp_path)
    note("races", rounds=3)
    assert list(tmp_path.iterdir()) == []
