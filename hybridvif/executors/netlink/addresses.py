"""IPv4 addresses of devices. A device with one receives the VM's packets for the host, whatever its settings.

A device whose IPv6 is off has no IPv6 address, and takes none.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from contextlib import suppress

from hybridvif.executors.base import ExecutorError
from hybridvif.executors.netlink.socket import (
    NLM_F_ACK,
    NLM_F_DUMP,
    Channel,
    Interrupted,
    Rejected,
    Request,
    attribute,
    positions_of,
)

_RTM_DELADDR, _RTM_GETADDR, _IFA_LOCAL = 21, 22, 2
_HEADER = struct.Struct("=BBBBI")
"""struct ifaddrmsg: the family, the length of the prefix, flags, scope and index of the device."""
_ATTEMPTS, _TIMEOUT = 20, 2.0


def read_addresses() -> dict[int, list[str]]:
    """Return the IPv4 addresses of all devices, by the index of the device. Raises ExecutorError."""
    found: dict[int, list[str]] = {}
    try:
        for body in _dump():
            local = positions_of(body, _HEADER.size, len(body)).get(_IFA_LOCAL)
            _, length, _, _, index = _HEADER.unpack_from(body)
            if local is not None:
                found.setdefault(index, []).append(f"{socket.inet_ntoa(body[local])}/{length}")
    except OSError as error:
        raise ExecutorError(f"cannot read the addresses of this host: {error.strerror or 'no answer'}") from error
    return found


def _dump() -> list[bytes]:
    with Channel(time.monotonic() + _TIMEOUT) as channel:
        for _ in range(_ATTEMPTS):
            with suppress(Interrupted):
                return channel.dump(Request(_RTM_GETADDR, NLM_F_DUMP, _HEADER.pack(socket.AF_INET, 0, 0, 0, 0)))
    raise OSError(errno.EAGAIN, "the addresses of this host change faster than they can be read")


def remove_addresses(device: str) -> None:
    """Delete the IPv4 addresses of a device. Raises OSError, ExecutorError."""
    index = socket.if_nametoindex(device)
    requests = []
    for address in read_addresses().get(index, ()):
        local, _, length = address.partition("/")
        header = _HEADER.pack(socket.AF_INET, int(length), 0, 0, index)
        requests.append(Request(_RTM_DELADDR, NLM_F_ACK, header + attribute(_IFA_LOCAL, socket.inet_aton(local))))
    with Channel(time.monotonic() + _TIMEOUT) as channel:
        for response in channel.exchange(requests):
            # Secondary addresses go with their primary one.
            if isinstance(response, Rejected) and response.code != errno.EADDRNOTAVAIL:
                raise OSError(response.code, response.message)
