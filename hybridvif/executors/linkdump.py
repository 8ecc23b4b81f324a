"""One dump of the kernel's links, or of the members of one bridge, over a socket of its own.

pyroute2 encodes the request and decodes the answer; its own dump filters by master only after it has decoded every
link of the host (a single port would cost the more, the more ports there are), and 0.9.7 does not tell that a dump
was interrupted.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

RTM_GETLINK, NLMSG_ERROR, NLMSG_DONE = 18, 2, 3
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLM_F_DUMP_INTR = 0x10
"""linux/netlink.h: devices came or went while the dump was made; it may lack some."""
RTEXT_FILTER_SKIP_STATS = 1 << 3
"""linux/rtnetlink.h: leave the counters out, which are most of an answer."""

_HEADER = struct.Struct("=IHHII")


class Interrupted(Exception):
    """The kernel says that the dump may lack links: it proves nothing."""


def dump_links(deadline: float, master: int = 0) -> list[Any]:
    """The link messages of all devices, or of the members of one bridge.

    Raises Interrupted, TimeoutError, or OSError with what the kernel said.
    """
    request = ifinfmsg()
    request["header"]["type"] = RTM_GETLINK
    request["header"]["flags"] = NLM_F_REQUEST | NLM_F_DUMP
    request["attrs"] = [["IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS]]
    if master:
        request["attrs"].append(["IFLA_MASTER", master])
    request.encode()
    # All is read before any of it is decoded: whatever comes or goes while a dump lasts interrupts it, and decoding
    # takes pyroute2 fifty times as long as the kernel needs.
    messages = [ifinfmsg(data) for data in _read(request.data, deadline)]
    for message in messages:
        message.decode()
    return [message for message in messages if not master or message.get_attr("IFLA_MASTER") == master]


def _read(request: bytes, deadline: float) -> list[bytes]:
    """The answers to a request for a dump, as they came."""
    found: list[bytes] = []
    interrupted = False
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as channel:
        channel.bind((0, 0))
        channel.send(request)
        while True:
            channel.settimeout(max(deadline - time.monotonic(), 0.001))
            data = channel.recv(1 << 18)
            at = 0
            while at < len(data):
                length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if kind == NLMSG_DONE:
                    if interrupted:
                        raise Interrupted
                    return found
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data, at + _HEADER.size)[0]
                    raise OSError(code or errno.EPROTO, os.strerror(code or errno.EPROTO))
                found.append(data[at : at + length])
                at += (length + 3) & ~3
