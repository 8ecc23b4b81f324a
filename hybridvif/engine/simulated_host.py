"""A host in memory, for dry runs. Steps change a copy of an observation, as simulate() specifies.

A dry run executes the code of plug and unplug. It therefore reports the same refusals and missing bridges.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from hybridvif.model.errors import Conflict
from hybridvif.model.names import names_of
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import MAX_NAMES, Settings
from hybridvif.model.state import Facts, Observed, merge_observed
from hybridvif.model.steps import Step, simulate_all

if TYPE_CHECKING:
    from hybridvif.engine.converge import AnyHost
    from hybridvif.engine.convert import FilteringHost


class SimulatedHost:
    """A host in memory. The reports of plug_all() and unplug_all() on it are those of a dry run."""

    def __init__(self, settings: Settings, seen: Observed, filters: FilteringHost | None = None) -> None:
        self.settings = settings
        self._filters = filters
        self.seen = seen
        """The observation, with all plans applied so far."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:  # noqa: ARG002
        """Return the state under all names, whatever names are given."""
        return self.seen

    def apply(self, plans: Sequence[Sequence[Step]], deadline: float) -> list[tuple[Outcome, ...]]:  # noqa: ARG002
        """Apply plans in memory. Return one outcome per step."""
        return [tuple(self._apply_one(plan)) for plan in plans]

    def filtered_ofports(self, bridge: str, deadline: float) -> Collection[int]:
        """Return what the real host returns."""
        return self._filters.filtered_ofports(bridge, deadline) if self._filters else ()

    def calls_iptables(self) -> bool:
        """Return what the real host returns."""
        return self._filters is not None and self._filters.calls_iptables()

    def _apply_one(self, plan: Sequence[Step]) -> list[Outcome]:
        try:
            self.seen = Observed(simulate_all(self.seen.state, plan), self.seen.facts)
        except Conflict as error:
            # Two ports of this call have the same device names.
            return [Outcome(step, Result.REFUSED, str(error), code=error.code) for step in plan]
        return [Outcome(step, Result.DONE) for step in plan]

    @contextmanager
    def locked(self, keys: Collection[str], deadline: float) -> Iterator[None]:  # noqa: ARG002
        """Take no lock, because nothing is written."""
        yield


def look(host: AnyHost, port_ids: Iterable[str]) -> Observed:
    """Observe these ports. Raises PreconditionError, NoResponse."""
    names = sorted({name for port_id in port_ids for name in names_of(port_id)})
    observations = [
        host.observe(names[start : start + MAX_NAMES], time.monotonic() + host.settings.deadline)
        for start in range(0, len(names), MAX_NAMES)
    ]
    state, facts = merge_observed(observations)
    return Observed(state, replace(facts, switch_version=observations[0].facts.switch_version))


def nothing_seen(bridges: Iterable[str]) -> Observed:
    """Return the observation of a host with these integration bridges and without ports."""
    return Observed(facts=Facts(switches=dict.fromkeys(bridges, "unknown")))
