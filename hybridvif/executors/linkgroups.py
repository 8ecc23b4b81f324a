"""Many links deleted as one: the kernel then waits for its grace periods once, not once a device.

The group is a random one that was empty, under one lock of the host; it is deleted only after a dump that nothing
interrupted has shown that it holds exactly the devices that are to go. Whoever is killed in between leaves devices in a
group, which the next plan takes them out of.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
import threading
import time
from collections.abc import Collection, Iterator, Sequence

from hybridvif.executors.linkmessages import delete_group, dump_request, group_of, set_link
from hybridvif.executors.rtnetlink import RTM_DELLINK, Channel, Interrupted, Rejected, Request, link_header_of

FIRST, LAST = 1 << 16, (1 << 31) - 1
"""Below, an administrator's own groups may be: iproute2's names for groups end at 255."""
TRIES = 3
PATIENCE = 1.0
"""Seconds to wait for another daemon of this host; then one by one."""
TOGETHER = 200
"""Devices of one group: while it is deleted nobody else can change a link."""
_NAME = "\0hybridvif-link-group"
"""A socket's name, of which there is one a network namespace; who is killed leaves no lock behind."""

_threads = threading.Lock()


def delete_together(channel: Channel, requests: Sequence[Request], deadline: float) -> Collection[Request]:
    """The deletes among these requests that were carried out, as groups. Raises TimeoutError, OSError."""
    deletes = [request for request in requests if request.kind == RTM_DELLINK]
    if len(deletes) < 2:
        return ()
    gone: set[Request] = set()
    with _alone(min(deadline, time.monotonic() + PATIENCE)) as alone:
        for at in range(0, len(deletes) if alone else 0, TOGETHER):
            some = deletes[at : at + TOGETHER]
            if time.monotonic() >= deadline or not _deleted(channel, some):
                break
            gone.update(some)
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


@contextlib.contextmanager
def _alone(deadline: float) -> Iterator[bool]:
    """Whether nobody else of this host deletes a group meanwhile; False: another daemon was at it all the time."""
    if not _threads.acquire(timeout=max(deadline - time.monotonic(), 0)):
        yield False
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as lock:
            yield _bound(lock, deadline)
    finally:
        _threads.release()


def _bound(lock: socket.socket, deadline: float) -> bool:
    while True:
        try:
            lock.bind(_NAME)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                return False
            time.sleep(0.002)
        else:
            return True
