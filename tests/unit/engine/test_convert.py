"""convert(): goals, preconditions, filters, rollback and the calls of others afterwards, on a simulated host."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace

import pytest

from hybridvif import (
    Conflict,
    InvalidInput,
    NotReady,
    Port,
    PortRunning,
    RecordingHost,
    Refused,
    Unfiltered,
    convert,
    convert_all,
    gc,
    plug,
    reconcile,
    unplug,
)
from hybridvif.engine.converge import CONVERSION_BATCH, RUNS_NATIVELY
from hybridvif.engine.convert import ports_to_convert
from hybridvif.model.errors import PlugFailed
from hybridvif.model.parts import Tap
from hybridvif.model.port import VifType
from hybridvif.model.report import Status
from hybridvif.model.settings import Settings
from hybridvif.model.state import Create, Delete, HostState, Replace, Step, Update
from tests.support.strategies import NAMES, NATIVE, PORT, ROW, TAP, VHOST_USER, WIRING

OTHER = "5f2c0e1a-7b00-4c00-8000-00000000000f"
RUNNING = WIRING.with_parts(TAP)
CONVERTED = HostState().with_parts(NATIVE, replace(TAP, master=""))


def host_with(state: HostState = RUNNING, **settings: object) -> RecordingHost:
    """Return a host whose VM runs."""
    host = RecordingHost(state, settings=Settings(link_executor="recording", switch_executor="recording", **settings))  # type: ignore[arg-type]
    host.carrier = {NAMES.tap}
    return host


def test_running_port_is_converted_and_back() -> None:
    host = host_with()
    report = convert(PORT.id, host)
    assert (report.ok, report.changed, host.state) == (True, True, CONVERTED)
    assert convert(PORT.id, host, "hybrid").ok
    assert host.state == RUNNING


@pytest.mark.parametrize(("state", "to"), [(CONVERTED, "native"), (RUNNING, "hybrid")])
def test_converted_port_is_not_written_again(state: HostState, to: str) -> None:
    host = host_with(state)
    host.is_filtered = False
    report = convert(PORT.id, host, to)
    assert (report.ok, report.changed, host.steps) == (True, False, [])


@pytest.mark.parametrize(
    ("verb", "name"),
    [(Update, NAMES.switch_end), (Update, NAMES.tap), (Replace, None), (Delete, NAMES.bridge_end), (Delete, "qbr")],
)
@pytest.mark.parametrize("retry", [False, True])
def test_failure_on_the_way_to_native_is_rolled_back(verb: type[Step], name: str | None, retry: bool) -> None:
    host = host_with()
    for _ in range(4 if retry else 1):
        host.fail(verb=verb, name=NAMES.bridge if name == "qbr" else name, retry=retry)
    with pytest.raises(PlugFailed) as failed:
        convert(PORT.id, host)
    assert failed.value.report is not None
    assert failed.value.report.status is Status.ROLLED_BACK
    assert host.state == RUNNING


@pytest.mark.parametrize(
    ("verb", "name"), [(Create, NAMES.bridge), (Create, NAMES.bridge_end), (Replace, None), (Update, NAMES.tap)]
)
def test_failure_on_the_way_back_is_rolled_back(verb: type[Step], name: str | None) -> None:
    host = host_with(CONVERTED)
    host.fail(verb=verb, name=name)
    with pytest.raises(PlugFailed) as failed:
        convert(PORT.id, host, "hybrid")
    assert failed.value.report is not None
    assert failed.value.report.status is Status.ROLLED_BACK
    assert host.state == CONVERTED


def test_transient_failure_is_retried() -> None:
    host = host_with()
    host.fail(verb=Replace, retry=True)
    report = convert(PORT.id, host)
    assert (report.ok, report.retries, host.state) == (True, 1, CONVERTED)


# Preconditions.


@pytest.mark.parametrize(("state", "to"), [(RUNNING, "native"), (CONVERTED, "hybrid")])
def test_port_without_a_filter_is_refused(state: HostState, to: str) -> None:
    host = host_with(state)
    host.is_filtered = False
    with pytest.raises(Unfiltered, match="use --unfiltered"):
        convert(PORT.id, host, to)
    assert (host.state, host.steps) == (state, [])
    assert convert(PORT.id, host, to, unfiltered=True).changed


def test_port_returns_if_its_own_bridge_calls_iptables() -> None:
    host = host_with(CONVERTED, call_iptables=True)
    host.is_filtered = False
    assert convert(PORT.id, host, "hybrid").ok


class SlowHost(RecordingHost):
    """A host whose port changes after the first observation."""

    def locked(self, keys: Collection[str], deadline: float):  # type: ignore[no-untyped-def]
        self.state = self.state.with_parts(replace(ROW, vm_uuid=PORT.id))
        return super().locked(keys, deadline)


def test_port_that_changed_before_the_lock_is_refused() -> None:
    host = SlowHost(RUNNING)
    host.carrier = {NAMES.tap}
    with pytest.raises(Conflict, match="has changed since it was observed"):
        convert(PORT.id, host)
    assert host.steps == []


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (HostState(), "is no hybrid port"),
        (HostState().with_parts(VHOST_USER), "is no hybrid port"),
        (WIRING, "no VM runs on it"),
        (RUNNING.with_parts(replace(ROW, realized=False)), "plug the port first"),
        (RUNNING.with_parts(replace(ROW, iface_id=OTHER)), "does not bear its id; plug the port first"),
        (HostState().with_parts(replace(ROW, iface_id=OTHER), TAP), "shares its first 11 characters"),
    ],
)
def test_port_that_cannot_be_converted_is_refused(state: HostState, reason: str) -> None:
    host = host_with(state)
    with pytest.raises(Refused, match=reason):
        convert(PORT.id, host)
    assert host.steps == []


def test_port_of_another_switch_is_refused() -> None:
    host = RecordingHost()
    plug(replace(PORT, vif_type=VifType.IVS), host)
    with pytest.raises(Refused, match="is no hybrid port"):
        convert(PORT.id, host)


def test_foreign_member_of_the_bridge_is_not_cut_off() -> None:
    host = host_with(RUNNING.with_parts(Tap(name="tap91d3aa02-41", master=NAMES.bridge)))
    with pytest.raises(Conflict, match="tap91d3aa02-41 in qbr5f2c0e1a-7b is not ours"):
        convert(PORT.id, host)
    assert host.steps == []


def test_native_row_without_a_mac_cannot_return() -> None:
    with pytest.raises(Refused, match="mac '' is not a unicast MAC address"):
        convert(PORT.id, host_with(CONVERTED.with_parts(replace(NATIVE, attached_mac=""))), "hybrid")


def test_unknown_target_and_duplicate_port_are_invalid() -> None:
    with pytest.raises(InvalidInput, match="use one of native, hybrid"):
        convert(PORT.id, host_with(), "macvtap")
    with pytest.raises(InvalidInput, match="more than once"):
        convert_all([PORT.id, PORT.id], host_with())
    assert convert_all([], host_with()) == []


def test_host_without_openflow_is_a_missing_precondition() -> None:
    class Closed(RecordingHost):
        def filtered_ofports(self, bridge: str, deadline: float) -> Collection[int]:
            raise NotReady("the flows cannot be read")

    host = Closed(RUNNING)
    host.carrier = {NAMES.tap}
    with pytest.raises(NotReady):
        convert(PORT.id, host)
    assert host.steps == []


# Many ports.


def test_failed_port_does_not_stop_the_others() -> None:
    host = RecordingHost()
    ports = [numbered(number) for number in range(CONVERSION_BATCH + 5)]
    for port in ports:
        plug(port, host)
        host.state = host.state.with_parts(Tap(name=port.names.tap, master=port.names.bridge))
    host.carrier = {port.names.tap for port in ports}
    assert ports_to_convert(host.observe(None, time.monotonic()), "native") == [port.id for port in ports]
    host.fail(verb=Replace, name=ports[3].names.tap)
    calls: list[tuple[int, int]] = []
    reports = convert_all([port.id for port in ports], host, progress=lambda *call: calls.append(call))
    assert [report.ok for report in reports] == [number != 3 for number in range(len(ports))]
    assert calls == [(0, len(ports)), (CONVERSION_BATCH, len(ports)), (len(ports), len(ports))]
    observed = host.observe(None, time.monotonic())
    assert ports_to_convert(observed, "native") == [ports[3].id]
    assert len(ports_to_convert(observed, "hybrid")) == len(ports) - 1


def numbered(number: int) -> Port:
    return replace(PORT, id=f"{number:08x}-7b00-4c00-8000-000000000001")


# The calls of others after a conversion.


def test_plug_leaves_a_converted_port_of_a_running_vm_and_says_so() -> None:
    host = host_with(CONVERTED)
    report = plug(PORT, host)
    assert (report.ok, report.changed, report.code, host.steps) == (True, False, RUNS_NATIVELY, [])
    assert "stays plugged natively" in report.reason
    assert reconcile([PORT], host, prune=True).plugged[0].code == RUNS_NATIVELY
    assert host.state == CONVERTED


def test_plug_repairs_the_ids_of_a_converted_port() -> None:
    host = host_with(CONVERTED.with_parts(replace(NATIVE, vm_uuid="")))
    report = plug(PORT, host)
    assert (report.ok, report.changed, host.state) == (True, True, CONVERTED)


def test_plug_replaces_a_converted_port_without_a_vm() -> None:
    host = RecordingHost(HostState().with_parts(replace(NATIVE, realized=False)))
    report = plug(PORT, host)
    assert (report.code, host.state) == ("", WIRING)


def test_unplug_spares_a_running_vm_and_leaves_no_row() -> None:
    host = host_with(CONVERTED)
    with pytest.raises(PortRunning, match="has carrier, so a VM runs on it"):
        unplug(PORT.id, host)
    host.carrier = set()
    host.state = HostState().with_parts(NATIVE)
    assert unplug(PORT.id, host).changed
    assert host.state == HostState()


def test_unplug_spares_a_vm_in_an_interrupted_conversion() -> None:
    host = host_with(RUNNING.with_parts(replace(ROW, converting="yes"), replace(TAP, master="")))
    with pytest.raises(PortRunning):
        unplug(PORT.id, host)
    assert plug(PORT, host).ok
    assert host.state == RUNNING


def test_vhost_user_plug_does_not_cut_off_a_converted_vm() -> None:
    with pytest.raises(PortRunning):
        plug(replace(PORT, vhostuser_mode="server"), host_with(CONVERTED))


def test_gc_deletes_a_converted_row_only_without_its_tap() -> None:
    host = host_with(CONVERTED)
    assert gc(host, older_than=0) == []
    host.state = HostState().with_parts(NATIVE)
    (collected,) = gc(host, older_than=0)
    assert collected.report is not None
    assert collected.report.ok
    assert host.state == HostState()
