"""iproute2-netlink: links, in the kernel's own words, through pyroute2.

One IPRoute a call: one that is kept leaks a datagram a request (pyroute2 0.9) and, shared by threads, opens sockets
that nobody closes. Devices are asked for by name, and only ENODEV counts as absence: pyroute2's link_lookup turns
every error into "absent". They are changed by index, so that a device renamed meanwhile is not mistaken for another.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from hybridvif.errors import PreconditionError
from hybridvif.executors import procfs
from hybridvif.executors.base import ExecutorError, StepFailed, one_by_one
from hybridvif.executors.linkdump import RTEXT_FILTER_SKIP_STATS, Interrupted, dump_links
from hybridvif.executors.linkmessages import IFF_PROMISC, IFF_UP, devices_of, kind_of, referred_to
from hybridvif.executors.linkstate import ADDR_GEN_MODES, members_of, observed, regained
from hybridvif.facts import Observed
from hybridvif.names import key_of, names_of_key
from hybridvif.parts import Bridge, Part, Role, Tap, Veth
from hybridvif.report import Outcome
from hybridvif.settings import Settings
from hybridvif.steps import Create, Delete, Step, Update, changes_of

DUMP_FROM = 48
"""From so many names on, one dump of all devices is cheaper than asking for each."""
DUMP_TRIES = 20

_RETRY = frozenset({errno.EEXIST, errno.ENODEV, errno.EBUSY, errno.EAGAIN, errno.ENOBUFS})

_LACKING = {
    errno.EPERM: "; the daemon lacks CAP_NET_ADMIN in this network namespace",
    errno.EACCES: "; the daemon may not write there",
    errno.EROFS: "; /proc/sys is read-only here",
    errno.EOPNOTSUPP: "; this kernel lacks the kind of device (try: modprobe -a bridge veth)",
}
"""What the kernel says where the host lacks something, and what it is."""

_BRIDGE_OPTIONS = {
    "forward_delay": "br_forward_delay",
    "ageing": "br_ageing_time",
    "stp": "br_stp_state",
    "multicast_snooping": "br_mcast_snooping",
}


class NetlinkExecutor:
    """Links through rtnetlink."""

    role: ClassVar[Role] = Role.LINK
    serves: ClassVar[frozenset[type[Part]]] = frozenset({Bridge, Veth, Tap})
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        """Nothing of the settings concerns netlink."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """The links under these names, or all of our grammar."""
        with IPRoute() as ipr:
            return _observe(ipr, names, deadline)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Carry the steps out one by one."""
        with IPRoute() as ipr:
            names = {name for step in steps for name in names_of_key(key_of(step.part.name) or "")}
            state = _observe(ipr, names, deadline).state
            worker = _Worker(ipr)
            return one_by_one(steps, state, worker.do, deadline)


class _Worker:
    """Carries single steps out over one socket."""

    def __init__(self, ipr: Any) -> None:
        self._ipr = ipr

    def do(self, step: Step) -> None:
        match step:
            case Create(Bridge() as bridge):
                self._create_bridge(bridge)
            case Create(Veth() as veth):
                self._create_veth(veth)
            case Update(Bridge() as before, Bridge() as after):
                self._set_bridge(after.name, changes_of(step) | regained(before, after))
            case Update(_, Veth() as veth):
                self._set_veth(veth, changes_of(step))
            case Update(_, Tap() as tap):
                self._set_master(tap.name, tap.master)
            case Delete(part):
                self._delete(part.name)
            case _:
                raise StepFailed(f"iproute2-netlink does not serve {step.part.kind} {step.part.name}")

    def _create_bridge(self, bridge: Bridge) -> None:
        with _named(f"cannot create bridge {bridge.name}"):
            self._ipr.link(
                "add",
                ifname=bridge.name,
                kind="bridge",
                address=bridge.mac,
                # Created with another MTU and then set: only a change marks it as chosen by the user, and the kernel
                # resets any other when members come and go (net/bridge/br_if.c, BROPT_MTU_SET_BY_USER).
                mtu=bridge.mtu ^ 1,
                br_forward_delay=0,
                br_stp_state=0,
                br_mcast_snooping=int(bridge.multicast_snooping),
                br_ageing_time=bridge.ageing,
            )
        options: dict[str, object] = {"mtu": bridge.mtu, "alias": bridge.alias}
        if bridge.stp or bridge.forward_delay:
            options |= {"stp": bridge.stp, "forward_delay": bridge.forward_delay}
        options |= {name: getattr(bridge, name) for name in ("addr_gen_mode", *sorted(procfs.ATTRIBUTES), "up")}
        self._set_bridge(bridge.name, options)

    def _set_bridge(self, name: str, changes: Mapping[str, object]) -> None:
        with _named(f"cannot set {', '.join(changes)} of bridge {name}"):
            index = self._index_of(name)
            # stp in a message of its own and first: turning it on lifts forward_delay to 2 s, and a smaller one in
            # the same message is refused (ERANGE).
            for group in (("stp",), ("forward_delay", "ageing", "multicast_snooping")):
                options = {_BRIDGE_OPTIONS[option]: int(changes[option]) for option in group if option in changes}  # type: ignore[call-overload]
                if options:
                    self._ipr.link("set", index=index, kind="bridge", **options)
            # Up comes last, after IPv6 has been switched off; the MTU before it, since a device whose MTU rises to
            # 1280 gets its IPv6 back.
            self._set(index, {key: value for key, value in changes.items() if key not in ("up", "addr_gen_mode")})
            if changes.get("addr_gen_mode") is not None:
                self._set_addr_gen_mode(index, str(changes["addr_gen_mode"]))
            for attribute in sorted(procfs.ATTRIBUTES & changes.keys()):
                value = changes[attribute]
                if value is not None:
                    procfs.write(name, attribute, int(value))  # type: ignore[call-overload]
            self._set(index, {key: value for key, value in changes.items() if key == "up"})

    def _create_veth(self, veth: Veth) -> None:
        with _named(f"cannot create veth {veth.name}"):
            self._ipr.link(
                "add",
                ifname=veth.name,
                kind="veth",
                mtu=veth.mtu,
                peer={"ifname": veth.peer, "mtu": veth.peer_mtu},
            )
            self._set(
                self._index_of(veth.name),
                {name: getattr(veth, name) for name in ("alias", "promisc", "master", "up")},
            )
            # A peer cannot be created up (ENOTCONN).
            self._set(
                self._index_of(veth.peer),
                {"alias": veth.peer_alias, "promisc": veth.peer_promisc, "up": veth.peer_up},
            )

    def _set_veth(self, veth: Veth, changes: Mapping[str, object]) -> None:
        ends = {
            veth.name: {name: value for name, value in changes.items() if not name.startswith("peer_")},
            veth.peer: {
                name.removeprefix("peer_"): value for name, value in changes.items() if name.startswith("peer_")
            },
        }
        with _named(f"cannot set {', '.join(changes)} of veth {veth.name}"):
            for name, wanted in ends.items():
                if wanted:
                    self._set(self._index_of(name), wanted)

    def _set_master(self, name: str, master: str) -> None:
        with _named(f"cannot put {name} into {master or 'no bridge'}"):
            self._set(self._index_of(name), {"master": master})

    def _set(self, index: int, changes: Mapping[str, object]) -> None:
        """Set what one message carries of these changes."""
        message: dict[str, Any] = {}
        flags = {"up": IFF_UP, "promisc": IFF_PROMISC}
        mask = sum(flag for name, flag in flags.items() if name in changes)
        if mask:
            message["change"] = mask
            message["flags"] = sum(flag for name, flag in flags.items() if changes.get(name))
        for name, key in (("mtu", "mtu"), ("mac", "address"), ("group", "group"), ("alias", "ifalias")):
            if name in changes:
                message[key] = changes[name]
        if "master" in changes:
            message["master"] = self._index_of(str(changes["master"])) if changes["master"] else 0
        if message:
            self._ipr.link("set", index=index, **message)

    def _set_addr_gen_mode(self, index: int, mode: str) -> None:
        """Of a device that has IPv6: a kernel may lack it, and a device whose MTU is below 1280 has none."""
        value = ["IFLA_INET6_ADDR_GEN_MODE", ADDR_GEN_MODES.index(mode)]
        try:
            self._ipr.link("set", index=index, IFLA_AF_SPEC={"attrs": [["AF_INET6", {"attrs": [value]}]]})
        except NetlinkError as error:
            if error.code != errno.EAFNOSUPPORT:
                raise

    def _delete(self, name: str) -> None:
        with _named(f"cannot delete {name}"):
            try:
                self._ipr.link("del", index=self._index_of(name))
            except NetlinkError as error:
                if error.code != errno.ENODEV:
                    raise

    def _index_of(self, name: str) -> int:
        index: int = _get(self._ipr, ifname=name)["index"]
        return index


@contextmanager
def _named(attempt: str) -> Iterator[None]:
    """What the kernel said, as a sentence about the attempt."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno or 0
        raise StepFailed(
            _sentence(attempt, code), retry=code in _RETRY, code=PreconditionError.code if code in _LACKING else ""
        ) from error


def _sentence(attempt: str, code: int) -> str:
    name = errno.errorcode.get(code, str(code))
    return f"{attempt}: {os.strerror(code)} ({name}){_LACKING.get(code, '')}"


def _get(ipr: Any, **which: Any) -> Any:
    """One link message; raises NetlinkError (ENODEV where the device is absent)."""
    return next(iter(ipr.link("get", ext_mask=RTEXT_FILTER_SKIP_STATS, **which)))


def _get_if_there(ipr: Any, **which: Any) -> Any:
    try:
        return _get(ipr, **which)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


def _observe(ipr: Any, names: Collection[str] | None, deadline: float) -> Observed:
    if names is None or len(names) > DUMP_FROM:
        devices = devices_of(_dump(deadline))
        return observed(devices, names, members_of(devices))
    try:
        found = _asked_by_name(ipr, names)
    except NetlinkError as error:
        raise ExecutorError(_sentence("cannot read the links of this host", error.code)) from error
    held = {
        message.get_attr("IFLA_IFNAME"): _dump(deadline, message["index"])
        for message in found.values()
        if kind_of(message) == "bridge" and message.get_attr("IFLA_IFNAME") in names
    }
    for members in held.values():
        found |= {message["index"]: message for message in members}
    return observed(
        devices_of(found.values()),
        names,
        {bridge: [message.get_attr("IFLA_IFNAME") for message in members] for bridge, members in held.items()},
    )


def _asked_by_name(ipr: Any, names: Collection[str]) -> dict[int, Any]:
    """The messages about these devices and those they refer to, by index."""
    found: dict[int, Any] = {}
    for name in sorted(name for name in names if key_of(name)):
        message = _get_if_there(ipr, ifname=name)
        # The kernel answers to an alternative name as well; a device is ours only by its first one.
        if message is not None and message.get_attr("IFLA_IFNAME") == name:
            found[message["index"]] = message
    for message in list(found.values()):
        for index in referred_to(message):
            other = None if index in found else _get_if_there(ipr, index=index)
            if other is not None:
                found[index] = other
    return found


def _dump(deadline: float, master: int = 0) -> list[Any]:
    """The messages about all devices, or the members of one bridge; never of a dump that was interrupted."""
    for _ in range(DUMP_TRIES):
        try:
            return dump_links(deadline, master)
        except Interrupted:
            if time.monotonic() >= deadline:
                break
        except TimeoutError:
            break
        except OSError as error:
            raise ExecutorError(_sentence("cannot read the links of this host", error.errno or 0)) from error
    raise ExecutorError("the links of this host change faster than they can be read; call again when it is quieter")
