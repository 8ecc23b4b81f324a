"""Nova's api, conductor, scheduler, placement and compute in one process, by Nova's functional tests.

    python nova_services.py ours|theirs

os-vif is real, libvirt and Neutron are Nova's stand-ins. OS_HYBRIDVIF__ANSWER_TO_OVS chooses the plugin. Writes one
line per event: EVENT and a JSON object.
"""

from __future__ import annotations

from nova.tests.functional.libvirt import base  # the first import, because it patches as nova-compute does

# isort: split
import copy
import json
import subprocess
import sys
import time
import unittest
import warnings
from collections.abc import Callable
from typing import Any

import fixtures
import nova.conf
import os_vif
from nova.virt.libvirt import vif

REAL = {name: vif.LibvirtGenericVIFDriver.__dict__[name] for name in ("_plug_os_vif", "_unplug_os_vif")}
"""Calls of os-vif, which Nova's functional tests replace."""
CONF = nova.conf.CONF
OURS = sys.argv[1] == "ours"
DETAILS = {
    "ovs_hybrid_plug": True,
    "port_filter": True,
    "datapath_type": "netdev",
    "bridge_name": "br-int",
    "connectivity": "l2",
    "bound_drivers": {"0": "openvswitch"},
}


def run(command: str) -> list[str]:
    """Run a command of the shell and return its words."""
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=60).stdout.split()


def ports() -> list[str]:
    """Return the devices and the rows of ports."""
    links = [name for name in run("ls /sys/class/net") if name[:3] in ("qbr", "qvb", "qvo")]
    return sorted(links) + [f"row {name}" for name in sorted(run("ovs-vsctl list-ports br-int"))]


def record(event: str, **more: Any) -> None:
    """Write an event."""
    sys.stdout.write(f"EVENT {json.dumps({'event': event, 'ports': ports(), **more})}\n")
    sys.stdout.flush()


class LifeOfAServer(base.ServersTestBase):  # type: ignore[misc]
    """A server with two ports: spawn, hard reboot, restart of nova-compute, detach, delete."""

    microversion = "latest"
    ADMIN_API = True

    def setUp(self) -> None:
        """Give Nova its own calls of os-vif back."""
        super().setUp()
        os_vif.initialize(reset=True)  # registers the options of os-vif's plugin
        CONF.set_override("ovsdb_connection", "unix:/run/openvswitch/db.sock", "os_vif_ovs")
        os_vif.initialize(reset=True)
        if not OURS:
            from vif_plug_ovs import privsep

            privsep.vif_plug.set_client_mode(False)
        for name, function in REAL.items():
            self.useFixture(fixtures.MonkeyPatch(f"nova.virt.libvirt.vif.LibvirtGenericVIFDriver.{name}", function))
        for port in (self.neutron.port_1, self.neutron.port_2):
            self.neutron._ports.setdefault(port["id"], copy.deepcopy(port))
        for port in self.neutron._ports.values():
            port["binding:vif_details"] = DETAILS

    def test_life(self) -> None:
        """Record the ports after each call."""
        warnings.simplefilter("ignore")
        self.flags(vif_plugging_is_fatal=False, vif_plugging_timeout=0)
        self.start_compute("compute1")
        first, second = (port["id"] for port in (self.neutron.port_1, self.neutron.port_2))
        record("plugin", name=type(os_vif._EXT_MANAGER["ovs"].obj).__name__)
        server = self._create_server(networks=[{"port": first}, {"port": second}])
        record("spawned", status=server["status"])
        self._reboot_server(server, hard=True)
        record("hard reboot", status=self.api.get_server(server["id"])["status"])
        run(f"ip link delete qbr{first[:11]}")
        self.restart_compute_service("compute1")
        record("nova-compute restarted after a drift", status=self.api.get_server(server["id"])["status"])
        self.api.detach_interface(server["id"], second)
        self.await_ports(lambda names: not any(second[:11] in name for name in names))
        record("second port detached")
        self._delete_server(server)
        record("deleted")

    def await_ports(self, condition: Callable[[list[str]], bool]) -> None:
        """Wait until a condition of the ports holds, at most 20 seconds."""
        end = time.monotonic() + 20
        while not condition(ports()) and time.monotonic() < end:
            time.sleep(0.1)


if __name__ == "__main__":
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(LifeOfAServer)
    result = unittest.TextTestRunner(stream=sys.stderr).run(suite)
    sys.exit(not result.wasSuccessful())
