"""The state of a host: its parts, and the facts observed beside them. No plan uses or writes a fact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from hybridvif.model.errors import shown
from hybridvif.model.names import PortNames, key_of
from hybridvif.model.parts import Link, NativePort, Part, Role, SwitchPort, differences


class _Frozen:
    """Base of a frozen dataclass whose mappings are read-only copies."""

    __slots__: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, MappingProxyType(dict(value)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mappingproxy cannot be pickled or copied.
        values = (getattr(self, name) for name in self.__slots__)
        return type(self), tuple(dict(value) if isinstance(value, MappingProxyType) else value for value in values)


@dataclass(frozen=True, slots=True)
class HostState(_Frozen):
    """A set of parts by role and name, observed or desired.

    links: by name. A veth pair has the name of its bridge end. ports: by name. qvo is a name in both.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    ports: Mapping[str, SwitchPort] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Part]:
        yield from self.links.values()
        yield from self.ports.values()

    def side(self, role: Role) -> Mapping[str, Part]:
        """Return the parts of one role by name."""
        return self.ports if role is Role.SWITCH else self.links

    def of(self, names: PortNames) -> HostState:
        """Return the parts of one port."""
        # Without our own key, a switch port named tap is not ours. It is plugged directly into the switch.
        native = (names.tap,) if isinstance(self.ports.get(names.tap), NativePort) else ()
        ends = (names.switch_end, names.vhost_user, *native)
        links, ports = self.links, self.ports
        return HostState(
            {name: links[name] for name in names if name in links},
            {name: ports[name] for name in ends if name in ports},
        )

    def with_parts(self, *parts: Part) -> HostState:
        """Return this state with these parts. They replace parts of the same name and role."""
        links, ports = dict(self.links), dict(self.ports)
        for part in parts:
            (ports if part.role is Role.SWITCH else links)[part.name] = part  # type: ignore[assignment]
        return HostState(links, ports)

    def without(self, part: Part) -> HostState:
        """Return this state without the part."""
        links, ports = dict(self.links), dict(self.ports)
        (ports if part.role is Role.SWITCH else links).pop(part.name, None)
        return HostState(links, ports)

    having, lacking = with_parts, without
    """Former names of these methods."""


NOTHING = HostState()
"""The goal of an unplug."""


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
class Facts(_Frozen):
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


@dataclass(frozen=True, slots=True)
class Observed:
    """Result of an observation: the parts, and the facts."""

    state: HostState = HostState()
    facts: Facts = Facts()

    def __iter__(self) -> Iterator[Any]:
        """Unpack into state and facts: `state, facts = host.observe(...)`."""
        return iter((self.state, self.facts))


def agree(first: HostState, second: HostState) -> bool:
    """Return True if two states have the same parts without differences."""
    return first is second or all(_agree(first.side(role), second.side(role)) for role in Role)


def _agree(first: Mapping[str, Part], second: Mapping[str, Part]) -> bool:
    return first.keys() == second.keys() and all(
        type(first[name]) is type(second[name]) and not differences(first[name], second[name]) for name in first
    )


def merge_states(states: Iterable[HostState]) -> HostState:
    """Merge several states of different names."""
    return HostState().with_parts(*(part for state in states for part in state))


def merge_observed(seen: Iterable[Observed]) -> Observed:
    """Merge the observations of several executors."""
    seen = tuple(seen)
    merged: dict[str, Any] = {}
    for name, value in ((name, getattr(observed.facts, name)) for observed in seen for name in Facts.__slots__):
        # Mappings and sets are united. Texts and tuples are joined, and a flag is set if any is.
        unite = isinstance(value, Mapping | frozenset | bool)
        merged[name] = value if name not in merged else merged[name] | value if unite else merged[name] + value
    return Observed(merge_states(observed.state for observed in seen), Facts(**merged))


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
