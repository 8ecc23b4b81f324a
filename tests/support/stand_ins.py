"""Stand-ins for the VMs of many ports, in one process: it holds their taps, sends frames and measures the gaps.

Run it inside of a sandbox: stand_ins.py MILLISECONDS < names of the taps. It prints "ready" once all taps are open.
Then it sends a frame from each tap every so many milliseconds to the sink, an internal port of br-int. Another line
of input begins the measurement anew. When its input ends, it prints the longest gap between two frames of each tap, in
seconds, as JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import sys
import time

SINK = "hvsink"
_PROTOCOL = 0x88B5
"""EtherType for local experiments (IEEE 802)."""
_RCVBUFFORCE = 33
"""SO_RCVBUFFORCE of asm-generic/socket.h."""
_TUNSETIFF, _TAP = 0x400454CA, 0x1002
"""linux/if_tun.h: IFF_TAP | IFF_NO_PI."""


def open_tap(name: str) -> int:
    """Create a tap that lasts as long as this process, as libvirt does."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP))
    return tap


def main() -> None:
    interval = int(sys.argv[1]) / 1000
    names = sys.stdin.readline().split()
    taps = [open_tap(name) for name in names]
    with open(f"/sys/class/net/{SINK}/address", encoding="ascii") as file:
        sink = bytes.fromhex(file.read().strip().replace(":", ""))
    receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_PROTOCOL))
    receiver.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 1 << 24)
    receiver.bind((SINK, _PROTOCOL))
    receiver.setblocking(False)
    frames = [
        sink + b"\x02\x00\x00" + number.to_bytes(3, "big") + _PROTOCOL.to_bytes(2, "big") + number.to_bytes(4, "big")
        for number in range(len(taps))
    ]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    last: dict[int, float] = {}
    gaps: dict[int, float] = {}
    due, is_over, announced = time.monotonic(), False, 0.0
    while not is_over or time.monotonic() < due:
        now = time.monotonic()
        if now >= due:
            due = max(due + interval, now)
            for tap, frame in zip(taps, frames, strict=True):
                # A tap that is down does not take it.
                try:
                    os.write(tap, frame.ljust(60, b"\0"))
                except OSError:
                    continue
        if now >= announced + 1:
            # Open vSwitch learns the port of the sink.
            receiver.send(b"\xff" * 6 + sink + b"\x88\xb6" + bytes(46))
            announced = now
        ready, _, _ = select.select(
            [receiver, *([] if is_over else [sys.stdin])], [], [], max(due - time.monotonic(), 0)
        )
        if sys.stdin in ready:
            # A line begins the measurement anew, and the end of the input ends it.
            is_over = not sys.stdin.readline()
            gaps = gaps if is_over else {}
        while True:
            try:
                number = int.from_bytes(receiver.recv(64)[14:18], "big")
            except BlockingIOError:
                break
            now = time.monotonic()
            gaps[number] = max(gaps.get(number, 0.0), now - last.get(number, now))
            last[number] = now
    end = time.monotonic()
    for number in range(len(taps)):
        # One that has stopped counts too.
        gaps[number] = max(gaps.get(number, end), end - last.get(number, 0.0))
    sys.stdout.write(json.dumps({name: gaps[number] for number, name in enumerate(names)}))


if __name__ == "__main__":
    main()
