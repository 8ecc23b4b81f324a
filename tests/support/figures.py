"""Figures of the proofs: one JSON file per bar, side and case, in the directory HYBRIDVIF_FIGURES.

tools/prove writes docs/reliability.md from them (tests/support/page.py). Without that variable nothing is written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.support.sizes import FULL

DIRECTORY = "HYBRIDVIF_FIGURES"
CODE = "HYBRIDVIF_CODE"
OURS, THEIRS = "hybridvif", "os-vif"


@dataclass(frozen=True, slots=True)
class Figure:
    """Counts of one proof. Counts of one bar and side are added; for longest_ the maximum counts."""

    bar: str
    side: str = OURS
    case: str = ""
    full: bool = FULL
    counts: dict[str, float] = field(default_factory=dict)
    code: str = ""
    """The commit that was tested. Empty: one before the commits were recorded."""


def note(
    bar: str, counted: Mapping[str, float] | None = None, *, side: str = OURS, case: str = "", **counts: float
) -> None:
    """Write the counts. A later call for the same bar, side and case replaces the earlier one."""
    if not os.environ.get(DIRECTORY):
        return
    figure = Figure(bar, side, case, counts={**(counted or {}), **counts}, code=os.environ.get(CODE, ""))
    name = re.sub(r"[^\w.+-]+", "-", ".".join(filter(None, [bar, side, case])))[:120]
    directory = Path(os.environ[DIRECTORY])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(asdict(figure), indent=1) + "\n", encoding="utf-8")


def kept_figures(directory: Path) -> list[Figure]:
    """Return all figures of a directory."""
    return [Figure(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(directory.glob("*.json"))]
