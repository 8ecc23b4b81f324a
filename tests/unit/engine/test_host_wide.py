"""reconcile and gc on a host in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest

from hybridvif import InvalidInput, Port, RecordingHost, gc, plug_all, reconcile, unplug_all
from hybridvif.client.host import NoResponse
from hybridvif.engine.host_wide import OLDER_THAN
from hybridvif.model.parts import OvsPort, Tap
from hybridvif.model.port import desired_state
from hybridvif.model.report import Status
from hybridvif.model.settings import Settings
from hybridvif.model.state import Delete, HostState, Observed
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


def test_reconcile_after_reboot_plugs_all_ports(host: RecordingHost) -> None:
    rebooted(host)
    done = reconcile(PORTS, host)
    assert [(report.port_id, report.status) for report in done.plugged] == [(port.id, Status.DONE) for port in PORTS]
    assert (done.pruned, done.dry_run) == ((), False)
    for port in PORTS:
        assert host.state.of(port.names) == desired_state(port)


def test_reconcile_of_host_in_sync_writes_nothing(host: RecordingHost) -> None:
    done = reconcile(PORTS, host, prune=True)
    assert not any(report.changed for report in done.reports)
    assert host.steps == []


def test_reconcile_without_prune_keeps_other_ports(host: RecordingHost) -> None:
    reconcile(PORTS[:1], host)
    assert host.steps == []


def test_reconcile_with_prune_unplugs_other_tagged_ports(host: RecordingHost) -> None:
    done = reconcile(PORTS[:3], host, prune=True)
    assert [(report.port_id, report.status) for report in done.pruned] == [(port.id, Status.DONE) for port in PORTS[3:]]
    assert {part.name for part in host.state} == {name for port in PORTS[:3] for name in list(port.names)[:3]}


def test_prune_spares_kept_ports(host: RecordingHost) -> None:
    done = reconcile(PORTS[:2], host, prune=True, keep=[PORTS[2].id])
    assert [report.port_id for report in done.pruned] == [port.id for port in PORTS[3:]]
    assert [report.port_id for report in reconcile([], host, prune=True).pruned] == [port.id for port in PORTS[:3]]


@pytest.mark.parametrize(
    "keep",
    [[PORTS[2].id.upper()], [PORTS[2].id.replace("-", "")], [PORTS[2]], PORTS[2].id],
    ids=["upper case", "no hyphens", "a port", "a text"],
)
def test_prune_with_invalid_kept_id_unplugs_nothing(host: RecordingHost, keep: Any) -> None:
    before = host.state
    with pytest.raises(InvalidInput, match="port id"):
        reconcile([], host, prune=True, keep=keep)
    assert host.state == before


@pytest.mark.parametrize(
    "settings", [FORCING, replace(FORCING, unplug_running="refuse")], ids=lambda settings: settings.unplug_running
)
@pytest.mark.parametrize("master", [True, False], ids=["in its bridge", "apart"])
def test_prune_never_unplugs_running_vm(settings: Settings, master: bool) -> None:
    host = RecordingHost(settings=settings)
    plug_all(PORTS[:2], host)
    with_vm(host, PORTS[1])
    if not master:
        host.state = host.state.with_parts(Tap(name=PORTS[1].names.tap, master=""))
    before = host.state
    done = reconcile(PORTS[:1], host, prune=True)
    (report,) = done.pruned
    assert (report.status, report.code) == (Status.REFUSED, "port-running")
    # reconcile has no force.
    forced = f"force its unplug: hybridvif unplug {PORTS[1].id} --force"
    assert report.reason.endswith(f"; stop the VM first, or {forced}")
    assert host.state == before


def test_prune_keeps_ports_of_other_tools(host: RecordingHost) -> None:
    host.state = host.state.with_parts(*ADOPTED)
    done = reconcile(PORTS, host, prune=True)
    assert done.pruned == ()
    assert host.state.of(NAMES) == HostState().with_parts(*ADOPTED)


def test_failed_port_of_reconcile_does_not_stop_others(host: RecordingHost) -> None:
    rebooted(host)
    wanted = [replace(PORTS[0], bridge="br-imt"), *PORTS[1:4]]
    done = reconcile(wanted, host, prune=True)
    assert [report.status for report in done.plugged] == [Status.PRECONDITION] + [Status.DONE] * 3
    # After a reboot, the rows have no devices with an ownership tag, so none is pruned.
    assert done.pruned == ()


def test_reconcile_dry_run_reports_same_outcomes_without_write(host: RecordingHost) -> None:
    host.state = host.state.without(host.state.links[PORTS[0].names.bridge_end])
    before = host.state
    dry_run = reconcile(PORTS[:4], host, prune=True, dry_run=True)
    assert (host.state, host.steps, dry_run.dry_run) == (before, [], True)
    done = reconcile(PORTS[:4], host, prune=True)
    assert [report.outcomes for report in dry_run.reports] == [
        tuple(replace(outcome, simulated=False) for outcome in report.outcomes) for report in done.reports
    ]


def test_duplicate_port_id_is_invalid_before_first_request(host: RecordingHost) -> None:
    with pytest.raises(InvalidInput):
        reconcile([PORTS[0], PORTS[0]], host, prune=True)
    assert host.steps == []


# gc


def test_gc_removes_orphan_after_its_age(host: RecordingHost, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_gc_resets_age_of_orphan_plugged_in_between(host: RecordingHost, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_gc_dry_run_stores_time_without_removal(host: RecordingHost) -> None:
    host.state = WIRING.without(VETH)
    (found,) = gc(host, older_than=0, dry_run=True)
    assert (found.due, found.report, host.state) == (True, None, WIRING.without(VETH))
    assert gc(host, dry_run=True)[0].seconds > 0


def test_gc_removes_row_without_tag_only_if_unmarked(host: RecordingHost) -> None:
    rebooted(host)
    assert gc(host, older_than=0) == []
    assert len(gc(host, older_than=0, unmarked=True, dry_run=True)) == len(PORTS)
    keyed = replace(ROW, iface_id=PORTS[0].instance_id, port_id=PORT.id, realized=False)
    host.state = host.state.with_parts(keyed)
    (found,) = gc(host, older_than=0)
    assert found.remain.port_id == PORT.id
    assert len(host.state.ports) == len(PORTS)
    assert all(orphan.report and orphan.report.ok for orphan in gc(host, older_than=0, unmarked=True))
    assert host.state == HostState()


class ChangingHost(RecordingHost):
    """A host that changes after the first observation, before the locks are held."""

    change: Callable[[], None] = staticmethod(lambda: None)

    def seconds_since_first_seen(self, signs: Collection[str], deadline: float) -> dict[str, float]:
        found = super().seconds_since_first_seen(signs, deadline)
        self.change()
        return found


def changing_to(state: HostState, carrier: bool = False) -> ChangingHost:
    host = ChangingHost(WIRING.without(ROW))

    def change() -> None:
        host.state = state
        host.simulation.carrier = {NAMES.tap} if carrier else set()

    host.change = change
    return host


CHANGES = {
    "it was plugged": changing_to(WIRING),
    "a VM came": changing_to(WIRING.without(ROW).with_parts(TAP), carrier=True),
    "it was unplugged": changing_to(HostState()),
    "more of it went": changing_to(WIRING.without(ROW).without(VETH)),
}


@pytest.mark.parametrize("host", CHANGES.values(), ids=CHANGES)
def test_gc_keeps_orphan_in_use_under_lock(host: ChangingHost) -> None:
    assert gc(host, older_than=0) == []
    assert host.steps == []


def test_gc_retries_half_removed_orphan() -> None:
    host = RecordingHost(HostState().with_parts(BRIDGE, ROW))
    host.fail(verb=Delete, name=NAMES.switch_end, retry=True)
    (found,) = gc(host, older_than=0)
    assert found.report is not None
    assert (found.report.status, found.report.retries) == (Status.DONE, 1)
    assert host.state == HostState()


def test_failed_removal_names_leftovers() -> None:
    host = RecordingHost(WIRING.without(ROW))
    host.fail(verb=Delete, name=NAMES.bridge, reason="busy")
    (found,) = gc(host, older_than=0)
    assert found.report is not None
    assert (found.report.status, found.report.leftovers) == (Status.INCOMPLETE, (NAMES.bridge,))


def test_hung_host_raises_before_first_write() -> None:
    class Silent(RecordingHost):
        def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
            raise NoResponse("it hangs")

    for call in (lambda: gc(Silent()), lambda: reconcile([PORT], Silent(), prune=True)):
        with pytest.raises(NoResponse):
            call()


def test_prune_keeps_vhost_user_port_with_unknown_use(host: RecordingHost) -> None:
    kept = replace(numbered(9), vhostuser_mode="server", interface_id=PORT.id)
    plug_all([kept], host)
    done = reconcile(PORTS, host, prune=True)
    (refused,) = done.pruned
    assert (refused.port_id, refused.status, refused.code) == (kept.id, Status.REFUSED, "port-running")
    assert f"{kept.names.vhost_user} does not show whether a VM runs on it" in refused.reason
    (unplugged,) = unplug_all([kept.id], host)
    assert unplugged.changed
    assert kept.names.vhost_user not in host.state.ports
