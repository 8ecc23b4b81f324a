"""Random histories from a seed on a simulated host: the invariants hold after every event."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import replace

import pytest

from hybridvif import HostState, HybridVifError, RecordingHost, check, desired_state, plug, unplug
from hybridvif.model.parts import OvsPort, Part
from hybridvif.model.planner import plan
from hybridvif.model.state import agree, simulate
from tests.functional.conftest import make_port
from tests.support.figures import note
from tests.support.sizes import FULL

pytestmark = pytest.mark.prove
PORT, OTHER, TWIN = make_port(1), make_port(2), make_port(1, id="00000001-7bff-4fff-8fff-ffffffffffff")
WIRING, OTHERS = desired_state(PORT), desired_state(OTHER)
DRIFTS: tuple[tuple[str, object], ...] = (
    ("up", False), ("mtu", 1400), ("alias", ""), ("stp", True), ("ageing", 30000), ("master", ""), ("promisc", False),
    ("peer_up", False), ("peer_mtu", 1300), ("peer_alias", "someone"), ("iface_id", ""), ("attached_mac", ""),
    ("vm_uuid", ""), ("iface_status", "inactive"), ("realized", False), ("group", 7), ("arp_ignore", 0),
    ("host_ip", "forwarding 1"), ("peer_host_ip", "IPv6 on"), ("bridge_port", "isolated on"),
)  # fmt: skip


class History:
    """One host with one port of ours, another port, and events."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.host = RecordingHost(HostState(OTHERS.links, OTHERS.ports))
        self.counts: Counter[str] = Counter()

    def go(self) -> Counter[str]:
        """Run some events, then one plug, which converges, and one unplug, which leaves nothing."""
        for _ in range(self.draw.randint(1, 8)):
            self.draw.choice(
                (self.plugged, self.plugged, self.unplugged, self.failed, self.killed, self.drifted, self.lost,
                 self.collided, self.rebooted)
            )()  # fmt: skip
            self.others_are_as_they_were()
        self.plugged()
        written = len(self.host.steps)
        assert not plug(PORT, self.host).changed
        assert len(self.host.steps) == written
        self.unplugged()
        assert agree(self.host.state, OTHERS)
        self.others_are_as_they_were()
        return self.counts

    def plugged(self) -> None:
        self.counts["calls"] += 1
        assert plug(PORT, self.host).ok
        assert agree(self.mine(), WIRING)
        assert check(PORT, self.host) == ()

    def unplugged(self) -> None:
        self.counts["calls"] += 1
        assert unplug(PORT.id, self.host).ok
        assert not list(self.mine())

    def failed(self) -> None:
        """Let a step fail: the host is unchanged, or only reported leftovers remain."""
        self.counts["calls"] += 1
        before = self.mine()
        self.host.fail(name=self.draw.choice([part.name for part in WIRING]), retry=self.draw.random() < 0.3)
        try:
            report = plug(PORT, self.host)
        except HybridVifError as failure:
            assert failure.report is not None
            assert failure.report.leftovers or agree(self.mine(), before), failure.report
            self.counts["failures"] += 1
        else:
            assert report.ok
            assert agree(self.mine(), WIRING)
        self.host.simulation._failures.clear()

    def killed(self) -> None:
        """Kill the call between two steps."""
        steps = plan(self.mine(), self.draw.choice((WIRING, HostState())))
        for step in steps[: self.draw.randint(0, len(steps))]:
            self.host.state = simulate(self.host.state, step)
        self.counts["kills"] += 1

    def drifted(self) -> None:
        name, value = self.draw.choice(DRIFTS)
        having = [part for part in self.mine() if hasattr(part, name)]
        if having:
            part: Part = self.draw.choice(having)
            self.host.state = self.host.state.with_parts(replace(part, **{name: value}))  # type: ignore[arg-type]
            self.counts["drifts"] += 1

    def lost(self) -> None:
        parts = list(self.mine())
        if parts:
            self.host.state = self.host.state.without(self.draw.choice(parts))
            self.counts["drifts"] += 1

    def collided(self) -> None:
        """Plug another port of the same names: refused if ours has evidence, and never harmful."""
        before = self.host.state
        if not agree(self.mine(), WIRING):
            return
        with pytest.raises(HybridVifError):
            plug(TWIN, self.host)
        with pytest.raises(HybridVifError):
            unplug(TWIN.id, self.host, force=True)
        assert self.host.state == before
        self.counts["collisions"] += 1

    def rebooted(self) -> None:
        rows = [replace(row, realized=False) for row in self.mine().ports.values() if isinstance(row, OvsPort)]
        for part in self.mine():
            self.host.state = self.host.state.without(part)
        self.host.state = self.host.state.with_parts(*rows)

    def mine(self) -> HostState:
        return self.host.state.of(PORT.names)

    def others_are_as_they_were(self) -> None:
        assert agree(self.host.state.of(OTHER.names), OTHERS)


def test_history_of_simulated_host_keeps_all_guarantees() -> None:
    seeds = 100_000 if FULL else 300
    first = int(os.environ.get("HYBRIDVIF_SEED", "0")) if not FULL else 0
    counts: Counter[str] = Counter()
    for seed in range(first, first + seeds):
        try:
            counts += History(seed).go()
        except BaseException as error:
            error.add_note(f"the seed of this history is {seed}")
            raise
    note("simulation", counts, seeds=seeds, broken=0)
    assert counts["kills"] > seeds / 10
