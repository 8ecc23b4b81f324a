"""One dump of the kernel's links, or of the members of one bridge, over a socket of its own."""

from __future__ import annotations

from hybridvif.executors.linkmessages import Message, dump_request, message_of
from hybridvif.executors.rtnetlink import Channel, Interrupted

__all__ = ["Interrupted", "dump_links"]


def dump_links(deadline: float, master: int = 0, channel: Channel | None = None) -> list[Message]:
    """All devices, or the members of one bridge.

    Raises Interrupted, TimeoutError, or OSError with what the kernel said.
    """
    if channel is None:
        with Channel(deadline) as own:
            return dump_links(deadline, master, own)
    # All is read before any of it is decoded: whatever comes or goes while a dump lasts interrupts it.
    messages = [message_of(body) for body in channel.dump(dump_request(master))]
    return [message for message in messages if not master or message.master == master]
