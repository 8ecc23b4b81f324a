"""The part of a VM's namespace in a live migration: python handover.py pause|resume ADDRESS MAC.

It prints "ready", waits for a line, acts, and prints the moment of that. To pause is to take the address from eth0,
which is silent without. To resume is to give it back, and to announce the MAC address by five RARP packets as QEMU
(net/announce.c, with the default parameters of a migration).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import time

SIOCSIFADDR = 0x8916
RARP = 0x8035
DELAYS = (0.05, 0.15, 0.25, 0.35)
"""Seconds between the announcements."""


def main(verb: str, address: str, mac: str) -> None:
    """Pause or resume after a line of input."""
    station = bytes.fromhex(mac.replace(":", ""))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire,
    ):
        wire.bind(("eth0", RARP))
        write("ready")
        sys.stdin.readline()
        if verb == "pause":
            moment = time.time()
            configure(control, "0.0.0.0")
            write(f"{moment}")
            return
        configure(control, address)
        write(f"{time.time()}")
        wire.send(announcement(station))
        for delay in DELAYS:
            time.sleep(delay)
            wire.send(announcement(station))


def configure(control: socket.socket, address: str) -> None:
    """Give eth0 an address, and 0.0.0.0 for none."""
    request = struct.pack("16sH2x4s8x", b"eth0", socket.AF_INET, socket.inet_aton(address))
    fcntl.ioctl(control, SIOCSIFADDR, request)


def announcement(station: bytes) -> bytes:
    """Return a broadcast that asks for the own address, as QEMU sends it."""
    header = b"\xff" * 6 + station + RARP.to_bytes(2, "big")
    body = struct.pack("!HHBBH6s4x6s4x", 1, 0x0800, 6, 4, 3, station, station)
    return (header + body).ljust(60, b"\0")


def write(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
