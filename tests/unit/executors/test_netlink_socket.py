"""netlink.socket: responses are matched to requests."""

from __future__ import annotations

import time

from hybridvif.executors.netlink import socket
from hybridvif.executors.netlink.connection import dump_request


class _Late(socket.NetlinkSocket):
    """A channel on which the late response to an earlier delete comes first."""

    late = socket._HEADER.pack(20, socket.NLMSG_ERROR, 0, 0, 0) + bytes(4)

    def _receive(self) -> bytes:
        late, self.late = self.late, b""
        return late or super()._receive()


def test_late_response_to_another_request_does_not_end_a_dump() -> None:
    with _Late(time.monotonic() + 5) as channel:
        channel._number = 1
        # Every network namespace has lo.
        assert channel.dump(dump_request())
