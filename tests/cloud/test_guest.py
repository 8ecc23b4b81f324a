"""Real guests on hybrid ports of two hosts: QEMU by libvirt, with the XML that Nova's VIF driver writes."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from hybridvif import Port
from tests.cloud.hosts import IS_SAMPLE, KEPT, Machine, Service, Watch, host_of, join, note, until
from tests.functional.conftest import INSTANCE, make_port
from tests.nova.compute import Nova

pytestmark = pytest.mark.sample
LIBVIRTD = Path(__file__).parents[1] / "faults" / "guest" / "libvirtd.sh"
INIT = Path(__file__).with_name("guest-init")
NAME = "instance-00000001"
PORTS = [make_port(number, mtu=1450) for number in (1, 2)]
DOMAIN = """
<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>128</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{files}/vmlinuz</kernel><initrd>{files}/initrd.gz</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 address=10.0.0.{number}/24 other=10.0.0.{other}</cmdline></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    {interface}
    <serial type='file'><source path='{console}'/><target port='0'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""


class Guest:
    """A domain of a libvirtd on one host, with one port that Nova plugs."""

    def __init__(self, lab: Machine, nova: Nova, number: int, files: Path, directory: Path) -> None:
        self.lab, self.nova, self.port = lab, nova, PORTS[number - 1]
        self.interface = directory / "interface.xml"
        self._files, self._number, self._domain = files, number, directory / "domain.xml"
        self._console = directory / "console"
        self._socket = directory / "libvirt" / "run" / "libvirt-sock"
        daemon = Service(lab, [str(LIBVIRTD), str(directory / "libvirt")], directory / "libvirtd.log")
        daemon.await_(lambda: "libvirt" in self.virsh("version", check=False), 30)

    def virsh(self, *words: str, check: bool = True) -> str:
        """Return the output of virsh."""
        uri = f"qemu+unix:///system?socket={self._socket}"
        return self.lab.box.run(["virsh", "-c", uri, *words], check=check).stdout

    def create(self) -> None:
        """Plug the port by Nova, and start a domain with the XML of Nova."""
        assert self.nova.call("plug_vifs", self.port)["ok"]
        (interface,) = self.nova.call("get_config", self.port)["xml"]
        self.start(interface)

    def start(self, interface: str) -> None:
        """Start a domain with this interface, and wait until the guest has configured it."""
        # Only for the userspace datapath: checksums must be complete before OVS reads a packet.
        self.lab.sh(f"ethtool -K {self.port.names.bridge_end} tx off")
        self.interface.write_text(interface)
        other = 3 - self._number
        values = {"name": NAME, "uuid": INSTANCE, "files": self._files, "number": self._number, "other": other}
        self._domain.write_text(DOMAIN.format(interface=interface, console=self._console, **values))
        self._console.unlink(missing_ok=True)
        self.virsh("create", str(self._domain))
        self.await_lines(f"guest up, mac {self.port.mac}, mtu {self.port.mtu}", 1)

    def output(self) -> str:
        """Return the output on its console."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def await_lines(self, line: str, count: int) -> None:
        """Wait until its console shows a line so many times."""
        assert until(lambda: self.output().count(line) >= count, 60), self.output()[-2000:]

    def interfaces(self) -> list[list[str]]:
        """Return the cells of `virsh domiflist`."""
        return [line.split() for line in self.virsh("domiflist", NAME).splitlines()[2:] if line.strip()]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel of tools/cloud, and its initrd with another first program."""
    directory = tmp_path_factory.mktemp("files")
    shutil.copy(KEPT / "guest" / "vmlinuz", directory)
    shutil.copy(INIT, directory / "init")
    (directory / "init").chmod(0o755)
    command = ["/bin/busybox", "cpio", "-o", "-H", "newc"]
    archive = subprocess.run(command, input=b"init\n", cwd=directory, capture_output=True, check=True, timeout=20)
    # The kernel unpacks both archives, and the second one replaces files of the first.
    initrd = (KEPT / "guest" / "initrd.gz").read_bytes()
    (directory / "initrd.gz").write_bytes(initrd + gzip.compress(archive.stdout))
    return directory


@pytest.fixture
def guests(files: Path, tmp_path: Path) -> Iterator[list[Guest]]:
    """One guest that is not started yet on each of two hosts, whose integration bridges are connected."""
    with ExitStack() as stack:
        hosts = [stack.enter_context(host_of(tmp_path / f"lab{n}", n, is_connected=False)) for n in (1, 2)]
        join(hosts[0], hosts[1], "br-int")
        guests = []
        for number, lab in enumerate(hosts, 1):
            directory = tmp_path / f"host{number}"
            nova = stack.enter_context(closing(Nova(lab, directory / "nova", "threading", ours=True)))
            guests.append(Guest(lab, nova, number, files, directory))
        yield guests


def test_guests_of_two_hosts_live_on_hybrid_ports(guests: list[Guest]) -> None:
    first, second = guests
    started = Watch()
    first.create()
    note("guest-up", seconds=started.seconds)
    second.create()
    for guest in guests:
        names = guest.port.names
        assert guest.interfaces() == [[names.tap, "bridge", names.bridge, "virtio", guest.port.mac]]
        assert guest.lab.link(names.tap)["master"] == names.bridge
        assert is_in_sync(guest.lab, guest.port)
        guest.await_lines("guest pinged: 0", 2)

    # Detach and attach, with Nova's calls in Nova's order.
    before = first.output().count("guest up")
    first.virsh("detach-device", NAME, str(first.interface), "--live")
    assert until(lambda: first.port.names.tap not in first.lab.links(), 30)
    assert first.interfaces() == []
    assert first.nova.call("unplug", first.port)["ok"]
    assert not [name for name in first.lab.links() if first.port.id[:11] in name]
    assert first.nova.call("plug", first.port)["ok"]
    first.lab.sh(f"ethtool -K {first.port.names.bridge_end} tx off")
    first.virsh("attach-device", NAME, str(first.interface), "--live")
    first.await_lines("guest up", before + 1)
    assert first.interfaces()[0][:3] == [first.port.names.tap, "bridge", first.port.names.bridge]
    first.await_lines("guest pinged: 0", first.output().count("guest pinged: 0") + 2)

    # A repair while the guest runs: its tap keeps its bridge.
    first.lab.sh(f"ip link set {first.port.names.bridge_end} nomaster")
    assert not is_in_sync(first.lab, first.port)
    assert first.nova.call("plug", first.port)["ok"]
    first.await_lines("guest pinged: 0", first.output().count("guest pinged: 0") + 2)

    # A hard reboot: destroy, unplug, XML, plug, start. Its calls are also those of tests/nova.
    if not IS_SAMPLE:
        first.virsh("destroy", NAME)
        response = first.nova.call("hard_reboot", first.port)
        first.start(response["xml"][0])
        first.await_lines("guest pinged: 0", 2)

    for guest in guests:
        guest.virsh("destroy", NAME)
        assert until(lambda guest=guest: guest.port.names.tap not in guest.lab.links(), 20)  # type: ignore[misc]
        assert is_in_sync(guest.lab, guest.port)
        assert guest.nova.call("unplug_vifs", guest.port)["ok"]
        assert not [name for name in guest.lab.links() if guest.port.id[:11] in name]


def is_in_sync(lab: Machine, port: Port) -> bool:
    """Return True if the command finds no drift."""
    ids = ["--mac", port.mac, "--instance", port.instance_id, "--mtu", str(port.mtu)]
    command = ["hybridvif", "--config-file", str(lab.config), "check", port.id, *ids]
    return lab.box.run(command, check=False).returncode == 0
