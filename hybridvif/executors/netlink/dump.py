"""Dumps of the kernel's links, with a cache of decoded messages.

A message that equals the last one about its device, byte by byte, is not decoded again: decoding hundreds of bridges is
slower than the kernel's dump. The timers of a bridge always differ and are excluded from the comparison. Every dump is
read completely; the cache saves only decoding.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from hybridvif.executors.netlink.messages import Message, dump_request, message_of, timers_in
from hybridvif.executors.netlink.socket import Channel, Interrupted, link_header_of

__all__ = ["Interrupted", "decoded", "dump_links"]

CACHE_SIZE = 4096
"""Number of cached links of the last full dump (3 KiB each)."""
INDIVIDUAL_CACHE_SIZE = 32
"""Number of cached links that were read individually: those of ten ports."""


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A message and the decoded device."""

    body: bytes
    """The message with its timers zeroed."""
    timers: list[slice]
    message: Message


_last: dict[int, _Decoded] = {}
"""By link index. Each dump replaces it; it is never modified."""
_individual: dict[int, _Decoded] = {}
"""By link index, the most recently read last."""


def dump_links(deadline: float, master: int = 0, channel: Channel | None = None) -> list[Message]:
    """Return all devices, or the members of one bridge.

    Raises Interrupted, TimeoutError or OSError.
    """
    if channel is None:
        with Channel(deadline) as own:
            return dump_links(deadline, master, own)
    # Read completely before decoding: the shorter the dump, the fewer interruptions.
    bodies = channel.dump(dump_request(master))
    if master:
        return [message for body in bodies if (message := decoded(body)).master == master]
    return _decode_all(bodies)


def decoded(body: bytes) -> Message:
    """Decode the message of a device that was read individually."""
    index, _ = link_header_of(body)
    before = _individual.get(index) or _last.get(index)
    now = _decoded_or_cached(body, before)
    if now is not before:
        _individual.pop(index, None)
        _individual[index] = now
        with suppress(KeyError, RuntimeError):
            # Another thread may evict entries at the same time.
            while len(_individual) > INDIVIDUAL_CACHE_SIZE:
                del _individual[next(iter(_individual))]
    return now.message


def _decode_all(bodies: list[bytes]) -> list[Message]:
    global _last  # noqa: PLW0603  # one cache per process
    before, now = _last, dict[int, _Decoded]()
    messages = []
    for body in bodies:
        index, _ = link_header_of(body)
        entry = _decoded_or_cached(body, before.get(index))
        messages.append(entry.message)
        if len(now) < CACHE_SIZE:
            now[index] = entry
    _last = now
    return messages


def _decoded_or_cached(body: bytes, before: _Decoded | None) -> _Decoded:
    """Decode a message; return the cached entry if the bytes are unchanged."""
    if before is not None and _without_timers(body, before.timers) == before.body:
        return before
    message = message_of(body)
    timers = timers_in(body) if message.kind == "bridge" else []
    return _Decoded(_without_timers(body, timers), timers, message)


def _without_timers(body: bytes, timers: list[slice]) -> bytes:
    """Return the message with these bytes zeroed."""
    if not timers:
        return body
    zeroed = bytearray(body)
    for timer in timers:
        zeroed[timer] = bytes(len(zeroed[timer]))
    return bytes(zeroed)
