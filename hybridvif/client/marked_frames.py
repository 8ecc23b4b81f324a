"""Marked frames that come from the VM of a port, as the kernel sees it, and a look for them at each hop. For root only.

A frame written to a tap of this process is redirected to the receive side of the VM's tap. So the bridge and iptables
treat it as one of the VM. Nothing of the port is changed, and the tap of this process ends with it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import select
import socket
import struct
import time
from contextlib import ExitStack

from hybridvif.client.filters import output_of
from hybridvif.model.errors import NotReady, PreconditionError
from hybridvif.model.settings import Settings
from hybridvif.model.trace import Evidence, Hop

COPIES = 3
_WAIT, _TIMEOUT = 0.5, 5.0
"""Seconds for a copy to arrive, and for a program."""
_TUNSETIFF, _TAP = 0x400454CA, 0x1002
"""linux/if_tun.h: IFF_TAP | IFF_NO_PI."""
_ALL, _IPV4 = 3, 0x0800
"""linux/if_ether.h: ETH_P_ALL and ETH_P_IP."""


def send(evidence: Evidence, mac: str, ip: str, settings: Settings) -> dict[str, int]:
    """Send marked frames from the VM to these addresses. Return the number of copies that each device let pass.

    Raises PreconditionError if this user or this kernel cannot send them.
    """
    names = evidence.names
    if os.geteuid() != 0:
        raise PreconditionError("--generate sends frames in the name of the VM; run it as root")
    tap = evidence.before.hops.get(names.tap)
    if names.tap not in evidence.chain or tap is None or not tap.up:
        raise PreconditionError(f"--generate needs the VM's device {names.tap}, and it is not up; trace without it")
    if not evidence.mac:
        raise PreconditionError("--generate needs the MAC address of the VM in the row of the port; plug it again")
    mark = f"hybridvif trace {secrets.token_hex(8)}".encode()
    watched = [names.bridge_end, names.switch_end] if names.bridge in evidence.chain else []
    hops = [name for name in watched if evidence.before.hops.get(name, Hop(up=False)).up]
    seen = {names.tap: COPIES, **dict.fromkeys(watched, 0)}
    try:
        with ExitStack() as stack:
            sockets = {stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)): name for name in hops}
            for receiver, name in sockets.items():
                receiver.bind((name, _ALL))
            _receive_at(names.tap, frame(evidence.mac, mac, ip, mark), settings)
            due = time.monotonic() + _WAIT
            while (remaining := due - time.monotonic()) > 0 and any(seen[name] < COPIES for name in hops):
                for receiver in select.select([*sockets], [], [], remaining)[0]:
                    seen[sockets[receiver]] += mark in receiver.recv(2048)
    except (OSError, NotReady) as error:
        raise NotReady(f"--generate cannot send frames: {error}; trace without it") from error
    return seen


def _receive_at(tap: str, content: bytes, settings: Settings) -> None:
    """Let the kernel receive copies of a frame on a device. Raises OSError, NotReady."""
    source = os.open("/dev/net/tun", os.O_RDWR)
    try:
        request = fcntl.ioctl(source, _TUNSETIFF, struct.pack("16sH22x", b"hvtrace%d", _TAP))
        name = request[:16].rstrip(b"\0").decode()
        for line in (
            f"tc qdisc add dev {name} clsact",
            f"tc filter add dev {name} ingress protocol all u32 match u32 0 0 action mirred ingress redirect dev {tap}",
            f"ip link set {name} addrgenmode none up",
        ):
            output_of(settings, line.split(), time.monotonic() + _TIMEOUT)
        for _ in range(COPIES):
            os.write(source, content)
    finally:
        os.close(source)


def frame(source: str, mac: str, ip: str, payload: bytes) -> bytes:
    """Return a UDP frame from the port of a DHCP client to that of a server, which ignores such a payload."""
    udp = struct.pack("!HHHH", 68, 67, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), socket.inet_aton(ip))
    total = sum(struct.unpack("!10H", header))
    checksum = ~((total >> 16) + (total & 0xFFFF)) & 0xFFFF
    header = header[:10] + struct.pack("!H", checksum) + header[12:]
    ends = bytes.fromhex((mac + source).replace(":", ""))
    return (ends + struct.pack("!H", _IPV4) + header + udp).ljust(60, b"\0")
