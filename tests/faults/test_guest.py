"""A real guest on a plugged port: QEMU by libvirt, whose interface names qbr, as Nova writes it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridvif import Port, PortRunning, check, convert, plug, plug_all, unplug, unplug_all
from hybridvif.testing.sandbox.box import Vm
from tests.functional.conftest import INSTANCE, Lab, make_port, until
from tests.support.figures import note
from tests.support.sizes import FULL

pytestmark = [pytest.mark.prove, pytest.mark.skipif(not FULL, reason="installs QEMU and libvirt, so at full size only")]

HERE = Path(__file__).parent / "guest"
NAME = "instance-00000001"
DOMAIN = """
<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>128</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{guest}/vmlinuz</kernel><initrd>{guest}/initrd.gz</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 address=10.0.0.1/24 other=10.0.0.2</cmdline></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <interface type='bridge'>
      <mac address='{mac}'/><source bridge='{bridge}'/><target dev='{tap}'/><model type='virtio'/><mtu size='{mtu}'/>
      <driver><host csum='off' gso='off' tso4='off' tso6='off'/><guest csum='off' tso4='off' tso6='off'/></driver>
    </interface>
    <serial type='file'><source path='{console}'/><target port='0'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""


class Guest:
    """A domain of a libvirtd in the sandbox."""

    def __init__(self, lab: Lab, port: Port, guest: Path, directory: Path) -> None:
        self._lab, self.console = lab, directory / "console"
        self._socket = directory / "libvirt" / "run" / "libvirt-sock"
        self._domain = directory / "domain.xml"
        names = {"bridge": port.names.bridge, "tap": port.names.tap, "mac": port.mac, "mtu": port.mtu}
        self._domain.write_text(DOMAIN.format(name=NAME, uuid=INSTANCE, guest=guest, console=self.console, **names))

    def virsh(self, *words: str, check: bool = True) -> str:
        """Return the output of virsh."""
        uri = f"qemu+unix:///system?socket={self._socket}"
        return self._lab.box.run(["virsh", "-c", uri, *words], check=check).stdout

    def start(self) -> None:
        """Boot the guest and wait for its ping."""
        self.virsh("create", str(self._domain))
        assert until(lambda: "guest pinged" in self.console_output(), 60), self.console_output()

    def console_output(self) -> str:
        """Return the output on its console."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""


@pytest.fixture
def port() -> Port:
    return make_port()


@pytest.fixture(scope="session")
def guest_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("guest")
    subprocess.run([HERE / "make-guest.sh", directory], check=True)
    return directory


@pytest.fixture
def guest(lab: Lab, port: Port, guest_files: Path, tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(lab, port, guest_files, tmp_path)
    with (tmp_path / "libvirtd.out").open("w") as out:
        daemon = lab.box.popen([str(HERE / "libvirtd.sh"), str(tmp_path / "libvirt")], stdout=out, stderr=out)
        with daemon:
            try:
                assert until(lambda: "libvirt" in guest.virsh("version", check=False), 30), (
                    tmp_path / "libvirtd.out"
                ).read_text()
                yield guest
            finally:
                guest.virsh("destroy", NAME, check=False)
                daemon.kill()


def test_a_guest_of_libvirts_runs_on_a_plugged_port(lab: Lab, guest: Guest, port: Port) -> None:
    other, before = make_port(2), lab.links()
    plug_all([port, other], lab.host)
    plugged = lab.links()
    # Only with the userspace datapath: offloads of the guest must be done before OVS reads the packets.
    lab.sh(f"ethtool -K {port.names.bridge_end} tx off")
    with lab.vm(other, 2) as peer:
        guest.start()

        # The line with which the recipe of the hybrid plug ends.
        line = guest.virsh("domiflist", NAME).splitlines()[2].split()
        assert line == [port.names.tap, "bridge", port.names.bridge, "virtio", port.mac]
        assert f"guest up, mac {port.mac}, mtu {port.mtu}" in guest.console_output()
        assert "3 packets transmitted, 3 packets received" in guest.console_output()
        assert "guest pinged: 0" in guest.console_output()

        # In sync with the guest on it. It loses nothing while it is plugged again and repaired.
        assert check(port, lab.host) == ()
        assert lost_while(lab, peer, port) == 0

        # No unplug while the guest runs.
        with pytest.raises(PortRunning, match=f"{port.names.tap} in {port.names.bridge} has carrier"):
            unplug(port.id, lab.host)
        assert peer.ping("10.0.0.1").returncode == 0

        guest.virsh("destroy", NAME)
        assert until(lambda: port.names.tap not in lab.links())
    assert lab.links() == plugged
    assert all(report.ok for report in unplug_all([port.id, other.id], lab.host))
    assert lab.links() == before


def lost_while(lab: Lab, peer: Vm, port: Port) -> int:
    """Count the lost pings of 300, one every 10 ms, while the guest's port is plugged again and repaired."""
    argv = ["nsenter", f"--net=/run/netns/{peer.namespace}", "ping", "-q", "-i", "0.01", "-c", "300", "10.0.0.1"]
    with lab.box.popen(argv, stdout=subprocess.PIPE) as ping:
        for befalls in (
            "true",
            f"ip link set {port.names.bridge} alias ''",
            f"ip link set {port.names.bridge} mtu 1400",
        ):
            lab.sh(befalls)
            plug(port, lab.host)
            assert check(port, lab.host) == ()
        output = ping.communicate(timeout=60)[0]
    (sent, received) = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", output).groups())  # type: ignore[union-attr]
    return sent - received


ECHO = """
import socket, time
with socket.create_connection(("10.0.0.1", 5000), 10) as connection:
    print("connected", flush=True)
    connection.settimeout(10)
    for number in range(SENT):
        connection.sendall(number.to_bytes(4, "big") * 25)
        received = b""
        while len(received) < 100:
            part = connection.recv(100)
            assert part, "the connection was closed"
            received += part
        assert received == number.to_bytes(4, "big") * 25
        time.sleep(0.01)
print("complete", flush=True)
"""
"""A client of the guest's echo server. An error ends it before "complete"."""


def test_guest_goes_native_and_back_without_a_reset(lab: Lab, guest: Guest, port: Port) -> None:
    other = make_port(2)
    plug_all([port, other], lab.host)
    lab.sh(f"ethtool -K {port.names.bridge_end} tx off")
    with lab.vm(other, 2) as peer:
        guest.start()
        inside = ["nsenter", f"--net=/run/netns/{peer.namespace}"]
        before = lab.row(port.names.switch_end)["ofport"]
        echo = [*inside, "python3", "-c", ECHO.replace("SENT", "700")]
        with lab.box.popen(echo, stdout=subprocess.PIPE) as stream:
            assert stream.stdout is not None
            assert stream.stdout.readline() == "connected\n"
            lost = {}
            for to, name in (("native", port.names.tap), ("hybrid", port.names.switch_end)):
                with lab.box.popen([*inside, "ping", "-q", "-i", "0.01", "-c", "500", "10.0.0.1"], stdout=-1) as ping:
                    assert until(lambda: "PING" in ping.stdout.readline())  # type: ignore[union-attr]
                    assert convert(port.id, lab.host, to, unfiltered=True).ok
                    output = ping.communicate(timeout=60)[0]
                sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", output).groups())  # type: ignore[union-attr]
                assert lab.row(name)["ofport"] == before
                lost[to] = sent - received
                if to == "hybrid":
                    lab.sh(f"ethtool -K {port.names.bridge_end} tx off")
            assert stream.communicate(timeout=60)[0] == "complete\n"
        note("conversion-guest", case="qemu", lost_to_native=lost["native"], lost_to_hybrid=lost["hybrid"])
        assert sum(lost.values()) <= 5, lost
        line = guest.virsh("domiflist", NAME).splitlines()[2].split()
        assert line[0] == port.names.tap
        guest.virsh("destroy", NAME)
        assert until(lambda: port.names.tap not in lab.links())
    assert all(report.ok for report in unplug_all([port.id, other.id], lab.host))


def test_row_of_a_converted_guest_that_was_destroyed_is_unplugged(lab: Lab, guest: Guest, port: Port) -> None:
    other = make_port(2)
    plug_all([port, other], lab.host)
    with lab.vm(other, 2):
        guest.start()
        convert(port.id, lab.host, unfiltered=True)
        with pytest.raises(PortRunning):
            unplug(port.id, lab.host)
        guest.virsh("destroy", NAME)
        assert until(lambda: port.names.tap not in lab.links())
        assert lab.row(port.names.tap)
        assert unplug(port.id, lab.host).changed
        assert lab.row(port.names.tap) == {}
