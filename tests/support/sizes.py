"""Sizes of tests: tools/test runs a sample, and tools/prove runs all, with HYBRIDVIF_FULL set."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from typing import TypeVar

FULL = bool(os.environ.get("HYBRIDVIF_FULL"))
Case = TypeVar("Case")


def sample(cases: Iterable[Case], every: int) -> list[Case]:
    """Return all cases at full size, else the first of each so many. Tests that use it are marked `prove`."""
    return list(islice(cases, 0, None, 1 if FULL else every))
