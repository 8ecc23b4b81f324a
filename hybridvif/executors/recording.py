"""recording: the fake, a simulated host that records every step and fails on request.

It has two interfaces: RecordingHost for tests of your own code (also as the fixture `recording_host`), and executors
named `recording` for a configuration. All its outcomes are marked as simulated.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

from hybridvif.executors.base import StepFailed, one_by_one
from hybridvif.executors.side_effects import removable_trunks
from hybridvif.model.parts import (
    Bridge,
    ForeignObject,
    IvsPort,
    Link,
    ManagedTap,
    Member,
    NativePort,
    OvsPort,
    Part,
    Role,
    Tap,
    Veth,
    VhostUserPort,
)
from hybridvif.model.report import Outcome
from hybridvif.model.settings import Settings
from hybridvif.model.state import (
    Delete,
    Facts,
    HostState,
    LinkFact,
    Observed,
    PortFact,
    Step,
    bearers_of,
    simulate,
)


class RecordingHost:
    """A host for tests of code that plugs: in this process, without root, without a daemon.

    Set `state` to start from any host. Read `steps` for the steps that were carried out. Call `fail()` to test errors.

    >>> from hybridvif import Port, RecordingHost, plug
    >>> host = RecordingHost()
    >>> report = plug(Port(id="5f2c0e1a-7b00-4c00-8000-000000000001", mac="fa:16:3e:aa:bb:cc",
    ...                    instance_id="0b1c2d3e-0000-4000-8000-000000000002"), host)
    >>> report.ok, report.simulated, [step.part.name for step in host.steps]
    (True, True, ['qbr5f2c0e1a-7b', 'qvb5f2c0e1a-7b', 'qvo5f2c0e1a-7b'])
    """

    def __init__(
        self,
        state: HostState = HostState(),
        *,
        settings: Settings = Settings(link_executor="recording", switch_executor="recording"),  # noqa: B008
        switches: Mapping[str, str] | None = None,
    ) -> None:
        self.state = state
        self.settings = settings
        self.switches = dict(switches if switches is not None else {"br-int": "netdev"})
        self.steps: list[Step] = []
        """Steps that were carried out, oldest first."""
        self.carrier: set[str] = set()
        """Taps that a VM holds open."""
        self.is_filtered = True
        """True if a firewall filters every port, hybrid or native."""
        self._failures: list[tuple[type[Step] | None, str | None, str, bool]] = []
        # A device keeps its index; a recreated one gets a new index.
        self._numbers = defaultdict[str, int](itertools.count(4, 2).__next__)
        self._lock = threading.RLock()
        self._noted: dict[str, float] = {}

    @property
    def simulation(self) -> RecordingHost:
        """Former place of `carrier` and `switches`."""
        return self

    def fail(
        self,
        *,
        verb: type[Step] | None = None,
        name: str | None = None,
        reason: str = "told to fail",
        retry: bool = False,
    ) -> None:
        """Make the next step of this verb on the part of this name fail once; None matches any."""
        self._failures.append((verb, name, reason, retry))

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:  # noqa: ARG002
        """Return the parts and facts under these names."""
        with self._lock:
            links = {name: link for name, link in self.state.links.items() if names is None or name in names}
            ports = {name: port for name, port in self.state.ports.items() if names is None or name in names}
            iface_ids = [(port.name, port.iface_id) for port in ports.values() if isinstance(port, OvsPort)]
            return Observed(
                HostState(links, ports),
                Facts(
                    links=self._link_facts(links),
                    members={name: self._members_of(name) for name, link in links.items() if isinstance(link, Bridge)},
                    ports={
                        name: PortFact(ofport=1 if getattr(port, "realized", True) else None)
                        for name, port in ports.items()
                    },
                    switches=self.switches,
                    switch_version="simulated",
                    bearers=bearers_of(iface_ids) if names is None else {},
                    simulated=True,
                ),
            )

    def next_observation(
        self, names: Collection[str] | None, digest: str, deadline: float
    ) -> tuple[str, Observed] | None:
        """Wait until an observation differs from the one with this digest, as Host does."""
        while digest == (current := str(observed := self.observe(names, deadline))):
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.005)
        return current, observed

    def apply(self, plans: Sequence[Sequence[Step]], deadline: float) -> list[tuple[Outcome, ...]]:  # noqa: ARG002
        """Carry out the plans, one per port; return one outcome per step."""
        return [tuple(self.carry_out(plan)) for plan in plans]

    def carry_out(self, steps: Sequence[Step]) -> list[Outcome]:
        """Carry out the steps and record them; after a failure only deletes of that port are still tried."""
        with self._lock:
            outcomes = one_by_one(steps, self.state, self._carry_out, math.inf)
            return [replace(outcome, simulated=True) for outcome in outcomes]

    def _carry_out(self, step: Step) -> None:
        for failure in self._failures:
            verb, name, reason, retry = failure
            if (verb is None or isinstance(step, verb)) and name in (None, step.part.name):
                self._failures.remove(failure)
                raise StepFailed(reason, retry=retry)
        before, self.state = self.state, simulate(self.state, step)
        if isinstance(step.part, OvsPort) and not isinstance(step, Delete):
            self.switches.setdefault(step.part.bridge, step.part.datapath_type or "system")
        bridge_of = {name: port.bridge for name, port in before.ports.items() if isinstance(port, OvsPort)}
        for trunk in removable_trunks([step], bridge_of, self.settings):
            if trunk not in {getattr(port, "bridge", "") for port in self.state.ports.values()}:
                self.switches.pop(trunk, None)
        self.steps.append(step)

    def _members_of(self, bridge: str) -> tuple[str, ...]:
        members = [link for link in self.state.links.values() if isinstance(link, Member) and link.master == bridge]
        return tuple(sorted(link.name for link in members))

    def _link_facts(self, links: Mapping[str, Link]) -> dict[str, LinkFact]:
        for name in self._numbers.keys() - self.state.links.keys():
            del self._numbers[name]
        return {
            name: LinkFact(
                ifindex=self._numbers[name],
                kind=link.kind,
                up=getattr(link, "up", True),
                carrier=not isinstance(link, Tap | ManagedTap | ForeignObject) or name in self.carrier,
                master=getattr(link, "master", ""),
                mtu=getattr(link, "mtu", 1500),
            )
            for name, link in links.items()
        }

    @contextmanager
    def locked(self, keys: Collection[str], deadline: float) -> Iterator[None]:  # noqa: ARG002
        """Allow one caller at a time."""
        with self._lock:
            yield

    def seconds_since_first_seen(self, signs: Collection[str], deadline: float) -> dict[str, float]:  # noqa: ARG002
        """Return the seconds since each fingerprint was first given; forget all others."""
        now = time.monotonic()
        self._noted = {fingerprint: self._noted.get(fingerprint, now) for fingerprint in signs}
        return {fingerprint: now - since for fingerprint, since in self._noted.items()}

    def filtered_ofports(self, bridge: str, deadline: float) -> Collection[int]:  # noqa: ARG002
        """Return the numbers of the ports that a firewall knows."""
        return {1} if self.is_filtered else ()

    def calls_iptables(self) -> bool:
        """Return whether Linux bridges call iptables."""
        return self.is_filtered

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def __enter__(self) -> RecordingHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _RecordingExecutor:
    """Base of the executors of both roles; they share one simulated host per daemon."""

    role: ClassVar[Role]
    serves: ClassVar[frozenset[type[Part]]]
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = False
    simulation: ClassVar[RecordingHost] = RecordingHost()

    def __init__(self, settings: Settings) -> None:
        self._links_are_simulated = settings.link_executor == "recording"
        self.simulation.switches = dict.fromkeys(settings.named_bridges, "netdev")
        self.simulation.settings = settings

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the parts of this role on the simulated host."""
        seen = self.simulation.observe(names, deadline)
        if self.role is Role.LINK:
            facts = Facts(links=seen.facts.links, members=seen.facts.members, simulated=True)
            return Observed(HostState(seen.state.links, {}), facts)
        ports = seen.state.ports
        if not self._links_are_simulated:
            # Real links are unknown to the simulation, so each port is reported as accepted.
            ports = {
                name: replace(port, realized=True) if isinstance(port, OvsPort) else port
                for name, port in ports.items()
            }
        facts = replace(seen.facts, links={}, members={})
        return Observed(HostState({}, ports), facts)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:  # noqa: ARG002
        """Carry out the steps on the simulated host."""
        return self.simulation.carry_out(steps)


class RecordingLinks(_RecordingExecutor):
    """The recording executor of the link role."""

    role: ClassVar[Role] = Role.LINK
    serves: ClassVar[frozenset[type[Part]]] = frozenset({Bridge, Veth, Tap, ManagedTap})


class RecordingSwitch(_RecordingExecutor):
    """The recording executor of the switch role."""

    role: ClassVar[Role] = Role.SWITCH
    serves: ClassVar[frozenset[type[Part]]] = frozenset({OvsPort, NativePort, VhostUserPort, IvsPort})
