"""What was seen beside the parts: read only and never planned on; check, show, list and doctor tell it."""

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
    """A link device as the kernel has it."""

    ifindex: int
    kind: str
    """As `ip -d link` says: bridge, veth, tun; "" for a device without a kind."""
    up: bool
    carrier: bool
    master: str = ""
    mtu: int = 0


class PortFact(NamedTuple):
    """A port of the switch as the switch has it."""

    ofport: int | None = None
    """The OpenFlow port number; None until ovs-vswitchd has tried, -1 if it failed."""
    error: str = ""
    """What ovs-vswitchd said when it failed."""
    tag: int | None = None
    """The VLAN tag, the agent's; 4095 is the dead VLAN."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was observed beside the parts."""

    links: Mapping[str, LinkFact] = field(default_factory=dict)
    """By name: the devices asked for, and the members of their bridges."""
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the name of a qbr: the names of its members, sorted."""
    ports: Mapping[str, PortFact] = field(default_factory=dict)
    """By name."""
    switches: Mapping[str, str] = field(default_factory=dict)
    """The bridges of the switch that exist, by name: their datapath type."""
    switch_version: str = ""
    bearers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By iface-id: the rows of Open vSwitch that bear it, if several do or one whose name is not of our grammar.

    Of an observation of all names alone."""
    serves: frozenset[str] = frozenset()
    """The kinds of part that the configured executors can make; empty where nothing tells."""
    unchecked: tuple[str, ...] = ()
    """What this host lacks and so could not be judged: "name: attribute"."""
    simulated: bool = False
    """Nothing of this is a real host's."""

    def __post_init__(self) -> None:
        for name in ("links", "members", "ports", "switches", "bearers"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mappingproxy can neither be pickled nor copied.
        values = (getattr(self, known.name) for known in fields(self))
        return Facts, tuple(dict(value) if isinstance(value, MappingProxyType) else value for value in values)


@dataclass(frozen=True, slots=True)
class Observed:
    """What an executor saw: the parts of its role, and the facts beside them."""

    state: HostState = HostState()
    facts: Facts = Facts()

    def __iter__(self) -> Iterator[Any]:
        """The state, then the facts: `state, facts = host.observe(...)`."""
        return iter((self.state, self.facts))


class Observer(Protocol):
    """Whoever looks: a host, or an executor in the daemon."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed: ...  # noqa: D102


@contextmanager
def observing(observer: Observer, names: Collection[str] | None, deadline: float) -> Iterator[Callable[[], Observed]]:
    """A function that tells what somebody observes.

    Who has to wait for somebody else may have a method of this name, which asks at once: meanwhile there is something
    else to do, such as to look at another part of the host.
    """
    ask: Callable[..., AbstractContextManager[Callable[[], Observed]]] | None = getattr(observer, "observing", None)
    if ask is None:
        yield lambda: observer.observe(names, deadline)
        return
    with ask(names, deadline) as observed:
        yield observed


def merge_observed(seen: Iterable[Observed]) -> Observed:
    """What several executors saw, as one."""
    seen = tuple(seen)
    facts = [one.facts for one in seen]
    return Observed(
        merge_states(one.state for one in seen),
        Facts(
            links={name: fact for one in facts for name, fact in one.links.items()},
            members={name: held for one in facts for name, held in one.members.items()},
            ports={name: fact for one in facts for name, fact in one.ports.items()},
            switches={name: kind for one in facts for name, kind in one.switches.items()},
            bearers={iface_id: names for one in facts for iface_id, names in one.bearers.items()},
            serves=frozenset(kind for one in facts for kind in one.serves),
            switch_version="".join(one.switch_version for one in facts),
            unchecked=tuple(what for one in facts for what in one.unchecked),
            simulated=any(one.simulated for one in facts),
        ),
    )


def bearers_of(iface_ids: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return the rows by iface-id, if several rows bear it or one whose name is not of our grammar.

    iface_ids: the name and the iface-id of each row.
    """
    found: dict[str, list[str]] = {}
    for name, iface_id in iface_ids:
        if iface_id:
            found.setdefault(iface_id, []).append(shown(name))
    return {
        iface_id: tuple(sorted(names))
        for iface_id, names in found.items()
        if len(names) > 1 or key_of(names[0]) is None
    }
