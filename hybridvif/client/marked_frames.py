"""Marked frames that come from the VM of a port, as the kernel sees it, and a look for them at each hop. For root only.

A frame written to a tap of this process is redirected to the receive side of the VM's tap. So the bridge and iptables
treat it as one of the VM. Nothing of the port is changed, and the tap of this process ends with it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import select
import shutil
import socket
import struct
import subprocess
import time

from hybridvif.model.errors import NotReady, PreconditionError
from hybridvif.model.parts import OvsPort
from hybridvif.model.settings import Settings
from hybridvif.model.trace import Evidence

COPIES = 3
_WAIT = 0.5
"""Seconds for a copy to arrive."""
_TUNSETIFF, _TAP = 0x400454CA, 0x1002
"""linux/if_tun.h: IFF_TAP | IFF_NO_PI."""
_ALL, _IPV4 = 3, 0x0800
"""linux/if_ether.h: ETH_P_ALL and ETH_P_IP."""


def send(evidence: Evidence, mac: str, ip: str, settings: Settings) -> dict[str, int]:
    """Send marked frames from the VM to these addresses. Return the number of copies that each device let pass.

    Raises PreconditionError if this user or this kernel cannot send them.
    """
    row, names = evidence.row, evidence.names
    if os.geteuid() != 0:
        raise PreconditionError("--generate sends frames in the name of the VM; run it as root")
    tap = evidence.before.hops.get(names.tap)
    if names.tap not in evidence.chain or tap is None or not tap.up:
        raise PreconditionError(f"--generate needs the VM's device {names.tap}, and it is not up; trace without it")
    if not isinstance(row, OvsPort) or not row.attached_mac:
        raise PreconditionError(
            "--generate needs the MAC address of the VM, and no row of the port has it; plug it again"
        )
    mark = f"hybridvif trace {secrets.token_hex(8)}".encode()
    content = frame(row.attached_mac, mac, ip, mark)
    hops = [name for name in evidence.chain if name in evidence.before.hops and name not in (names.tap, names.bridge)]
    sockets = {name: socket.socket(socket.AF_PACKET, socket.SOCK_RAW) for name in hops}
    try:
        for name, receiver in sockets.items():
            receiver.bind((name, _ALL))
        _redirected(names.tap, content, settings)
        due, seen = time.monotonic() + _WAIT, {names.tap: COPIES, **dict.fromkeys(hops, 0)}
        while (remaining := due - time.monotonic()) > 0 and min(seen.values()) < COPIES:
            ready = select.select([*sockets.values()], [], [], remaining)[0]
            for name in (name for name, receiver in sockets.items() if receiver in ready):
                seen[name] += mark in sockets[name].recv(2048)
        return seen
    finally:
        for receiver in sockets.values():
            receiver.close()


def _redirected(tap: str, content: bytes, settings: Settings) -> None:
    """Let the kernel receive copies of a frame on a device. Raises PreconditionError."""
    try:
        source = os.open("/dev/net/tun", os.O_RDWR)
        try:
            name = (
                fcntl.ioctl(source, _TUNSETIFF, struct.pack("16sH22x", b"hvtrace%d", _TAP))[:16].rstrip(b"\0").decode()
            )
            redirect = ["u32", "match", "u32", "0", "0", "action", "mirred", "ingress", "redirect", "dev", tap]
            _run(["tc", "qdisc", "add", "dev", name, "clsact"], settings)
            _run(["tc", "filter", "add", "dev", name, "ingress", "protocol", "all", *redirect], settings)
            _run(["ip", "link", "set", name, "addrgenmode", "none", "up"], settings)
            for _ in range(COPIES):
                os.write(source, content)
        finally:
            os.close(source)
    except OSError as error:
        raise NotReady(f"--generate cannot create its device: {error.strerror}; trace without it") from error


def _run(words: list[str], settings: Settings) -> None:
    program = shutil.which(words[0], path=settings.program_path)
    if program is None:
        raise NotReady(f"--generate needs {words[0]}, which is not installed; install iproute2")
    done = subprocess.run([program, *words[1:]], stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split())
        raise NotReady(f"--generate cannot send a frame: {words[0]} failed: {reason}; trace without it")


def frame(source: str, mac: str, ip: str, payload: bytes) -> bytes:
    """Return a UDP frame from the port of a DHCP client to that of a server, which ignores such a payload."""
    udp = struct.pack("!HHHH", 68, 67, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), socket.inet_aton(ip))
    total = sum(struct.unpack("!10H", header))
    checksum = ~((total >> 16) + (total & 0xFFFF)) & 0xFFFF
    header = header[:10] + struct.pack("!H", checksum) + header[12:]
    ends = bytes.fromhex((mac + source).replace(":", ""))
    return (ends + struct.pack("!H", _IPV4) + header + udp).ljust(60, b"\0")
