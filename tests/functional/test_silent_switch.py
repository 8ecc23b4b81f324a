"""Open vSwitch hangs or dies: every call returns by its deadline with a true report, and the next one converges."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from hybridvif import PlugFailed, Port, Report, Status, check, plug, unplug
from hybridvif.client.host import Host
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import EXECUTORS, Lab, make_port, until

pytestmark = pytest.mark.alone

DEADLINE = 3.0


@pytest.fixture(scope="module")
def hasty(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host with a short deadline."""
    with connected(sandbox, tmp_path_factory.mktemp("hasty"), deadline=DEADLINE, **EXECUTORS) as host:
        # The first call of a process starts the daemon, whose start is not measured here.
        host.observe(set(), time.monotonic() + 30)
        yield host


@pytest.fixture
def lab(sandbox: Sandbox, hasty: Host) -> Iterator[Lab]:
    """An empty host, whose Open vSwitch runs again after the test."""
    lab = Lab(sandbox, hasty)
    yield lab
    for name in ("ovsdb-server", "ovs-vswitchd"):
        try:
            sandbox.resume(name)
        except Exception:  # noqa: BLE001  # it was killed
            sandbox.start(name)
    lab.sweep()


def failed(lab: Lab, port: Port) -> Report:
    """Return the report of a plug that fails in time."""
    begun = time.monotonic()
    with pytest.raises(PlugFailed) as caught:
        plug(port, lab.host)
    assert time.monotonic() - begun < DEADLINE + 0.5
    report = caught.value.report
    assert report is not None
    return report


def test_row_not_accepted_by_hung_vswitchd_is_configured_then_accepted(lab: Lab, port: Port) -> None:
    lab.box.pause("ovs-vswitchd")

    report = failed(lab, port)

    assert report.status is Status.CONFIGURED
    assert report.status.exit_code == 65
    assert "ovs-vswitchd" in report.reason
    assert lab.link(port.names.bridge_end)
    lab.box.resume("ovs-vswitchd")
    assert until(lambda: check(port, lab.host) == ())


def test_so_it_is_where_vswitchd_is_dead(lab: Lab, port: Port) -> None:
    plug(port, lab.host)
    lab.box.kill("ovs-vswitchd")
    other = make_port(2)

    assert failed(lab, other).status is Status.CONFIGURED
    assert failed(lab, port).status is Status.CONFIGURED

    lab.box.start("ovs-vswitchd")
    for checked in (port, other):
        assert until(lambda checked=checked: check(checked, lab.host) == ())  # type: ignore[misc]


def test_a_device_made_anew_while_vswitchd_hung_is_mended_by_the_next_plug(lab: Lab) -> None:
    ports = [make_port(1), make_port(2)]
    for port in ports:
        plug(port, lab.host)
    lab.box.pause("ovs-vswitchd")
    lab.sh(f"ip link delete {ports[0].names.bridge_end}")
    assert failed(lab, ports[0]).status is Status.CONFIGURED
    lab.box.resume("ovs-vswitchd")

    with lab.vm(ports[0], 1) as vm, lab.vm(ports[1], 2):
        # ovs-vswitchd saw the placeholder set and cleared at once, which is no change.
        assert until(lambda: plug(ports[0], lab.host).ok)
        assert check(ports[0], lab.host) == ()
        assert vm.ping("10.0.0.2").returncode == 0


def test_an_unplug_needs_no_vswitchd(lab: Lab, port: Port) -> None:
    before = lab.snapshot()
    plug(port, lab.host)
    lab.box.pause("ovs-vswitchd")

    assert unplug(port.id, lab.host).ok

    lab.box.resume("ovs-vswitchd")
    assert until(lambda: lab.snapshot() == before)


def test_a_server_that_hung_before_it_was_asked_has_no_ghost(lab: Lab, port: Port) -> None:
    plug(make_port(2), lab.host)
    before = lab.snapshot()
    lab.box.pause("ovsdb-server")

    report = failed(lab, port)

    assert report.status is Status.ROLLED_BACK
    assert not report.changed
    assert "does not answer" in report.reason
    lab.box.resume("ovsdb-server")
    time.sleep(1)
    assert lab.snapshot() == before
    assert plug(port, lab.host).ok


def test_a_server_that_restarted_is_met_again(lab: Lab, port: Port) -> None:
    plug(port, lab.host)
    lab.box.restart("ovsdb-server")
    assert check(port, lab.host) == ()
    assert until(lambda: plug(make_port(2), lab.host).ok)
