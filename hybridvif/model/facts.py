"""Facts: observed values for information only. No plan uses or writes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from hybridvif.model.names import key_of
from hybridvif.model.parts import HostState, merge_states
from hybridvif.model.text import shown


class LinkFact(NamedTuple):
    """State of a link device in the kernel."""

    ifindex: int
    kind: str
    """The word of `ip -d link`: bridge, veth, tun. "" for a device without a kind."""
    up: bool
    carrier: bool
    master: str = ""
    mtu: int = 0


class PortFact(NamedTuple):
    """State of a port in the switch."""

    ofport: int | None = None
    """The OpenFlow port number. None before the first attempt of ovs-vswitchd, -1 if it failed."""
    error: str = ""
    """The error of ovs-vswitchd, if it failed."""
    tag: int | None = None
    """The VLAN tag that the agent sets. 4095 is the dead VLAN."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Observed values beside the parts."""

    links: Mapping[str, LinkFact] = field(default_factory=dict)
    """By name: the requested devices, and the members of their bridges."""
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the name of a qbr: the names of its members, sorted."""
    ports: Mapping[str, PortFact] = field(default_factory=dict)
    """By name."""
    switches: Mapping[str, str] = field(default_factory=dict)
    """Datapath types of the existing switch bridges, by name."""
    switch_version: str = ""
    bearers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rows of Open vSwitch by iface-id, if several rows share it or the name of the row is foreign.

    Only an observation of all names has them."""
    serves: frozenset[str] = frozenset()
    """The kinds of part that the configured executors can create. Empty if unknown."""
    unchecked: tuple[str, ...] = ()
    """Attributes that this host cannot report: "name: attribute"."""
    simulated: bool = False
    """True if no real host was observed."""

    def __post_init__(self) -> None:
        for name in ("links", "members", "ports", "switches", "bearers"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mappingproxy cannot be pickled or copied.
        values = (getattr(self, known.name) for known in fields(self))
        return Facts, tuple(dict(value) if isinstance(value, MappingProxyType) else value for value in values)


@dataclass(frozen=True, slots=True)
class Observed:
    """Result of an observation: the parts, and the facts."""

    state: HostState = HostState()
    facts: Facts = Facts()

    def __iter__(self) -> Iterator[Any]:
        """Unpack into state and facts: `state, facts = host.observe(...)`."""
        return iter((self.state, self.facts))


class Observer(Protocol):
    """A host, or an executor in the daemon."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed: ...  # noqa: D102


@contextmanager
def observing(observer: Observer, names: Collection[str] | None, deadline: float) -> Iterator[Callable[[], Observed]]:
    """Yield a function that returns the observation.

    An observer that waits for another process may have a method of this name. It sends the request at once. The
    caller can observe another part of the host meanwhile.
    """
    start: Callable[..., AbstractContextManager[Callable[[], Observed]]] | None = getattr(observer, "observing", None)
    if start is None:
        yield lambda: observer.observe(names, deadline)
        return
    with start(names, deadline) as observed:
        yield observed


def merge_observed(seen: Iterable[Observed]) -> Observed:
    """Merge the observations of several executors."""
    seen = tuple(seen)
    facts = [observed.facts for observed in seen]
    return Observed(
        merge_states(observed.state for observed in seen),
        Facts(
            links={name: fact for part in facts for name, fact in part.links.items()},
            members={name: held for part in facts for name, held in part.members.items()},
            ports={name: fact for part in facts for name, fact in part.ports.items()},
            switches={name: kind for part in facts for name, kind in part.switches.items()},
            bearers={iface_id: names for part in facts for iface_id, names in part.bearers.items()},
            serves=frozenset(kind for part in facts for kind in part.serves),
            switch_version="".join(part.switch_version for part in facts),
            unchecked=tuple(attribute for part in facts for attribute in part.unchecked),
            simulated=any(part.simulated for part in facts),
        ),
    )


def bearers_of(iface_ids: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return the rows by iface-id, if several rows share it or the name of the row is foreign.

    iface_ids: the name and the iface-id of each row.
    """
    rows: dict[str, list[str]] = {}
    for name, iface_id in iface_ids:
        if iface_id:
            rows.setdefault(iface_id, []).append(shown(name))
    return {
        iface_id: tuple(sorted(names)) for iface_id, names in rows.items() if len(names) > 1 or key_of(names[0]) is None
    }
