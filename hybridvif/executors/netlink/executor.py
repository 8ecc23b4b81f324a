"""iproute2-netlink: links through rtnetlink.

The steps of several ports run side by side: the first messages of all ports go in one send, then the second, and so on.
A failure stops only its own port. Devices are read by name, and only ENODEV means absence. They are changed by index,
so a renamed device is not mistaken for another. Only the VM's tap goes through pyroute2.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import ClassVar

from hybridvif.executors.base import ExecutorError, StepFailed, internal_error, untried
from hybridvif.executors.group_commit import GroupCommit
from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.devices import members_of, observed, opening_of, random_mac, reset_by_mtu
from hybridvif.executors.netlink.dump import Interrupted, decoded, dump_links
from hybridvif.executors.netlink.groups import delete_together
from hybridvif.executors.netlink.messages import (
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
from hybridvif.executors.netlink.socket import Channel, Rejected, Request, Response, link_header_of
from hybridvif.executors.netlink.tap import DEVICE, NO_TUN, NewTap, own
from hybridvif.model.errors import PreconditionError
from hybridvif.model.names import PortNames, key_of, names_of_key
from hybridvif.model.parts import Bridge, ManagedTap, Part, Role, Tap, Veth
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import Facts, HostState, Observed
from hybridvif.model.steps import Create, Delete, Step, Update, changes_of, simulate

DUMP_THRESHOLD = 64
"""Number of names from which one dump of all devices is faster than one request per name."""
MAX_DUMP_ATTEMPTS = 20
MAX_MERGED_STEPS = 32
"""Steps of one caller up to which they are merged with those of other callers."""

_RETRY = frozenset({errno.EEXIST, errno.ENODEV, errno.EBUSY, errno.EAGAIN, errno.ENOBUFS, errno.ETIMEDOUT})

_PRECONDITION_ERRORS = {
    errno.EPERM: "; the daemon lacks CAP_NET_ADMIN in this network namespace",
    errno.EACCES: "; the daemon may not write there",
    errno.EROFS: "; /proc/sys is read-only here",
    errno.EOPNOTSUPP: "; this kernel lacks the kind of device (try: modprobe -a bridge veth)",
}
"""Errors that mean a missing precondition on the host, with the explanation."""

_HOST_IP_OFF = {"host_ip": "off", "addr_gen_mode": "none"}
"""The part of switching off host_ip that set_link() does; disable_ipv6 is written through sysctl."""

Exchange = Generator[list[Request], list[Response], None]
"""Yields lists of requests and receives their responses. Raises StepFailed."""
PortRun = Generator[list[Request], list[Response], list[Outcome]]
"""The same for all steps of one port; returns one outcome per step."""


class NetlinkExecutor:
    """Links through rtnetlink."""

    role: ClassVar[Role] = Role.LINK
    serves: ClassVar[frozenset[type[Part]]] = frozenset({Bridge, Veth, Tap, ManagedTap})
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:  # noqa: ARG002  # no setting concerns netlink
        self._group = GroupCommit(self._apply, atomic=False)

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the links under these names, or under all device names of ports."""
        with Channel(deadline) as channel:
            return _observe(channel, names, deadline)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Carry out the steps, different ports side by side, merged with those of other callers.

        ovs-vswitchd rescans the whole host after each change of a device and blocks the kernel's links meanwhile.
        Merged steps cause one rescan. Large batches are not merged, and neither are deletes, which wait for the kernel:
        they would delay other callers.
        """
        if not all(isinstance(step, Delete) for step in steps):
            sysctl.require()
        if len(steps) > MAX_MERGED_STEPS or any(isinstance(step, Delete) for step in steps):
            return self._apply(steps, deadline)
        return self._group.apply(steps, deadline)

    def _apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        steps_of: dict[str | None, list[Step]] = {}
        for step in steps:
            steps_of.setdefault(key_of(step.part.name), []).append(step)
        with Channel(deadline) as channel:
            state, facts = _observe_for_steps(channel, {name for key in steps_of for name in _names(key)}, deadline)
            runs = [
                _Port(_names(key), port_steps, state, facts, deadline).run() for key, port_steps in steps_of.items()
            ]
            outcomes = _run_side_by_side(runs, channel, deadline)
        remaining = dict(zip(steps_of, map(iter, outcomes), strict=True))
        return [next(remaining[key_of(step.part.name)]) for step in steps]


def _names(key: str | None) -> PortNames:
    return names_of_key(key or "")


def _run_side_by_side(runs: Sequence[PortRun], channel: Channel, deadline: float) -> list[list[Outcome]]:
    """Return the outcomes of each port; the requests of one round go out together."""
    results: dict[int, list[Outcome]] = {}
    responses: dict[int, list[Response] | None] = dict.fromkeys(range(len(runs)))
    while responses:
        requests: dict[int, list[Request]] = {}
        for index, received in responses.items():
            try:
                requests[index] = next(runs[index]) if received is None else runs[index].send(received)
            except StopIteration as end:
                results[index] = end.value
        flat = _exchange(channel, [request for chunk in requests.values() for request in chunk], deadline)
        responses, offset = {}, 0
        for index, chunk in requests.items():
            responses[index] = flat[offset : offset + len(chunk)]
            offset += len(chunk)
    return [results[index] for index in range(len(runs))]


def _exchange(channel: Channel, requests: list[Request], deadline: float) -> list[Response]:
    """Return the responses to these requests; deletes go together if possible."""
    try:
        gone = delete_together(channel, requests, deadline)
        responses = iter(channel.exchange([request for request in requests if request not in gone]))
        return [None if request in gone else next(responses) for request in requests]
    except (TimeoutError, OSError) as error:
        # A lost response is reported as a failure; the next observation shows the effect.
        return [Rejected(error.errno or errno.ETIMEDOUT)] * len(requests)


class _Port:
    """The steps of one port.

    run() is a generator: it yields requests, which are sent together with those of other ports, and receives the
    responses.
    """

    def __init__(
        self, names: PortNames, steps: Sequence[Step], state: HostState, facts: Facts, deadline: float
    ) -> None:
        self._steps = steps
        self._state = state.of(names)
        self._known = {name: facts.links[name].ifindex for name in names if name in facts.links}
        self._deadline = deadline

    def run(self) -> PortRun:
        """Carry out the steps; return one outcome per step."""
        outcomes: list[Outcome] = []
        failed = False
        while len(outcomes) < len(self._steps):
            step = self._steps[len(outcomes)]
            try:
                if isinstance(step, Delete):
                    outcomes += yield from self._run_deletes(self._steps[len(outcomes) :], failed=failed)
                else:
                    outcomes.append((yield from self._run_step(step, failed=failed)))
            except Exception as error:  # noqa: BLE001  # or the outcomes of other steps would be lost
                outcomes.append(internal_error(step, error))
            failed = any(outcome.result is not Result.DONE for outcome in outcomes)
        return outcomes

    def _run_step(self, step: Step, *, failed: bool) -> Generator[list[Request], list[Response], Outcome]:
        outcome = untried(step, self._state, self._deadline, failed=failed)
        if outcome is not None:
            return outcome
        try:
            yield from self._requests_of(step)
        except StepFailed as failure:
            return failure.outcome_of(step)
        self._state = simulate(self._state, step)
        return Outcome(step, Result.DONE)

    def _run_deletes(self, steps: Sequence[Step], *, failed: bool) -> PortRun:
        """Carry out the deletes that these steps begin with, in one send."""
        outcomes: list[Outcome | None] = []
        tried: list[Step] = []
        for step in steps:
            if not isinstance(step, Delete):
                break
            outcome = untried(step, self._state, self._deadline, failed=failed)
            outcomes.append(outcome)
            if outcome is None:
                tried.append(step)
                self._state = simulate(self._state, step)
        responses = dict(zip(tried, (yield [delete_link(self._known[step.part.name]) for step in tried]), strict=True))
        return [outcome or _deleted(step, responses[step]) for step, outcome in zip(steps, outcomes, strict=False)]

    def _requests_of(self, step: Step) -> Exchange:
        """Carry out one step that creates or updates a part."""
        match step:
            case Create(Bridge() as bridge):
                yield from self._create_bridge(bridge)
            case Create(Veth() as veth):
                yield from self._create_veth(veth)
            case Update(Bridge() as before, Bridge() as after):
                yield from self._set_bridge(after, changes_of(step) | reset_by_mtu(before, after))
            case Update(Veth() as before, Veth() as veth):
                yield from self._set_veth(before, veth, changes_of(step))
            case Create(ManagedTap() as tap):
                yield from self._create_tap(tap)
            case Update(ManagedTap() as before, ManagedTap() as tap):
                yield from self._set_tap(before, tap, changes_of(step))
            case Update(_, Tap() as tap):
                _set_tap_master(tap)
            case _:
                raise StepFailed(f"iproute2-netlink does not serve {step.part.kind} {step.part.name}")

    def _create_bridge(self, bridge: Bridge) -> Exchange:
        action = f"cannot create bridge {bridge.name}"
        yield from self._create(action, create_bridge(bridge, random_mac()), bridge.name)
        options: dict[str, object] = {"mtu": bridge.mtu, "alias": bridge.alias}
        if bridge.stp or bridge.forward_delay:
            options |= {"stp": bridge.stp, "forward_delay": bridge.forward_delay}
        names = ("addr_gen_mode", "arp_announce", "arp_ignore", "disable_ipv6", "host_ip", "up")
        options |= {name: getattr(bridge, name) for name in names}
        yield from self._set_bridge(bridge, options)

    def _set_bridge(self, bridge: Bridge, changes: Mapping[str, object]) -> Exchange:
        action = f"cannot set {', '.join(changes)} of bridge {bridge.name}"
        index = self._known[bridge.name]
        requests = []
        # stp first and in its own message: enabling it raises forward_delay to 2 s, and the kernel rejects a smaller
        # one in the same message (ERANGE).
        for group in (("stp",), tuple(name for name in BRIDGE_OPTIONS if name != "stp")):
            options = {option: changes[option] for option in group if option in changes}
            if options:
                requests.append(set_bridge(index, options))
        # Up comes last, after IPv6 has been switched off. The MTU comes before that: a device whose MTU rises to 1280
        # gets IPv6 back.
        rest = {name: value for name, value in changes.items() if name in ("mtu", "group", "alias", *OF_FAMILIES)}
        if requests:
            _accept(action, (yield requests))
        if rest:
            yield from _set(action, (index, rest))
        if changes.get("disable_ipv6") is not None:
            _write(action, bridge.name, "disable_ipv6", bool(changes["disable_ipv6"]))
        if "up" in changes:
            _accept(action, (yield [set_link(index, {"up": changes["up"]})]))

    def _create_veth(self, veth: Veth) -> Exchange:
        action = f"cannot create veth {veth.name}"
        master = self._known[veth.master] if veth.master else 0
        yield from self._create(action, create_veth(veth, master), veth.name, veth.peer)
        near, far = self._known[veth.name], self._known[veth.peer]
        # Before either end has carrier: neither may receive a packet for the host. It also saves ovs-vswitchd work,
        # which rereads all addresses of the host for each route.
        for name in (veth.name, veth.peer):
            _write(action, name, "disable_ipv6", 1)
        ends: list[tuple[int, Mapping[str, object]]] = [
            (near, {"alias": veth.alias, **_HOST_IP_OFF}),
            (far, {"alias": veth.peer_alias, **_HOST_IP_OFF}),
        ]
        # Up comes in a later message: within one message, the kernel sets the flags first.
        yield from _set(action, *ends, *([(far, {"up": True})] if veth.peer_up else []))

    def _create_tap(self, tap: ManagedTap) -> Exchange:
        action = f"cannot create tap {tap.name}"
        try:
            with NewTap(tap.name, multi_queue=tap.multi_queue) as new:
                created = yield from self._create(action, None, tap.name)
                if tap.multi_queue and queues_of(message_of(created[tap.name])) > 1:
                    # Another process may attach a queue before the tap has an owner. The tap then outlives our file.
                    yield [delete_link(self._known[tap.name])]
                    raise StepFailed(f"{action}: another process attached to it before it had an owner", retry=True)
                values = {name: getattr(tap, name) for name in ("alias", "mac", "mtu", "up", "host_ip")}
                yield from self._set_end(action, tap.name, values, tap.master or None)
                new.keep()
        except OSError as error:
            raise _tap_failure(action, error) from error

    def _set_tap(self, before: ManagedTap, tap: ManagedTap, changes: Mapping[str, object]) -> Exchange:
        action = f"cannot set {', '.join(changes)} of {tap.name}"
        own_values = {name: value for name, value in changes.items() if name not in _SEPARATE}
        yield from self._set_end(action, tap.name, own_values, tap.master if "master" in changes else None)
        yield from self._open_port(action, before, tap, changes)
        if "owner" in changes:
            try:
                own(tap.name)
            except OSError as error:
                raise _tap_failure(action, error) from error

    def _set_end(self, action: str, name: str, changes: Mapping[str, object], master: str | None = None) -> Exchange:
        """Set one end of a veth pair or a tap; master: name of its bridge, "" for none, None to leave it unchanged.

        A device whose MTU rises to 1280 gets IPv6 back with the kernel's defaults. Each change of the MTU therefore
        ends with IPv6 off. Up comes last.
        """
        index = self._known[name]
        master_index = None if master is None else self._known[master] if master else 0
        if not {"host_ip", "mtu"} & changes.keys():
            if changes or master_index is not None:
                _accept(action, (yield [set_link(index, changes, master_index)]))
            return
        early = {key: value for key, value in changes.items() if key != "up"}
        yield from _set(action, (index, early | _HOST_IP_OFF), master=master_index)
        _write(action, name, "disable_ipv6", 1)
        if "up" in changes:
            _accept(action, (yield [set_link(index, {"up": changes["up"]})]))

    def _open_port(
        self, action: str, before: Veth | ManagedTap, after: Veth | ManagedTap, changes: Mapping[str, object]
    ) -> Exchange:
        """Open the bridge port, unless the device has just joined the bridge: a new bridge port is open."""
        flags = opening_of(before) if "bridge_port" in changes and before.master == after.master else {}
        if flags:
            _accept(action, (yield [set_port(self._known[after.name], flags)]))

    def _create(
        self, action: str, request: Request | None, *names: str
    ) -> Generator[list[Request], list[Response], dict[str, bytes]]:
        """Create a device, and store the indexes of these devices; return the message about each, by name."""
        responses = yield [*([request] if request else []), *map(get_link, names)]
        _accept(action, responses)
        bodies = {name_in(body): body for body in responses if isinstance(body, bytes)}
        if (*bodies,) != names:
            raise StepFailed(f"{action}: it was renamed at once; is udev configured to?", retry=True)
        self._known |= {name: link_header_of(body)[0] for name, body in bodies.items()}
        return bodies

    def _set_veth(self, before: Veth, veth: Veth, changes: Mapping[str, object]) -> Exchange:
        action = f"cannot set {', '.join(changes)} of veth {veth.name}"
        far = {name.removeprefix("peer_"): value for name, value in changes.items() if name.startswith("peer_")}
        near = {
            name: value for name, value in changes.items() if not name.startswith("peer_") and name not in _SEPARATE
        }
        yield from self._set_end(action, veth.name, near, veth.master if "master" in changes else None)
        yield from self._set_end(action, veth.peer, far)
        yield from self._open_port(action, before, veth, changes)


_SEPARATE = ("master", "bridge_port", "owner")
"""Attributes that are not in the changes passed to set_link()."""
_NO_DEVICE = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EACCES, errno.EPERM)


def _set(action: str, *pairs: tuple[int, Mapping[str, object]], master: int | None = None) -> Exchange:
    """Set these attributes of the devices with these indexes, in order.

    addr_gen_mode can be set only if the device has IPv6: a kernel may lack it, and so does a device with an MTU below
    1280. A rejected message is sent again without it.
    """
    responses = yield [set_link(index, changes, master) for index, changes in pairs]
    refused, others = [], []
    for (index, changes), response in zip(pairs, responses, strict=True):
        is_refused = isinstance(response, Rejected) and response.code == errno.EAFNOSUPPORT
        if is_refused and "addr_gen_mode" in changes:
            refused.append((index, dict(changes)))
        else:
            others.append(response)
    _accept(action, others)
    if not refused:
        return
    # An MTU that rises to 1280 brings IPv6 back, so the mode is set once more after the rest.
    modes = [set_link(index, {"addr_gen_mode": changes.pop("addr_gen_mode")}) for index, changes in refused]
    _accept(action, (yield [set_link(index, changes, master) for index, changes in refused if changes]))
    _accept(action, (yield modes), but=errno.EAFNOSUPPORT)


def _accept(action: str, responses: Iterable[Response], but: int = 0) -> None:
    """Raise StepFailed with the kernel's message if a response is an error other than `but`."""
    for response in responses:
        if isinstance(response, Rejected) and response.code != but:
            raise _failure(action, response.code, response.message)


def _failure(action: str, code: int, message: str = "") -> StepFailed:
    return StepFailed(
        _error_message(action, code, message),
        retry=code in _RETRY,
        code=PreconditionError.code if code in _PRECONDITION_ERRORS else "",
    )


def _tap_failure(action: str, error: OSError) -> StepFailed:
    """Return the failure to create a tap, which may be a missing tun driver."""
    if error.filename == DEVICE and error.errno in _NO_DEVICE:
        message = os.strerror(error.errno or 0)
        return StepFailed(f"{action}: {DEVICE}: {message}; {NO_TUN}", code=PreconditionError.code)
    return _failure(action, error.errno or 0)


def _error_message(action: str, code: int, message: str = "") -> str:
    name = errno.errorcode.get(code, str(code))
    kernel_message = f"; the kernel says: {message}" if message and code not in _PRECONDITION_ERRORS else ""
    return f"{action}: {os.strerror(code)} ({name}){_PRECONDITION_ERRORS.get(code, '')}{kernel_message}"


def _unreadable(code: int) -> ExecutorError:
    return ExecutorError(_error_message("cannot read the links of this host", code))


def _deleted(step: Step, response: Response) -> Outcome:
    if isinstance(response, Rejected) and response.code != errno.ENODEV:
        return _failure(f"cannot delete {step.part.name}", response.code, response.message).outcome_of(step)
    return Outcome(step, Result.DONE)


def _write(action: str, device: str, attribute: str, value: int) -> None:
    try:
        sysctl.write(device, attribute, int(value))
    except OSError as error:
        raise _failure(action, error.errno or 0) from error


def _set_tap_master(tap: Tap) -> None:
    """Put the VM's tap into its bridge, or take it out."""
    # Imported here: the import is slow, and this step is rare.
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    action = f"cannot put {tap.name} into {tap.master or 'no bridge'}"
    try:
        with IPRoute() as ipr:

            def index_of(name: str) -> int:
                index: int = next(iter(ipr.link("get", ifname=name)))["index"]
                return index

            ipr.link("set", index=index_of(tap.name), master=index_of(tap.master) if tap.master else 0)
    except NetlinkError as error:
        raise _failure(action, error.code) from error
    except OSError as error:
        raise _failure(action, error.errno or 0) from error


def _observe_for_steps(channel: Channel, names: Collection[str], deadline: float) -> Observed:
    """Return the state under these names as the steps need it, without the members of bridges."""
    if len(names) > DUMP_THRESHOLD:
        # If devices come and go constantly, each name can still be read by itself.
        with suppress(ExecutorError):
            return observed(devices_of(_dump(channel, deadline)), names, {})
    return _observe_by_name(channel, names)


def _observe(channel: Channel, names: Collection[str] | None, deadline: float) -> Observed:
    if names is None or len(names) > DUMP_THRESHOLD:
        devices = devices_of(_dump(channel, deadline))
        return observed(devices, names, members_of(devices))
    return _observe_by_name(channel, names, lambda index: _dump(channel, deadline, index))


def _observe_by_name(
    channel: Channel, names: Collection[str], members_at: Callable[[int], list[Message]] = lambda _: []
) -> Observed:
    """Return the state under these names, with the members of their bridges if members_at is given."""
    try:
        messages = _read_by_name(channel, names)
    except (TimeoutError, OSError) as error:
        raise _unreadable(error.errno or errno.ETIMEDOUT) from error
    bridges = [message for message in messages.values() if message.kind == "bridge" and message.name in names]
    members_of_bridge = {message.name: members_at(message.index) for message in bridges}
    messages |= {member.index: member for held in members_of_bridge.values() for member in held}
    members = {bridge: [member.name for member in held] for bridge, held in members_of_bridge.items()}
    return observed(devices_of(messages.values()), names, members)


def _read_by_name(channel: Channel, names: Collection[str]) -> dict[int, Message]:
    """Return the devices of these names, and those that they refer to, by index."""
    ours = sorted(name for name in names if key_of(name))
    # The kernel also accepts an alternative name; a device is ours only by its primary name.
    devices = {
        device.index: device
        for name, device in zip(ours, _read(channel, ours), strict=True)
        if device and device.name == name
    }
    referenced = {index for device in devices.values() for index in (device.master, device.link) if index}
    others = sorted(referenced - devices.keys())
    return devices | {device.index: device for device in _read(channel, others) if device}


def _read(channel: Channel, names: Sequence[str | int]) -> list[Message | None]:
    """Return each device, or None if absent. Raises OSError for other errors."""
    messages: list[Message | None] = []
    for response in channel.exchange([get_link(name) for name in names]):
        if isinstance(response, Rejected) and response.code != errno.ENODEV:
            raise OSError(response.code, os.strerror(response.code))
        messages.append(decoded(response) if isinstance(response, bytes) else None)
    return messages


def _dump(channel: Channel, deadline: float, master: int = 0) -> list[Message]:
    """Return all devices, or the members of one bridge; an interrupted dump is repeated."""
    for _ in range(MAX_DUMP_ATTEMPTS):
        try:
            return dump_links(deadline, master, channel)
        except Interrupted:
            if time.monotonic() >= deadline:
                break
        except TimeoutError:
            break
        except OSError as error:
            raise _unreadable(error.errno or 0) from error
    raise ExecutorError("the links of this host change faster than they can be read; call again when it is quieter")
