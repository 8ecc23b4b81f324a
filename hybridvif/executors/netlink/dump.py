"""One dump of the kernel's links, or of the members of one bridge, over a socket of its own; and one device.

A message that is the same as the last one about its device, to the byte, is not decoded anew: to decode hundreds of
bridges takes longer than the kernel needs to tell of them. A bridge's own timers are left out of the comparison, for
they differ every time. Nothing is left unread for that: all is compared with what the kernel says now.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from hybridvif.executors.netlink.messages import Message, clocks_in, dump_request, message_of
from hybridvif.executors.netlink.socket import Channel, Interrupted, link_header_of

__all__ = ["Interrupted", "decoded", "dump_links"]

KEPT = 4096
"""Links of the last dump of all that are remembered: at 3 KiB each."""
KEPT_ALONE = 32
"""Links that were asked for by themselves, and are remembered beside those: of ten ports."""


@dataclass(frozen=True, slots=True)
class _Told:
    """A message, and what it was decoded to."""

    body: bytes
    """Its timers are zero."""
    clocks: list[slice]
    message: Message


_last: dict[int, _Told] = {}
"""By the index of the link. Replaced whole by each dump, never changed."""
_alone: dict[int, _Told] = {}
"""By the index of the link, the last asked for at the end."""


def dump_links(deadline: float, master: int = 0, channel: Channel | None = None) -> list[Message]:
    """All devices, or the members of one bridge.

    Raises Interrupted, TimeoutError, or OSError with what the kernel said.
    """
    if channel is None:
        with Channel(deadline) as own:
            return dump_links(deadline, master, own)
    # All is read before any of it is decoded: whatever comes or goes while a dump lasts interrupts it.
    bodies = channel.dump(dump_request(master))
    if master:
        return [message for body in bodies if (message := decoded(body)).master == master]
    return _all_decoded(bodies)


def decoded(body: bytes) -> Message:
    """The device that a message is about which was asked for by itself."""
    index, _ = link_header_of(body)
    before = _alone.get(index) or _last.get(index)
    now = _told_anew(body, before)
    if now is not before:
        _alone.pop(index, None)
        _alone[index] = now
        with suppress(KeyError, RuntimeError):
            # Another thread may be at the same.
            while len(_alone) > KEPT_ALONE:
                del _alone[next(iter(_alone))]
    return now.message


def _all_decoded(bodies: list[bytes]) -> list[Message]:
    global _last  # noqa: PLW0603  # of the process, as the links are
    before, now = _last, dict[int, _Told]()
    messages = []
    for body in bodies:
        index, _ = link_header_of(body)
        one = _told_anew(body, before.get(index))
        messages.append(one.message)
        if len(now) < KEPT:
            now[index] = one
    _last = now
    return messages


def _told_anew(body: bytes, before: _Told | None) -> _Told:
    """What this message says; as before, if it says the same."""
    if before is not None and _stopped(body, before.clocks) == before.body:
        return before
    message = message_of(body)
    clocks = clocks_in(body) if message.kind == "bridge" else []
    return _Told(_stopped(body, clocks), clocks, message)


def _stopped(body: bytes, clocks: list[slice]) -> bytes:
    """The message with these bytes zero."""
    if not clocks:
        return body
    stopped = bytearray(body)
    for clock in clocks:
        stopped[clock] = bytes(len(stopped[clock]))
    return bytes(stopped)
