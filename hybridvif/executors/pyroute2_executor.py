"""pyroute2: links through the library pyroute2, one message after another.

It is slower than iproute2-netlink, and verifies its encoding in the contract tests. The devices are read as there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.connection import OneByOne
from hybridvif.executors.netlink.devices import BRIDGE, FLAGS, IPV4, IPV6, LINK, PORT
from hybridvif.executors.netlink.executor import NetlinkExecutor
from hybridvif.executors.netlink.operations import Add, Operation, Remove, Set

_NLA_MAP = ifinfmsg.ifinfo.data_map["bridge_slave"].nla_map
if len(_NLA_MAP) <= max(flag.number for flag in PORT.values()):
    raise ImportError("it needs pyroute2 0.9.5, as an older one does not know each flag of a bridge port")


class Connection(OneByOne):
    """A connection that changes devices through pyroute2, for one thread. Its socket is opened by the first change."""

    def __init__(self, deadline: float) -> None:
        super().__init__(deadline)
        self._sockets = ExitStack()

    @cached_property
    def _ipr(self) -> IPRoute:
        return self._sockets.enter_context(IPRoute(groups=0, strict_check=True))

    def __exit__(self, *error: object) -> None:
        self._sockets.close()
        super().__exit__(*error)

    def carry_out(self, operation: Operation, indexes: Mapping[str, int]) -> None:
        """Carry out an operation. Raises OSError."""
        try:
            match operation:
                case Add(kind, name, values, peer, peer_values):
                    words = _words(values, indexes) | {"kind": kind}
                    words |= {"peer": {"ifname": peer, "mtu": peer_values["mtu"]}} if peer else {}
                    self._ipr.link("add", ifname=name, **words)
                    if peer:
                        (message,) = self._ipr.link("get", ifname=peer)
                        self._ipr.link("set", index=message["index"], **_words(peer_values, indexes))
                case Set(name, values):
                    self._set(name, values, indexes)
                case Remove(name):
                    self._ipr.link("del", index=indexes[name])
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from error

    def _set(self, device: str, values: Mapping[str, Any], indexes: Mapping[str, int]) -> None:
        """Set attributes, up last. pyroute2 cannot encode those of IPv4. They are files, and so is addr_gen_mode."""
        ups = {name: value for name, value in values.items() if name == "up"}
        values = {name: value for name, value in values.items() if name != "up"}
        flags = {_NLA_MAP[PORT[name].number][0]: value for name, value in values.get("bridge_port", {}).items()}
        for words in (_words(values, indexes), flags and flags | {"kind": "bridge_slave"}):
            if words:
                self._ipr.link("set", index=indexes[device], **words)
        for name in (*IPV4, *IPV6):
            if name in values:
                sysctl.write(device, name, values[name])
        if ups:
            self._ipr.link("set", index=indexes[device], **_words(ups, indexes))


def _words(values: Mapping[str, Any], indexes: Mapping[str, int]) -> dict[str, Any]:
    """Return attributes as the arguments of IPRoute.link()."""
    words: dict[str, Any] = {f"br_{row.key}": int(values[name]) for name, row in BRIDGE.items() if name in values}
    words |= {"kind": "bridge"} if words else {}
    words |= {row.key: values[name] for name, row in LINK.items() if name in values}
    change = sum(row.number for name, row in FLAGS.items() if name in values)
    if change:
        words |= {"flags": sum(row.number for name, row in FLAGS.items() if values.get(name)), "change": change}
    if "master" in values:
        words["master"] = indexes[values["master"]] if values["master"] else 0
    return words


class PyrouteExecutor(NetlinkExecutor):
    """Links through pyroute2."""

    def connect(self, deadline: float) -> Connection:
        """Return a connection whose waits end by the deadline."""
        return Connection(deadline)
