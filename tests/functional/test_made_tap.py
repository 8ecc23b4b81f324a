"""A tap created before its VM, on a real kernel: opened by a stand-in for QEMU, checked by pings."""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest

from hybridvif import PlugFailed, Port, PortRunning, Status, check, plug, unplug
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import EXECUTORS, Lab, make_port, require_tun, until

LINK_EXECUTORS = ("iproute2-netlink", "pyroute2", "subprocess-brctl")
QEMU = """
import ctypes, fcntl, os, select, struct, subprocess, sys
tap, queues, netns, mac, address = sys.argv[1:]

def opened(name, flags):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", name.encode(), 0x1002 | flags))
    return fd

held = [opened(tap, 0x100 if int(queues) > 1 else 0) for _ in range(int(queues))]
subprocess.run(["ip", "netns", "add", netns], check=True)
fd = os.open("/run/netns/" + netns, os.O_RDONLY)
assert ctypes.CDLL(None).setns(fd, 0x40000000) == 0
eth0 = opened("eth0", 0)
for line in (f"link set eth0 address {mac} up", f"addr add {address} dev eth0"):
    subprocess.run(["ip", *line.split()], check=True)
print("runs", flush=True)
while True:
    for fd in select.select([*held, eth0], [], [])[0]:
        frame = os.read(fd, 65536)
        os.write(held[-1] if fd == eth0 else eth0, frame)
"""


@pytest.fixture(params=LINK_EXECUTORS)
def tapping(sandbox: Sandbox, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A connected host, with each link executor."""
    require_tun()
    with connected(sandbox, tmp_path, deadline=10, **EXECUTORS | {"link_executor": request.param}) as host:
        lab = Lab(sandbox, host)
        yield lab
        lab.sweep()


@contextmanager
def guest(lab: Lab, port: Port, number: int, queues: int = 1) -> Iterator[str]:
    """Start a process that holds the tap open as 10.0.0.<number>, and yield the name of its namespace."""
    netns = f"guest{number}"
    argv = [sys.executable, "-c", QEMU, port.names.tap, str(queues), netns, port.mac, f"10.0.0.{number}/24"]
    process = lab.box.popen(argv, stdout=PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "runs"
        yield netns
    finally:
        process.kill()
        process.communicate()
        assert until(lambda: "LOWER_UP" not in lab.link(port.names.tap).get("flags", []))
        lab.sh(f"ip netns delete {netns}", check=False)


def pinged(lab: Lab, netns: str, address: str) -> bool:
    argv = ["nsenter", f"--net=/run/netns/{netns}", *shlex.split(f"ping -n -c 2 -i 0.2 -w 5 {address}")]
    return lab.box.run(argv, check=False).returncode == 0


@pytest.mark.parametrize("queues", [1, 2])
def test_a_vm_opens_the_tap_that_was_made_for_it_and_is_reached(tapping: Lab, queues: int) -> None:
    lab = tapping
    before = lab.snapshot()
    ports = [make_port(number, create_tap=True, multiqueue=queues > 1, mtu=1450) for number in (1, 2)]
    for port in ports:
        assert plug(port, lab.host).ok
        assert not plug(port, lab.host).changed
        assert check(port, lab.host) == ()
        link = lab.link(port.names.tap)
        info = link["linkinfo"]["info_data"]
        assert (info["type"], info["persist"], info["multi_queue"]) == ("tap", True, queues > 1)
        assert (link["mtu"], link["ifalias"], link["master"]) == (1450, port.id, port.names.bridge)
        assert link["address"] == "fe" + port.mac[2:]
        assert lab.sh(f"cat /proc/sys/net/ipv6/conf/{port.names.tap}/disable_ipv6").strip() == "1"
    with guest(lab, ports[0], 1, queues) as first, guest(lab, ports[1], 2, queues):
        assert pinged(lab, first, "10.0.0.2")
        assert not plug(ports[0], lab.host).changed
        with pytest.raises(PortRunning):
            unplug(ports[0].id, lab.host)
        lab.sh(f"ip link set {ports[0].names.tap} nomaster mtu 1400")
        with pytest.raises(PortRunning):
            unplug(ports[0].id, lab.host)
        assert plug(ports[0], lab.host).changed
        assert check(ports[0], lab.host) == ()
        assert pinged(lab, first, "10.0.0.2")
        lab.sh(f"ip link delete {ports[0].names.bridge}")
        # A plug without create_tap repairs it, too.
        assert plug(replace(ports[0], create_tap=False, multiqueue=False), lab.host).ok
        assert pinged(lab, first, "10.0.0.2")
    for port in ports:
        assert unplug(port.id, lab.host).ok
    assert lab.snapshot() == before


ATTACH = """
import ctypes, fcntl, os, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
# Another user of this namespace, without a capability.
os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
try:
    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", sys.argv[1].encode(), 0x1002 | int(sys.argv[2], 0)))
except OSError as error:
    print(error.errno)
else:
    fcntl.ioctl(fd, 0x400454cb, 0)
    print("attached")
"""


@pytest.mark.parametrize("queues", [1, 2])
def test_no_other_user_attaches_to_a_tap(tapping: Lab, queues: int) -> None:
    """/dev/net/tun is 0666: without an owner any user could attach, be the VM, and delete its tap."""
    lab, port = tapping, make_port(create_tap=True, multiqueue=queues > 1)
    plug(port, lab.host)
    argv = [sys.executable, "-c", ATTACH, port.names.tap, "0x100" if queues > 1 else "0"]
    assert lab.box.run(argv).stdout.strip() == str(errno.EPERM)
    with guest(lab, port, 1, queues):
        assert lab.box.run(argv).stdout.strip() in {str(errno.EPERM), str(errno.EBUSY)}
    assert check(port, lab.host) == ()
    # A tap of an older release.
    lab.sh(
        f"ip link delete {port.names.tap}; ip tuntap add {port.names.tap} mode tap {'multi_queue' * (queues > 1)}\n"
        f"ip link set {port.names.tap} alias {port.id} master {port.names.bridge} address fe{port.mac[2:]} up"
    )
    with guest(lab, port, 1, queues):
        report = plug(port, lab.host)
        assert report.unchecked == (f"{port.names.tap}: owner, which is set when no VM holds it",)
        assert not plug(port, lab.host).changed
    assert plug(port, lab.host).changed
    assert check(port, lab.host) == ()
    assert lab.box.run(argv).stdout.strip() == str(errno.EPERM)


WAITING = """
import fcntl, os, select, struct, sys
os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
request = struct.pack("16sH22x", sys.argv[1].encode(), 0x1102)
held = []
print("waits", flush=True)
while not select.select([0], [], [], 0)[0]:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(fd, 0x400454ca, request)
    except OSError:
        os.close(fd)
    else:
        held.append(fd)
        if sys.argv[2] == "off":
            fcntl.ioctl(fd, 0x400454d9, struct.pack("16sH22x", b"", 0x400))
"""


@pytest.mark.parametrize("queue", ["on", "off"])
def test_no_other_user_attaches_while_a_tap_is_made(tapping: Lab, queue: str) -> None:
    """Between the tap and its owner is a moment in which another queue of it can be opened, as seen in half of them.

    A queue that its process has switched off (IFF_DETACH_QUEUE) is not among numqueues, and can be switched on later.
    """
    lab, port = tapping, make_port(create_tap=True, multiqueue=True)
    attacker = lab.box.popen([sys.executable, "-c", WAITING, port.names.tap, queue], stdin=PIPE, stdout=PIPE)
    try:
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == "waits\n"
        for _ in range(5):
            with suppress(PlugFailed):
                assert plug(port, lab.host).ok
                queues = lab.link(port.names.tap)["linkinfo"]["info_data"]
                assert (queues["numqueues"], queues["numdisabled"]) == (0, 0)
            assert unplug(port.id, lab.host, force=True).ok
    finally:
        # A process that has become another user outlives the one that entered the sandbox for it.
        attacker.communicate("\n")


HIDDEN = """
import fcntl, os, struct, sys
os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", sys.argv[1].encode(), 0x1002 | int(sys.argv[2], 0)))
fcntl.ioctl(fd, 0x400454e2, struct.pack("i", 0))
print("holds", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("queues", [1, 2])
def test_user_who_holds_a_tap_without_carrier_is_reported(tapping: Lab, queues: int) -> None:
    """Any user can attach to a tap of an older release, which has no owner, and switch its carrier off."""
    lab, port = tapping, make_port(create_tap=True, multiqueue=queues > 1)
    tap = port.names.tap
    lab.sh(f"ip tuntap add {tap} mode tap {'multi_queue' * (queues > 1)}; ip link set {tap} alias {port.id}")
    holder = lab.box.popen([sys.executable, "-c", HIDDEN, tap, "0x100" if queues > 1 else "0"], stdin=PIPE, stdout=PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        for _ in range(2):
            with pytest.raises(PlugFailed, match="another process holds it; stop that process") as caught:
                plug(port, lab.host)
            assert "unplug the port and plug it again" in str(caught.value)
    finally:
        holder.communicate("\n")
    assert plug(port, lab.host).ok
    assert check(port, lab.host) == ()


def test_a_vm_whose_tap_was_set_down_is_not_cut_off(tapping: Lab) -> None:
    lab, port = tapping, make_port(create_tap=True)
    plug(port, lab.host)
    with guest(lab, port, 1):
        lab.sh(f"ip link set {port.names.tap} down")
        with pytest.raises(PortRunning):
            unplug(port.id, lab.host)
        assert plug(port, lab.host).changed
    assert unplug(port.id, lab.host).ok


def test_a_running_vm_is_cut_off_by_force_alone(tapping: Lab) -> None:
    lab, port = tapping, make_port(create_tap=True)
    before = lab.snapshot()
    plug(port, lab.host)
    with guest(lab, port, 1):
        assert unplug(port.id, lab.host, force=True).ok
        assert port.names.tap not in lab.links()
    assert lab.snapshot() == before


def test_made_tap_is_restored_after_failed_plug_as_vhost_user(
    tapping: Lab,
) -> None:
    lab, port = tapping, make_port(create_tap=True)
    bound = replace(port, create_tap=False, vhostuser_mode="server")
    before = lab.snapshot()
    plug(port, lab.host)
    with guest(lab, port, 1):
        held = lab.link(port.names.tap)["ifindex"]
        with pytest.raises(PortRunning, match="has carrier, so a VM runs on it"):
            plug(bound, lab.host)
        assert check(port, lab.host) == ()
        assert lab.link(port.names.tap)["ifindex"] == held
    with pytest.raises(PlugFailed) as caught:
        plug(bound, lab.host)
    assert caught.value.report is not None
    assert caught.value.report.status is Status.ROLLED_BACK
    assert check(port, lab.host) == ()
    assert unplug(port.id, lab.host).ok
    assert lab.snapshot() == before


def test_a_tap_of_libvirts_is_used_and_left(tapping: Lab) -> None:
    lab, port = tapping, make_port(create_tap=True)
    lab.sh(f"ip tuntap add dev {port.names.tap} mode tap; ip link set {port.names.tap} alias guest")
    before = lab.link(port.names.tap)
    plug(port, lab.host)
    assert not plug(port, lab.host).changed
    assert lab.link(port.names.tap)["master"] == port.names.bridge
    unplug(port.id, lab.host)
    after = lab.link(port.names.tap)
    assert {name: after[name] for name in ("ifindex", "address", "mtu", "ifalias")} == {
        name: before[name] for name in ("ifindex", "address", "mtu", "ifalias")
    }


def test_where_no_tap_can_be_made_that_is_said_and_nothing_is_left(
    sandbox: Sandbox, tmp_path: Path, tapping: Lab
) -> None:
    lab, port = tapping, make_port(create_tap=True)
    before = lab.snapshot()
    executors = EXECUTORS | {"link_executor": lab.host.settings.link_executor}
    lab.sh("mount -t tmpfs none /dev/net")
    try:
        with connected(sandbox, tmp_path, deadline=10, **executors) as host, pytest.raises(PlugFailed) as caught:
            plug(port, host)
    finally:
        lab.sh("umount /dev/net")
    assert "modprobe tun" in str(caught.value)
    assert lab.snapshot() == before


def test_tap_whose_creator_is_killed_before_tagging_disappears(lab: Lab, port: Port) -> None:
    require_tun()
    killed = (
        "import os, subprocess; from hybridvif.executors.netlink.tap import NewTap; "
        "new = NewTap({0!r}, multi_queue=False); "
        "subprocess.run(['ip', 'link', 'show', {0!r}], check=True); {1}os.kill(os.getpid(), 9)"
    )
    assert lab.box.python(killed.format(port.names.tap, ""), check=False).stdout.count(port.names.tap) == 1
    assert port.names.tap not in lab.links()
    lab.box.python(killed.format(port.names.tap, "new.__exit__(None); "), check=False)
    assert port.names.tap in lab.links()
