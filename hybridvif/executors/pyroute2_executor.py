"""pyroute2: links through the library pyroute2, one message after another.

It is slower than iproute2-netlink. Each of the two verifies the other in the contract tests.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from hybridvif.executors.base import one_by_one
from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.devices import (
    ADDR_GEN_MODES,
    BRIDGE,
    FLAGS,
    IPV4,
    LINK,
    PORT,
    Device,
    random_mac,
    read_parts,
)
from hybridvif.executors.netlink.operations import (
    MAX_DUMP_ATTEMPTS,
    Add,
    AddTap,
    Operation,
    Remove,
    Set,
    SetPort,
    action_of,
    changing_too_fast,
    failure,
    not_alone,
    operations_of,
    renamed,
    unreadable,
    write,
)
from hybridvif.executors.netlink.tap import NewTap
from hybridvif.model.errors import escaped
from hybridvif.model.names import key_of, names_of_key
from hybridvif.model.parts import ANYBODY, Bridge, ManagedTap, Part, Role, Tap, Veth
from hybridvif.model.report import Outcome
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed, Step

IFF_RUNNING, IFF_TUN, NO_COUNTERS = 0x40, 1, 1 << 3
_NLA_MAP = ifinfmsg.ifinfo.data_map["bridge_slave"].nla_map
if len(_NLA_MAP) <= max(flag.number for flag in PORT.values()):
    raise ImportError("it needs pyroute2 0.9.5, as an older one does not know each flag of a bridge port")
_PORT_NAMES = {name: _NLA_MAP[flag.number][0] for name, flag in PORT.items()}


class PyrouteExecutor:
    """Links through pyroute2."""

    role: ClassVar[Role] = Role.LINK
    serves: ClassVar[frozenset[type[Part]]] = frozenset({Bridge, Veth, Tap, ManagedTap})
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:  # no setting concerns pyroute2
        pass

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the links under these names, or under all device names of ports."""
        with IPRoute(groups=0, strict_check=True) as ipr:
            return read_parts(partial(_read, ipr), partial(_dump, ipr, deadline), names)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Carry out the steps one by one."""
        sysctl.require()
        names = {name for step in steps for name in names_of_key(key_of(step.part.name) or "")}
        with IPRoute(groups=0, strict_check=True) as ipr:
            seen = read_parts(partial(_read, ipr), partial(_dump, ipr, deadline), names)
            worker = _Worker(ipr, {name: fact.ifindex for name, fact in seen.facts.links.items()})
            return one_by_one(steps, seen.state, worker.do, deadline)


class _Worker:
    """Carries out single steps."""

    def __init__(self, ipr: IPRoute, indexes: dict[str, int]) -> None:
        self._ipr, self._indexes = ipr, indexes

    def do(self, step: Step) -> None:
        try:
            with ExitStack() as unfinished:
                for operation in operations_of(step, random_mac()):
                    if isinstance(operation, Add | AddTap):
                        self._add(action_of(step), operation, unfinished)
                    else:
                        self._change(operation)
        except NetlinkError as error:
            raise failure(action_of(step), OSError(error.code, "")) from error
        except OSError as error:
            raise failure(action_of(step), error) from error

    def _add(self, action: str, new: Add | AddTap, unfinished: ExitStack) -> None:
        if isinstance(new, AddTap):
            unfinished.enter_context(NewTap(new.device, new.multi_queue))
            if self._learn(action, new.device) > 1:
                # The tap would outlive our file.
                self._ipr.link("del", index=self._indexes[new.device])
                raise not_alone(new.device)
            return
        words = self._words(new.values) | {"kind": new.kind}
        if new.peer:
            words["peer"] = {"ifname": new.peer, "mtu": new.peer_values["mtu"]}
        self._ipr.link("add", ifname=new.device, **words)
        self._learn(action, new.device)
        if new.peer:
            self._learn(action, new.peer)
            self._set(new.peer, new.peer_values)

    def _change(self, operation: Operation) -> None:
        match operation:
            case Set(device, values):
                self._set(device, values)
            case SetPort(device, flags):
                words = {_PORT_NAMES[name]: value for name, value in flags.items()}
                self._ipr.link("set", index=self._indexes[device], kind="bridge_slave", **words)
            case Remove(device):
                try:
                    self._ipr.link("del", index=self._indexes[device])
                except NetlinkError as error:
                    if error.code != errno.ENODEV:
                        raise
            case _:
                write(operation)

    def _learn(self, action: str, name: str) -> int:
        """Store the index of a new device; return the number of queues of a tap."""
        (message,) = self._ipr.link("get", ifname=name, ext_mask=NO_COUNTERS)
        if message.get_attr("IFLA_IFNAME") != name:
            raise renamed(action)
        self._indexes[name] = message["index"]
        queues = ("IFLA_TUN_NUM_QUEUES", "IFLA_TUN_NUM_DISABLED_QUEUES")
        return sum(message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", count) or 0 for count in queues)

    def _set(self, device: str, values: Mapping[str, Any]) -> None:
        """Set attributes. pyroute2 cannot encode those of IPv4, which are files."""
        words = self._words(values)
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


def _read(ipr: IPRoute, names: Collection[int | str]) -> list[Device]:
    """Return these devices, except for absent ones."""
    devices = []
    for name in names:
        try:
            answers = ipr.link("get", ext_mask=NO_COUNTERS, **{"index" if isinstance(name, int) else "ifname": name})
            devices += [_device_of(message) for message in answers]
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise unreadable(error.code) from error
    return devices


def _dump(ipr: IPRoute, deadline: float, master: int) -> list[Device]:
    """Return all devices, or the members of one bridge; an interrupted dump is repeated."""
    words = {"master": master} if master else {}
    for _ in range(MAX_DUMP_ATTEMPTS):
        try:
            devices = [_device_of(message) for message in ipr.link("dump", ext_mask=NO_COUNTERS, **words)]
            return [device for device in devices if device.master == master] if master else devices
        except NetlinkDumpInterrupted:
            if time.monotonic() >= deadline:
                break
        except NetlinkError as error:
            raise unreadable(error.code) from error
    raise changing_too_fast()


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
    )


def _text(value: str | bytes | None) -> str:
    """Return a name or an alias. pyroute2 returns bytes if they are not UTF-8."""
    text = value.rstrip(b"\0").decode(errors="surrogateescape") if isinstance(value, bytes) else value
    return escaped(text or "")
