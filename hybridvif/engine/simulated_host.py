"""A host that was observed once and is never written to: what is applied to it happens in memory, as simulate() says.

So a dry run is the very code of plug and unplug, refusals and missing bridges included, and cannot say anything else
than they would do.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from hybridvif.engine.host_protocol import AnyHost
from hybridvif.model.errors import Conflict
from hybridvif.model.facts import Facts, Observed, merge_observed
from hybridvif.model.names import names_of
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import MAX_NAMES, Settings
from hybridvif.model.steps import Step, simulate_all


class SimulatedHost:
    """A host for plug_all() and unplug_all() whose reports say what would be done."""

    def __init__(self, settings: Settings, seen: Observed) -> None:
        self.settings = settings
        self.seen = seen
        """The host as it was observed, and as it would be after what was applied."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:  # noqa: ARG002
        """The host as it was observed, all names of it, and as it would be after what was applied."""
        return self.seen

    def apply(self, plans: Sequence[Sequence[Step]], deadline: float) -> list[tuple[Outcome, ...]]:  # noqa: ARG002
        """Nothing but the outcomes."""
        return [tuple(self._apply_one(plan)) for plan in plans]

    def _apply_one(self, plan: Sequence[Step]) -> list[Outcome]:
        try:
            self.seen = Observed(simulate_all(self.seen.state, plan), self.seen.facts)
        except Conflict as against:
            # Two ports of one call that have the same names.
            return [Outcome(step, Result.REFUSED, str(against), code=against.code) for step in plan]
        return [Outcome(step, Result.DONE) for step in plan]

    @contextmanager
    def locked(self, keys: Collection[str], deadline: float) -> Iterator[None]:  # noqa: ARG002
        """Nothing is written, so nobody need wait."""
        yield


def look(host: AnyHost, port_ids: Iterable[str]) -> Observed:
    """What is there of these ports. Raises PreconditionError, NoResponse."""
    names = sorted({name for port_id in port_ids for name in names_of(port_id)})
    seen = [
        host.observe(names[at : at + MAX_NAMES], time.monotonic() + host.settings.deadline)
        for at in range(0, len(names), MAX_NAMES)
    ]
    state, facts = merge_observed(seen)
    return Observed(state, replace(facts, switch_version=seen[0].facts.switch_version))


def nothing_seen(bridges: Iterable[str]) -> Observed:
    """A host that has these integration bridges, and nothing of any port."""
    return Observed(facts=Facts(switches=dict.fromkeys(bridges, "unknown")))
