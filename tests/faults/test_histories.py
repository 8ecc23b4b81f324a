"""Random histories on a real host: every report is true, and the next call converges."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from hybridvif import NameCollision, Port, Report, Status, check, plug, unplug
from tests.faults.conftest import report_of
from tests.faults.test_switch_faults import TYPED
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_boundary import daemons
from tests.functional.test_repair import DRIFTS, Drift
from tests.support.figures import note
from tests.support.likeness import Likeness, differences, likeness
from tests.support.sizes import FULL

pytestmark = [pytest.mark.prove, pytest.mark.alone]
PORT, OTHER = make_port(1), make_port(2)
TWIN = make_port(1, id="00000001-7bff-4fff-8fff-ffffffffffff")
STRAYS = (
    f"ip link add {PORT.names.bridge} type veth peer name hvpeer",
    f"ip link add {PORT.names.bridge_end} type bridge",
    f"ip link add {PORT.names.switch_end} type bridge",
    f"ovs-vsctl add-port br-int {PORT.names.switch_end} -- set Interface {PORT.names.switch_end} type=internal",
)
FOREIGN = "aaaaaaaa-0000-4000-8000-000000000001"
"""Id that some drifts write into a row. Without an alias it makes the row another port's."""


class History(RuleBasedStateMachine):
    """One port of ours, another port beside it, and events on their host."""

    lab: ClassVar[Lab]
    empty: ClassVar[Likeness]
    whole: ClassVar[Likeness]
    counts: ClassVar[Counter[str]]

    @initialize()
    def begin(self) -> None:
        self.lab.sweep()
        assert plug(OTHER, self.lab.host).ok
        self.others = self.other_parts()
        self.counts["runs"] += 1

    @rule()
    def plugged(self) -> None:
        report = self.timed(lambda: plug(PORT, self.lab.host))
        if report.code == NameCollision.code:
            self.clear_foreign_row()
            report = self.timed(lambda: plug(PORT, self.lab.host))
        assert report.ok, report
        assert differences(self.whole, self.own_parts()) == []
        assert check(PORT, self.lab.host) == ()
        assert not plug(PORT, self.lab.host).changed

    @rule()
    def unplugged(self) -> None:
        report = self.timed(lambda: unplug(PORT.id, self.lab.host))
        if report.code == NameCollision.code:
            self.clear_foreign_row()
            report = self.timed(lambda: unplug(PORT.id, self.lab.host))
        assert report.ok, report
        assert differences(self.empty, self.own_parts()) == []

    def clear_foreign_row(self) -> None:
        """Expect a refusal only because of the drift, then delete the row as an operator would."""
        row = self.own_parts()[f"interface {PORT.names.switch_end}"]
        assert FOREIGN in row["external_ids"].values()
        self.lab.sh(f"ovs-vsctl del-port {PORT.names.switch_end}")

    @rule(drift=st.sampled_from(DRIFTS))
    def drifted(self, drift: Drift) -> None:
        was_whole = not differences(self.whole, self.own_parts())
        self.lab.sh(drift.befalls, check=False)
        if was_whole:
            assert until(lambda: check(PORT, self.lab.host) != (), 2)
        self.counts["drifts"] += 1

    @rule(
        verb=st.sampled_from((plug, unplug)),
        who=st.sampled_from(("daemon", "daemon", "ovsdb-server")),
        seed=st.integers(0, 99),
    )
    def killed(self, verb: Callable[..., Report], who: str, seed: int) -> None:
        """Kill a process during a call. The report is true, and no late change appears."""
        box, moment = self.lab.box, random.Random(seed).uniform(0, 0.03)

        def die() -> None:
            time.sleep(moment)
            if who == "daemon":
                for pid in daemons(box):
                    os.kill(pid, signal.SIGKILL)
            else:
                box.restart("ovsdb-server")

        before = self.own_parts()
        dying = threading.Thread(target=die)
        dying.start()
        report = self.timed(lambda: verb(PORT if verb is plug else PORT.id, self.lab.host))
        dying.join()
        seen = self.own_parts()
        if report.ok:
            assert differences(self.whole if verb is plug else self.empty, seen) == []
        elif report.status is Status.ROLLED_BACK and not report.changed:
            assert differences(before, seen) == []
        else:
            assert report.status in TYPED
        if who == "ovsdb-server":
            # ovs-vswitchd waits up to 8 s before it reconnects to the server, and accepts no port until then.
            self.lab.sh("ovs-vsctl --timeout=30 set Open_vSwitch . external_ids:asked=$(date +%N)")
        self.counts["kills"] += 1

    @rule()
    def rebooted(self) -> None:
        self.lab.box.reboot()
        assert until(lambda: self.timed(lambda: plug(OTHER, self.lab.host)).ok, 20)
        self.counts["reboots"] += 1

    @rule(stray=st.sampled_from(STRAYS))
    def obstructed(self, stray: str) -> None:
        """Put a foreign object under one of its names. plug and unplug are refused and change nothing."""
        self.unplugged()
        self.lab.sh(stray)
        before = self.lab.snapshot()
        for report in (
            self.timed(lambda: plug(PORT, self.lab.host)),
            self.timed(lambda: unplug(PORT.id, self.lab.host)),
        ):
            assert report.status is Status.REFUSED
        assert self.lab.snapshot() == before
        kind, name = ("ovs-vsctl del-port", "") if stray.startswith("ovs") else ("ip link delete", stray.split()[3])
        self.lab.sh(f"{kind} {name or PORT.names.switch_end}")
        self.counts["strays"] += 1

    @rule()
    def collided(self) -> None:
        self.plugged()
        before = self.lab.snapshot()
        for call in (lambda: plug(TWIN, self.lab.host), lambda: unplug(TWIN.id, self.lab.host, force=True)):
            assert self.timed(call).code == NameCollision.code
        assert self.lab.snapshot() == before
        self.counts["collisions"] += 1

    @invariant()
    def others_are_as_they_were(self) -> None:
        if hasattr(self, "others"):
            assert until(lambda: not differences(self.others, self.other_parts()), 3), differences(
                self.others, self.other_parts()
            )
            self.counts["steps"] += 1

    def teardown(self) -> None:
        """Plug and unplug from any state. Nothing remains, and at most one daemon."""
        self.plugged()
        self.unplugged()
        self.others_are_as_they_were()
        assert unplug(OTHER.id, self.lab.host).ok
        assert len(daemons(self.lab.box)) == 1
        assert {name for name in self.lab.links() if name[:3] in ("qbr", "qvb", "qvo", "tap")} == set()

    def timed(self, call: Callable[[], Report]) -> Report:
        """Return the report of a call that ended by its deadline."""
        begun = time.monotonic()
        report = report_of(call)
        assert time.monotonic() - begun <= self.lab.host.settings.deadline + 0.75
        self.counts["calls"] += 1
        return report

    def own_parts(self) -> Likeness:
        """Return the existing parts of the port."""
        return self.of(PORT)

    def other_parts(self) -> Likeness:
        """Return the parts of the other port."""
        return self.of(OTHER)

    def of(self, port: Port) -> Likeness:
        """Return the objects under the names of a port."""
        return {key: part for key, part in likeness(self.lab).items() if key.split()[1] in port.names}


def test_history_of_real_host_keeps_all_guarantees(lab: Lab) -> None:
    parts, runs, steps = (10, 30, 30) if FULL else (1, 4, 12)

    class Here(History):
        counts: ClassVar = Counter[str]()

    Here.lab, here = lab, Here.__new__(Here)
    Here.empty = {}
    assert plug(PORT, lab.host).ok
    Here.whole = here.own_parts()
    assert unplug(PORT.id, lab.host).ok
    try:
        # In parts, because a run takes ten seconds: the counts survive if the rest is aborted.
        for _ in range(parts):
            broken = 1
            try:
                run_state_machine_as_test(
                    Here,
                    settings=settings(
                        max_examples=runs,
                        stateful_step_count=steps,
                        deadline=None,
                        derandomize=not FULL,
                        database=None,
                        phases=[Phase.generate],
                        suppress_health_check=list(HealthCheck),
                    ),
                )
                broken = 0
            finally:
                note("state-machine", Here.counts, broken=broken)
    finally:
        lab.sweep()
    assert Here.counts["steps"] > parts * runs
