"""reconcile and gc on a host in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace

import pytest

from hybridvif import InvalidInput, Port, RecordingHost, gc, plug_all, reconcile, unplug_all
from hybridvif.client.host import NoResponse
from hybridvif.engine.host_wide import OLDER_THAN
from hybridvif.model.desired import desired_state
from hybridvif.model.facts import Observed
from hybridvif.model.parts import HostState, OvsPort, Tap
from hybridvif.model.report import Status
from hybridvif.model.settings import Settings
from hybridvif.model.steps import Delete
from tests.support.strategies import BRIDGE, NAMES, PORT, ROW, TAP, VETH, WIRING

FORCING = Settings(link_executor="recording", switch_executor="recording", unplug_running="force")
ADOPTED = [replace(BRIDGE, alias=""), replace(VETH, alias="", peer_alias=""), ROW]


def numbered(number: int) -> Port:
    return replace(PORT, id=f"{number:08x}-7b00-4c00-8000-000000000001")


PORTS = [numbered(number) for number in range(1, 6)]


@pytest.fixture
def host() -> RecordingHost:
    host = RecordingHost()
    plug_all(PORTS, host)
    host.steps.clear()
    return host


def with_vm(host: RecordingHost, port: Port) -> None:
    host.state = host.state.with_parts(Tap(name=port.names.tap, master=port.names.bridge))
    host.simulation.carrier.add(port.names.tap)


def rebooted(host: RecordingHost) -> None:
    rows = [replace(row, realized=False) for row in host.state.ports.values() if isinstance(row, OvsPort)]
    host.state = HostState().with_parts(*rows)


# reconcile


def test_a_rebooted_host_is_brought_in_order_at_once(host: RecordingHost) -> None:
    rebooted(host)
    done = reconcile(PORTS, host)
    assert [(report.port_id, report.status) for report in done.plugged] == [(port.id, Status.DONE) for port in PORTS]
    assert (done.pruned, done.dry_run) == ((), False)
    for port in PORTS:
        assert host.state.of(port.names) == desired_state(port)


def test_a_host_in_order_is_not_written_to(host: RecordingHost) -> None:
    done = reconcile(PORTS, host, prune=True)
    assert not any(report.changed for report in done.reports)
    assert host.steps == []


def test_without_prune_the_others_are_left(host: RecordingHost) -> None:
    reconcile(PORTS[:1], host)
    assert host.steps == []


def test_with_prune_what_is_ours_and_not_asked_for_is_unplugged_and_reported(host: RecordingHost) -> None:
    done = reconcile(PORTS[:3], host, prune=True)
    assert [(report.port_id, report.status) for report in done.pruned] == [(one.id, Status.DONE) for one in PORTS[3:]]
    assert {part.name for part in host.state} == {name for port in PORTS[:3] for name in list(port.names)[:3]}


@pytest.mark.parametrize(
    "settings", [FORCING, replace(FORCING, unplug_running="refuse")], ids=lambda one: one.unplug_running
)
@pytest.mark.parametrize("master", [True, False], ids=["in its bridge", "apart"])
def test_a_running_vm_is_never_pruned_whatever_the_configuration_says(settings: Settings, master: bool) -> None:
    host = RecordingHost(settings=settings)
    plug_all(PORTS[:2], host)
    with_vm(host, PORTS[1])
    if not master:
        host.state = host.state.with_parts(Tap(name=PORTS[1].names.tap, master=""))
    before = host.state
    done = reconcile(PORTS[:1], host, prune=True)
    (report,) = done.pruned
    assert (report.status, report.code) == (Status.REFUSED, "port-running")
    assert host.state == before


def test_what_another_tool_plugged_is_never_pruned(host: RecordingHost) -> None:
    host.state = host.state.with_parts(*ADOPTED)
    done = reconcile(PORTS, host, prune=True)
    assert done.pruned == ()
    assert host.state.of(NAMES) == HostState().with_parts(*ADOPTED)


def test_one_port_that_cannot_be_plugged_costs_the_others_nothing(host: RecordingHost) -> None:
    rebooted(host)
    wanted = [replace(PORTS[0], bridge="br-imt"), *PORTS[1:4]]
    done = reconcile(wanted, host, prune=True)
    assert [report.status for report in done.plugged] == [Status.PRECONDITION] + [Status.DONE] * 3
    # After a reboot nothing but an interface id tells whose a row is, so none is pruned.
    assert done.pruned == ()


def test_a_dry_run_says_what_would_be_and_writes_nothing(host: RecordingHost) -> None:
    host.state = host.state.without(host.state.links[PORTS[0].names.bridge_end])
    before = host.state
    rehearsed = reconcile(PORTS[:4], host, prune=True, dry_run=True)
    assert (host.state, host.steps, rehearsed.dry_run) == (before, [], True)
    done = reconcile(PORTS[:4], host, prune=True)
    assert [one.outcomes for one in rehearsed.reports] == [
        tuple(replace(outcome, simulated=False) for outcome in one.outcomes) for one in done.reports
    ]


def test_two_ports_of_one_id_are_told_before_anything_is_done(host: RecordingHost) -> None:
    with pytest.raises(InvalidInput):
        reconcile([PORTS[0], PORTS[0]], host, prune=True)
    assert host.steps == []


# gc


def test_a_remain_is_first_noted_and_later_removed(host: RecordingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.state = host.state.with_parts(*WIRING.without(ROW))
    (first,) = gc(host)
    assert (first.remain.port_id, first.due, first.report) == (PORT.id, False, None)
    assert host.steps == []

    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + OLDER_THAN)
    (second,) = gc(host)
    assert second.due
    assert second.seconds >= OLDER_THAN
    assert second.report is not None
    assert second.report.status is Status.DONE
    assert {step.part.name for step in host.steps} == {NAMES.bridge, NAMES.bridge_end}
    assert not host.state.of(NAMES).links
    assert gc(host) == []


def test_a_remain_that_was_plugged_again_in_between_is_noted_anew(
    host: RecordingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.state = WIRING.without(ROW)
    gc(host)
    host.state = WIRING
    assert gc(host) == []
    host.state = WIRING.without(ROW)
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + OLDER_THAN)
    (found,) = gc(host)
    assert not found.due
    assert host.steps == []


def test_a_dry_run_notes_and_removes_nothing(host: RecordingHost) -> None:
    host.state = WIRING.without(VETH)
    (found,) = gc(host, older_than=0, dry_run=True)
    assert (found.due, found.report, host.state) == (True, None, WIRING.without(VETH))
    assert gc(host, dry_run=True)[0].seconds > 0


def test_a_row_without_devices_that_bears_no_mark_is_taken_only_when_asked_for(host: RecordingHost) -> None:
    rebooted(host)
    assert gc(host, older_than=0) == []
    assert len(gc(host, older_than=0, unmarked=True, dry_run=True)) == len(PORTS)
    keyed = replace(ROW, iface_id=PORTS[0].instance_id, port_id=PORT.id, realized=False)
    host.state = host.state.with_parts(keyed)
    (found,) = gc(host, older_than=0)
    assert found.remain.port_id == PORT.id
    assert len(host.state.ports) == len(PORTS)
    assert all(one.report and one.report.ok for one in gc(host, older_than=0, unmarked=True))
    assert host.state == HostState()


class Meanwhile(RecordingHost):
    """Something befalls the host after the first look, before the locks are held."""

    happens: Callable[[], None] = staticmethod(lambda: None)

    def seconds_since_first_seen(self, signs: Collection[str], deadline: float) -> dict[str, float]:
        found = super().seconds_since_first_seen(signs, deadline)
        self.happens()
        return found


def befalling(state: HostState, carrier: bool = False) -> Meanwhile:
    host = Meanwhile(WIRING.without(ROW))

    def happen() -> None:
        host.state = state
        host.simulation.carrier = {NAMES.tap} if carrier else set()

    host.happens = happen
    return host


MEANWHILE = {
    "it was plugged": befalling(WIRING),
    "a VM came": befalling(WIRING.without(ROW).with_parts(TAP), carrier=True),
    "it was unplugged": befalling(HostState()),
    "more of it went": befalling(WIRING.without(ROW).without(VETH)),
}


@pytest.mark.parametrize("host", MEANWHILE.values(), ids=MEANWHILE)
def test_what_is_no_remain_any_more_under_the_lock_is_left(host: Meanwhile) -> None:
    assert gc(host, older_than=0) == []
    assert host.steps == []


def test_a_removal_is_gone_on_with_though_half_of_it_looks_like_something_else() -> None:
    host = RecordingHost(HostState().with_parts(BRIDGE, ROW))
    host.fail(verb=Delete, name=NAMES.switch_end, retry=True)
    (found,) = gc(host, older_than=0)
    assert found.report is not None
    assert (found.report.status, found.report.retries) == (Status.DONE, 1)
    assert host.state == HostState()


def test_a_removal_that_fails_says_what_is_left() -> None:
    host = RecordingHost(WIRING.without(ROW))
    host.fail(verb=Delete, name=NAMES.bridge, reason="busy")
    (found,) = gc(host, older_than=0)
    assert found.report is not None
    assert (found.report.status, found.report.leftovers) == (Status.INCOMPLETE, (NAMES.bridge,))


def test_a_host_that_does_not_answer_is_told_before_anything_is_done() -> None:
    class Silent(RecordingHost):
        def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
            raise NoResponse("it hangs")

    for call in (lambda: gc(Silent()), lambda: reconcile([PORT], Silent(), prune=True)):
        with pytest.raises(NoResponse):
            call()


def test_a_vhost_user_port_is_never_pruned_since_nothing_tells_of_its_vm(host: RecordingHost) -> None:
    kept = replace(numbered(9), vhostuser_mode="server", interface_id=PORT.id)
    plug_all([kept], host)
    done = reconcile(PORTS, host, prune=True)
    (refused,) = done.pruned
    assert (refused.port_id, refused.status, refused.code) == (kept.id, Status.REFUSED, "port-running")
    assert f"{kept.names.vhost_user} does not tell whether a VM runs on it" in refused.reason
    (unplugged,) = unplug_all([kept.id], host)
    assert unplugged.changed
    assert kept.names.vhost_user not in host.state.ports
