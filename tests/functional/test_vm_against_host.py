"""Send a VM's packets against its host: none is delivered, answered or routed, and none configures anything.

Raw frames leave the VM's end of the tap. The host has the sockets, addresses, routes and neighbors that the VM targets.
With ovs-vswitchd stopped, the switch end is an ordinary link of the host: that is the main case.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from hybridvif import HybridVifError, Port, check, plug
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import EXECUTORS, Lab, make_port, require_tun, until

LINK_EXECUTORS = ("iproute2-netlink", "pyroute2", "subprocess-brctl")
HOST, NEIGHBOR, GATEWAY, FAR = "192.0.2.1", "192.0.2.99", "192.0.2.254", "203.0.113.9"
"""The host's address, one on its link, its gateway, and one behind the gateway."""
ON_LINK, OFF_LINK = "192.0.2.50", "198.51.100.7"
"""Sources of the VM's packets. The host routes the first by its own link, the second by its gateway."""
UDP_PORT = 7777
ALL_ONES, LLDP = "ff:ff:ff:ff:ff:ff", "01:80:c2:00:00:0e"
"""A bridge passes a frame to the second address to the port's own IP stack (net/bridge/br_input.c)."""

GUEST = """
import fcntl, json, os, select, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", sys.argv[1].encode(), 0x1002))
print("runs", flush=True)
frames = [bytes.fromhex(frame) for frame in json.loads(sys.stdin.readline())]
flood = sys.argv[2:] == ["flood"]
received = []
while True:
    for frame in frames:
        try:
            os.write(fd, frame)
        except OSError:
            pass  # The tap is not up yet.
        while select.select([fd], [], [], 0)[0]:
            received.append(os.read(fd, 65536).hex())
    if not flood or select.select([0], [], [], 0)[0]:
        break
while select.select([fd], [], [], 0.3)[0]:
    received.append(os.read(fd, 65536).hex())
print(json.dumps(received), flush=True)
"""
LISTENER = """
import json, select, socket, sys
sockets = []
for family, any_address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((any_address, 7777))
    sockets.append(sock)
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x800))
out.bind(("hvgateway", 0))
print("runs", flush=True)
heard = []
while True:
    ready = select.select([*sockets, out, 0], [], [])[0]
    for sock in sockets:
        if sock in ready:
            heard.append(f"delivered: {sock.recvfrom(65536)}")
    if out in ready:
        frame = out.recv(65536)
        if b"from the VM" in frame:
            heard.append(f"routed: {frame.hex()}")
    if ready == [0]:
        break
print(json.dumps(heard), flush=True)
"""


# Frames.


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data)) if len(data) % 2 == 0 else checksum_of_odd(data)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def checksum_of_odd(data: bytes) -> int:
    return sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0"))


def ethernet(to: str, source: str, kind: int, payload: bytes) -> str:
    return (mac(to) + mac(source) + struct.pack("!H", kind) + payload).ljust(60, b"\0").hex()


def ipv4(source: str, to: str, protocol: int, payload: bytes) -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton(to)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    total = checksum(header + addresses)
    return header[:10] + struct.pack("!H", total) + addresses + payload


def udp(payload: bytes = b"from the VM") -> bytes:
    # Without a checksum, which IPv4 allows.
    return struct.pack("!HHHH", 4444, UDP_PORT, 8 + len(payload), 0) + payload


def arp(operation: int, sender: str, source: str, target: str) -> bytes:
    addresses = mac(sender) + socket.inet_aton(source) + bytes(6) + socket.inet_aton(target)
    return struct.pack("!HHBBH", 1, 0x800, 6, 4, operation) + addresses


def icmp(kind: int, code: int, rest: bytes) -> bytes:
    body = struct.pack("!BBH", kind, code, 0) + rest
    return struct.pack("!BBH", kind, code, checksum(body)) + rest


def ipv6(source: str, to: str, following: int, payload: bytes) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to)
    pseudo = addresses + struct.pack("!I3xB", len(payload), following)
    place = 2 if following == 58 else 6
    payload = payload[:place] + struct.pack("!H", checksum(pseudo + payload)) + payload[place + 2 :]
    return struct.pack("!IHBB", 6 << 28, len(payload), following, 255) + addresses + payload


def advertisement() -> bytes:
    """Return a router advertisement of 2001:db8:bad::/64, which gives hosts addresses and a default route."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + socket.inet_pton(
        socket.AF_INET6, "2001:db8:bad::"
    )
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
    return ipv6("fe80::1", "ff02::1", 58, body)


def attack(port: Port, devices: dict[str, str]) -> dict[str, str]:
    """Return the VM's frames by purpose. devices: the MAC of each device of the port, by name."""
    frames = {}
    places = {**devices, "everybody": ALL_ONES, "the LLDP group": LLDP}
    redirected = ipv4(HOST, FAR, 17, udp())
    for place, to in places.items():
        for source in (ON_LINK, OFF_LINK):
            named = f"from {source} to {place}"
            for aim in (HOST, "192.0.2.255", "255.255.255.255", "224.0.0.1", FAR):
                frames[f"UDP for {aim} {named}"] = ethernet(to, port.mac, 0x800, ipv4(source, aim, 17, udp()))
            frames[f"ping {named}"] = ethernet(to, port.mac, 0x800, ipv4(source, HOST, 1, icmp(8, 0, bytes(4))))
            for asked in (HOST, NEIGHBOR, FAR):
                frames[f"ARP for {asked} {named}"] = ethernet(to, port.mac, 0x806, arp(1, port.mac, source, asked))
            frames[f"ARP reply {named}"] = ethernet(to, port.mac, 0x806, arp(2, port.mac, source, HOST))
        rest = socket.inet_aton(ON_LINK) + redirected[:28]
        frames[f"redirect to {place}"] = ethernet(to, port.mac, 0x800, ipv4(GATEWAY, HOST, 1, icmp(5, 1, rest)))
        frames[f"router advertisement to {place}"] = ethernet(to, port.mac, 0x86DD, advertisement())
        hop = ipv6("fe80::1", "ff02::1", 17, udp())
        frames[f"UDP by IPv6 to {place}"] = ethernet(to, port.mac, 0x86DD, hop)
    return frames


# The host.


class Target:
    """A host in a sandbox that routes, with every target of a VM."""

    def __init__(self, lab: Lab, rp_filter: int) -> None:
        self.lab = lab
        lab.sh(
            f"""
            for key in all default; do
                echo {rp_filter} > /proc/sys/net/ipv4/conf/$key/rp_filter
                echo 1 > /proc/sys/net/ipv4/conf/$key/accept_redirects
                echo 1 > /proc/sys/net/ipv4/conf/$key/arp_accept
            done
            echo 1 > /proc/sys/net/ipv4/ip_forward
            echo 1 > /proc/sys/net/ipv4/conf/default/proxy_arp
            echo 0 > /proc/sys/net/ipv4/icmp_echo_ignore_broadcasts
            ip link set lo up
            ip link add hvlink type veth peer name hvgateway
            ip link set hvgateway address 02:00:00:00:00:fe
            ip link set hvlink up; ip link set hvgateway up
            ip addr add {HOST}/24 dev hvlink; ip route add default via {GATEWAY}
            for a in {GATEWAY} {NEIGHBOR}; do ip neigh add $a dev hvlink lladdr 02:00:00:00:00:fe; done
            """
        )

    @contextmanager
    def watched(self, port: Port) -> Iterator[list[str]]:
        """Record the packets that the host accepts, and its new configuration."""
        before, found = self.configuration(port), list[str]()
        listener = self.lab.box.popen([sys.executable, "-c", LISTENER], stdin=PIPE, stdout=PIPE)
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "runs\n"
            yield found
            found += json.loads(listener.communicate("\n")[0])
        finally:
            listener.kill()
            listener.communicate()
        found += sorted(f"configured: {line}" for line in self.configuration(port) - before)

    def configuration(self, port: Port) -> set[str]:
        """Return the addresses, routes and neighbors of the port's devices, and all default routes."""
        asked = ("addr", "-6 addr", "route show table all", "-6 route show table all", "neigh", "-6 neigh")
        output = "".join(self.lab.sh(f"ip -o {command}") for command in asked)
        names = list(port.names)
        lines = {line.split(" valid_lft")[0] for line in output.splitlines()}
        return {line for line in lines if "default" in line or any(name in line for name in names)}

    def macs(self, port: Port) -> dict[str, str]:
        """Return the MAC address of each device of a port."""
        links = {name: self.lab.link(name) for name in port.names}
        return {name: str(link["address"]) for name, link in links.items() if link}


SAVE = (
    "cd /proc/sys/net/ipv4; grep -H . $PWD/conf/all/rp_filter $PWD/conf/default/rp_filter $PWD/conf/*/accept_redirects "
    "$PWD/conf/all/arp_accept $PWD/conf/default/arp_accept $PWD/ip_forward $PWD/conf/default/proxy_arp "
    "$PWD/icmp_echo_ignore_broadcasts"
)


class Guest:
    """The VM. It holds its tap open and sends frames once, or repeatedly until it is stopped."""

    def __init__(self, lab: Lab, port: Port, frames: Iterable[str], *, flood: bool = False) -> None:
        argv = [sys.executable, "-c", GUEST, port.names.tap, *(["flood"] if flood else [])]
        self._process = lab.box.popen(argv, stdin=PIPE, stdout=PIPE)
        assert self._read() == "runs\n"
        # The kernel opens the bridge port a moment after the tap has carrier.
        assert flood or until(lambda: state_of(lab, port) == "forwarding")
        print(json.dumps(list(frames)), file=self._process.stdin, flush=True)

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def stop(self) -> list[str]:
        """Send all packets and return the responses."""
        print(file=self._process.stdin, flush=True)
        received: list[str] = json.loads(self._read())
        self._process.kill()
        self._process.communicate()
        return [f"answered: {frame}" for frame in received]


def state_of(lab: Lab, port: Port) -> str:
    return str(lab.link(port.names.tap)["linkinfo"].get("info_slave_data", {}).get("state"))


@contextmanager
def hanging(lab: Lab, hangs: bool) -> Iterator[None]:
    """Stop ovs-vswitchd for the duration, if requested."""
    if hangs:
        lab.box.pause("ovs-vswitchd")
    try:
        yield
    finally:
        lab.box.resume("ovs-vswitchd")


@pytest.fixture(params=LINK_EXECUTORS)
def attacked(sandbox: Sandbox, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    require_tun()
    settings: dict[str, Any] = EXECUTORS | {"link_executor": request.param}
    before = sandbox.run(["sh", "-c", SAVE]).stdout
    with connected(sandbox, tmp_path, deadline=5, **settings) as host:
        lab = Lab(sandbox, host)
        yield lab
        lab.sh("ip link delete hvlink", check=False)
        lab.sweep()
    sandbox.run(["sh", "-c", 'while IFS=: read -r file value; do echo "$value" > $file; done'], input=before)


@pytest.mark.parametrize("rp_filter", [0, 1, 2])
@pytest.mark.parametrize("hangs", [True, False], ids=["vswitchd hangs", "vswitchd runs"])
def test_vm_reaches_and_configures_nothing_of_its_host(attacked: Lab, rp_filter: int, hangs: bool) -> None:
    lab, port = attacked, make_port(create_tap=True)
    target = Target(lab, rp_filter)
    plug(port, lab.host)
    with target.watched(port) as found, hanging(lab, hangs):
        found.extend(Guest(lab, port, attack(port, target.macs(port)).values()).stop())
    assert found == []


def test_vm_reaches_nothing_while_its_port_is_plugged(attacked: Lab) -> None:
    """The VM sends before the bridge exists, while ovs-vswitchd hangs and during the plug."""
    lab, port = attacked, make_port(create_tap=True)
    target = Target(lab, 0)
    # A tap created before, with the ownership tag of ours, so that the plug switches the host's IP off on it.
    plug(port, lab.host)
    lab.sh(f"ip link delete {port.names.bridge_end}; ip link delete {port.names.bridge}")
    broadcast = attack(port, {}).values()
    with target.watched(port) as found, hanging(lab, hangs=True):
        guest = Guest(lab, port, broadcast, flood=True)
        with suppress(HybridVifError):
            plug(port, lab.host)
        assert until(lambda: state_of(lab, port) == "forwarding")
        found.extend(guest.stop())
    assert found == []


@pytest.mark.parametrize("mtu", [1200, 1500])
def test_vm_reaches_nothing_after_the_mtu_was_small(attacked: Lab, mtu: int) -> None:
    lab, port = attacked, make_port(create_tap=True, mtu=mtu)
    target = Target(lab, 0)
    for size in (mtu, 1200, 1500):
        plug(replace(port, mtu=size), lab.host)
    with target.watched(port) as found, hanging(lab, hangs=True):
        found.extend(Guest(lab, port, attack(port, target.macs(port)).values()).stop())
    assert found == []


def test_vm_reaches_nothing_by_a_port_that_was_repaired(attacked: Lab) -> None:
    """A port as os-vif and older releases leave it, on a host that enables routing later."""
    lab, port = attacked, make_port(create_tap=True)
    target = Target(lab, 0)
    plug(port, lab.host)
    for device in target.macs(port):
        lab.sh(
            f"ip link set {device} arp on addrgenmode eui64; echo 0 > /proc/sys/net/ipv6/conf/{device}/disable_ipv6\n"
            f"cd /proc/sys/net/ipv4/conf/{device}; echo 0 > rp_filter; echo 1 > forwarding; echo 1 > proxy_arp"
        )
    named = {step.part.name for step in check(port, lab.host)}
    assert named == {port.names.bridge, port.names.bridge_end, port.names.tap}
    assert plug(port, lab.host).changed
    with target.watched(port) as found, hanging(lab, hangs=True):
        found.extend(Guest(lab, port, attack(port, target.macs(port)).values()).stop())
    assert found == []
