"""iproute2-netlink: observe the devices of the kernel, and carry out the steps of many ports side by side.

The other link executors extend this one. They differ in how their connection carries out an operation. The first
operations of all ports go in one send, then the second, and so on. A failure stops only its own port. Devices are read
by name, and only ENODEV means absence. Netlink changes them by index, so a renamed device is not mistaken for another.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import ClassVar

from hybridvif.executors.base import ExecutorError, Failure, StepFailed, internal_error, untried
from hybridvif.executors.group_commit import GroupCommit
from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.connection import Connection, Response
from hybridvif.executors.netlink.devices import Device, observed, random_mac
from hybridvif.executors.netlink.operations import (
    Add,
    AddTap,
    Get,
    Operation,
    Own,
    Remove,
    RemoveAddresses,
    Set,
    Sysctl,
    operations_of,
)
from hybridvif.executors.netlink.socket import Interrupted, LinkSubscription, Rejected
from hybridvif.executors.netlink.tap import DEVICE, NO_TUN, NewTap, attached, own
from hybridvif.model.errors import PreconditionError
from hybridvif.model.names import LINK_PREFIXES, key_of, names_of_key
from hybridvif.model.parts import Bridge, ManagedTap, Part, Role, Tap, Veth
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import Create, Delete, HostState, Observed, Step, Update, changes_of, simulate

MAX_MERGED_STEPS = 32
"""Steps of one caller up to which they are merged with those of other callers."""
DUMP_THRESHOLD = 64
"""Number of names above which one dump of all devices is faster than one request per name."""

PortSteps = Generator[list[Operation], list[Response], list[Outcome]]
"""The steps of one port: yields operations, receives their responses, returns one outcome per step."""


class NetlinkExecutor:
    """Links through rtnetlink."""

    role: ClassVar[Role] = Role.LINK
    serves: ClassVar[frozenset[type[Part]]] = frozenset({Bridge, Veth, Tap, ManagedTap})
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = False
    is_side_by_side: ClassVar[bool] = True
    """False if one operation is as slow as a program. Each port is then completed before the next one."""

    def __init__(self, settings: Settings) -> None:  # noqa: ARG002  # no setting concerns netlink
        self._group = GroupCommit(self._apply, atomic=False)

    def connect(self, deadline: float) -> Connection:
        """Return a connection whose waits end by the deadline."""
        return Connection(deadline)

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the links under these names, or under all device names of ports."""
        with self.connect(deadline) as connection:
            return observe_links(connection, names)

    def subscribe(self, deadline: float) -> LinkSubscription:  # noqa: ARG002  # nothing waits
        """Subscribe to the changes of links."""
        return LinkSubscription()

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Carry out the steps, different ports side by side, merged with those of other callers.

        ovs-vswitchd rescans the whole host after each change of a device and blocks the kernel's links meanwhile.
        Merged steps cause one rescan. Large batches are not merged, and neither are deletes, which wait for the kernel:
        they would delay other callers.
        """
        if not all(isinstance(step, Delete) for step in steps):
            sysctl.require()
        has_deletes = any(isinstance(step, Delete) for step in steps)
        if self.is_side_by_side and len(steps) <= MAX_MERGED_STEPS and not has_deletes:
            return self._group.apply(steps, deadline)
        return self._apply(steps, deadline)

    def _apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        steps_of: dict[str, list[Step]] = {}
        for step in steps:
            steps_of.setdefault(key_of(step.part.name) or "", []).append(step)
        with self.connect(deadline) as connection:
            names = {name for key in steps_of for name in names_of_key(key)}
            state, facts = observe_links(connection, names, with_members=False)
            indexes = {name: fact.ifindex for name, fact in facts.links.items()}
            runs = [
                _Port(port_steps, state.of(names_of_key(key)), indexes, deadline).run()
                for key, port_steps in steps_of.items()
            ]
            outcomes: list[list[Outcome]] = []
            for together in [runs] if self.is_side_by_side else [[run] for run in runs]:
                outcomes += _run_side_by_side(together, connection, indexes)
        remaining = dict(zip(steps_of, map(iter, outcomes), strict=True))
        return [next(remaining[key_of(step.part.name) or ""]) for step in steps]


def observe_links(connection: Connection, names: Collection[str] | None, *, with_members: bool = True) -> Observed:
    """Return the links under these names, or under all device names of ports. Raises ExecutorError.

    with_members: read the other members of their bridges too. Steps do not need them.
    """
    try:
        devices = _devices(connection, names, with_members)
        return observed(devices, names, connection.addresses() if devices else {})
    except Interrupted:
        reason = "the links of this host change faster than they can be read; call again when it is quieter"
        raise ExecutorError(reason) from None
    except OSError as error:
        raise ExecutorError(_sentence("cannot read the links of this host", error.errno or errno.ETIMEDOUT)) from error


def _devices(connection: Connection, names: Collection[str] | None, with_members: bool) -> Collection[Device]:
    """Return these devices and those that they refer to, except for absent ones. Raises OSError."""
    wanted = [name for name in names or () if name[:3] in LINK_PREFIXES and key_of(name)]
    if names is None or len(wanted) > (DUMP_THRESHOLD if with_members else 2 * DUMP_THRESHOLD):
        try:
            return connection.dump()
        except OSError:
            # If devices come and go constantly, each name can still be read by itself.
            if names is None or with_members:
                raise
    # The kernel also accepts an alternative name, so a device of another name may be among these.
    devices = {device.index: device for device in _read(connection, wanted)}
    referenced = {index for device in devices.values() for index in (device.master, device.peer) if index}
    bridges = [index for index, device in devices.items() if device.kind == "bridge"] if with_members else []
    found = _read(connection, referenced - devices.keys())
    found += [member for bridge in bridges for member in connection.dump(bridge)]
    return (devices | {device.index: device for device in found}).values()


def _read(connection: Connection, devices: Iterable[int | str]) -> list[Device]:
    responses = connection.exchange([*map(Get, devices)], {})
    for response in responses:
        if isinstance(response, Rejected) and response.code != errno.ENODEV:
            raise OSError(response.code, os.strerror(response.code))
    return [response for response in responses if isinstance(response, Device)]


def _run_side_by_side(
    runs: Sequence[PortSteps], connection: Connection, indexes: Mapping[str, int]
) -> list[list[Outcome]]:
    """Return the outcomes of each port; the operations of one round go out together."""
    results: dict[int, list[Outcome]] = {}
    responses: dict[int, list[Response] | None] = dict.fromkeys(range(len(runs)))
    flat: Iterator[Response]
    while responses:
        operations: dict[int, list[Operation]] = {}
        for index, received in responses.items():
            try:
                operations[index] = next(runs[index]) if received is None else runs[index].send(received)
            except StopIteration as end:
                results[index] = end.value
        sent = [*itertools.chain(*operations.values())]
        try:
            flat = iter(connection.exchange(sent, indexes))
        except OSError as error:
            # A lost response is reported as a failure; the next observation shows the effect.
            flat = itertools.repeat(Rejected(error.errno or errno.ETIMEDOUT), len(sent))
        responses = {index: list(itertools.islice(flat, len(some))) for index, some in operations.items()}
    return [results[index] for index in range(len(runs))]


class _Port:
    """The steps of one port, as a generator: its operations go out together with those of other ports."""

    def __init__(self, steps: Sequence[Step], state: HostState, indexes: dict[str, int], deadline: float) -> None:
        self._steps, self._state, self._indexes, self._deadline = steps, state, indexes, deadline

    def run(self) -> PortSteps:
        """Carry out the steps; return one outcome per step."""
        outcomes: list[Outcome] = []
        while len(outcomes) < len(self._steps):
            remaining = self._steps[len(outcomes) :]
            deletes = list(itertools.takewhile(lambda step: isinstance(step, Delete), remaining))
            failed = any(outcome.result is not Result.DONE for outcome in outcomes)
            try:
                outcomes += yield from self._delete(deletes) if deletes else self._change(remaining[0], failed)
            except Exception as error:  # noqa: BLE001  # or the outcomes of other steps would be lost
                outcomes.append(internal_error(remaining[0], error))
        return outcomes

    def _delete(self, steps: Sequence[Step]) -> PortSteps:
        """Carry out these deletes in one send. They are tried after a failure, too."""
        outcomes: list[Outcome | None] = []
        tried: list[Operation] = []
        for step in steps:
            outcome = untried(step, self._state, self._deadline, failed=False)
            outcomes.append(outcome)
            if outcome is None:
                tried.append(Remove(step.part.name))
                self._state = simulate(self._state, step)
        responses = iter((yield tried))
        return [outcome or _deleted(step, next(responses)) for step, outcome in zip(steps, outcomes, strict=True)]

    def _change(self, step: Step, failed: bool) -> PortSteps:
        """Carry out one step that creates or updates a part."""
        outcome = untried(step, self._state, self._deadline, failed=failed)
        if outcome is not None:
            return [outcome]
        try:
            yield from self._carry_out(step)
        except Failure as error:
            return [error.outcome_of(step)]
        except OSError as error:
            return [failure(_action_of(step), error).outcome_of(step)]
        self._state = simulate(self._state, step)
        return [Outcome(step, Result.DONE)]

    def _carry_out(self, step: Step) -> Generator[list[Operation], list[Response], None]:
        """Carry out the operations of a step; those that need no response between them go in one send."""
        action = _action_of(step)
        waiting: list[Operation] = []
        with ExitStack() as unfinished:
            for operation in operations_of(step, random_mac()):
                if isinstance(operation, Set):
                    waiting.append(operation)
                    continue
                if waiting:
                    _accept(action, (yield waiting))
                    waiting = []
                match operation:
                    case Add() | AddTap():
                        yield from self._add(action, operation, unfinished)
                    case Sysctl(device, attribute, value):
                        sysctl.write(device, attribute, value)
                    case RemoveAddresses(device):
                        with Connection(self._deadline) as connection:
                            connection.remove_addresses(device)
                    case Own(device):
                        yield from _own(device)
            if waiting:
                _accept(action, (yield waiting))

    def _add(
        self, action: str, new: Add | AddTap, unfinished: ExitStack
    ) -> Generator[list[Operation], list[Response], None]:
        if isinstance(new, AddTap):
            unfinished.enter_context(NewTap(new.device, new.multi_queue))
        else:
            _accept(action, (yield [new]))
        for name in (new.device, getattr(new, "peer", "")):
            if name:
                self._indexes[name] = _index_of(name, action)
        if isinstance(new, AddTap) and (yield from _queues_of(new.device, action)) > 1:
            # The tap would outlive our file. Until it has an owner, any process may attach a queue.
            yield [Remove(new.device)]
            reason = "another process attached to it before it had an owner"
            raise StepFailed(f"cannot create {new.device}: {reason}", retry=True)


def _index_of(device: str, action: str) -> int:
    """Return the index of a new device. Raises StepFailed if it does not have its name any more.

    A Get would take the lock of all links, and the decoding of all attributes.
    """
    try:
        index = socket.if_nametoindex(device)
        # The kernel finds a device by an alternative name, too.
        if socket.if_indextoname(index) == device:
            return index
    except OSError as error:
        # Before Python 3.12 it has no errno.
        if error.errno not in (None, errno.ENODEV, errno.ENXIO):
            raise
    raise StepFailed(f"{action}: it was renamed at once; is udev configured to?", retry=True)


def _own(tap: str) -> Generator[list[Operation], list[Response], None]:
    """Make root the owner of a tap, if no other process holds a queue of it.

    Carrier does not tell: a process that holds a queue can switch it off (TUNSETCARRIER), and keeps the queue.
    """
    action = f"cannot make root the owner of {tap}"
    try:
        with attached(tap) as fd:
            if (yield from _queues_of(tap, action)) > 1:
                raise _held(tap, retry=False)
            own(fd)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _held(tap, retry=True) from None
        raise
    # One could attach until root was the owner.
    if (yield from _queues_of(tap, action)):
        raise _held(tap, retry=False)


def _queues_of(tap: str, action: str) -> Generator[list[Operation], list[Response], int]:
    """Return the number of queues that processes hold of a tap; 0 for a tap of one queue. Raises StepFailed."""
    responses = yield [Get(tap)]
    _accept(action, responses)
    return sum(response.queues for response in responses if isinstance(response, Device))


def _held(tap: str, *, retry: bool) -> StepFailed:
    """Return the failure to own a tap. retry: a VM may just have started; the next observation shows its carrier."""
    return StepFailed(
        f"cannot make root the owner of {tap}: another process holds it; stop that process "
        f"(find it: grep -lw {tap} /proc/[0-9]*/fdinfo/*), or unplug the port and plug it again",
        retry=retry,
    )


# -- errors of the kernel ----------------------------------------------------------------------------------------------

_RETRY = frozenset({errno.EEXIST, errno.ENODEV, errno.EBUSY, errno.EAGAIN, errno.ENOBUFS, errno.ETIMEDOUT})
_PRECONDITION_ERRORS = {
    errno.EPERM: "; the daemon lacks CAP_NET_ADMIN in this network namespace",
    errno.EACCES: "; the daemon may not write there",
    errno.EROFS: "; /proc/sys is read-only here",
    errno.EOPNOTSUPP: "; this kernel lacks the kind of device (try: modprobe -a bridge veth)",
}
"""Errors that mean a missing precondition on the host, with the explanation."""
_NO_DEVICE = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EACCES, errno.EPERM)


def _accept(action: str, responses: Iterable[Response]) -> None:
    """Raise StepFailed with the kernel's message if a response is an error."""
    for response in responses:
        match response:
            case Failure():
                raise response
            case Rejected(code, message):
                raise failure(action, OSError(code, ""), message)


def _deleted(step: Step, response: Response) -> Outcome:
    try:
        if not (isinstance(response, Rejected) and response.code == errno.ENODEV):
            _accept(_action_of(step), [response])
    except Failure as error:
        return error.outcome_of(step)
    return Outcome(step, Result.DONE)


def _action_of(step: Step) -> str:
    """Return the beginning of an error message about a step."""
    match step:
        case Create(part):
            return f"cannot create {part.kind} {part.name}"
        case Update(_, part):
            return f"cannot set {', '.join(changes_of(step))} of {part.kind} {part.name}"
    return f"cannot delete {step.part.name}"


def failure(action: str, error: OSError, message: str = "") -> StepFailed:
    """Return the failure of a step. message: the kernel's own words, if any."""
    code = error.errno or 0
    if error.filename == DEVICE and code in _NO_DEVICE:
        return StepFailed(f"{action}: {DEVICE}: {os.strerror(code)}; {NO_TUN}", code=PreconditionError.code)
    precondition = PreconditionError.code if code in _PRECONDITION_ERRORS else ""
    return StepFailed(_sentence(action, code, message), retry=code in _RETRY, code=precondition)


def _sentence(action: str, code: int, message: str = "") -> str:
    name = errno.errorcode.get(code, str(code))
    kernel_message = f"; the kernel says: {message}" if message and code not in _PRECONDITION_ERRORS else ""
    return f"{action}: {os.strerror(code)} ({name}){_PRECONDITION_ERRORS.get(code, '')}{kernel_message}"
