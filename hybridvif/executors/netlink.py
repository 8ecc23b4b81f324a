"""iproute2-netlink: links, in the kernel's own words.

The steps of many ports go side by side: the first messages of all in one send, then the second of all, and so on; what
fails stops its own port only. Devices are asked for by name, and only ENODEV counts as absence. They are changed by
index, so that a device renamed meanwhile is not mistaken for another. What plugging needs a hundred times a second has
messages of its own (linkmessages); the VM's tap is left to pyroute2, which knows all the kinds that it can be of.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import ClassVar

from hybridvif.errors import PreconditionError
from hybridvif.executors import procfs
from hybridvif.executors.base import ExecutorError, StepFailed, failed_by_a_bug, untried
from hybridvif.executors.groupcommit import GroupCommit
from hybridvif.executors.linkdump import Interrupted, decoded, dump_links
from hybridvif.executors.linkgroups import delete_together
from hybridvif.executors.linkmessages import (
    BRIDGE_OPTIONS,
    OF_FAMILIES,
    Message,
    create_bridge,
    create_veth,
    delete_link,
    devices_of,
    get_link,
    message_of,
    name_in,
    queues_of,
    set_bridge,
    set_link,
    set_port,
)
from hybridvif.executors.linkstate import members_of, observed, opening_of, random_mac, regained
from hybridvif.executors.rtnetlink import Answer, Channel, Rejected, Request, link_header_of
from hybridvif.executors.tuntap import DEVICE, NO_TUN, NewTap, own
from hybridvif.facts import Facts, Observed
from hybridvif.names import PortNames, key_of, names_of_key
from hybridvif.parts import Bridge, HostState, MadeTap, Part, Role, Tap, Veth
from hybridvif.report import Outcome, Result
from hybridvif.settings import Settings
from hybridvif.steps import Create, Delete, Step, Update, changes_of, simulate

DUMP_FROM = 64
"""From so many names on, one dump of all devices is cheaper than one of the members of each bridge."""
DUMP_TRIES = 20
FEW = 32
"""Steps of one caller that are carried out together with those of others."""

_RETRY = frozenset({errno.EEXIST, errno.ENODEV, errno.EBUSY, errno.EAGAIN, errno.ENOBUFS, errno.ETIMEDOUT})

_LACKING = {
    errno.EPERM: "; the daemon lacks CAP_NET_ADMIN in this network namespace",
    errno.EACCES: "; the daemon may not write there",
    errno.EROFS: "; /proc/sys is read-only here",
    errno.EOPNOTSUPP: "; this kernel lacks the kind of device (try: modprobe -a bridge veth)",
}
"""What the kernel says where the host lacks something, and what it is."""

_HOST_IP_OFF = {"host_ip": "off", "addr_gen_mode": "none"}
"""What set_link() does of it; the rest is _forget_ipv6()'s."""

Talk = Generator[list[Request], list[Answer], None]
"""Sends messages, one list at a time, and is given the answers. Raises StepFailed."""


class NetlinkExecutor:
    """Links through rtnetlink."""

    role: ClassVar[Role] = Role.LINK
    serves: ClassVar[frozenset[type[Part]]] = frozenset({Bridge, Veth, Tap, MadeTap})
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:  # noqa: ARG002  # nothing of them concerns netlink
        self._group = GroupCommit(self._apply, atomic=False)

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """The links under these names, or all of our grammar."""
        with Channel(deadline) as channel:
            return _observe(channel, names, deadline)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Carry the steps out, those of different ports side by side, and with those of other callers.

        Side by side they disturb ovs-vswitchd once, which looks at the whole host whenever a device changes, and keeps
        the kernel's links to itself meanwhile. Many ports, and deletes, which wait for the kernel, hold up nobody.
        """
        if len(steps) > FEW or any(isinstance(step, Delete) for step in steps):
            return self._apply(steps, deadline)
        return self._group.apply(steps, deadline)

    def _apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        turns: dict[str | None, list[Step]] = {}
        for step in steps:
            turns.setdefault(key_of(step.part.name), []).append(step)
        with Channel(deadline) as channel:
            state, facts = _looked_at(channel, {name for key in turns for name in _names(key)}, deadline)
            ports = [_Port(_names(key), some, state, facts, deadline).turn() for key, some in turns.items()]
            outcomes = _side_by_side(ports, channel, deadline)
        left = dict(zip(turns, map(iter, outcomes), strict=True))
        return [next(left[key_of(step.part.name)]) for step in steps]


def _names(key: str | None) -> PortNames:
    return names_of_key(key or "")


def _side_by_side(
    turns: Iterable[Generator[list[Request], list[Answer], list[Outcome]]], channel: Channel, deadline: float
) -> list[list[Outcome]]:
    """What each of these talks comes to; what they send at a time goes out together."""
    talks = list(turns)
    ends: dict[int, list[Outcome]] = {}
    answers: dict[int, list[Answer] | None] = dict.fromkeys(range(len(talks)))
    while answers:
        asked: dict[int, list[Request]] = {}
        for at, got in answers.items():
            try:
                asked[at] = next(talks[at]) if got is None else talks[at].send(got)
            except StopIteration as end:
                ends[at] = end.value
        flat = _exchanged(channel, [request for some in asked.values() for request in some], deadline)
        answers, at_flat = {}, 0
        for at, some in asked.items():
            answers[at] = flat[at_flat : at_flat + len(some)]
            at_flat += len(some)
    return [ends[at] for at in range(len(talks))]


def _exchanged(channel: Channel, requests: list[Request], deadline: float) -> list[Answer]:
    """The answers to these requests; deletes among them go together where they can."""
    try:
        gone = delete_together(channel, requests, deadline)
        answers = iter(channel.exchange([one for one in requests if one not in gone]))
        return [None if one in gone else next(answers) for one in requests]
    except (TimeoutError, OSError) as error:
        # An answer that is lost is told as a failure, and what came of it is seen by looking.
        return [Rejected(error.errno or errno.ETIMEDOUT)] * len(requests)


class _Port:
    """The steps of one port, over messages that others send as well."""

    def __init__(
        self, names: PortNames, steps: Sequence[Step], state: HostState, facts: Facts, deadline: float
    ) -> None:
        self._steps = steps
        self._state = state.of(names)
        self._known = {name: facts.links[name].ifindex for name in names if name in facts.links}
        self._deadline = deadline

    def turn(self) -> Generator[list[Request], list[Answer], list[Outcome]]:
        """One outcome a step."""
        outcomes: list[Outcome] = []
        failed = False
        while len(outcomes) < len(self._steps):
            step = self._steps[len(outcomes)]
            try:
                if isinstance(step, Delete):
                    outcomes += yield from self._deletes(self._steps[len(outcomes) :], failed=failed)
                else:
                    outcomes.append((yield from self._one(step, failed=failed)))
            except Exception as error:  # noqa: BLE001  # the outcomes of other steps must not be lost with it
                outcomes.append(failed_by_a_bug(step, error))
            failed = any(outcome.result is not Result.DONE for outcome in outcomes)
        return outcomes

    def _one(self, step: Step, *, failed: bool) -> Generator[list[Request], list[Answer], Outcome]:
        outcome = untried(step, self._state, self._deadline, failed=failed)
        if outcome is not None:
            return outcome
        try:
            yield from self._do(step)
        except StepFailed as failure:
            return failure.outcome_of(step)
        self._state = simulate(self._state, step)
        return Outcome(step, Result.DONE)

    def _deletes(self, steps: Sequence[Step], *, failed: bool) -> Generator[list[Request], list[Answer], list[Outcome]]:
        """The deletes that these steps begin with, in one go."""
        outcomes: list[Outcome | None] = []
        doomed: list[Step] = []
        for step in steps:
            if not isinstance(step, Delete):
                break
            outcome = untried(step, self._state, self._deadline, failed=failed)
            outcomes.append(outcome)
            if outcome is None:
                doomed.append(step)
                self._state = simulate(self._state, step)
        answers = dict(zip(doomed, (yield [delete_link(self._known[step.part.name]) for step in doomed]), strict=True))
        return [outcome or _deleted(step, answers[step]) for step, outcome in zip(steps, outcomes, strict=False)]

    def _do(self, step: Step) -> Talk:
        match step:
            case Create(Bridge() as bridge):
                yield from self._create_bridge(bridge)
            case Create(Veth() as veth):
                yield from self._create_veth(veth)
            case Update(Bridge() as before, Bridge() as after):
                yield from self._set_bridge(after, changes_of(step) | regained(before, after))
            case Update(Veth() as before, Veth() as veth):
                yield from self._set_veth(before, veth, changes_of(step))
            case Create(MadeTap() as made):
                yield from self._create_tap(made)
            case Update(MadeTap() as before, MadeTap() as made):
                yield from self._set_tap(before, made, changes_of(step))
            case Update(_, Tap() as tap):
                _put_tap(tap)
            case _:
                raise StepFailed(f"iproute2-netlink does not serve {step.part.kind} {step.part.name}")

    def _create_bridge(self, bridge: Bridge) -> Talk:
        attempt = f"cannot create bridge {bridge.name}"
        yield from self._made(attempt, create_bridge(bridge, random_mac()), bridge.name)
        options: dict[str, object] = {"mtu": bridge.mtu, "alias": bridge.alias}
        if bridge.stp or bridge.forward_delay:
            options |= {"stp": bridge.stp, "forward_delay": bridge.forward_delay}
        names = ("addr_gen_mode", "arp_announce", "arp_ignore", "disable_ipv6", "host_ip", "up")
        options |= {name: getattr(bridge, name) for name in names}
        yield from self._set_bridge(bridge, options)

    def _set_bridge(self, bridge: Bridge, changes: Mapping[str, object]) -> Talk:
        attempt = f"cannot set {', '.join(changes)} of bridge {bridge.name}"
        index = self._known[bridge.name]
        requests = []
        # stp in a message of its own and first: turning it on lifts forward_delay to 2 s, and a smaller one in the
        # same message is refused (ERANGE).
        for group in (("stp",), tuple(name for name in BRIDGE_OPTIONS if name != "stp")):
            options = {option: changes[option] for option in group if option in changes}
            if options:
                requests.append(set_bridge(index, options))
        # Up comes last, after IPv6 has been switched off; the MTU before that, since a device whose MTU rises to 1280
        # gets its IPv6 back.
        rest = {name: value for name, value in changes.items() if name in ("mtu", "group", "alias", *OF_FAMILIES)}
        if requests:
            _accept(attempt, (yield requests))
        if rest:
            yield from _set(attempt, (index, rest))
        if changes.get("disable_ipv6") is not None:
            _write(attempt, bridge.name, "disable_ipv6", bool(changes["disable_ipv6"]))
        if "up" in changes:
            _accept(attempt, (yield [set_link(index, {"up": changes["up"]})]))

    def _create_veth(self, veth: Veth) -> Talk:
        attempt = f"cannot create veth {veth.name}"
        master = self._known[veth.master] if veth.master else 0
        yield from self._made(attempt, create_veth(veth, master), veth.name, veth.peer)
        near, far = self._known[veth.name], self._known[veth.peer]
        # Before either has carrier: neither end may receive a packet for the host. It saves ovs-vswitchd work as well,
        # which reads all addresses of the host once a route: at 300 ports the next plug waited 2 s for that.
        for name in (veth.name, veth.peer):
            _write(attempt, name, "disable_ipv6", 1)
        ends: list[tuple[int, Mapping[str, object]]] = [
            (near, {"alias": veth.alias, **_HOST_IP_OFF}),
            (far, {"alias": veth.peer_alias, **_HOST_IP_OFF}),
        ]
        # Up comes after it: of one message, the kernel sets the flags first.
        yield from _set(attempt, *ends, *([(far, {"up": True})] if veth.peer_up else []))

    def _create_tap(self, tap: MadeTap) -> Talk:
        attempt = f"cannot create tap {tap.name}"
        try:
            with NewTap(tap.name, multi_queue=tap.multi_queue) as new:
                told = yield from self._made(attempt, None, tap.name)
                if tap.multi_queue and queues_of(message_of(told[tap.name])) > 1:
                    # Between the tap and its owner, somebody who waited for it can attach to another queue.
                    raise StepFailed(f"{attempt}: another process attached to it before it had an owner", retry=True)
                values = {name: getattr(tap, name) for name in ("alias", "mac", "mtu", "up", "host_ip")}
                yield from self._set_end(attempt, tap.name, values, tap.master or None)
                new.keep()
        except OSError as error:
            raise _failed_to_make(attempt, error) from error

    def _set_tap(self, before: MadeTap, tap: MadeTap, changes: Mapping[str, object]) -> Talk:
        attempt = f"cannot set {', '.join(changes)} of {tap.name}"
        own_values = {name: value for name, value in changes.items() if name not in _OF_A_PORT}
        yield from self._set_end(attempt, tap.name, own_values, tap.master if "master" in changes else None)
        yield from self._open(attempt, before, tap, changes)
        if "owner" in changes:
            try:
                own(tap.name)
            except OSError as error:
                raise _failed_to_make(attempt, error) from error

    def _set_end(self, attempt: str, name: str, changes: Mapping[str, object], master: str | None = None) -> Talk:
        """Set a veth's end or a tap; master: the name of its bridge, "" for none, None to leave it.

        A device whose MTU rises to 1280 gets its IPv6 anew, at the kernel's defaults, so each change of it ends with
        IPv6 off. Up comes last.
        """
        index = self._known[name]
        where = None if master is None else self._known[master] if master else 0
        if not {"host_ip", "mtu"} & changes.keys():
            if changes or where is not None:
                _accept(attempt, (yield [set_link(index, changes, where)]))
            return
        early = {key: value for key, value in changes.items() if key != "up"}
        yield from _set(attempt, (index, early | _HOST_IP_OFF), master=where)
        _write(attempt, name, "disable_ipv6", 1)
        if "up" in changes:
            _accept(attempt, (yield [set_link(index, {"up": changes["up"]})]))

    def _open(self, attempt: str, before: Veth | MadeTap, after: Veth | MadeTap, changes: Mapping[str, object]) -> Talk:
        """Open the port of its bridge, unless it has just joined that: a new one is open."""
        flags = opening_of(before) if "bridge_port" in changes and before.master == after.master else {}
        if flags:
            _accept(attempt, (yield [set_port(self._known[after.name], flags)]))

    def _made(
        self, attempt: str, request: Request | None, *names: str
    ) -> Generator[list[Request], list[Answer], dict[str, bytes]]:
        """Make something, and learn the indexes of these devices; the message about each, by name."""
        told = yield [*([request] if request else []), *map(get_link, names)]
        _accept(attempt, told)
        bodies = {name_in(body): body for body in told if isinstance(body, bytes)}
        if (*bodies,) != names:
            raise StepFailed(f"{attempt}: it was renamed at once; is udev configured to?", retry=True)
        self._known |= {name: link_header_of(body)[0] for name, body in bodies.items()}
        return bodies

    def _set_veth(self, before: Veth, veth: Veth, changes: Mapping[str, object]) -> Talk:
        attempt = f"cannot set {', '.join(changes)} of veth {veth.name}"
        far = {name.removeprefix("peer_"): value for name, value in changes.items() if name.startswith("peer_")}
        near = {
            name: value for name, value in changes.items() if not name.startswith("peer_") and name not in _OF_A_PORT
        }
        yield from self._set_end(attempt, veth.name, near, veth.master if "master" in changes else None)
        yield from self._set_end(attempt, veth.peer, far)
        yield from self._open(attempt, before, veth, changes)


_OF_A_PORT = ("master", "bridge_port", "owner")
"""What set_link() does not set by its name."""
_NO_DEVICE = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EACCES, errno.EPERM)


def _set(attempt: str, *wishes: tuple[int, Mapping[str, object]], master: int | None = None) -> Talk:
    """Set these attributes of the devices with these indexes, in their order.

    How a device makes its IPv6 addresses can be set only where it has IPv6: a kernel may lack it, and a device whose
    MTU is below 1280 has none. The rest of what such a message was to set is sent once more.
    """
    answers = yield [set_link(index, changes, master) for index, changes in wishes]
    refused = [
        wish
        for wish, answer in zip(wishes, answers, strict=True)
        if isinstance(answer, Rejected) and answer.code == errno.EAFNOSUPPORT and "addr_gen_mode" in wish[1]
    ]
    if not refused:
        _accept(attempt, answers)
        return
    _accept(attempt, [answer for wish, answer in zip(wishes, answers, strict=True) if wish not in refused])
    rest = [(index, {name: changes[name] for name in changes if name != "addr_gen_mode"}) for index, changes in refused]
    _accept(attempt, (yield [set_link(index, changes, master) for index, changes in rest if changes]))
    # An MTU that has risen to 1280 has brought IPv6 back.
    modes = [set_link(index, {"addr_gen_mode": changes["addr_gen_mode"]}) for index, changes in refused]
    _accept(attempt, (yield modes), but=errno.EAFNOSUPPORT)


def _accept(attempt: str, answers: Iterable[Answer], but: int = 0) -> None:
    """Make sure that all was done. Raises StepFailed with what the kernel said, which may be this errno."""
    for answer in answers:
        if isinstance(answer, Rejected) and answer.code != but:
            raise _failed(attempt, answer.code, answer.said)


def _failed(attempt: str, code: int, said: str = "") -> StepFailed:
    return StepFailed(
        _sentence(attempt, code, said),
        retry=code in _RETRY,
        code=PreconditionError.code if code in _LACKING else "",
    )


def _failed_to_make(attempt: str, error: OSError) -> StepFailed:
    """Why a tap was not made, which may be that what makes taps is not there for us."""
    if error.filename == DEVICE and error.errno in _NO_DEVICE:
        said = os.strerror(error.errno or 0)
        return StepFailed(f"{attempt}: {DEVICE}: {said}; {NO_TUN}", code=PreconditionError.code)
    return _failed(attempt, error.errno or 0)


def _sentence(attempt: str, code: int, said: str = "") -> str:
    name = errno.errorcode.get(code, str(code))
    words = f"; the kernel says: {said}" if said and code not in _LACKING else ""
    return f"{attempt}: {os.strerror(code)} ({name}){_LACKING.get(code, '')}{words}"


def _deleted(step: Step, answer: Answer) -> Outcome:
    if isinstance(answer, Rejected) and answer.code != errno.ENODEV:
        return _failed(f"cannot delete {step.part.name}", answer.code, answer.said).outcome_of(step)
    return Outcome(step, Result.DONE)


def _write(attempt: str, device: str, attribute: str, value: int) -> None:
    try:
        procfs.write(device, attribute, int(value))
    except OSError as error:
        raise _failed(attempt, error.errno or 0) from error


def _put_tap(tap: Tap) -> None:
    """Put the VM's device into its bridge, or out of it."""
    # Rare, so it is paid for only then: 0.1 s.
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    attempt = f"cannot put {tap.name} into {tap.master or 'no bridge'}"
    try:
        with IPRoute() as ipr:

            def index_of(name: str) -> int:
                index: int = next(iter(ipr.link("get", ifname=name)))["index"]
                return index

            ipr.link("set", index=index_of(tap.name), master=index_of(tap.master) if tap.master else 0)
    except NetlinkError as error:
        raise _failed(attempt, error.code) from error
    except OSError as error:
        raise _failed(attempt, error.errno or 0) from error


def _looked_at(channel: Channel, names: Collection[str], deadline: float) -> Observed:
    """What is there under these names, as the steps need it: without the members of bridges."""
    if len(names) > DUMP_FROM:
        # Where others make and delete devices all the time, each name is still answered by itself.
        with suppress(ExecutorError):
            return observed(devices_of(_dump(channel, deadline)), names, {})
    return _looked_up(channel, names)


def _observe(channel: Channel, names: Collection[str] | None, deadline: float) -> Observed:
    if names is None or len(names) > DUMP_FROM:
        devices = devices_of(_dump(channel, deadline))
        return observed(devices, names, members_of(devices))
    return _looked_up(channel, names, lambda index: _dump(channel, deadline, index))


def _looked_up(
    channel: Channel, names: Collection[str], members_at: Callable[[int], list[Message]] = lambda _: []
) -> Observed:
    """What is there under these names; with the members of their bridges where those are told."""
    try:
        found = _asked_by_name(channel, names)
    except (TimeoutError, OSError) as error:
        raise ExecutorError(_sentence("cannot read the links of this host", error.errno or errno.ETIMEDOUT)) from error
    bridges = [message for message in found.values() if message.kind == "bridge" and message.name in names]
    held = {message.name: members_at(message.index) for message in bridges}
    found |= {one.index: one for some in held.values() for one in some}
    members = {bridge: [one.name for one in some] for bridge, some in held.items()}
    return observed(devices_of(found.values()), names, members)


def _asked_by_name(channel: Channel, names: Collection[str]) -> dict[int, Message]:
    """The devices of these names, and those they refer to, by index."""
    ours = sorted(name for name in names if key_of(name))
    # The kernel answers to an alternative name as well; a device is ours only by its first one.
    found = {one.index: one for name, one in zip(ours, _got(channel, ours), strict=True) if one and one.name == name}
    others = sorted({index for one in found.values() for index in (one.master, one.link) if index} - found.keys())
    return found | {one.index: one for one in _got(channel, others) if one}


def _got(channel: Channel, which: Sequence[str | int]) -> list[Message | None]:
    """Each device, or None: there is none. Raises OSError with what else the kernel said."""
    found: list[Message | None] = []
    for answer in channel.exchange([get_link(one) for one in which]):
        if isinstance(answer, Rejected) and answer.code != errno.ENODEV:
            raise OSError(answer.code, os.strerror(answer.code))
        found.append(decoded(answer) if isinstance(answer, bytes) else None)
    return found


def _dump(channel: Channel, deadline: float, master: int = 0) -> list[Message]:
    """All devices, or the members of one bridge; never of a dump that was interrupted."""
    for _ in range(DUMP_TRIES):
        try:
            return dump_links(deadline, master, channel)
        except Interrupted:
            if time.monotonic() >= deadline:
                break
        except TimeoutError:
            break
        except OSError as error:
            raise ExecutorError(_sentence("cannot read the links of this host", error.errno or 0)) from error
    raise ExecutorError("the links of this host change faster than they can be read; call again when it is quieter")
