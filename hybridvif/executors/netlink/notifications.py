"""Notifications of the kernel about links. Any process may receive them, without privileges (rtnetlink(7))."""

from __future__ import annotations

import errno
import socket

GROUPS = (1, 5, 12, 24)
"""RTNLGRP_LINK, _IPV4_IFADDR, _IPV6_IFINFO, _IPV4_NETCONF (linux/rtnetlink.h): a group per kind of observed value.

The kernel has none for arp_ignore, arp_announce and addr_gen_mode that are written under /proc/sys.
"""
MAX_READS = 4096
"""Notifications to discard in one go. The socket stays readable if there are more."""


class LinkSubscription:
    """A socket that receives the notifications of this network namespace."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, sum(1 << group - 1 for group in GROUPS)))
        self.fileno, self.close = self._socket.fileno, self._socket.close

    def drain(self) -> bool:
        """Discard the pending notifications. Return whether there were any; lost ones count (ENOBUFS)."""
        for number in range(MAX_READS):
            try:
                # The content is of no interest, so one byte is enough.
                self._socket.recv(1)
            except BlockingIOError:
                return number > 0
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
        return True
