"""recording: the fake follows simulate(), records its steps, fails on request, and marks its outcomes as simulated."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from hybridvif import RecordingHost, plug, plug_all, unplug
from hybridvif.executors.base import Executor
from hybridvif.executors.recording import RecordingLinks, RecordingSwitch
from hybridvif.model.errors import Conflict, PlugFailed
from hybridvif.model.parts import ForeignObject, IvsPort, Role, Tap
from hybridvif.model.planner import plan
from hybridvif.model.port import Port, VifType, desired_state
from hybridvif.model.report import Result, Status
from hybridvif.model.settings import Settings
from hybridvif.model.state import NOTHING, Create, Delete, HostState, PortFact, Step, Update, simulate_all
from tests.support.strategies import (
    BRIDGE,
    MADE_TAP,
    NAMES,
    NATIVE,
    PORT,
    ROW,
    TAP,
    VETH,
    VHOST_USER,
    WIRING,
    ports,
    states_of,
)

SOON = 5.0


@given(st.data(), ports())
def test_apply_matches_simulate(data: st.DataObject, port: Port) -> None:
    state = data.draw(states_of(port))
    try:
        steps = plan(state, desired_state(port))
    except Conflict:
        return
    host = RecordingHost(state)
    ((*outcomes,),) = host.apply([steps], SOON)
    assert [outcome.result for outcome in outcomes] == [Result.DONE] * len(steps)
    assert host.state == simulate_all(state, steps)
    assert host.steps == list(steps)


def test_trunk_bridge_comes_with_first_port_and_goes_with_last() -> None:
    settings = Settings(integration_bridges=("br-int", "tbr-*"), create_bridges=("tbr-*",), remove_trunk_bridges=True)
    host = RecordingHost(settings=settings)
    first = replace(PORT, bridge="tbr-1")
    other = replace(first, id="00000002-7b00-4c00-8000-000000000001")
    seen = []
    for act in (lambda: plug_all([first, other], host), lambda: unplug(first.id, host), lambda: unplug(other.id, host)):
        act()
        seen.append(sorted(host.observe(None, SOON).facts.switches))
    assert seen == [["br-int", "tbr-1"], ["br-int", "tbr-1"], ["br-int"]]


def test_trunk_bridge_that_is_not_allowed_stays() -> None:
    settings = Settings(integration_bridges=("br-int",), remove_trunk_bridges=True)
    host = RecordingHost(desired_state(replace(PORT, bridge="tbr-1")), settings=settings, switches={"tbr-1": "netdev"})
    assert unplug(PORT.id, host).ok
    assert sorted(host.observe(None, SOON).facts.switches) == ["tbr-1"]


def test_all_results_are_marked_as_simulated() -> None:
    host = RecordingHost(HostState().with_parts(ForeignObject(name=NAMES.bridge_end, what="a veth link")))
    host.fail(name=NAMES.bridge)
    assert host.observe(None, SOON).facts.simulated
    (outcomes,) = host.apply([[Create(BRIDGE), Create(VETH), Delete(VETH)]], SOON)
    assert [outcome.result for outcome in outcomes] == [Result.FAILED, Result.SKIPPED, Result.REFUSED]
    assert all(outcome.simulated for outcome in outcomes)
    assert plug(PORT, RecordingHost()).simulated
    assert unplug(PORT.id, RecordingHost()).simulated


def test_steps_contain_done_steps_and_no_failed_ones() -> None:
    host = RecordingHost()
    host.fail(verb=Create, name=NAMES.switch_end)
    with pytest.raises(PlugFailed, match="told to fail"):
        plug(PORT, host)
    assert [(type(step), step.part.name) for step in host.steps] == [
        (Create, NAMES.bridge),
        (Create, NAMES.bridge_end),
        (Delete, NAMES.bridge_end),
        (Delete, NAMES.bridge),
    ]


@pytest.mark.parametrize(
    ("step_filter", "failed"),
    [
        ({}, [0]),
        ({"verb": Delete}, [2]),
        ({"name": VETH.name}, [1]),
        ({"verb": Create, "name": VETH.name}, [1]),
        ({"verb": Update}, []),
        ({"name": TAP.name}, []),
    ],
)
def test_fail_makes_the_matching_step_fail_once(step_filter: dict[str, object], failed: list[int]) -> None:
    host = RecordingHost()
    host.fail(reason="no such luck", retry=True, **step_filter)  # type: ignore[arg-type]
    outcomes = [
        host.apply([[step]], SOON)[0][0] for step in (Create(BRIDGE), Create(replace(VETH, master="")), Delete(BRIDGE))
    ]
    assert [index for index, outcome in enumerate(outcomes) if outcome.result is not Result.DONE] == failed
    for index in failed:
        assert (outcomes[index].result, outcomes[index].reason, outcomes[index].retry) == (
            Result.FAILED,
            "no such luck",
            True,
        )


def test_fail_twice_fails_two_attempts() -> None:
    host = RecordingHost()
    host.fail(retry=True)
    host.fail(retry=True)
    report = plug(PORT, host)
    assert (report.status, report.retries) == (Status.DONE, 2)


def test_failure_stops_its_own_port_except_deletes() -> None:
    other = desired_state(replace(PORT, id="91d3aa02-4100-4c00-8000-000000000003"))
    host = RecordingHost()
    host.fail(name=BRIDGE.name)
    plans: list[list[Step]] = [[Create(BRIDGE), Create(VETH), Delete(ROW)], [Create(part) for part in other]]
    mine, theirs = host.apply(plans, SOON)
    assert [outcome.result for outcome in mine] == [Result.FAILED, Result.SKIPPED, Result.DONE]
    assert [outcome.result for outcome in theirs] == [Result.DONE] * 3


def test_step_with_an_objection_is_refused() -> None:
    host = RecordingHost(WIRING.with_parts(replace(VETH, master="br-foreign")))
    plans: list[list[Step]] = [[Create(BRIDGE)], [Update(replace(TAP, master=""), TAP)]]
    (create,), (vanished,) = host.apply(plans, SOON)
    assert (create.result, create.retry) == (Result.FAILED, True)
    assert (vanished.result, vanished.retry) == (Result.FAILED, True)
    ((stolen,),) = host.apply([[Update(replace(VETH, master=""), VETH)]], SOON)
    assert stolen.result is Result.REFUSED
    assert host.steps == []


def test_observe_returns_only_the_given_names() -> None:
    host = RecordingHost(WIRING.with_parts(TAP))
    assert host.observe(None, SOON).state == WIRING.with_parts(TAP)
    assert host.observe({NAMES.tap}, SOON).state == HostState().with_parts(TAP)
    assert host.observe(set(), SOON).state == NOTHING


def test_facts_match_the_simulated_state() -> None:
    host = RecordingHost(
        WIRING.with_parts(TAP, replace(VETH, up=False)), switches={"br-int": "system", "br-two": "netdev"}
    )
    facts = host.observe(None, SOON).facts
    assert facts.members == {NAMES.bridge: (NAMES.bridge_end, NAMES.tap)}
    assert facts.ports == {NAMES.switch_end: PortFact(ofport=1)}
    assert facts.switches == {"br-int": "system", "br-two": "netdev"}
    assert (facts.links[NAMES.bridge_end].up, facts.links[NAMES.bridge_end].mtu) == (False, VETH.mtu)
    assert facts.links[NAMES.tap].master == NAMES.bridge
    assert len({fact.ifindex for fact in facts.links.values()}) == 3
    assert not facts.links[NAMES.tap].carrier
    host.simulation.carrier.add(NAMES.tap)
    assert host.observe(None, SOON).facts.links[NAMES.tap].carrier


def test_row_that_is_not_accepted_has_no_port_number() -> None:
    host = RecordingHost(HostState().with_parts(replace(ROW, realized=False)))
    assert host.observe(None, SOON).facts.ports == {NAMES.switch_end: PortFact(ofport=None)}


def test_recording_host_is_a_context_manager() -> None:
    with RecordingHost() as host:
        assert plug(PORT, host).ok


def test_locked_allows_one_caller_at_a_time() -> None:
    host, seen = RecordingHost(), list[str]()

    def other() -> None:
        with host.locked({"x"}, SOON):
            seen.append("other")

    with host.locked({"x"}, SOON):
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.05)
        seen.append("first")
    thread.join()
    assert seen == ["first", "other"]


def test_concurrent_plugs_and_unplugs_leave_nothing() -> None:
    host = RecordingHost()
    shared = [replace(PORT, id=f"{number:08x}-7b00-4c00-8000-000000000001") for number in range(4)]

    def turns() -> None:
        for port in shared * 3:
            plug(port, host)
            unplug(port.id, host)

    threads = [threading.Thread(target=turns) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert host.state == NOTHING


# Executors selected by configuration.


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty host: the executors of a process share one."""
    for cls in (RecordingLinks, RecordingSwitch):
        monkeypatch.setattr(cls, "simulation", RecordingHost())
    monkeypatch.setattr(RecordingSwitch, "simulation", RecordingLinks.simulation)


def test_recording_executors_have_their_roles() -> None:
    links, switch = RecordingLinks(Settings()), RecordingSwitch(Settings())
    assert isinstance(links, Executor)
    assert isinstance(switch, Executor)
    assert (links.role, switch.role) == (Role.LINK, Role.SWITCH)
    parts = (*WIRING, TAP, MADE_TAP, NATIVE, VHOST_USER, IvsPort(name="x"))
    assert links.serves | switch.serves == {type(part) for part in parts}


def test_recording_executor_observes_only_its_role() -> None:
    links, switch = RecordingLinks(Settings()), RecordingSwitch(Settings(integration_bridges=("br-a", "br-b")))
    links.simulation.state = WIRING
    assert links.observe(None, SOON).state == HostState(WIRING.links, {})
    assert switch.observe(None, SOON).state == HostState({}, WIRING.ports)
    assert links.observe(None, SOON).facts.switches == {}
    assert switch.observe(None, SOON).facts.switches == {"br-a": "netdev", "br-b": "netdev"}
    assert switch.observe(None, SOON).facts.simulated
    assert links.observe(None, SOON).facts.simulated


def test_recording_executors_share_one_host() -> None:
    links, switch = RecordingLinks(Settings()), RecordingSwitch(Settings())
    links.apply([Create(BRIDGE), Create(VETH)], SOON)
    (outcome,) = switch.apply([Create(ROW)], SOON)
    assert outcome.simulated
    # Accepted, since its device exists.
    assert switch.observe(None, SOON).state.ports == WIRING.ports


def test_ivs_port_needs_no_bridge() -> None:
    host = RecordingHost(switches={})
    assert plug(replace(PORT, vif_type=VifType.IVS), host).ok
    assert not any(isinstance(part, Tap) for part in host.state)
