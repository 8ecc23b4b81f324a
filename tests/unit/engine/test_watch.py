"""The events of a host: differences of observations, the rest after an error, and what may be merged."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest

from hybridvif import Event, HybridVifError, PreconditionError, RecordingHost, Watch, unplug
from hybridvif.engine import watch as watching
from hybridvif.engine.any_host import HostClosed
from hybridvif.engine.watch import changes_between
from hybridvif.model.parts import ForeignObject, Tap
from hybridvif.model.state import Facts, HostState, LinkFact, Observed, PortFact
from tests.support.answers import ID, OTHER, OTHER_ID, PORT, QBR, QVB, QVO, TAP, plugged

BRIDGE: Any
VETH: Any
ROW: Any
BRIDGE, VETH, ROW = (plugged(PORT).state.links[QBR], plugged(PORT).state.links[QVB], plugged(PORT).state.ports[QVO])


def host_with(*parts: object, **facts: object) -> Observed:
    return Observed(HostState().with_parts(*parts), Facts(**facts))  # type: ignore[arg-type]


def event(name: str, kind: str, attribute: str | None, before: object, after: object) -> Event:
    return Event(name=name, kind=kind, attribute=attribute, before=before, after=after)


def tap_fact(*, carrier: bool) -> dict[str, LinkFact]:
    return {TAP: LinkFact(7, "tun", True, carrier)}


CASES: dict[str, tuple[Observed, Observed, list[Event]]] = {
    "nothing": (host_with(BRIDGE, ROW), host_with(BRIDGE, ROW), []),
    "attribute of a link": (
        host_with(BRIDGE),
        host_with(replace(BRIDGE, mtu=1400)),
        [event(QBR, "bridge", "mtu", 1450, 1400)],
    ),
    "attribute of a row": (
        host_with(ROW),
        host_with(replace(ROW, iface_id="x")),
        [event(QVO, "ovs-port", "iface_id", ID, "x")],
    ),
    "part comes": (host_with(), host_with(BRIDGE), [event(QBR, "bridge", None, "absent", "present")]),
    "part goes": (host_with(VETH), host_with(), [event(QVB, "veth", None, "present", "absent")]),
    "part of another kind": (
        host_with(BRIDGE),
        host_with(ForeignObject(name=QBR, what="a macvlan")),
        [event(QBR, "bridge", None, "present", "absent"), event(QBR, "stray", None, "absent", "present")],
    ),
    "tag of the agent": (
        host_with(ROW, ports={QVO: PortFact(3, "", None)}),
        host_with(ROW, ports={QVO: PortFact(3, "", 7)}),
        [event(QVO, "ovs-port", "tag", None, 7)],
    ),
    "port lost by ovs-vswitchd": (
        host_with(ports={QVO: PortFact(3, "", 7)}),
        host_with(ports={QVO: PortFact(-1, "no device", 7)}),
        [event(QVO, "ovs-port", "ofport", 3, -1), event(QVO, "ovs-port", "error", "", "no device")],
    ),
    "facts of a port that comes": (host_with(), host_with(ports={QVO: PortFact(3, "", 7)}), []),
    "VM starts": (
        host_with(links=tap_fact(carrier=False)),
        host_with(links=tap_fact(carrier=True)),
        [event(TAP, "tap", "carrier", False, True)],
    ),
    "VM ends with its tap": (
        host_with(Tap(name=TAP, master=QBR), links=tap_fact(carrier=True)),
        host_with(),
        [event(TAP, "tap", None, "present", "absent"), event(TAP, "tap", "carrier", True, False)],
    ),
    "qvo taken into another bridge": (
        host_with(links={QVO: LinkFact(1, "veth", True, True, "ovs-system")}),
        host_with(links={QVO: LinkFact(1, "veth", True, True, "br0")}),
        [event(QVO, "veth", "master", "ovs-system", "br0")],
    ),
    "facts of a link that goes": (host_with(links={QVO: LinkFact(1, "veth", True, True, "br0")}), host_with(), []),
    "tap without a VM": (host_with(), host_with(links=tap_fact(carrier=False)), []),
    "carrier of another device": (
        host_with(links={QBR: LinkFact(1, "bridge", True, False)}),
        host_with(links={QBR: LinkFact(1, "bridge", True, True)}),
        [],
    ),
}


@pytest.mark.parametrize(("before", "after", "events"), CASES.values(), ids=CASES)
def test_difference_of_two_observations(before: Observed, after: Observed, events: list[Event]) -> None:
    assert [*changes_between(before, after)] == events


def test_first_wait_reports_only_later_changes() -> None:
    host = plugged(PORT)
    watch = Watch(host)
    assert watch.wait(time.monotonic() + 0.02) == []
    host.state = host.state.with_parts(replace(BRIDGE, mtu=1400))
    assert watch.wait() == [event(QBR, "bridge", "mtu", 1450, 1400)]
    assert watch.observed.state.links[QBR] == replace(BRIDGE, mtu=1400)


def test_watch_of_named_ports_ignores_others() -> None:
    host = plugged(PORT, OTHER)
    watch = Watch(host, [ID])
    unplug(OTHER_ID, host)
    assert watch.wait(time.monotonic() + 0.02) == []
    unplug(ID, host)
    assert {found.key for found in watch.wait()} == {ID[:11]}


def test_change_during_the_rest_is_reported_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "REST", 0.2)
    host = plugged(PORT)
    watch = Watch(host)
    unplug(ID, host)
    assert len(watch.wait()) == 3
    host.state = host.state.with_parts(BRIDGE)
    started = time.monotonic()
    assert watch.wait(started + 0.05) == []
    assert watch.wait() == [event(QBR, "bridge", None, "absent", "present")]
    assert time.monotonic() - started > 0.15


class Failing(RecordingHost):
    """A host whose observations fail while it has an error."""

    error: HybridVifError | None = None
    on_failure: Callable[[], None] = staticmethod(lambda: None)

    def next_observation(
        self, names: Collection[str] | None, digest: str, deadline: float
    ) -> tuple[str, Observed] | None:
        if self.error:
            self.on_failure()
            raise self.error
        return super().next_observation(names, digest, deadline)


def test_failing_host_is_reported_once_and_no_change_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RETRY", 0.01)
    host, calls = Failing(plugged(PORT).state), list[int]()
    watch = Watch(host)
    host.error = PreconditionError("no OVSDB")
    host.on_failure = lambda: calls.append(1)
    assert watch.wait() == [event("", "host", "error", None, "no OVSDB")]
    assert watch.wait(time.monotonic() + 0.1) == []
    assert len(calls) > 2
    host.error, host.state = None, HostState().with_parts(VETH, ROW)
    assert watch.wait() == [
        event("", "host", "error", "no OVSDB", None),
        event(QBR, "bridge", None, "present", "absent"),
    ]


def test_host_without_changes_recovers_with_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RETRY", 0.01)
    monkeypatch.setattr(watching, "MAX_DEADLINE", 0.01)
    host = Failing(plugged(PORT).state)
    watch = Watch(host)
    host.error = HybridVifError("no answer")
    assert [found.after for found in watch.wait()] == ["no answer"]
    host.error = None
    assert watch.wait() == [event("", "host", "error", "no answer", None)]


def test_host_that_cannot_be_observed_at_first_is_an_error() -> None:
    host = Failing()
    host.error = PreconditionError("no OVSDB")
    with pytest.raises(PreconditionError, match="no OVSDB"):
        Watch(host)


def test_wait_on_closed_host_raises() -> None:
    """It was one event, and the next wait() did not end."""
    host = Failing()
    watch = Watch(host)
    host.error = HostClosed("this host is closed; connect() again")
    with pytest.raises(PreconditionError, match="closed"):
        watch.wait(time.monotonic() + 10)
