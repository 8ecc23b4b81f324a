"""Delete many links as one group: the kernel waits for its grace periods once instead of once per device.

The group is a random one of 2^31. It is deleted only after an uninterrupted dump has shown that it contains exactly the
devices to delete. A killed process may leave devices in a group; the next plan resets that.

There is no lock between processes: any user could hold a lock that all daemons can find. None is needed. Two deletes
that draw the same group see too many devices and delete one by one. If one comes between the dump and the delete of the
other, that deletes only devices that were to be deleted anyway.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Collection, Sequence

from hybridvif.executors.netlink.messages import delete_group, dump_request, group_of, set_link
from hybridvif.executors.netlink.socket import RTM_DELLINK, Channel, Interrupted, Rejected, Request, link_header_of

FIRST, LAST = 1 << 16, (1 << 31) - 1
"""Lower groups may belong to the administrator: names of groups in iproute2 end at 255."""
MAX_ATTEMPTS = 3
MAX_WAIT = 1.0
"""Seconds to wait for another thread of this process; then the devices are deleted one by one."""
MAX_GROUP_SIZE = 20
"""Devices per group: the kernel responds after about 10 ms each. Meanwhile no deadline is observed, and nobody else can
change a link.
"""

_lock = threading.Lock()
"""Serializes the dumps of this process: a delete by another thread would interrupt one. Only for speed."""


def delete_together(channel: Channel, requests: Sequence[Request], deadline: float) -> Collection[Request]:
    """Delete as groups as many as possible; return the delete requests that were carried out.

    Raises TimeoutError, OSError.
    """
    deletes = [request for request in requests if request.kind == RTM_DELLINK]
    if len(deletes) < 2:
        return ()
    gone: set[Request] = set()
    if not _lock.acquire(timeout=max(min(MAX_WAIT, deadline - time.monotonic()), 0)):
        return ()
    try:
        for start in range(0, len(deletes), MAX_GROUP_SIZE):
            some = deletes[start : start + MAX_GROUP_SIZE]
            if time.monotonic() >= deadline or not _delete_group(channel, some):
                break
            gone.update(some)
    finally:
        _lock.release()
    return gone


def _delete_group(channel: Channel, deletes: Sequence[Request]) -> bool:
    """Delete these devices as a group; return False if none was deleted."""
    indexes = [link_header_of(request.body)[0] for request in deletes]
    group = secrets.randbelow(LAST - FIRST) + FIRST
    responses = channel.exchange([set_link(index, {"group": group}) for index in indexes])
    if any(isinstance(response, Rejected) for response in responses):
        return False
    if _members(channel, group) != set(indexes):
        return False
    (response,) = channel.exchange([delete_group(group)])
    return not isinstance(response, Rejected)


def _members(channel: Channel, group: int) -> set[int] | None:
    """Return the indexes of the devices of a group; None if every dump was interrupted."""
    for _ in range(MAX_ATTEMPTS):
        try:
            return {link_header_of(body)[0] for body in channel.dump(dump_request()) if group_of(body) == group}
        except Interrupted:
            continue
    return None
