"""plug, unplug and check on a host in memory, behind the authorization of the daemon."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from hybridvif import (
    BridgeMissing,
    BridgeNotAllowed,
    Conflict,
    HybridVifError,
    InvalidInput,
    NameCollision,
    NotReady,
    PlugFailed,
    PortRunning,
    PreconditionError,
    RecordingHost,
    Refused,
    UnplugFailed,
    check,
    plug,
    plug_all,
    unplug,
    unplug_all,
)
from hybridvif.client.host import GRACE_PERIOD, Host, NoResponse
from hybridvif.engine.converge import MAX_ATTEMPTS, PLUG_BATCH, PLUGS_PER_DEADLINE, UNPLUGS_PER_DEADLINE, VERIFY_DELAYS
from hybridvif.engine.locks import LockTimeout
from hybridvif.model.parts import PLACEHOLDER_TYPE, ForeignObject, ForeignPort, IvsPort, OvsPort, Tap, VhostUserPort
from hybridvif.model.port import Port, VifType, desired_state
from hybridvif.model.report import Outcome, Outcomes, Report, Result, Status
from hybridvif.model.settings import Settings
from hybridvif.model.state import NOTHING, Create, Delete, HostState, Observed, Step, Update, agree
from hybridvif.privileged.authorize import permit_names, permit_plans, refusals
from hybridvif.privileged.channel import RequestNotSent
from tests.support.strategies import BRIDGE, NAMES, PORT, ROW, TAP, VETH, WIRING, history, the

TWIN = replace(PORT, id="5f2c0e1a-7b00-4c00-8000-0000000000ff")
"""Another port with the same device names."""
RECORDING = Settings(link_executor="recording", switch_executor="recording")


def numbered(number: int) -> Port:
    return replace(PORT, id=f"{number:08x}-7b00-4c00-8000-000000000001")


class GuardedHost(RecordingHost):
    """A recording host behind the authorization of the daemon. It records its calls, and events can change it."""

    def __init__(self, state: HostState = HostState(), **more: Any) -> None:
        super().__init__(state, **more)
        self.calls: list[str] = []
        self.before: dict[int, Callable[[], object]] = {}
        """Events by the number of the call before which they happen, from 0."""
        self.answer: Callable[[list[tuple[Outcome, ...]]], list[tuple[Outcome, ...]]] = lambda outcomes: outcomes
        """Change of the outcomes on their way to the client."""
        self.busy = False

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        self._called("observe")
        permit_names(names)
        return super().observe(names, deadline)

    def apply(self, plans: Sequence[Sequence[Step]], deadline: float) -> list[tuple[Outcome, ...]]:
        self._called("apply")
        permit_plans(plans, self.settings)
        refused = refusals(plans, self.state, self.settings)
        done = super().apply([() if index in refused else plan for index, plan in enumerate(plans)], deadline)
        return self.answer([refused.get(index, outcomes) for index, outcomes in enumerate(done)])

    def befall(self, call: int, event: Callable[[], object]) -> None:
        def happen() -> None:
            event()

        self.before[call] = happen

    def put(self, *parts: Any) -> None:
        self.state = self.state.with_parts(*parts)

    @contextmanager
    def locked(self, keys: Collection[str], deadline: float) -> Iterator[None]:
        if self.busy:
            raise LockTimeout
        with super().locked(keys, deadline):
            yield

    def _called(self, method: str) -> None:
        self.calls.append(method)
        self.before.get(len(self.calls) - 1, lambda: None)()


@pytest.fixture
def host() -> GuardedHost:
    return GuardedHost()


@pytest.fixture(autouse=True)
def _no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the delays between attempts, because no other caller is at work."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def raising(error: Exception) -> Callable[[], None]:
    def event() -> None:
        raise error

    return event


# Success.


def test_plug_reaches_desired_state_and_reports_done(host: GuardedHost) -> None:
    report = plug(PORT, host)
    assert host.state == WIRING
    assert (report.port_id, report.status, report.ok, report.changed) == (PORT.id, Status.DONE, True, True)
    assert report.simulated
    assert (report.retries, report.leftovers, report.code, report.reason) == (0, (), "", "")
    assert [outcome.step.part.name for outcome in report.outcomes] == list(NAMES)[:3]


def test_plug_costs_two_observations_and_one_apply(host: GuardedHost) -> None:
    plug(PORT, host)
    assert host.calls == ["observe", "apply", "observe"]


class ObservingHost(GuardedHost):
    """A host that returns an observation with its outcomes."""

    def apply(self, plans: Sequence[Sequence[Step]], deadline: float) -> list[tuple[Outcome, ...]]:
        outcomes = Outcomes(super().apply(plans, deadline))
        outcomes.observed = self.observe_after()
        return outcomes

    def observe_after(self) -> Observed:
        return RecordingHost.observe(self, None, 0.0)


def test_observation_with_outcomes_is_not_repeated() -> None:
    host = ObservingHost()
    assert plug(PORT, host).ok
    assert host.calls == ["observe", "apply"]
    assert unplug(PORT.id, host).ok
    assert host.state == NOTHING


def test_observation_with_outcomes_decides_status() -> None:
    class Drifting(ObservingHost):
        """A host that changes once between the last step and the observation."""

        def observe_after(self) -> Observed:
            if len(self.calls) == 2:
                self.put(replace(BRIDGE, up=False))
            return super().observe_after()

    host = Drifting()
    report = plug(PORT, host)
    assert (report.ok, report.retries) == (True, 1)
    assert host.calls == ["observe", "apply", "apply"]
    assert host.state == WIRING


@pytest.mark.parametrize("call", [lambda host: plug(PORT, host), lambda host: check(PORT, host)], ids=["plug", "check"])
def test_port_in_sync_costs_one_observation(call: Callable[[GuardedHost], object]) -> None:
    host = GuardedHost(WIRING)
    call(host)
    assert host.calls == ["observe"]


def test_plug_of_port_in_sync_changes_nothing() -> None:
    report = plug(PORT, GuardedHost(WIRING))
    assert (report.status, report.changed, report.outcomes) == (Status.DONE, False, ())


def test_unplug_leaves_only_tap_of_vm(host: GuardedHost) -> None:
    host.state = WIRING.with_parts(TAP)
    report = unplug(PORT.id, host)
    assert host.state == HostState().with_parts(replace(TAP, master=""))
    assert (report.status, report.changed) == (Status.DONE, True)


def test_unplug_of_absent_port_is_done_without_write(host: GuardedHost) -> None:
    report = unplug(PORT.id, host)
    assert (report.status, report.changed, host.calls) == (Status.DONE, False, ["observe"])


def test_check_returns_plan_without_write(host: GuardedHost) -> None:
    steps = check(PORT, host)
    assert [type(step) for step in steps] == [Create] * 3
    assert host.steps == []
    assert host.calls == ["observe"]


def test_plug_of_ivs_port_creates_ivs_port(host: GuardedHost) -> None:
    port = replace(PORT, vif_type=VifType.IVS, bridge="br-none")
    assert plug(port, host).ok
    assert host.state.ports == {NAMES.switch_end: IvsPort(name=NAMES.switch_end)}


def test_plug_repairs_drift_by_one_step(host: GuardedHost) -> None:
    host.state = WIRING.with_parts(replace(VETH, master=""))
    report = plug(PORT, host)
    assert [type(outcome.step) for outcome in report.outcomes] == [Update]
    assert host.state == WIRING


# Failed steps.

PLUG_STEPS = [(Create, name) for name in list(NAMES)[:3]]
UNPLUG_STEPS = [(Delete, NAMES.switch_end), (Delete, NAMES.bridge_end), (Delete, NAMES.bridge)]


@pytest.mark.parametrize(("verb", "name"), PLUG_STEPS, ids=str)
@pytest.mark.parametrize(
    "first", [NOTHING, HostState().with_parts(TAP), NOTHING.with_parts(replace(TAP, master=""))], ids=str
)
def test_plug_failed_at_any_step_is_rolled_back(verb: Any, name: str, first: HostState) -> None:
    if isinstance(first.links.get(NAMES.tap), Tap):
        first = first.with_parts(replace(TAP, master=""))
    host = GuardedHost(first)
    host.fail(verb=verb, name=name, reason="the kernel said no")

    with pytest.raises(PlugFailed) as caught:
        plug(PORT, host)

    report = caught.value.report
    assert host.state == first
    assert report is not None
    assert (report.status, report.leftovers, report.retries) == (Status.ROLLED_BACK, (), 0)
    assert str(caught.value) == report.reason == "the kernel said no"
    assert not isinstance(caught.value, Refused | PreconditionError)
    assert plug(PORT, host).ok


DRIFTED = {
    "an alias that is no id": replace(BRIDGE, alias=""),
    "a smaller MTU": replace(BRIDGE, mtu=1400),
    "another master": replace(VETH, master=""),
    "an end that is down": replace(VETH, peer_up=False),
    "another MAC address": replace(ROW, attached_mac="fa:16:3e:00:00:09"),
    "a parked row": replace(ROW, type=PLACEHOLDER_TYPE, realized=False),
}


@pytest.mark.parametrize("part", DRIFTED.values(), ids=DRIFTED)
def test_failed_repair_restores_first_state(part: Any) -> None:
    first = WIRING.with_parts(part).without(ROW) if part.name != ROW.name else WIRING.with_parts(part).without(VETH)
    host = GuardedHost(first)
    last = NAMES.switch_end
    host.fail(name=last, verb=None if part.name == last else Create)

    with pytest.raises(PlugFailed) as caught:
        plug(PORT, host)

    assert caught.value.report is not None
    assert caught.value.report.status is Status.ROLLED_BACK
    assert agree(host.state, first)


def test_unrestorable_attributes_stay_and_are_leftovers() -> None:
    found = WIRING.with_parts(replace(BRIDGE, stp=True, forward_delay=0, group=7)).without(ROW)
    host = GuardedHost(found)
    host.fail(verb=Create, name=ROW.name)
    with pytest.raises(PlugFailed) as caught:
        plug(PORT, host)
    report = caught.value.report
    assert report is not None
    assert report.status is Status.INCOMPLETE
    assert set(report.leftovers) == {f"{BRIDGE.name}: stp", f"{BRIDGE.name}: group"}
    assert host.state == WIRING.without(ROW)


def test_row_from_bridge_not_allowed_is_not_moved_back() -> None:
    host = GuardedHost(
        WIRING.with_parts(replace(ROW, bridge="br-ex")), switches={"br-int": "netdev", "br-ex": "netdev"}
    )
    host.answer = lambda outcomes: [
        tuple(replace(outcome, result=Result.FAILED) for outcome in plan) for plan in outcomes
    ]
    moved = replace(ROW, realized=False)
    host.befall(2, lambda: host.put(moved))
    with pytest.raises(PlugFailed) as caught:
        plug(PORT, host)
    report = caught.value.report
    assert report is not None
    assert report.status is Status.INCOMPLETE
    assert f"{ROW.name}: bridge" in report.leftovers


@pytest.mark.parametrize(("verb", "name"), UNPLUG_STEPS, ids=str)
def test_unplug_continues_after_failed_step_and_names_leftover(verb: Any, name: str) -> None:
    host = GuardedHost(WIRING.with_parts(TAP))
    host.fail(verb=verb, name=name, reason="busy")
    with pytest.raises(UnplugFailed) as caught:
        unplug(PORT.id, host)
    report = caught.value.report
    assert report is not None
    assert (report.status, report.leftovers, report.changed) == (Status.INCOMPLETE, (name,), True)
    assert str(caught.value) == "busy"
    assert {part.name for part in host.state} == {name, NAMES.tap}
    assert unplug(PORT.id, host).ok
    assert host.state == HostState().with_parts(replace(TAP, master=""))


def test_unplug_that_removes_nothing_is_incomplete_and_unchanged() -> None:
    host = GuardedHost(WIRING)
    for _ in range(3):
        host.fail(verb=Delete, reason="busy")
    with pytest.raises(UnplugFailed) as caught:
        unplug(PORT.id, host)
    assert caught.value.report is not None
    assert (caught.value.report.status, caught.value.report.changed) == (Status.INCOMPLETE, False)
    assert set(caught.value.report.leftovers) == {part.name for part in WIRING}


def test_failed_rollback_names_leftovers(host: GuardedHost) -> None:
    host.fail(verb=Create, name=NAMES.switch_end, reason="first")
    host.fail(verb=Delete, name=NAMES.bridge_end, reason="second")
    with pytest.raises(PlugFailed) as caught:
        plug(PORT, host)
    report = caught.value.report
    assert report is not None
    assert (report.status, report.leftovers) == (Status.INCOMPLETE, (NAMES.bridge_end,))
    assert report.reason == "first; it could not be undone: second"
    assert [type(outcome.step) for outcome in report.outcomes] == [Create] * 3 + [Delete] * 2


def test_rollback_blocked_after_its_last_step_names_leftovers(host: GuardedHost) -> None:
    """Another tool takes the veth pair away after the last attempt, so no plan leads back any more."""
    host.fail(verb=Create, name=NAMES.switch_end, reason="first")
    host.fail(verb=Delete, name=NAMES.bridge_end, reason="second")
    host.befall(4, lambda: host.put(replace(VETH, master="virbr0")))
    other = numbered(7)
    report, done = plug_all([PORT, other], host)
    assert (report.status, report.leftovers, report.changed) == (Status.INCOMPLETE, (NAMES.bridge_end,), True)
    assert report.reason.startswith(f"first; it could not be undone: {NAMES.bridge_end} is in virbr0")
    assert done.status is Status.DONE


def test_rollback_without_daemon_is_incomplete(host: GuardedHost) -> None:
    host.fail(verb=Create, name=NAMES.switch_end, reason="first")
    host.befall(3, raising(PreconditionError("the daemon cannot be started")))
    with pytest.raises(PlugFailed) as caught:
        plug(PORT, host)
    report = caught.value.report
    assert report is not None
    assert report.status is Status.INCOMPLETE
    assert report.reason == "first; it could not be undone: the daemon cannot be started"
    assert set(report.leftovers) == {NAMES.bridge, NAMES.bridge_end}


def test_rollback_without_verification_is_unknown(host: GuardedHost) -> None:
    host.fail(verb=Create, name=NAMES.switch_end, reason="first")
    for call in range(4, 7):
        host.befall(call, raising(NoResponse("the daemon died")))
    with pytest.raises(PlugFailed, match="first; it could not be undone: .* the daemon died") as caught:
        plug(PORT, host)
    report = caught.value.report
    assert report is not None
    assert (report.status, report.code, report.leftovers) == (Status.UNKNOWN, "unknown", ())


def test_rollback_with_lost_response_is_resolved_by_observation(host: GuardedHost) -> None:
    host.fail(verb=Create, name=NAMES.switch_end, reason="first")
    host.befall(3, lambda: setattr(host, "answer", lost))
    with pytest.raises(PlugFailed, match=r"^first$") as caught:
        plug(PORT, host)
    assert caught.value.report is not None
    assert caught.value.report.status is Status.ROLLED_BACK
    assert host.state == NOTHING


def test_rollback_is_retried_after_change_by_others(host: GuardedHost) -> None:
    host.fail(verb=Create, name=NAMES.switch_end, reason="first")
    host.fail(verb=Delete, name=NAMES.bridge_end, reason="moved on", retry=True)
    with pytest.raises(PlugFailed, match=r"^first$") as caught:
        plug(PORT, host)
    assert caught.value.report is not None
    assert caught.value.report.status is Status.ROLLED_BACK
    assert host.state == NOTHING


def test_failed_plugs_of_batch_are_rolled_back_together(host: GuardedHost) -> None:
    ports = [numbered(number) for number in range(20)]
    for port in ports[5:]:
        host.fail(verb=Create, name=port.names.switch_end, reason="the disk is full")
    reports = plug_all(ports, host)
    assert [report.status for report in reports] == [Status.DONE] * 5 + [Status.ROLLED_BACK] * 15
    assert host.calls == ["observe", "apply", "observe", "apply", "observe"]
    assert {part.name for part in host.state} == {name for port in ports[:5] for name in list(port.names)[:3]}


# Concurrent changes of the host.


@pytest.mark.parametrize("times", range(MAX_ATTEMPTS + 1))
def test_retryable_failure_is_retried_and_counted(host: GuardedHost, times: int) -> None:
    for _ in range(times):
        host.fail(verb=Create, name=NAMES.switch_end, retry=True, reason="moved on")
    if times < MAX_ATTEMPTS:
        report = plug(PORT, host)
        assert (report.retries, report.status) == (times, Status.DONE)
        assert host.state == WIRING
    else:
        with pytest.raises(PlugFailed, match="moved on") as caught:
            plug(PORT, host)
        assert caught.value.report is not None
        assert (caught.value.report.retries, caught.value.report.status) == (MAX_ATTEMPTS - 1, Status.ROLLED_BACK)
        assert host.state == NOTHING


def test_part_deleted_during_plug_is_created_again(host: GuardedHost) -> None:
    host.befall(2, lambda: setattr(host, "state", host.state.without(VETH)))
    report = plug(PORT, host)
    assert (report.status, report.retries) == (Status.DONE, 1)
    assert host.state == WIRING


def test_part_created_during_plug_is_repaired(host: GuardedHost) -> None:
    host.befall(1, lambda: host.put(replace(BRIDGE, mtu=1400)))
    report = plug(PORT, host)
    assert (report.status, report.retries) == (Status.DONE, 1)
    assert host.state == WIRING


def test_plug_on_constantly_changed_host_is_rolled_back(host: GuardedHost) -> None:
    for call in (2, 4, 6, 8):
        host.befall(call, lambda: setattr(host, "state", host.state.with_parts(replace(BRIDGE, mtu=1400))))
    with pytest.raises(PlugFailed) as caught:
        plug(PORT, host)
    report = caught.value.report
    assert report is not None
    assert (report.code, report.status) == ("changed-meanwhile", Status.ROLLED_BACK)
    assert "someone else" in report.reason
    assert host.state == NOTHING


def test_port_that_the_switch_ignores_is_not_blamed_on_others() -> None:
    """ovs-vswitchd could not create the bridge: it acknowledges the row, sets no ofport and no error."""
    host = GuardedHost()
    for call in (2, 4, 6, 8):
        host.befall(call, lambda: host.put(replace(ROW, realized=False)))
    with pytest.raises(PlugFailed, match="has not taken the port, and gives no reason") as caught:
        plug(PORT, host)
    report = caught.value.report
    assert report is not None
    assert (report.code, report.status) == ("not-realized", Status.ROLLED_BACK)


NEW_OBJECTS = {
    "a foreign object": ForeignObject(name=NAMES.bridge_end, what="a veth link"),
    "a pair of another port": replace(VETH, alias=TWIN.id, peer_alias=TWIN.id, master=""),
}


@pytest.mark.parametrize("foreign", NEW_OBJECTS.values(), ids=NEW_OBJECTS)
def test_foreign_object_during_plug_stays_and_plug_is_rolled_back(host: GuardedHost, foreign: Any) -> None:
    host.befall(1, lambda: host.put(foreign))
    with pytest.raises(PlugFailed) as caught:
        plug(PORT, host)
    assert host.state == HostState().with_parts(foreign)
    report = caught.value.report
    assert report is not None
    assert report.status is Status.ROLLED_BACK
    assert report.changed


def test_unplug_blocked_by_new_foreign_object_is_incomplete() -> None:
    host = GuardedHost(WIRING)
    host.fail(verb=Delete, name=NAMES.bridge, retry=True)
    stray = ForeignObject(name=NAMES.bridge_end, what="a veth link")
    host.befall(2, lambda: host.put(stray))
    with pytest.raises(UnplugFailed) as caught:
        unplug(PORT.id, host)
    report = caught.value.report
    assert report is not None
    assert not isinstance(caught.value, Refused)
    assert (report.status, report.changed) == (Status.INCOMPLETE, True)
    assert NAMES.bridge in report.leftovers
    assert host.state == HostState().with_parts(BRIDGE, stray)


def test_locked_port_is_busy(host: GuardedHost) -> None:
    host.busy = True
    calls: list[tuple[Callable[[], Report], type[PlugFailed] | type[UnplugFailed]]] = [
        (lambda: plug(PORT, host), PlugFailed),
        (lambda: unplug(PORT.id, host), UnplugFailed),
    ]
    for refused, error in calls:
        with pytest.raises(error) as caught:
            refused()
        assert caught.value.report is not None
        assert (caught.value.report.code, caught.value.report.changed) == ("busy", False)
    assert host.calls == []
    assert check(PORT, host)


# Refusals.


@pytest.mark.parametrize(
    "whose", [WIRING, WIRING.without(ROW), HostState().with_parts(ROW)], ids=["all", "links", "row"]
)
def test_parts_of_another_port_are_collision_with_both_ids(whose: HostState) -> None:
    host = GuardedHost(whose)
    for refused in (lambda: plug(TWIN, host), lambda: unplug(TWIN.id, host, force=True), lambda: check(TWIN, host)):
        with pytest.raises(NameCollision) as caught:
            refused()
        assert PORT.id in str(caught.value)
        assert TWIN.id in str(caught.value)
    assert (host.state, host.steps) == (whose, [])


@pytest.mark.parametrize(
    "part",
    [
        ForeignObject(name=NAMES.bridge, what="a veth link"),
        ForeignPort(name=NAMES.switch_end, what="a bond"),
        replace(VETH, master="br-foreign"),
    ],
    ids=["foreign link", "foreign port", "foreign master"],
)
def test_foreign_object_is_conflict_with_remedy(part: Any) -> None:
    host = GuardedHost(HostState().with_parts(part))
    for refused in (lambda: plug(PORT, host), lambda: unplug(PORT.id, host, force=True), lambda: check(PORT, host)):
        with pytest.raises(Conflict, match=r"ip link|ovs-vsctl del-port") as caught:
            refused()
        if caught.value.report:
            assert (caught.value.report.status, caught.value.report.changed) == (Status.REFUSED, False)
    assert host.steps == []


def test_missing_bridge_is_reported_before_first_write(host: GuardedHost) -> None:
    port = replace(PORT, bridge="br-imt")
    for refused in (lambda: plug(port, host), lambda: check(port, host)):
        with pytest.raises(BridgeMissing, match=r"br-imt .* \(there are br-int\).*ovs-vsctl add-br br-imt"):
            refused()
    assert host.steps == []
    with pytest.raises(BridgeMissing, match="there are none"):
        plug(port, GuardedHost(switches={}))


def test_bridge_not_allowed_is_refused_by_client(host: GuardedHost) -> None:
    host.simulation.switches["br-ex"] = "netdev"
    with pytest.raises(BridgeNotAllowed, match=r"br-ex.*\(br-int\)") as caught:
        plug(replace(PORT, bridge="br-ex"), host)
    assert caught.value.report is not None
    assert caught.value.report.status is Status.REFUSED
    assert host.calls == ["observe"]


def test_port_in_sync_in_bridge_not_allowed_is_in_sync() -> None:
    port = replace(PORT, bridge="br-ex")
    assert check(port, GuardedHost(desired_state(port))) == ()


RUNNING: dict[str, tuple[HostState, set[str]]] = {
    "a tap that is held open": (WIRING.with_parts(TAP), {TAP.name}),
    "a foreign member": (WIRING.with_parts(Tap(name="tap91d3aa02-41", master=NAMES.bridge)), set()),
}
REMEDIES = {
    "a tap that is held open": "stop the VM first",
    "a foreign member": "take it out first: ip link set tap91d3aa02-41 nomaster",
}


@pytest.mark.parametrize("case", RUNNING)
def test_unplug_of_running_vm_needs_force(case: str) -> None:
    state, carrier = RUNNING[case]
    host = GuardedHost(state)
    host.simulation.carrier = carrier
    with pytest.raises(PortRunning, match=f"; {REMEDIES[case]}, or force it$"):
        unplug(PORT.id, host)
    assert host.state == state
    assert unplug(PORT.id, host, force=True).ok
    assert not host.state.ports


@pytest.mark.parametrize(("state", "carrier"), RUNNING.values(), ids=RUNNING)
def test_plug_as_vhost_user_port_of_running_vm_is_refused(state: HostState, carrier: set[str]) -> None:
    bound = replace(PORT, vhostuser_mode="server")
    host = GuardedHost(state)
    host.simulation.carrier = carrier
    for refused in (plug, check):
        with pytest.raises(PortRunning, match="refused to plug it as a vhost-user port, since tap"):
            refused(bound, host)
    assert host.state == state
    assert unplug(PORT.id, host, force=True).ok
    assert plug(bound, host).ok


@pytest.mark.parametrize(("before", "after"), [("", "server"), ("server", ""), ("client", "")])
def test_rollback_of_isolated_plug_restores_row_in_dead_vlan(before: str, after: str) -> None:
    host = GuardedHost(desired_state(replace(PORT, vhostuser_mode=before)))
    port = replace(PORT, vhostuser_mode=after, isolate=True)
    host.fail(verb=Create, name=the(OvsPort, desired_state(port)).name)
    with pytest.raises(PlugFailed):
        plug(port, host)
    (back,) = (step.part for step in host.steps if isinstance(step, Create) and isinstance(step.part, OvsPort))
    assert isinstance(back, OvsPort)
    assert back.isolated


def test_vhost_user_port_with_other_socket_is_conflict() -> None:
    bound = replace(PORT, vhostuser_mode="server")
    wiring = desired_state(bound)
    elsewhere = replace(the(VhostUserPort, wiring), socket_as_configured=False)
    host = GuardedHost(HostState().with_parts(elsewhere))
    for refused in (plug, check):
        with pytest.raises(Conflict, match="a change would be ignored; set the option to its directory, or unplug"):
            refused(bound, host)
    assert host.state == HostState().with_parts(elsewhere)
    # Open vSwitch keeps the path only of an accepted port of the same type. A listening port has no path.
    listening = replace(elsewhere, type="dpdkvhostuser")
    for found in (listening, replace(elsewhere, realized=False)):
        assert plug(bound, GuardedHost(HostState().with_parts(found))).changed
    for found in (listening, elsewhere):
        assert plug(replace(bound, vhostuser_mode="client"), GuardedHost(HostState().with_parts(found))).changed
    assert unplug(PORT.id, host).changed


def test_tap_without_carrier_is_not_running_vm() -> None:
    assert unplug(PORT.id, GuardedHost(WIRING.with_parts(TAP))).ok


def test_unplug_running_option_forces_unplug() -> None:
    host = GuardedHost(WIRING.with_parts(TAP), settings=replace(RECORDING, unplug_running="force"))
    host.simulation.carrier = {TAP.name}
    assert unplug(PORT.id, host).ok


def test_port_of_running_vm_is_repaired() -> None:
    host = GuardedHost(WIRING.with_parts(TAP, replace(VETH, mtu=1400)))
    host.simulation.carrier = {TAP.name}
    assert plug(PORT, host).changed


def test_refusal_by_daemon_is_refused(host: GuardedHost) -> None:
    host.befall(1, raising(Refused("refused: not on this host")))
    with pytest.raises(Refused, match=r"^refused: not on this host$") as caught:
        plug(PORT, host)
    assert caught.value.report is not None
    assert (caught.value.report.status, caught.value.report.changed) == (Status.REFUSED, False)
    assert host.state == NOTHING


# Missing preconditions and lost responses.


@pytest.mark.parametrize("call", [0, 1], ids=["observing", "applying"])
def test_missing_precondition_is_reported_without_change(host: GuardedHost, call: int) -> None:
    host.befall(call, raising(PreconditionError("no OVSDB; start it")))
    with pytest.raises(NotReady, match=r"^no OVSDB; start it$") as caught:
        plug(PORT, host)
    assert isinstance(caught.value, PlugFailed)
    assert caught.value.report is not None
    assert (caught.value.report.status, caught.value.report.changed) == (Status.PRECONDITION, False)
    assert host.state == NOTHING


def test_unplug_with_missing_precondition_raises_not_ready() -> None:
    host = GuardedHost(WIRING)
    host.befall(0, raising(PreconditionError("no OVSDB; start it")))
    with pytest.raises(NotReady) as caught:
        unplug(PORT.id, host)
    assert isinstance(caught.value, UnplugFailed)


def test_lost_first_observation_changes_nothing(host: GuardedHost) -> None:
    host.befall(0, raising(NoResponse("the daemon died")))
    with pytest.raises(PlugFailed, match="the daemon died") as caught:
        plug(PORT, host)
    assert caught.value.report is not None
    assert (caught.value.report.code, caught.value.report.changed) == ("no-answer", False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestNotSent("the deadline had passed"), "no-answer"),
        (HybridVifError("the daemon failed: KeyError"), "error"),
    ],
)
def test_lost_request_is_not_reported_as_precondition(host: GuardedHost, error: HybridVifError, code: str) -> None:
    host.befall(1, raising(error))
    (report,) = plug_all([PORT], host)
    assert (report.status, report.code, report.changed) == (Status.ROLLED_BACK, code, False)
    plug(PORT, host)
    host.befall(len(host.calls) + 1, raising(error))
    (report,) = unplug_all([PORT.id], host)
    assert (report.status, report.code, report.changed) == (Status.INCOMPLETE, code, False)
    assert host.state == WIRING


def lost(outcomes: list[tuple[Outcome, ...]]) -> list[tuple[Outcome, ...]]:
    return [tuple(replace(outcome, result=Result.UNKNOWN, reason="lost") for outcome in plan) for plan in outcomes]


def test_lost_response_is_resolved_by_observation(host: GuardedHost) -> None:
    host.answer = lost
    report = plug(PORT, host)
    assert (report.status, report.changed) == (Status.DONE, True)


@pytest.mark.parametrize("done", range(1, 3))
def test_unresolved_lost_response_is_unknown_without_rollback(done: int) -> None:
    host = GuardedHost()
    host.answer = lost
    half = list(history(NOTHING, check(PORT, host)))[done]
    host.calls.clear()
    host.befall(2, lambda: setattr(host, "state", half))
    with pytest.raises(PlugFailed, match=r"^lost$") as caught:
        plug(PORT, host)
    assert caught.value.report is not None
    assert caught.value.report.status is Status.UNKNOWN
    assert host.state == half
    assert host.calls == ["observe", "apply"] + ["observe"] * (1 + len(VERIFY_DELAYS))


def test_change_after_lost_response_is_done(host: GuardedHost) -> None:
    host.answer = lost
    host.befall(2, lambda: setattr(host, "state", WIRING.without(ROW)))
    host.befall(3, lambda: setattr(host, "state", WIRING))
    assert plug(PORT, host).status is Status.DONE
    assert host.calls == ["observe", "apply", "observe", "observe"]


def test_verification_is_retried_after_lost_observation(host: GuardedHost) -> None:
    host.befall(2, raising(NoResponse("the daemon died")))
    host.befall(3, raising(PreconditionError("ovsdb-server is restarting")))
    assert plug(PORT, host).status is Status.DONE


def test_plug_without_verification_is_unknown(host: GuardedHost) -> None:
    for call in range(2, 3 + len(VERIFY_DELAYS)):
        host.befall(call, raising(NoResponse("the daemon died")))
    with pytest.raises(PlugFailed, match="could not be read back: the daemon died") as caught:
        plug(PORT, host)
    report = caught.value.report
    assert report is not None
    assert (report.status, report.changed) == (Status.UNKNOWN, True)
    assert {outcome.result for outcome in report.outcomes} == {Result.UNKNOWN}
    assert host.state == WIRING


def configured(outcomes: list[tuple[Outcome, ...]]) -> list[tuple[Outcome, ...]]:
    def not_acknowledged(outcome: Outcome) -> Outcome:
        result = Result.CONFIGURED if isinstance(outcome.step.part, OvsPort) else outcome.result
        return replace(outcome, result=result, reason="not acknowledged")

    return [tuple(map(not_acknowledged, plan)) for plan in outcomes]


def test_row_not_accepted_is_configured_without_rollback(host: GuardedHost) -> None:
    host.answer = configured
    host.befall(2, lambda: host.put(replace(ROW, realized=False)))
    with pytest.raises(PlugFailed, match="not acknowledged") as caught:
        plug(PORT, host)
    assert caught.value.report is not None
    assert (caught.value.report.status, caught.value.report.ok) == (Status.CONFIGURED, False)
    assert host.state == WIRING.with_parts(replace(ROW, realized=False))


def test_row_accepted_late_is_done(host: GuardedHost) -> None:
    host.answer = configured
    assert plug(PORT, host).status is Status.DONE


def test_failure_after_deadline_is_not_retried(host: GuardedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.fail(verb=Create, name=NAMES.switch_end, retry=True, reason="moved on")
    now = time.monotonic
    host.befall(1, lambda: monkeypatch.setattr(time, "monotonic", lambda: now() + 25))
    with pytest.raises(PlugFailed, match="moved on") as caught:
        plug(PORT, host)
    assert caught.value.report is not None
    assert (caught.value.report.retries, caught.value.report.status) == (0, Status.ROLLED_BACK)


def test_apply_leaves_time_for_verification_and_rollback(host: GuardedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts: dict[str, list[float]] = {"observe": [], "apply": []}

    def recording(name: str) -> Any:
        method = getattr(host, name)

        def record(argument: Any, deadline: float) -> Any:
            timeouts[name].append(round(deadline - time.monotonic()))
            return method(argument, deadline)

        return record

    for name in timeouts:
        monkeypatch.setattr(host, name, recording(name))
    host.fail(verb=Create, name=NAMES.switch_end)
    with pytest.raises(PlugFailed):
        plug(PORT, host)
    assert timeouts == {"observe": [30, 30, 30], "apply": [24, 24]}


def test_request_after_grace_period_is_not_sent() -> None:
    host = Host(RECORDING)
    past = time.monotonic() - GRACE_PERIOD
    with pytest.raises(RequestNotSent, match="the deadline had passed"):
        host.observe(set(NAMES), past)
    ((outcome,),) = host.apply([[Create(BRIDGE)]], past)
    assert (outcome.result, outcome.code) == (Result.FAILED, "no-answer")


@pytest.mark.parametrize("hung_from", range(9))
def test_bulk_call_on_hung_host_ends_by_deadlines_of_batches(hung_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a simulated clock, each request to a hung daemon lasts until its deadline and grace period."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    host = GuardedHost()
    ports = [numbered(number) for number in range(2 * PLUG_BATCH + 1)]
    for number in range(2, 40):
        host.fail(verb=Create, name=numbered(number).names.switch_end, reason="no")
    methods = {name: getattr(host, name) for name in ("observe", "apply")}

    def hang(name: str) -> Callable[[Any, float], Any]:
        def respond(argument: Any, deadline: float) -> Any:
            if len(host.calls) < hung_from:
                return methods[name](argument, deadline)
            host.calls.append(name)
            clock[0] = max(clock[0], deadline + GRACE_PERIOD)
            if name == "observe":
                raise NoResponse("it hangs")
            return [tuple(Outcome(step, Result.UNKNOWN, "it hangs") for step in plan) for plan in argument]

        return respond

    for name in methods:
        monkeypatch.setattr(host, name, hang(name))
    reports = plug_all(ports, host)
    assert clock[0] <= 1000 + (2 * PLUG_BATCH / PLUGS_PER_DEADLINE + 1) * host.settings.deadline + 0.25
    assert len(reports) == len(ports)
    assert all(report.ok or report.status in (Status.UNKNOWN, Status.ROLLED_BACK) for report in reports)


# Many ports.


@pytest.mark.parametrize("extra", [0, 1])
def test_large_batch_has_several_deadlines(host: GuardedHost, extra: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    seconds, observe = list[float](), host.observe

    def note(names: Collection[str] | None, deadline: float) -> Observed:
        seconds.append(deadline - 1000)
        return observe(names, deadline)

    monkeypatch.setattr(host, "observe", note)
    plug_all([numbered(number) for number in range(PLUGS_PER_DEADLINE + extra)], host)
    unplug_all([numbered(number).id for number in range(UNPLUGS_PER_DEADLINE + extra)], host)
    assert set(seconds) == {(1 + extra) * host.settings.deadline}


def test_reports_are_in_order_of_ports(host: GuardedHost) -> None:
    ports = [numbered(number) for number in (7, 3, 9, 1)]
    assert [report.port_id for report in plug_all(ports, host)] == [port.id for port in ports]
    assert host.calls == ["observe", "apply", "observe"]
    ids = [port.id for port in reversed(ports)]
    assert [report.port_id for report in unplug_all(iter(ids), host)] == ids
    assert host.state == NOTHING


def test_empty_call_returns_no_reports(host: GuardedHost) -> None:
    assert plug_all([], host) == unplug_all([], host) == []
    assert host.calls == []


def test_many_ports_are_split_into_batches(host: GuardedHost) -> None:
    ports = [numbered(number) for number in range(2 * PLUG_BATCH + 1)]
    reports = plug_all(ports, host)
    assert all(report.ok for report in reports)
    assert [report.port_id for report in reports] == [port.id for port in ports]
    assert host.calls == ["observe", "apply", "observe"] * 3


def test_progress_is_called_before_first_batch_and_after_each(host: GuardedHost) -> None:
    ports, calls = [numbered(number) for number in range(PLUG_BATCH + 1)], list[tuple[int, int]]()
    plug_all(ports, host, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(0, PLUG_BATCH + 1), (PLUG_BATCH, PLUG_BATCH + 1), (PLUG_BATCH + 1, PLUG_BATCH + 1)]
    calls.clear()
    unplug_all([port.id for port in ports[:3]], host, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(0, 3), (3, 3)]


def test_failed_ports_do_not_stop_the_others(host: GuardedHost) -> None:
    ports = [numbered(number) for number in range(8)]
    names = [port.names for port in ports]
    host.put(ForeignObject(name=names[1].bridge, what="a veth link"))
    host.put(*desired_state(ports[2]))
    host.put(replace(BRIDGE, name=names[3].bridge, alias=replace(ports[3], id=ports[3].id[:-1] + "f").id))
    host.fail(verb=Create, name=names[4].switch_end, reason="no")
    host.fail(verb=Create, name=names[5].bridge, reason="moved on", retry=True)
    ports[6] = replace(ports[6], bridge="br-imt")

    reports = plug_all(ports, host)

    assert [(report.status, report.code) for report in reports] == [
        (Status.DONE, ""),
        (Status.REFUSED, "conflict"),
        (Status.DONE, ""),
        (Status.REFUSED, "name-collision"),
        (Status.ROLLED_BACK, "failed"),
        (Status.DONE, ""),
        (Status.PRECONDITION, "bridge-missing"),
        (Status.DONE, ""),
    ]
    assert [report.retries for report in reports] == [0, 0, 0, 0, 0, 1, 0, 0]
    assert [report.changed for report in reports] == [True, False, False, False, True, True, False, True]
    for index in (0, 2, 5, 7):
        assert host.state.of(names[index]) == desired_state(ports[index])
    assert not host.state.of(names[4]).links


def test_batch_with_missing_precondition_does_not_stop_others(host: GuardedHost) -> None:
    ports = [numbered(number) for number in range(2 * PLUG_BATCH)]
    host.befall(3, raising(PreconditionError("no OVSDB; start it")))
    reports = plug_all(ports, host)
    assert [report.status for report in reports] == [Status.DONE] * PLUG_BATCH + [Status.PRECONDITION] * PLUG_BATCH


def test_duplicate_port_id_is_invalid_before_first_request(host: GuardedHost) -> None:
    calls: list[Callable[[], list[Report]]] = [
        lambda: plug_all([PORT, numbered(1), PORT], host),
        lambda: unplug_all([PORT.id, PORT.id], host),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match=f"{PORT.id} is there more than once"):
            call()
    assert host.calls == []


@pytest.mark.parametrize("port_id", ["", "x", "5F2C0E1A-7B00-4C00-8000-000000000001", "../all"])
def test_invalid_port_id_is_invalid_before_first_request(host: GuardedHost, port_id: str) -> None:
    with pytest.raises(InvalidInput):
        unplug_all([PORT.id, port_id], host)
    assert host.calls == []


@pytest.mark.parametrize("ports", [(PORT, TWIN), (TWIN, PORT)], ids=["one first", "the other first"])
def test_first_of_two_colliding_ports_in_call_is_plugged(ports: tuple[Port, Port]) -> None:
    """Other ports of the call are plugged."""
    host = GuardedHost()
    bystander = numbered(1)
    reports: list[Report] = plug_all([*ports, bystander], host)
    assert [report.code for report in reports] == ["", "name-collision", ""]
    assert host.state.of(NAMES) == desired_state(ports[0])

    reports = unplug_all([ports[1].id, bystander.id, ports[0].id], host)
    assert [report.code for report in reports] == ["name-collision", "", ""]
    assert host.state == NOTHING
