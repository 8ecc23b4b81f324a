"""Links over any connection to the kernel: observe devices, and carry out the steps of many ports side by side.

All link executors share this. They differ in their connection: how it carries out an operation, and decodes a device.
The first operations of all ports go in one send, then the second, and so on. A failure stops only its own port. Devices
are read by name, and only ENODEV means absence. Netlink changes them by index, so a renamed device is not mistaken for
another.
"""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from typing import ClassVar, Protocol

from hybridvif.executors.base import ExecutorError, StepFailed, internal_error, untried
from hybridvif.executors.group_commit import GroupCommit
from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.devices import Device, observed, random_mac, read_parts, remove_addresses
from hybridvif.executors.netlink.notifications import LinkSubscription
from hybridvif.executors.netlink.operations import (
    Add,
    AddTap,
    Get,
    Operation,
    Own,
    Remove,
    RemoveAddresses,
    Response,
    Set,
    SetPort,
    Sysctl,
    action_of,
    changing_too_fast,
    failure,
    held,
    not_alone,
    operations_of,
    renamed,
    unreadable,
)
from hybridvif.executors.netlink.socket import Interrupted, Rejected
from hybridvif.executors.netlink.tap import NewTap, attached, own
from hybridvif.model.names import key_of, names_of_key
from hybridvif.model.parts import Bridge, ManagedTap, Part, Role, Tap, Veth
from hybridvif.model.report import Outcome, Result
from hybridvif.model.state import Delete, HostState, Observed, Step, simulate

MAX_MERGED_STEPS = 32
"""Steps of one caller up to which they are merged with those of other callers."""
MAX_DUMP_ATTEMPTS = 20
MAX_READS = 128
"""Names that are read one by one before steps. They take 3 ms, and a dump of 1,500 devices takes 40."""

PortRun = Generator[list[Operation], list[Response], list[Outcome]]
"""The steps of one port: yields operations, receives their responses, returns one outcome per step."""


class Connection(AbstractContextManager["Connection"], Protocol):
    """A connection to the kernel for one thread. Its functions raise TimeoutError, OSError."""

    def exchange(self, operations: Sequence[Operation], indexes: Mapping[str, int]) -> list[Response]:
        """Carry out Add, Set, SetPort, Remove and Get in order. indexes: those of the devices by name."""

    def dump(self, master: int) -> list[Device]:
        """Return all devices, or the members of one bridge by its index. Raises Interrupted."""


class LinkExecutor:
    """Links by any kind of connection to the kernel."""

    role: ClassVar[Role] = Role.LINK
    serves: ClassVar[frozenset[type[Part]]] = frozenset({Bridge, Veth, Tap, ManagedTap})
    programs: ClassVar[tuple[str, ...]] = ()
    atomic: ClassVar[bool] = False
    is_side_by_side: ClassVar[bool] = True
    """False if one operation is as slow as a program. Each port is then completed before the next one."""

    def __init__(self, connect: Callable[[float], Connection]) -> None:
        self._connect = connect
        self._group = GroupCommit(self._apply, atomic=False)

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the links under these names, or under all device names of ports."""
        with self._connect(deadline) as connection:
            return read_parts(partial(_read, connection), partial(_dump, connection, deadline), names)

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
        with self._connect(deadline) as connection:
            names = {name for key in steps_of for name in names_of_key(key)}
            state, facts = _observe_parts(connection, names, deadline)
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


def observe_links(connect: Callable[[float], Connection], names: Collection[str] | None, deadline: float) -> Observed:
    """Return the links under these names, or under all device names of ports. Raises ExecutorError."""
    return LinkExecutor(connect).observe(names, deadline)


def _observe_parts(connection: Connection, names: Collection[str], deadline: float) -> Observed:
    """Return the state under these names as the steps need it, without the members of bridges."""
    if len(names) > MAX_READS:
        # If devices come and go constantly, each name can still be read by itself.
        with suppress(ExecutorError):
            return observed(_dump(connection, deadline, 0), names)
    return read_parts(partial(_read, connection), lambda _: (), names, threshold=len(names))


def _read(connection: Connection, names: Iterable[int | str]) -> list[Device]:
    """Return these devices, except for absent ones."""
    try:
        responses = connection.exchange([*map(Get, names)], {})
    except OSError as error:
        raise unreadable(error.errno or errno.ETIMEDOUT) from error
    for response in responses:
        if isinstance(response, Rejected) and response.code != errno.ENODEV:
            raise unreadable(response.code)
    return [response for response in responses if isinstance(response, Device)]


def _dump(connection: Connection, deadline: float, master: int) -> list[Device]:
    """Return all devices, or the members of one bridge; an interrupted dump is repeated."""
    for _ in range(MAX_DUMP_ATTEMPTS):
        try:
            return [device for device in connection.dump(master) if master in (0, device.master)]
        except Interrupted:
            if time.monotonic() >= deadline:
                break
        except OSError as error:
            raise unreadable(error.errno or errno.ETIMEDOUT) from error
    raise changing_too_fast()


def _run_side_by_side(
    runs: Sequence[PortRun], connection: Connection, indexes: Mapping[str, int]
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

    def run(self) -> PortRun:
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

    def _delete(self, steps: Sequence[Step]) -> PortRun:
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

    def _change(self, step: Step, failed: bool) -> PortRun:
        """Carry out one step that creates or updates a part."""
        outcome = untried(step, self._state, self._deadline, failed=failed)
        if outcome is not None:
            return [outcome]
        try:
            yield from self._carry_out(step)
        except StepFailed as error:
            return [error.outcome_of(step)]
        except OSError as error:
            return [failure(action_of(step), error).outcome_of(step)]
        self._state = simulate(self._state, step)
        return [Outcome(step, Result.DONE)]

    def _carry_out(self, step: Step) -> Generator[list[Operation], list[Response], None]:
        """Carry out the operations of a step; those that need no response between them go in one send."""
        action = action_of(step)
        waiting: list[Operation] = []
        with ExitStack() as unfinished:
            for operation in operations_of(step, random_mac()):
                if isinstance(operation, Set | SetPort):
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
                        remove_addresses(device)
                    case Own(device):
                        yield from _own(device)
            if waiting:
                _accept(action, (yield waiting))

    def _add(
        self, action: str, new: Add | AddTap, unfinished: ExitStack
    ) -> Generator[list[Operation], list[Response], None]:
        names, adding = [new.device], list[Operation]()
        if isinstance(new, AddTap):
            unfinished.enter_context(NewTap(new.device, new.multi_queue))
        else:
            names += [new.peer] if new.peer else []
            adding = [new]
        responses = yield [*adding, *map(Get, names)]
        _accept(action, responses)
        devices = [response for response in responses if isinstance(response, Device)]
        if [device.name for device in devices] != names:
            raise renamed(action)
        self._indexes |= {device.name: device.index for device in devices}
        if isinstance(new, AddTap) and devices[0].queues > 1:
            # The tap would outlive our file.
            yield [Remove(new.device)]
            raise not_alone(new.device)


def _own(tap: str) -> Generator[list[Operation], list[Response], None]:
    """Make root the owner of a tap, if no other process holds a queue of it.

    Carrier does not tell: a process that holds a queue can switch it off (TUNSETCARRIER), and keeps the queue.
    """
    try:
        with attached(tap) as fd:
            if (yield from _queues_of(tap)) > 1:
                raise held(tap, retry=False)
            own(fd)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise held(tap, retry=True) from None
        raise
    # One could attach until root was the owner.
    if (yield from _queues_of(tap)):
        raise held(tap, retry=False)


def _queues_of(tap: str) -> Generator[list[Operation], list[Response], int]:
    """Return the number of queues that processes hold of a tap; 0 for a tap of one queue. Raises StepFailed."""
    responses = yield [Get(tap)]
    _accept(f"cannot make root the owner of {tap}", responses)
    return sum(response.queues for response in responses if isinstance(response, Device))


def _failure(action: str, response: Rejected | StepFailed) -> StepFailed:
    if isinstance(response, StepFailed):
        return response
    return failure(action, OSError(response.code, ""), response.message)


def _deleted(step: Step, response: Response) -> Outcome:
    if isinstance(response, StepFailed) or (isinstance(response, Rejected) and response.code != errno.ENODEV):
        return _failure(action_of(step), response).outcome_of(step)
    return Outcome(step, Result.DONE)


def _accept(action: str, responses: Iterable[Response]) -> None:
    """Raise StepFailed with the kernel's message if a response is an error."""
    for response in responses:
        if isinstance(response, Rejected | StepFailed):
            raise _failure(action, response)
