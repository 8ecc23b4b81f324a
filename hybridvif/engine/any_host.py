"""The interfaces of a host, and the host in memory for dry runs.

Each call of the engine names the interface that it needs. Host and RecordingHost have all of them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Protocol

from hybridvif.model.errors import Conflict, PreconditionError
from hybridvif.model.names import PortNames, names_of, names_of_device
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import MAX_NAMES, Settings
from hybridvif.model.state import Facts, HostState, Observed, Step, merge_observed, simulate_all


class HostClosed(PreconditionError):
    """The program has closed the host."""


class AnyHost(Protocol):
    """A host that can be observed and changed. A deadline is an instant of time.monotonic()."""

    settings: Settings

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the parts and facts under these names. None: all names of the grammar."""

    def apply(self, plans: Sequence[Sequence[Step]], deadline: float) -> list[tuple[Outcome, ...]]:
        """Carry out plans, one per port. Return one outcome per step; as Outcomes, also the observation after them."""

    def locked(self, keys: Collection[str], deadline: float) -> AbstractContextManager[None]:
        """Hold the locks of these ports, named by the first 11 characters of their ids."""


class FilteringHost(AnyHost, Protocol):
    """The interface of a host for convert(), which Host and RecordingHost implement."""

    def filtered_ofports(self, bridge: str, deadline: float) -> Collection[int]:
        """Return the OpenFlow port numbers that the OpenFlow firewall of Neutron's agent knows on a bridge."""

    def calls_iptables(self) -> bool:
        """Return whether every Linux bridge of the host calls iptables."""


class NotingHost(AnyHost, Protocol):
    """The interface of a host for gc(), which Host and RecordingHost implement."""

    def seconds_since_first_seen(self, signs: Collection[str], deadline: float) -> dict[str, float]: ...  # noqa: D102


class WatchableHost(Protocol):
    """The interface of a host for Watch, which Host implements."""

    settings: Settings

    def next_observation(  # noqa: D102
        self, names: Collection[str] | None, digest: str, deadline: float
    ) -> tuple[str, Observed] | None: ...


class HostProtocol(FilteringHost, NotingHost, Protocol):
    """The interface that Host and RecordingHost share. Every call of the library takes it.

    Annotate a host by it in a program that gets a Host, and a RecordingHost in its tests. It is a context manager.
    """

    def close(self) -> None:
        """Close the host."""

    def __enter__(self) -> HostProtocol: ...

    def __exit__(self, *_: object) -> None: ...


class SimulatedHost:
    """A host in memory. The reports of plug_all() and unplug_all() on it are those of a dry run.

    Steps change a copy of an observation, as simulate() specifies. A dry run executes the code of plug and unplug. It
    therefore reports the same refusals and missing bridges.
    """

    def __init__(self, settings: Settings, seen: Observed, filters: FilteringHost | None = None) -> None:
        self.settings = settings
        self._filters = filters
        self.seen = seen
        """The observation, with all plans applied so far."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:  # noqa: ARG002
        """Return the state under all names, whatever names are given."""
        return self.seen

    def apply(self, plans: Sequence[Sequence[Step]], deadline: float) -> list[tuple[Outcome, ...]]:  # noqa: ARG002
        """Apply the plans in memory, one per port. Return one outcome per step."""
        state = self.seen.state
        changed: dict[PortNames, HostState] = {}
        outcomes = []
        for plan in plans:
            # Only the state of this port: each step copies the state, and a file may have ten thousand ports.
            names = names_of_device(plan[0].part.name)
            try:
                changed[names] = simulate_all(changed.get(names, state.of(names)), plan)
                outcomes.append(tuple(Outcome(step, Result.DONE) for step in plan))
            except Conflict as error:
                # Two ports of this call have the same device names.
                outcomes.append(tuple(Outcome(step, Result.REFUSED, str(error), code=error.code) for step in plan))
        replaced = {id(part) for names in changed for part in state.of(names)}
        kept = [part for part in state if id(part) not in replaced]
        parts = [*kept, *(part for own in changed.values() for part in own)]
        self.seen = Observed(HostState().with_parts(*parts), self.seen.facts)
        return outcomes

    def filtered_ofports(self, bridge: str, deadline: float) -> Collection[int]:
        """Return what the real host returns."""
        return self._filters.filtered_ofports(bridge, deadline) if self._filters else ()

    def calls_iptables(self) -> bool:
        """Return what the real host returns."""
        return self._filters is not None and self._filters.calls_iptables()

    @contextmanager
    def locked(self, keys: Collection[str], deadline: float) -> Iterator[None]:  # noqa: ARG002
        """Take no lock, because nothing is written."""
        yield


def look(host: AnyHost, port_ids: Iterable[str]) -> Observed:
    """Observe these ports. Raises PreconditionError, NoResponse."""
    names = sorted({name for port_id in port_ids for name in names_of(port_id)})
    observations = [
        host.observe(names[start : start + MAX_NAMES], time.monotonic() + host.settings.deadline)
        for start in range(0, len(names) or 1, MAX_NAMES)
    ]
    state, facts = merge_observed(observations)
    return Observed(state, replace(facts, switch_version=observations[0].facts.switch_version))


def nothing_seen(bridges: Iterable[str]) -> Observed:
    """Return the observation of a host with these integration bridges and without ports."""
    return Observed(facts=Facts(switches=dict.fromkeys(bridges, "unknown")))
