"""What a socket to the kernel's links takes for the answer to which question."""

from __future__ import annotations

import time

from hybridvif.executors.netlink import socket
from hybridvif.executors.netlink.messages import dump_request


class _Late(socket.Channel):
    """The answer to an earlier request comes ahead of the kernel's next one, as where a delete was announced first."""

    late = socket._HEADER.pack(20, socket.NLMSG_ERROR, 0, 0, 0) + bytes(4)

    def _receive(self) -> bytes:
        late, self.late = self.late, b""
        return late or super()._receive()


def test_the_late_answer_to_another_request_ends_no_dump() -> None:
    with _Late(time.monotonic() + 5) as channel:
        channel._number = 1
        # There is lo in every namespace.
        assert channel.dump(dump_request())
