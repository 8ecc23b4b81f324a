"""The interface of a host. The host of the daemon, a simulated host and a recording host implement it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from hybridvif.model.report import Outcome
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed
from hybridvif.model.steps import Step


class AnyHost(Protocol):
    """A host that can be observed and changed. A deadline is an instant of time.monotonic()."""

    settings: Settings

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the parts and facts under these names. None: all names of the grammar."""

    def apply(self, plans: Sequence[Sequence[Step]], deadline: float) -> list[tuple[Outcome, ...]]:
        """Carry out plans, one per port. Return one outcome per step."""

    def locked(self, keys: Collection[str], deadline: float) -> AbstractContextManager[None]:
        """Hold the locks of these ports, named by the first 11 characters of their ids."""


class Outcomes(list[tuple[Outcome, ...]]):
    """Outcomes of plans, one tuple per port, with the observation made right after them."""

    observed: Observed | None = None
    """None: the host has not been observed since then."""
