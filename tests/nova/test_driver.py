"""nova.virt.libvirt.vif.LibvirtGenericVIFDriver through the drop-in, with native threads and eventlet."""

from __future__ import annotations

import os
import signal

import pytest

from hybridvif import check
from tests.functional.conftest import Lab, make_port
from tests.functional.test_boundary import daemons
from tests.nova.conftest import Nova

pytestmark = pytest.mark.sample
DONE = {"ok": True}
FIVE = [make_port(number, mtu=1450) for number in range(1, 6)]


def test_nova_runs_in_this_mode_with_the_drop_in(nova: Nova, mode: str) -> None:
    answer = nova.ask("tell")
    assert answer["ovs"] == "hybridvif.osvif.plugins.HybridOvsPlugin"
    assert (answer["patched"], answer["eventlet"]) == (mode == "eventlet",) * 2
    assert ("PoisonEventletImport" in answer["finders"]) is (mode == "threading")


def test_one_port_is_plugged_again_and_unplugged(nova: Nova, lab: Lab) -> None:
    port, before = FIVE[0], lab.snapshot()
    assert nova.ask("plug", port) == DONE
    assert check(port, lab.host) == ()
    plugged = lab.snapshot()
    assert nova.ask("plug", port) == DONE
    assert lab.snapshot() == plugged
    assert nova.ask("unplug", port) == DONE
    assert lab.snapshot() == before
    assert nova.ask("unplug", port) == DONE


@pytest.mark.parametrize(("plug", "unplug"), [("plug_vifs", "unplug_vifs"), ("plug", "unplug")])
def test_five_ports_carry_packets_and_go(nova: Nova, lab: Lab, plug: str, unplug: str) -> None:
    before = lab.snapshot()
    assert [nova.ask(plug, *FIVE), nova.ask(plug, *FIVE)] == [DONE, DONE]
    assert [check(port, lab.host) for port in FIVE] == [()] * 5
    with lab.vm(FIVE[0], 1) as first, lab.vm(FIVE[4], 2):
        assert first.ping("10.0.0.2").returncode == 0
        # As at a restart of nova-compute: every port of every running VM.
        assert nova.ask("plug_vifs", *FIVE) == DONE
        assert first.ping("10.0.0.2").returncode == 0
    assert nova.ask(unplug, *FIVE) == DONE
    assert lab.snapshot() == before


def test_daemon_that_was_killed_is_replaced(nova: Nova, lab: Lab) -> None:
    assert nova.ask("plug", FIVE[0]) == DONE
    for pid in daemons(lab.box):
        os.kill(pid, signal.SIGKILL)
    assert nova.ask("plug", *FIVE[:2]) == DONE
    assert nova.ask("unplug", *FIVE[:2]) == DONE


def test_foreign_device_is_named_and_left(nova: Nova, lab: Lab) -> None:
    port = FIVE[0]
    lab.sh(f"ip tuntap add {port.names.bridge} mode tap")
    before = lab.snapshot()
    answer = nova.ask("plug", port)
    assert (answer["ok"], answer["raised"]) == (False, "InternalError")
    assert port.names.bridge in answer["text"]
    assert lab.snapshot() == before
    lab.sh(f"ip link delete {port.names.bridge}")
