"""A connection to the kernel by our own encoding: many operations in one send, and deletes in groups.

The messages are those that plugging needs. devices.py has the numbers of the attributes. The executor pyroute2 verifies
them in tests/contract.

The kernel waits for its readers once per group instead of once per device. The group is a random one of 2^31. It
is deleted only after an uninterrupted dump has shown that it contains exactly the devices to delete. A killed process
may leave devices in a group; the next plan resets that.

There is no lock between processes: any user could hold a lock that all daemons can find. None is needed. Two deletes
that draw the same group see too many devices and delete one by one. If one comes between the dump and the delete of the
other, that deletes only devices that were to be deleted anyway.
"""

from __future__ import annotations

import errno
import functools
import secrets
import socket
import struct
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hybridvif.executors.base import Failure
from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.devices import (
    ADDR_GEN_MODES,
    BRIDGE,
    FLAGS,
    IPV4,
    IPV6,
    LINK,
    PORT,
    Device,
    forget_parts,
)
from hybridvif.executors.netlink.operations import Add, Get, Operation, Remove, Set
from hybridvif.executors.netlink.socket import (
    MAX_REPEATS,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
    Interrupted,
    NetlinkAttributes,
    NetlinkRequest,
    NetlinkSocket,
    Rejected,
    link_header,
    link_header_of,
    nested,
    packed,
)
from hybridvif.model.errors import escaped
from hybridvif.model.parts import ANYBODY

FIRST, LAST = 1 << 16, (1 << 31) - 1
"""Lower groups may belong to the administrator: names of groups in iproute2 end at 255."""
MAX_DUMPS = 3
"""Number of dumps in which a group is looked for."""
MAX_WAIT = 1.0
"""Seconds to wait for another thread of this process; then the devices are deleted one by one."""
MAX_GROUP_SIZE = 50
"""The kernel holds the lock of all links while it deletes a group, up to 20 ms per bridge. ovs-vswitchd waits for it.

With the userspace datapath, the packets of all VMs wait too.
"""
GROUP_PAUSE = 0.03
"""Seconds between the moves into a full group and its delete. ovs-vswitchd reads the moved devices meanwhile.

Without a pause it may wait for two or three groups together.
"""
DELETE_TIME = 0.04
"""Seconds per device of a group, at most. It is a quarter of that on an idle machine.

The kernel responds when the whole group is deleted. Meanwhile no deadline is observed, so a group fits into the
remaining time.
"""

IFF_RUNNING = 0x40
RTEXT_FILTER_SKIP_STATS = 1 << 3
"""linux/rtnetlink.h: omit the counters, the largest part of a response."""
IFNAME, LINKED, MASTER, LINKINFO, AF_SPEC, EXT_MASK, CARRIER, LINK_NETNSID = 3, 5, 10, 18, 26, 29, 33, 37
PROP_LIST = 52
INFO_KIND, INFO_DATA, INFO_SLAVE_KIND, INFO_SLAVE_DATA, VETH_PEER, INET_CONF, INET6_CONF = 1, 2, 4, 5, 1, 1, 2
_RTM_DELADDR, _RTM_GETADDR, _IFA_LOCAL = 21, 22, 2
_ADDRESS = struct.Struct("=BBBBI")
"""struct ifaddrmsg: the family, the length of the prefix, flags, scope and index of the device."""
TUN_OWNER, TUN_TYPE, TUN_QUEUES = 1, 3, (8, 9)
IFF_TUN = 1
BRIDGE_TIMERS = range(16, 20)
"""IFLA_BR_HELLO_TIMER to IFLA_BR_GC_TIMER."""
CACHE_SIZE = 4096
"""Number of decoded links that are kept (3 KiB each)."""
_NO_COUNTERS = packed(EXT_MASK, RTEXT_FILTER_SKIP_STATS)

Response = Device | Rejected | Failure | None
"""Response to an operation: the device of a Get, the error of the kernel or of a program, or None for success."""

_lock = threading.Lock()
"""Serializes the dumps of this process: a delete by another thread would interrupt one. Only for speed."""


class Connection:
    """A netlink socket for one thread; every wait ends by the deadline."""

    def __init__(self, deadline: float) -> None:
        self.deadline, self._channel = deadline, NetlinkSocket(deadline)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def dump(self, master: int = 0) -> list[Device]:
        """Return all devices, or the members of one bridge. Raises Interrupted, TimeoutError, OSError."""
        # Read completely before decoding: the shorter the dump, the fewer interruptions.
        bodies = self._channel.repeated_dump(dump_request(master)) if master else self._dump_all()
        return [device for device in map(device_of, bodies) if master in (0, device.master)]

    def _dump_all(self, attempts: int = MAX_REPEATS) -> list[bytes]:
        """Return the messages of all devices. Devices that are gone leave the cache. Raises as dump()."""
        bodies = self._channel.repeated_dump(dump_request(), attempts)
        forget(_cache.keys() - {link_header_of(body)[0] for body in bodies})
        return bodies

    def addresses(self) -> dict[int, list[str]]:
        """Return the IPv4 addresses of all devices, by the index of the device. Raises as dump().

        A device with one receives the VM's packets for the host, whatever its settings. A device whose IPv6 is off has
        no IPv6 address, and takes none.
        """
        found: dict[int, list[str]] = {}
        header = _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)
        for body in self._channel.repeated_dump(NetlinkRequest(_RTM_GETADDR, NLM_F_DUMP, header)):
            local = NetlinkAttributes(body[_ADDRESS.size :])[_IFA_LOCAL]
            _, length, _, _, index = _ADDRESS.unpack_from(body)
            if local:
                found.setdefault(index, []).append(f"{socket.inet_ntoa(local)}/{length}")
        return found

    def remove_addresses(self, device: str) -> None:
        """Delete the IPv4 addresses of a device. Raises OSError."""
        index, requests = socket.if_nametoindex(device), list[NetlinkRequest]()
        for address in self.addresses().get(index, ()):
            local, _, length = address.partition("/")
            header = _ADDRESS.pack(socket.AF_INET, int(length), 0, 0, index)
            requests.append(
                NetlinkRequest(_RTM_DELADDR, NLM_F_ACK, header + packed(_IFA_LOCAL, socket.inet_aton(local)))
            )
        for response in self._channel.exchange(requests):
            # Secondary addresses go with their primary one.
            if isinstance(response, Rejected) and response.code != errno.EADDRNOTAVAIL:
                raise OSError(response.code, response.message)

    def exchange(self, operations: Sequence[Operation], indexes: Mapping[str, int]) -> list[Response]:
        """Return the responses to these operations; deletes go together if possible. Raises TimeoutError, OSError."""
        requests = [request_of(operation, indexes) for operation in operations]
        gone = self._delete_together([request for request in requests if request.kind == RTM_DELLINK])
        responses = iter(self._channel.exchange([request for request in requests if request not in gone]))
        received = (None if request in gone else next(responses) for request in requests)
        return [device_of(response) if isinstance(response, bytes) else response for response in received]

    def _delete_together(self, deletes: Sequence[NetlinkRequest]) -> set[NetlinkRequest]:
        """Delete as groups as many as possible; return the delete requests that were carried out."""
        gone: set[NetlinkRequest] = set()
        if len(deletes) > 1 and _lock.acquire(timeout=max(min(MAX_WAIT, self.deadline - time.monotonic()), 0)):
            try:
                while len(gone) < len(deletes):
                    size = min(int((self.deadline - time.monotonic()) / DELETE_TIME), MAX_GROUP_SIZE)
                    some = deletes[len(gone) : len(gone) + size]
                    if size < 1 or not self._delete_group(some):
                        break
                    gone.update(some)
            finally:
                _lock.release()
        return gone

    def _delete_group(self, deletes: Sequence[NetlinkRequest]) -> bool:
        """Delete these devices as a group; return False if none was deleted."""
        indexes = [link_header_of(request.body)[0] for request in deletes]
        group = secrets.randbelow(LAST - FIRST) + FIRST
        moves = [NetlinkRequest(RTM_NEWLINK, NLM_F_ACK, _link({"group": group}, {}, index)) for index in indexes]
        responses = self._channel.exchange(moves)
        if len(deletes) == MAX_GROUP_SIZE:
            time.sleep(GROUP_PAUSE)
        if any(isinstance(response, Rejected) for response in responses) or self._members(group) != set(indexes):
            return False
        (response,) = self._channel.exchange([delete_group(group)])
        return not isinstance(response, Rejected)

    def _members(self, group: int) -> set[int] | None:
        """Return the indexes of the devices of a group; None if every dump was interrupted."""
        try:
            bodies = self._dump_all(MAX_DUMPS)
        except Interrupted:
            return None
        return {link_header_of(body)[0] for body in bodies if group_of(body) == group}


class OneByOne(Connection):
    """A connection that reads devices likewise, and changes them by other means, one operation after another."""

    def exchange(self, operations: Sequence[Operation], indexes: Mapping[str, int]) -> list[Response]:
        """Return the responses to these operations. Raises TimeoutError, OSError."""
        if all(isinstance(operation, Get) for operation in operations):
            return super().exchange(operations, indexes)
        return [self._response_to(operation, indexes) for operation in operations]

    def _response_to(self, operation: Operation, indexes: Mapping[str, int]) -> Response:
        if isinstance(operation, Get):
            return super().exchange([operation], indexes)[0]
        if time.monotonic() >= self.deadline:
            return Rejected(errno.ETIMEDOUT)
        try:
            self.carry_out(operation, indexes)
        except Failure as failure:
            return failure
        except OSError as error:
            return Rejected(error.errno or 0)
        return None

    def carry_out(self, operation: Operation, indexes: Mapping[str, int]) -> None:
        """Carry out an Add, Set or Remove. Raises Failure, OSError."""
        raise NotImplementedError


# -- requests ----------------------------------------------------------------------------------------------------------


def request_of(operation: Operation, indexes: Mapping[str, int]) -> NetlinkRequest:
    """Return the request for an operation. indexes: those of the devices by name.

    The kernel writes the options of a bridge first. It creates no peer that is up (ENOTCONN).
    """
    match operation:
        case Get(int(index)):
            return NetlinkRequest(RTM_GETLINK, 0, link_header(index) + _NO_COUNTERS)
        case Get(str(name)):
            return NetlinkRequest(RTM_GETLINK, 0, link_header() + packed(IFNAME, name) + _NO_COUNTERS)
        case Add(kind, name, values, peer, peer_values):
            info = b"" if kind == "bridge" else _info(kind, nested(VETH_PEER, _link(peer_values, indexes, name=peer)))
            body = _link(values, indexes, name=name) + info
            return NetlinkRequest(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)
        case Set(name, values):
            return NetlinkRequest(RTM_NEWLINK, NLM_F_ACK, _link(values, indexes, indexes[name]))
        case Remove(name):
            return NetlinkRequest(RTM_DELLINK, NLM_F_ACK, link_header(indexes[name]))
    raise TypeError(f"no message for {operation}")


def dump_request(master: int = 0) -> NetlinkRequest:
    """Return the request for all devices, or for the members of one bridge."""
    only = packed(MASTER, master) if master else b""
    return NetlinkRequest(RTM_GETLINK, NLM_F_DUMP, link_header() + _NO_COUNTERS + only)


def delete_group(group: int) -> NetlinkRequest:
    """Return the request to delete all devices of one group."""
    return NetlinkRequest(RTM_DELLINK, NLM_F_ACK, link_header() + packed(LINK["group"].number, group))


def _link(values: Mapping[str, Any], indexes: Mapping[str, int], index: int = 0, name: str = "") -> bytes:
    flags = change = 0
    attributes = [packed(IFNAME, name)] if name else []
    options, settings, mode = list[tuple[str, int]](), list[tuple[str, int]](), -1
    for key, value in values.items():
        if key in FLAGS:
            change |= FLAGS[key].number
            flags |= FLAGS[key].number * bool(value)
        elif key in LINK:
            encoded = bytes.fromhex(value.replace(":", "")) if key == "mac" else value
            attributes.append(packed(LINK[key].number, encoded))
        elif key == "master":
            attributes.append(packed(MASTER, indexes[value] if value else 0))
        elif key == "bridge_port":
            rows = [packed(PORT[flag].number, bytes([number])) for flag, number in value.items()]
            slave = packed(INFO_SLAVE_KIND, "bridge"), nested(INFO_SLAVE_DATA, *rows)
            attributes.append(nested(LINKINFO, *slave))
        elif key == "addr_gen_mode":
            mode = value if sysctl.has_ipv6() else -1
        else:
            (options if key in BRIDGE else settings).append((key, value))
    header = link_header(index, flags=flags, change=change)
    # Cached: nearly all ports of a host have the same.
    return b"".join((header, *attributes, _nested((*options,), (*settings,), mode)))


def _info(kind: str, data: bytes) -> bytes:
    return nested(LINKINFO, packed(INFO_KIND, kind), nested(INFO_DATA, data))


@functools.lru_cache(maxsize=64)
def _nested(options: tuple[tuple[str, int], ...], settings: tuple[tuple[str, int], ...], mode: int) -> bytes:
    """Return the options of a bridge, and the IPv4 settings and the addr_gen_mode of a device; -1: none."""
    rows = [packed(BRIDGE[name].number, struct.pack(BRIDGE[name].format, value)) for name, value in options]
    ipv4 = nested(INET_CONF, *(packed(IPV4[name].number, value) for name, value in settings))
    families = [nested(socket.AF_INET, ipv4)] if settings else []
    if mode >= 0:
        families.append(nested(socket.AF_INET6, packed(IPV6["addr_gen_mode"].number, bytes([mode]))))
    return (_info("bridge", b"".join(rows)) if rows else b"") + (nested(AF_SPEC, *families) if families else b"")


# -- responses ---------------------------------------------------------------------------------------------------------

_cache: dict[int, tuple[bytes, tuple[slice, ...], Device]] = {}
"""By link index: the last message without the bridge timers, their positions, and the device.

Decoding hundreds of bridges is slower than the kernel's dump. The timers of a bridge change constantly.
"""


def device_of(body: bytes) -> Device:
    """Decode a link message; return the cached device if the bytes are unchanged."""
    index, _ = link_header_of(body)
    cached = _cache.get(index)
    if cached is not None and _without(body, cached[1]) == cached[0]:
        return cached[2]
    device, timers = _decode(body)
    if len(_cache) >= CACHE_SIZE:
        _cache.clear()
    _cache[index] = _without(body, timers), timers, device
    return device


def forget(indexes: Collection[int]) -> None:
    """Remove devices from the cache, and all parts that are made of devices. Otherwise each unplugged port stays."""
    for index in indexes:
        _cache.pop(index, None)
    if indexes:
        forget_parts()


def group_of(body: bytes) -> int:
    """Return only the group of the device of a link message."""
    return _number(NetlinkAttributes(body[16:])[LINK["group"].number]) or 0


def _decode(body: bytes) -> tuple[Device, tuple[slice, ...]]:
    """Return the device of a link message, and the positions of its bridge timers."""
    index, flags = link_header_of(body)
    link = NetlinkAttributes(body[16:])
    info = NetlinkAttributes(link[LINKINFO])
    data = NetlinkAttributes(info[INFO_DATA])
    kind = _text(info[INFO_KIND])
    port = NetlinkAttributes(info[INFO_SLAVE_DATA] if _text(info[INFO_SLAVE_KIND]) == "bridge" else b"")
    values: dict[str, Any] = {name: flags & row.number for name, row in FLAGS.items()}
    values |= {name: _number(link[LINK[name].number]) for name in ("mtu", "group")}
    values["alias"] = _text(link[LINK["alias"].number])
    values["mac"] = link[LINK["mac"].number].hex(":")
    if kind == "bridge":
        values |= {name: _number(data[row.number]) for name, row in BRIDGE.items()}
    values |= _families_of(link[AF_SPEC])
    carrier = bool(_number(link[CARRIER]))
    device = Device(
        index=index,
        name=_text(link[IFNAME]),
        kind=kind,
        carrier=carrier,
        runs=carrier and bool(flags & FLAGS["up"].number) and bool(flags & IFF_RUNNING),
        values=values,
        master=_number(link[MASTER]) or 0,
        altnames=_altnames_of(link[PROP_LIST]),
        # A link in another namespace has an index of that namespace, which may be another device here.
        peer=_number(link[LINKED]) or 0 if kind == "veth" and LINK_NETNSID not in link.positions else 0,
        port={name: value[0] for name, row in PORT.items() if (value := port[row.number])},
        owner=_number(data[TUN_OWNER]) or 0 if kind == "tun" and TUN_OWNER in data.positions else ANYBODY,
        is_tap=kind != "tun" or _number(data[TUN_TYPE]) != IFF_TUN,
        queues=sum(_number(data[key]) or 0 for key in TUN_QUEUES) if kind == "tun" else 0,
    )
    if kind != "bridge" or not data.positions:
        return device, ()
    start = 16 + link.positions[LINKINFO].start + info.positions[INFO_DATA].start
    timers = [data.positions[timer] for timer in BRIDGE_TIMERS if timer in data.positions]
    return device, tuple(slice(start + timer.start, start + timer.stop) for timer in timers)


def _altnames_of(part: bytes) -> tuple[str, ...]:
    """Return the names of a list, in which all attributes are of one kind."""
    names: list[str] = []
    while len(part) > 3:
        length = max(struct.unpack_from("=H", part)[0], 4)
        names.append(_text(part[4:length]))
        part = part[length + 3 & ~3 :]
    return tuple(names)


def _families_of(part: bytes) -> dict[str, Any]:
    """Return the IPv4 and IPv6 settings of a device."""
    families = NetlinkAttributes(part)
    ipv6 = NetlinkAttributes(families[socket.AF_INET6])
    numbers = _array(NetlinkAttributes(families[socket.AF_INET])[INET_CONF])
    values: dict[str, Any] = {name: numbers[row.number - 1] for name, row in IPV4.items() if row.number <= len(numbers)}
    numbers = _array(ipv6[INET6_CONF])
    if IPV6["disable_ipv6"].number < len(numbers):
        values["disable_ipv6"] = numbers[IPV6["disable_ipv6"].number]
    mode = _number(ipv6[IPV6["addr_gen_mode"].number])
    values["addr_gen_mode"] = ADDR_GEN_MODES[mode] if mode is not None and mode < len(ADDR_GEN_MODES) else mode
    return values


def _number(value: bytes) -> int | None:
    return int.from_bytes(value, sys.byteorder) if value else None


def _text(value: bytes) -> str:
    # A name may contain any bytes except "/" and white space; an alias may contain any.
    return escaped(value.rstrip(b"\0").decode(errors="surrogateescape"))


@functools.lru_cache(maxsize=64)
def _array(value: bytes) -> Sequence[int]:
    """Return an array of 32-bit numbers. Cached: nearly all devices have the same."""
    return struct.unpack_from(f"={len(value) // 4}i", value)


def _without(body: bytes, timers: tuple[slice, ...]) -> bytes:
    """Return the message with these bytes zeroed."""
    if not timers:
        return body
    zeroed = bytearray(body)
    for timer in timers:
        zeroed[timer] = bytes(len(zeroed[timer]))
    return bytes(zeroed)
