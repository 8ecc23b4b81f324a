from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hybridvif import HostState, Port, RecordingHost, VifType, desired_state
from hybridvif.cli.commands.check import wait
from hybridvif.model.errors import InvalidInput
from hybridvif.model.settings import MAX_NAMES
from hybridvif.model.state import Observed, PortFact
from tests.support.answers import ID, MAC, OTHER, OTHER_ID, PORT, QBR, QVO, VM, plugged, ports_of, row_of, text_of


class SlowSwitch(RecordingHost):
    """A switch that accepts a port at the nth observation."""

    def __init__(self, host: RecordingHost, accepts_at: int) -> None:
        super().__init__(host.state)
        self.observations, self.accepts_at = 0, accepts_at
        self.state = self.state.with_parts(replace(row_of(self), realized=False))

    def observe(self, names: Any, deadline: float) -> Observed:
        self.observations += 1
        if self.observations == self.accepts_at:
            self.state = self.state.with_parts(replace(row_of(self), realized=True))
        seen = super().observe(names, deadline)
        facts = {QVO: PortFact(ofport=-1, error="no such device")} if self.observations < self.accepts_at else {}
        return Observed(seen.state, replace(seen.facts, ports={**seen.facts.ports, **facts}))


@pytest.mark.parametrize(
    "port",
    [PORT, replace(PORT, vhostuser_mode="server"), Port(id=ID, mac=MAC, instance_id=VM, vif_type=VifType.IVS)],
)
def test_accepted_port_is_not_waited_for(port: Port) -> None:
    answer = wait([ID], plugged(port), 0)
    assert (answer.exit_code, text_of(answer)) == (0, f"{ID}  accepted")


def test_wait_ends_when_the_switch_accepts_the_port() -> None:
    host = SlowSwitch(plugged(PORT, OTHER), accepts_at=3)
    answer = wait([ID, OTHER_ID], host, 600)
    assert answer.exit_code == 0
    assert host.observations == 3
    assert [port["accepted"] for port in ports_of(answer)] == [True, True]


def test_wait_ends_with_65_after_the_timeout() -> None:
    host = SlowSwitch(plugged(PORT, OTHER), accepts_at=10**9)
    answer = wait([ID, OTHER_ID], host, 0.15)
    assert answer.exit_code == 65
    assert host.observations >= 2
    assert text_of(answer) == f"{ID}  not yet accepted\n{OTHER_ID}  accepted"
    assert [port["error"] for port in ports_of(answer)] == ["no such device", ""]
    (failure,) = answer.failures
    assert f"port {ID}: ovs-vswitchd has not accepted it within 0.15 s (no such device)" == failure.message


def test_remedy_after_the_timeout_is_not_to_wait() -> None:
    (failure,) = wait([ID], SlowSwitch(plugged(PORT), accepts_at=10**9), 0).failures
    assert f"  try: hybridvif trace {ID}: it shows why ovs-vswitchd has not accepted it" in failure.lines()


def test_drift_is_not_waited_for() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(replace(row_of(host), attached_mac="")).without(host.state.links[QBR])
    assert wait([ID], host, 0).exit_code == 0


def test_port_without_a_row_is_an_error() -> None:
    host = plugged(PORT)
    host.state = host.state.without(host.state.ports[QVO])
    with pytest.raises(InvalidInput, match=f"port {ID} is in no switch here"):
        wait([ID], host, 600)


def test_many_ports_are_observed_as_a_whole() -> None:
    ports = [replace(PORT, id=f"{number:08x}-7b00-4c00-8000-000000000001") for number in range(MAX_NAMES // 5 + 1)]

    class Bounded(RecordingHost):
        def observe(self, names: Any, deadline: float) -> Observed:
            assert names is None or len(names) <= MAX_NAMES
            return super().observe(names, deadline)

    host = Bounded(HostState().with_parts(*(part for port in ports for part in desired_state(port).ports.values())))
    assert wait([port.id for port in ports], host, 0).exit_code == 0
