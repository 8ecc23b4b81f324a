"""Many links deleted as one: the kernel then waits for its grace periods once, not once a device.

The group is a random one of 2^31. It is deleted only after a dump that nothing interrupted has shown that it holds
exactly the devices that are to go. A process that is killed in between leaves devices in a group, which the next plan
takes them out of.

No lock is taken: any user of the host could hold one that all daemons of a network namespace can find. None is needed.
Two deletes that draw the same group, which one in 2^31 does, see too many devices and go one by one; if one of them
comes between the dump and the delete of the other, that takes along what was to be deleted as well.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Collection, Sequence

from hybridvif.executors.netlink.messages import delete_group, dump_request, group_of, set_link
from hybridvif.executors.netlink.socket import RTM_DELLINK, Channel, Interrupted, Rejected, Request, link_header_of

FIRST, LAST = 1 << 16, (1 << 31) - 1
"""Below, an administrator's own groups may be: iproute2's names for groups end at 255."""
TRIES = 3
PATIENCE = 1.0
"""Seconds to wait for another thread of this process; then one by one."""
TOGETHER = 200
"""Devices of one group: while it is deleted nobody else can change a link."""

_threads = threading.Lock()
"""One dump at a time: a delete of another thread would interrupt it. For speed alone."""


def delete_together(channel: Channel, requests: Sequence[Request], deadline: float) -> Collection[Request]:
    """The deletes among these requests that were carried out, as groups. Raises TimeoutError, OSError."""
    deletes = [request for request in requests if request.kind == RTM_DELLINK]
    if len(deletes) < 2:
        return ()
    gone: set[Request] = set()
    if not _threads.acquire(timeout=max(min(PATIENCE, deadline - time.monotonic()), 0)):
        return ()
    try:
        for start in range(0, len(deletes), TOGETHER):
            some = deletes[start : start + TOGETHER]
            if time.monotonic() >= deadline or not _deleted(channel, some):
                break
            gone.update(some)
    finally:
        _threads.release()
    return gone


def _deleted(channel: Channel, deletes: Sequence[Request]) -> bool:
    """Whether these devices, and no other, were deleted as a group; else none was."""
    indexes = [link_header_of(request.body)[0] for request in deletes]
    group = secrets.randbelow(LAST - FIRST) + FIRST
    if any(isinstance(one, Rejected) for one in channel.exchange([set_link(one, {"group": group}) for one in indexes])):
        return False
    if _members(channel, group) != set(indexes):
        return False
    return not isinstance(channel.delete_announced(delete_group(group), indexes), Rejected)


def _members(channel: Channel, group: int) -> set[int] | None:
    """The indexes of the devices of a group; None if that cannot be told for sure."""
    for _ in range(TRIES):
        try:
            return {link_header_of(body)[0] for body in channel.dump(dump_request()) if group_of(body) == group}
        except Interrupted:
            continue
    return None
