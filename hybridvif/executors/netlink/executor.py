"""iproute2-netlink: links through rtnetlink.

The steps of several ports run side by side: the first messages of all ports go in one send, then the second, and so on.
A failure stops only its own port. Devices are read by name, and only ENODEV means absence. They are changed by index,
so a renamed device is not mistaken for another.
"""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, ClassVar

from hybridvif.executors.base import ExecutorError, StepFailed, internal_error, untried
from hybridvif.executors.group_commit import GroupCommit
from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.devices import DUMP_THRESHOLD, Device, observed, random_mac, read_parts
from hybridvif.executors.netlink.groups import delete_together
from hybridvif.executors.netlink.messages import (
    create_link,
    delete_link,
    device_of,
    dump_request,
    get_link,
    name_of,
    queues_of,
    set_link,
    set_port,
)
from hybridvif.executors.netlink.operations import (
    MAX_DUMP_ATTEMPTS,
    Add,
    AddTap,
    Operation,
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
from hybridvif.executors.netlink.socket import Channel, Interrupted, Rejected, Request, Response, link_header_of
from hybridvif.executors.netlink.tap import NewTap
from hybridvif.model.names import key_of, names_of_key
from hybridvif.model.parts import Bridge, ManagedTap, Part, Role, Tap, Veth
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import Delete, HostState, Observed, Step, simulate

MAX_MERGED_STEPS = 32
"""Steps of one caller up to which they are merged with those of other callers."""

PortRun = Generator[list[Request], list[Response], list[Outcome]]
"""The steps of one port: yields requests, receives their responses, returns one outcome per step."""


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
            return read_parts(partial(_read, channel), partial(_dump, channel, deadline), names)

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
        steps_of: dict[str, list[Step]] = {}
        for step in steps:
            steps_of.setdefault(key_of(step.part.name) or "", []).append(step)
        with Channel(deadline) as channel:
            state, facts = _observe_parts(channel, {name for key in steps_of for name in names_of_key(key)}, deadline)
            indexes = {name: fact.ifindex for name, fact in facts.links.items()}
            runs = [
                _Port(port_steps, state.of(names_of_key(key)), indexes, deadline).run()
                for key, port_steps in steps_of.items()
            ]
            outcomes = _run_side_by_side(runs, channel, deadline)
        remaining = dict(zip(steps_of, map(iter, outcomes), strict=True))
        return [next(remaining[key_of(step.part.name) or ""]) for step in steps]


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
        flat = iter(_exchange(channel, [request for some in requests.values() for request in some], deadline))
        responses = {index: list(itertools.islice(flat, len(some))) for index, some in requests.items()}
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
    """The steps of one port, as a generator: its messages go out together with those of other ports."""

    def __init__(self, steps: Sequence[Step], state: HostState, indexes: Mapping[str, int], deadline: float) -> None:
        self._steps, self._state, self._deadline = steps, state, deadline
        self._indexes = dict(indexes)

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
        tried: list[Step] = []
        for step in steps:
            outcome = untried(step, self._state, self._deadline, failed=False)
            outcomes.append(outcome)
            if outcome is None:
                tried.append(step)
                self._state = simulate(self._state, step)
        responses = iter((yield [delete_link(self._indexes[step.part.name]) for step in tried]))
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

    def _carry_out(self, step: Step) -> Generator[list[Request], list[Response], None]:
        """Carry out the operations of a step; messages that need no response between them go in one send."""
        action = action_of(step)
        waiting: list[Request] = []
        with ExitStack() as unfinished:
            for operation in operations_of(step, random_mac()):
                request = self._request_of(operation)
                if request is not None:
                    waiting.append(request)
                    continue
                if waiting:
                    _accept(action, (yield waiting))
                    waiting = []
                if isinstance(operation, Add | AddTap):
                    yield from self._add(action, operation, unfinished)
                else:
                    write(operation)
            if waiting:
                _accept(action, (yield waiting))

    def _request_of(self, operation: Operation) -> Request | None:
        """Return the message of an operation that needs one message, and no response to go on."""
        if isinstance(operation, Set):
            return set_link(self._indexes[operation.device], self._resolved(operation.values))
        if isinstance(operation, SetPort):
            return set_port(self._indexes[operation.device], operation.flags)
        return None

    def _add(
        self, action: str, new: Add | AddTap, unfinished: ExitStack
    ) -> Generator[list[Request], list[Response], None]:
        names, requests = [new.device], list[Request]()
        if isinstance(new, AddTap):
            unfinished.enter_context(NewTap(new.device, new.multi_queue))
        else:
            names += [new.peer] if new.peer else []
            requests = [create_link(new.kind, new.device, self._resolved(new.values), new.peer, new.peer_values)]
        responses = yield [*requests, *map(get_link, names)]
        _accept(action, responses)
        bodies = [body for body in responses if isinstance(body, bytes)]
        if [name_of(body) for body in bodies] != names:
            raise renamed(action)
        self._indexes |= {name: link_header_of(body)[0] for name, body in zip(names, bodies, strict=True)}
        if isinstance(new, AddTap) and queues_of(bodies[0]) > 1:
            # The tap would outlive our file.
            yield [delete_link(self._indexes[new.device])]
            raise not_alone(new.device)

    def _resolved(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return these values with the index of the master."""
        if "master" not in values:
            return values
        return {**values, "master": self._indexes[values["master"]] if values["master"] else 0}


def _failure(action: str, rejected: Rejected) -> StepFailed:
    return failure(action, OSError(rejected.code, ""), rejected.message)


def _deleted(step: Step, response: Response) -> Outcome:
    if isinstance(response, Rejected) and response.code != errno.ENODEV:
        return _failure(action_of(step), response).outcome_of(step)
    return Outcome(step, Result.DONE)


def _accept(action: str, responses: Iterable[Response]) -> None:
    """Raise StepFailed with the kernel's message if a response is an error."""
    for response in responses:
        if isinstance(response, Rejected):
            raise _failure(action, response)


def _observe_parts(channel: Channel, names: Collection[str], deadline: float) -> Observed:
    """Return the state under these names as the steps need it, without the members of bridges."""
    if len(names) > DUMP_THRESHOLD:
        # If devices come and go constantly, each name can still be read by itself.
        with suppress(ExecutorError):
            return observed(_dump(channel, deadline, 0), names)
    return read_parts(partial(_read, channel), lambda _: (), names, threshold=len(names))


def _read(channel: Channel, names: Collection[int | str]) -> list[Device]:
    """Return these devices, except for absent ones."""
    try:
        responses = channel.exchange([get_link(name) for name in names])
    except (TimeoutError, OSError) as error:
        raise unreadable(error.errno or errno.ETIMEDOUT) from error
    for response in responses:
        if isinstance(response, Rejected) and response.code != errno.ENODEV:
            raise unreadable(response.code)
    return [device_of(response) for response in responses if isinstance(response, bytes)]


def _dump(channel: Channel, deadline: float, master: int) -> list[Device]:
    """Return all devices, or the members of one bridge; an interrupted dump is repeated."""
    for _ in range(MAX_DUMP_ATTEMPTS):
        try:
            # Read completely before decoding: the shorter the dump, the fewer interruptions.
            devices = [device_of(body) for body in channel.dump(dump_request(master))]
            return [device for device in devices if device.master == master] if master else devices
        except Interrupted:
            if time.monotonic() >= deadline:
                break
        except TimeoutError:
            break
        except OSError as error:
            raise unreadable(error.errno or 0) from error
    raise changing_too_fast()
