"""pyroute2: links through the library pyroute2, one message after another.

It is slower than iproute2-netlink. Each of the two verifies the other in the contract tests.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.connection import Response
from hybridvif.executors.netlink.devices import ADDR_GEN_MODES, BRIDGE, FLAGS, IPV4, LINK, PORT, Device
from hybridvif.executors.netlink.executor import NetlinkExecutor
from hybridvif.executors.netlink.operations import Add, Get, Operation, Remove, Set
from hybridvif.executors.netlink.socket import Interrupted, Rejected
from hybridvif.model.errors import escaped
from hybridvif.model.parts import ANYBODY

IFF_RUNNING, IFF_TUN, NO_COUNTERS = 0x40, 1, 1 << 3
QUEUES = ("IFLA_TUN_NUM_QUEUES", "IFLA_TUN_NUM_DISABLED_QUEUES")
_NLA_MAP = ifinfmsg.ifinfo.data_map["bridge_slave"].nla_map
if len(_NLA_MAP) <= max(flag.number for flag in PORT.values()):
    raise ImportError("it needs pyroute2 0.9.5, as an older one does not know each flag of a bridge port")
_PORT_NAMES = {name: _NLA_MAP[flag.number][0] for name, flag in PORT.items()}


class Connection:
    """A socket of pyroute2, for one thread."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._ipr = IPRoute(groups=0, strict_check=True)
        self._indexes: Mapping[str, int] = {}

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._ipr.close()

    def dump(self, master: int) -> list[Device]:
        """Return all devices, or the members of one bridge. Raises Interrupted, OSError."""
        words = {"master": master} if master else {}
        try:
            return [_device_of(message) for message in self._ipr.link("dump", ext_mask=NO_COUNTERS, **words)]
        except NetlinkDumpInterrupted:
            raise Interrupted from None
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from error

    def exchange(self, operations: Sequence[Operation], indexes: Mapping[str, int]) -> list[Response]:
        """Carry out the operations, one message after another. Raises OSError."""
        self._indexes = indexes
        return [self._response_to(operation) for operation in operations]

    def _response_to(self, operation: Operation) -> Response:
        if time.monotonic() >= self._deadline:
            return Rejected(errno.ETIMEDOUT)
        try:
            return self._carry_out(operation)
        except NetlinkError as error:
            return Rejected(error.code)

    def _carry_out(self, operation: Operation) -> Device | None:
        match operation:
            case Get(device):
                name = {"index" if isinstance(device, int) else "ifname": device}
                (message,) = self._ipr.link("get", ext_mask=NO_COUNTERS, **name)
                return _device_of(message)
            case Add(kind, name, values, peer, peer_values):
                words = self._words(values) | {"kind": kind}
                words |= {"peer": {"ifname": peer, "mtu": peer_values["mtu"]}} if peer else {}
                self._ipr.link("add", ifname=name, **words)
                if peer:
                    (message,) = self._ipr.link("get", ifname=peer, ext_mask=NO_COUNTERS)
                    self._ipr.link("set", index=message["index"], **self._words(peer_values))
            case Set(device, values):
                self._set(device, values)
            case Remove(device):
                self._ipr.link("del", index=self._indexes[device])
        return None

    def _set(self, device: str, values: Mapping[str, Any]) -> None:
        """Set attributes. pyroute2 cannot encode those of IPv4, which are files."""
        flags = {_PORT_NAMES[name]: value for name, value in values.get("bridge_port", {}).items()}
        for words in (self._words(values), flags and flags | {"kind": "bridge_slave"}):
            if words:
                self._ipr.link("set", index=self._indexes[device], **words)
        for name in IPV4:
            if name in values:
                sysctl.write(device, name, values[name])

    def _words(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return attributes as the arguments of IPRoute.link()."""
        words: dict[str, Any] = {row.key: values[name] for name, row in LINK.items() if name in values}
        words |= {f"br_{row.key}": int(values[name]) for name, row in BRIDGE.items() if name in values}
        if words.keys() - {row.key for row in LINK.values()}:
            words["kind"] = "bridge"
        change = sum(row.number for name, row in FLAGS.items() if name in values)
        if change:
            words |= {"flags": sum(row.number for name, row in FLAGS.items() if values.get(name)), "change": change}
        if "master" in values:
            words["master"] = self._indexes[values["master"]] if values["master"] else 0
        return words


class PyrouteExecutor(NetlinkExecutor):
    """Links through pyroute2."""

    def connect(self, deadline: float) -> Connection:
        """Return a connection whose waits end by the deadline."""
        return Connection(deadline)


def _device_of(message: Any) -> Device:
    get, flags = message.get_attr, message["flags"]
    kind = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""
    data = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    values: dict[str, Any] = {name: flags & row.number for name, row in FLAGS.items()}
    values |= {name: get(f"IFLA_{row.key.upper()}") for name, row in LINK.items()}
    values["alias"] = _text(values["alias"])
    if kind == "bridge":
        values |= {name: data.get_attr(f"IFLA_BR_{row.key.upper()}") for name, row in BRIDGE.items()}
    families = get("IFLA_AF_SPEC")
    ipv4, ipv6 = (families.get_attr(family) if families else None for family in ("AF_INET", "AF_INET6"))
    values |= {name: ipv4[name] for name in IPV4} if ipv4 else {}
    if ipv6 is not None:
        mode, settings = ipv6.get_attr("IFLA_INET6_ADDR_GEN_MODE"), ipv6.get_attr("IFLA_INET6_CONF")
        values["disable_ipv6"] = settings["disable_ipv6"] if settings else None
        values["addr_gen_mode"] = None if mode is None else dict(enumerate(ADDR_GEN_MODES)).get(mode, str(mode))
    is_member = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_KIND") == "bridge"
    port = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA") if is_member else None
    flags_of_port = {name: port.get_attr(word) for name, word in _PORT_NAMES.items()} if port else {}
    names = get("IFLA_PROP_LIST")
    tun = data if kind == "tun" else None
    owner = tun.get_attr("IFLA_TUN_OWNER") if tun else None
    running = FLAGS["up"].number | IFF_RUNNING
    return Device(
        index=message["index"],
        name=_text(get("IFLA_IFNAME")),
        kind=kind,
        carrier=bool(get("IFLA_CARRIER")),
        runs=bool(get("IFLA_CARRIER")) and flags & running == running,
        values=values,
        master=get("IFLA_MASTER") or 0,
        # A link in another namespace has an index of that namespace, which may be another device here.
        peer=get("IFLA_LINK") or 0 if kind == "veth" and get("IFLA_LINK_NETNSID") is None else 0,
        altnames=tuple(map(_text, names.get_attrs("IFLA_ALT_IFNAME"))) if names else (),
        port={name: value for name, value in flags_of_port.items() if value is not None},
        owner=ANYBODY if owner is None else owner,
        is_tap=not tun or tun.get_attr("IFLA_TUN_TYPE") != IFF_TUN,
        queues=sum(tun.get_attr(key) or 0 for key in QUEUES) if tun else 0,
    )


def _text(value: str | bytes | None) -> str:
    """Return a name or an alias. pyroute2 returns bytes if they are not UTF-8."""
    text = value.rstrip(b"\0").decode(errors="surrogateescape") if isinstance(value, bytes) else value
    return escaped(text or "")
