"""A connected sandbox for the functional tests, swept after each of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridvif import Port
from hybridvif.client.host import Host
from hybridvif.testing.pytest_plugin import connected, lacking
from hybridvif.testing.sandbox.box import Sandbox, Vm
from tests.support.ovsdb_proxy import judged

EXECUTORS = {
    name: os.environ.get(f"HYBRIDVIF_TEST_{name.upper()}", default)
    for name, default in (("link_executor", "iproute2-netlink"), ("switch_executor", "ovsdb"))
}
"""Executors of these tests. The matrix runs the tests with every pair."""
INSTANCE = "0b1c2d3e-0000-4000-8000-000000000002"


def make_port(number: int = 1, **more: Any) -> Port:
    """Return a legal port. Ports with different numbers share nothing."""
    return Port(
        **{
            "id": f"{number:08x}-7b00-4c00-8000-00000000{number:04x}",
            "mac": f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}",
            "instance_id": INSTANCE,
            **more,
        }
    )


class Lab:
    """A connected sandbox with the operations of the tests."""

    def __init__(self, box: Sandbox, host: Host) -> None:
        self.box, self.host = box, host

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a shell script inside and return its output."""
        return self.box.run(["sh", "-ec", script], check=check).stdout

    def link(self, name: str) -> dict[str, Any]:
        """Return a device as in `ip -d -j link`; {} if there is none."""
        done = self.box.run(["ip", "-d", "-j", "link", "show", "dev", name], check=False)
        return dict(json.loads(done.stdout)[0]) if done.returncode == 0 else {}

    def row(self, name: str, table: str = "Interface") -> dict[str, Any]:
        """Return a row of OVSDB as in `ovs-vsctl --format=json`; {} if there is none."""
        done = json.loads(self.sh(f"ovs-vsctl --format=json find {table} name={name}"))
        return dict(zip(done["headings"], done["data"][0], strict=True)) if done["data"] else {}

    def links(self) -> set[str]:
        """Return the names of all devices."""
        return {link["ifname"] for link in json.loads(self.sh("ip -j link"))}

    def snapshot(self) -> dict[str, Any]:
        """Return the whole state of the host: devices and OVSDB rows, without counters."""
        links = json.loads(self.sh("ip -d -j link"))
        for link in links:
            # Timers change by themselves.
            for part in ("info_data", "info_slave_data"):
                options = link.get("linkinfo", {}).get(part, {})
                for key in [key for key in options if key.endswith("timer")]:
                    del options[key]
        tables = ["Bridge", "Port", "Interface"]
        columns = {"Interface": "_uuid,name,type,options,external_ids,ofport,other_config,error"}
        rows = {
            table: sorted(map(str, json.loads(self.sh(f"ovs-vsctl --format=json {option} list {table}"))["data"]))
            for table in tables
            for option in [f"--columns={columns[table]}" if table in columns else ""]
        }
        return {"links": sorted(links, key=lambda link: str(link["ifname"])), **rows}

    def vm(self, port: Port, number: int, *, attached: bool = True) -> Vm:
        """Start a stand-in for the VM of a port, 10.0.0.<number>."""
        bridge = port.names.bridge if attached else ""
        return Vm(port.names.tap, port.mac, f"10.0.0.{number}/24", bridge=bridge, mtu=port.mtu, runner=self.box.run)

    def plug_as_libvirt(self, port: Port) -> None:
        """Plug a tap into br-int as libvirt does for a virtualport (src/util/virnetdevopenvswitch.c)."""
        ids = {"attached-mac": port.mac, "iface-id": port.id, "vm-id": port.instance_id, "iface-status": "active"}
        pairs = " ".join(f"external-ids:{key}='\"{value}\"'" for key, value in ids.items())
        tap = port.names.tap
        created = f"--if-exists del-port {tap} -- add-port br-int {tap} -- set Interface {tap} {pairs}"
        self.sh(f"ovs-vsctl --timeout=5 -- {created}")

    def sweep(self) -> None:
        """Restore an empty host with an empty br-int, on which Linux bridges call iptables."""
        self.sh(
            """
            for p in $(ovs-vsctl --timeout=10 list-ports br-int); do
                ovs-vsctl --timeout=10 --if-exists del-port $p
            done
            for b in $(ovs-vsctl list-br); do [ $b = br-int ] || ovs-vsctl --timeout=10 del-br $b; done
            for n in $(ls /run/netns 2>/dev/null); do ip netns delete $n || true; done
            for l in $(ls /sys/class/net | grep -vE '^(lo|br-int|ovs-.*)$'); do
                ip link delete $l 2>/dev/null || true
            done
            for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do [ ! -e $f ] || echo 1 > $f; done
            """
        )


@pytest.fixture(scope="module")
def connection(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One daemon per module."""
    directory = tmp_path_factory.mktemp("lab")
    options = {"integration_bridges": "br-int,br-two", "deadline": 10, **EXECUTORS}
    with judged(sandbox, directory, options) as led, connected(sandbox, directory, **led) as host:
        yield Lab(sandbox, host)


@pytest.fixture
def lab(connection: Lab) -> Iterator[Lab]:
    """A connected, empty host."""
    yield connection
    connection.sweep()


@pytest.fixture
def port() -> Port:
    """A legal port that is not plugged."""
    return make_port()


def require_tun() -> None:
    """Skip if this user may not create a tap that a VM holds open."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        lacking("/dev/net/tun cannot be opened; try: chmod 0666 /dev/net/tun")


def until(ready: Callable[[], bool], seconds: float = 5.0, pause: float = 0.02) -> bool:
    """Return True if the condition becomes true in time."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def lines_of(path: Path) -> list[str]:
    """Return the current lines of a file."""
    return path.read_text(encoding="utf-8").splitlines()
