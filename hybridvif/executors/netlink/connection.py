"""A connection to the kernel by our own encoding: many operations in one send, and deletes in groups.

The kernel waits for its grace periods once per group instead of once per device. The group is a random one of 2^31. It
is deleted only after an uninterrupted dump has shown that it contains exactly the devices to delete. A killed process
may leave devices in a group; the next plan resets that.

There is no lock between processes: any user could hold a lock that all daemons can find. None is needed. Two deletes
that draw the same group see too many devices and delete one by one. If one comes between the dump and the delete of the
other, that deletes only devices that were to be deleted anyway.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hybridvif.executors.netlink import messages
from hybridvif.executors.netlink.devices import Device
from hybridvif.executors.netlink.operations import Add, Get, Operation, Remove, Response, Set, SetPort
from hybridvif.executors.netlink.socket import RTM_DELLINK, Channel, Interrupted, Rejected, Request, link_header_of

FIRST, LAST = 1 << 16, (1 << 31) - 1
"""Lower groups may belong to the administrator: names of groups in iproute2 end at 255."""
MAX_ATTEMPTS = 3
MAX_WAIT = 1.0
"""Seconds to wait for another thread of this process; then the devices are deleted one by one."""
MAX_GROUP_SIZE = 50
"""The kernel holds the lock of all links while it deletes a group, up to 20 ms per bridge. ovs-vswitchd waits for it.

With the userspace datapath, the packets of all VMs wait too.
"""
DELETE_TIME = 0.04
"""Seconds per device of a group, at most. It is a quarter of that on an idle machine.

The kernel responds when the whole group is deleted. Meanwhile no deadline is observed, so a group fits into the
remaining time.
"""

_lock = threading.Lock()
"""Serializes the dumps of this process: a delete by another thread would interrupt one. Only for speed."""


class Connection:
    """A netlink socket for one thread; every wait ends by the deadline."""

    def __init__(self, deadline: float) -> None:
        self._deadline, self._channel = deadline, Channel(deadline)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def dump(self, master: int) -> list[Device]:
        """Return all devices, or the members of one bridge. Raises Interrupted, TimeoutError, OSError."""
        # Read completely before decoding: the shorter the dump, the fewer interruptions.
        return [messages.device_of(body) for body in self._channel.dump(messages.dump_request(master))]

    def exchange(self, operations: Sequence[Operation], indexes: Mapping[str, int]) -> list[Response]:
        """Return the responses to these operations; deletes go together if possible. Raises TimeoutError, OSError."""
        requests = [_request_of(operation, indexes) for operation in operations]
        gone = self._delete_together([request for request in requests if request.kind == RTM_DELLINK])
        responses = iter(self._channel.exchange([request for request in requests if request not in gone]))
        answers = [None if request in gone else next(responses) for request in requests]
        return [messages.device_of(answer) if isinstance(answer, bytes) else answer for answer in answers]

    def _delete_together(self, deletes: Sequence[Request]) -> set[Request]:
        """Delete as groups as many as possible; return the delete requests that were carried out."""
        gone: set[Request] = set()
        if len(deletes) > 1 and _lock.acquire(timeout=max(min(MAX_WAIT, self._deadline - time.monotonic()), 0)):
            try:
                while len(gone) < len(deletes):
                    size = min(int((self._deadline - time.monotonic()) / DELETE_TIME), MAX_GROUP_SIZE)
                    some = deletes[len(gone) : len(gone) + size]
                    if size < 1 or not self._delete_group(some):
                        break
                    gone.update(some)
            finally:
                _lock.release()
        return gone

    def _delete_group(self, deletes: Sequence[Request]) -> bool:
        """Delete these devices as a group; return False if none was deleted."""
        indexes = [link_header_of(request.body)[0] for request in deletes]
        group = secrets.randbelow(LAST - FIRST) + FIRST
        responses = self._channel.exchange([messages.set_link(index, {"group": group}) for index in indexes])
        if any(isinstance(response, Rejected) for response in responses) or self._members(group) != set(indexes):
            return False
        (response,) = self._channel.exchange([messages.delete_group(group)])
        return not isinstance(response, Rejected)

    def _members(self, group: int) -> set[int] | None:
        """Return the indexes of the devices of a group; None if every dump was interrupted."""
        for _ in range(MAX_ATTEMPTS):
            try:
                bodies = self._channel.dump(messages.dump_request())
                return {link_header_of(body)[0] for body in bodies if messages.group_of(body) == group}
            except Interrupted:
                continue
        return None


def _request_of(operation: Operation, indexes: Mapping[str, int]) -> Request:
    match operation:
        case Get(device):
            return messages.get_link(device)
        case Add(kind, name, values, peer, peer_values):
            return messages.create_link(kind, name, _resolved(values, indexes), peer, peer_values)
        case Set(name, values):
            return messages.set_link(indexes[name], _resolved(values, indexes))
        case SetPort(name, flags):
            return messages.set_port(indexes[name], flags)
        case Remove(name):
            return messages.delete_link(indexes[name])
    raise TypeError(f"no message for {operation}")


def _resolved(values: Mapping[str, Any], indexes: Mapping[str, int]) -> Mapping[str, Any]:
    """Return these values with the index of the master."""
    return {**values, "master": indexes[values["master"]] if values["master"] else 0} if "master" in values else values
