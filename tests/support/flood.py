"""A flood of frames out of one end of a veth pair from its creation on, and the packets of it that reach the host.

Arguments: the sending end, the receiving end, the destination MAC; "own" is that of the receiving end. The flood ends
with the standard input. Then the number of packets that a UDP socket of the host has received is printed.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
from pathlib import Path

SOURCE, DESTINATION, PORT = "203.0.113.9", "198.51.100.1", 5353


def packet() -> bytes:
    """Return an IPv4 packet with a UDP datagram to the host. It has no UDP checksum."""
    addresses = socket.inet_aton(SOURCE) + socket.inet_aton(DESTINATION)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 32, 1, 0, 64, socket.IPPROTO_UDP, 0) + addresses
    total = sum(struct.unpack("!10H", header))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)
    return header[:10] + checksum + header[12:] + struct.pack("!HHHH", 1234, PORT, 12, 0) + b"host"


def flood(sender: str, receiver: str, destination: str, stop: threading.Event) -> None:
    """Send out of a device as soon as it exists, until the event."""
    channel = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    frame = b""
    while not stop.is_set():
        with contextlib.suppress(OSError):
            if not frame:
                channel.bind((sender, 0))
                own = Path(f"/sys/class/net/{receiver}/address")
                mac = own.read_text().strip() if destination == "own" else destination
                frame = bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("020000000001") + b"\x08\x00" + packet()
            channel.send(frame)


def main() -> None:
    """Flood until the end of the standard input."""
    stop = threading.Event()
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("0.0.0.0", PORT))  # the host of the test
    listener.setblocking(False)
    sender = threading.Thread(target=flood, args=(*sys.argv[1:4], stop))
    sender.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    stop.set()
    sender.join()
    received = 0
    with contextlib.suppress(BlockingIOError):
        while listener.recv(100):
            received += 1
    sys.stdout.write(f"{received}\n")


main()
