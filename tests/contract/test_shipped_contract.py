"""Each careless executor fails the shipped contract."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from hybridvif.executors.base import NOT_REALIZED
from hybridvif.executors.netlink.executor import NetlinkExecutor
from hybridvif.executors.ovsdb.executor import OvsdbExecutor
from hybridvif.executors.recording import RecordingLinks, RecordingSwitch
from hybridvif.model.names import key_of
from hybridvif.model.parts import HOST_IP_OFF, OPEN, Bridge, ForeignPort, Veth
from hybridvif.model.report import Outcome, Result
from hybridvif.model.state import Create, Delete, HostState, Observed, Step, Update
from hybridvif.testing.contract import check_link_executor, check_switch_executor
from hybridvif.testing.sandbox.box import Sandbox
from tests.support.sizes import sample


class Careless(NetlinkExecutor):
    """Takes any object with the right name for its own, and reports success for every step."""

    serves: ClassVar[Any] = NetlinkExecutor.serves

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        return [Outcome(step, Result.DONE) for step in steps]


class Raising(NetlinkExecutor):
    """Does not catch the exceptions of the library."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        raise KeyError(steps[0].part.name)


class Short(NetlinkExecutor):
    """Returns no outcome for the last step."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        return super().apply(steps, deadline)[:-1]


class Blind(OvsdbExecutor):
    """Observes no port, so it never finds its own parts."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        return Observed(HostState(), super().observe(names, deadline).facts)


class Eager(OvsdbExecutor):
    """Deletes any object on request, whatever its owner."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        outcomes = list(super().apply(steps, deadline))
        return [
            Outcome(outcome.step, Result.DONE) if isinstance(outcome.step, Delete) else outcome for outcome in outcomes
        ]


class Factless(NetlinkExecutor):
    """Observes the parts, but no facts."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        return Observed(super().observe(names, deadline).state)


class Clannish(NetlinkExecutor):
    """Observes only those members of a bridge that are ours."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        members = {
            bridge: tuple(member for member in held if key_of(member)) for bridge, held in seen.facts.members.items()
        }
        return Observed(seen.state, replace(seen.facts, members=members))


class Unmarked(NetlinkExecutor):
    """Creates a bridge and writes only the differences from the kernel's defaults."""

    programs: ClassVar[tuple[str, ...]] = ("ip",)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        return [self._one(step, deadline) for step in steps]

    def _one(self, step: Step, deadline: float) -> Outcome:
        made = step
        if isinstance(step, Create) and isinstance(step.part, Bridge):
            name = step.part.name
            subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
            made = Update(super().observe([name], deadline).state.links[name], step.part)
        (outcome,) = super().apply([made], deadline)
        return replace(outcome, step=step)


class Meddling(NetlinkExecutor):
    """Writes to a device that is in no step."""

    programs: ClassVar[tuple[str, ...]] = ("ip",)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        subprocess.run(["ip", "link", "set", "lo", "alias", steps[0].part.name], check=True)
        return super().apply(steps, deadline)


class Truncating(NetlinkExecutor):
    """Opens a sysctl with O_TRUNC, a right that the daemon does not have."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        with open("/proc/sys/net/ipv4/conf/lo/arp_ignore", "r+", encoding="ascii") as before:
            value = before.read()
        with open("/proc/sys/net/ipv4/conf/lo/arp_ignore", "w", encoding="ascii") as after:
            after.write(value)
        return super().apply(steps, deadline)


class Lazy(NetlinkExecutor):
    """Imports a library in its first request, when the daemon imports nothing any more."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        import hypothesis  # noqa: F401

        return super().observe(names, deadline)


class Undeclared(NetlinkExecutor):
    """Runs a program that it does not declare, so the program has no capability."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return super().apply(steps, deadline)


class Ungrouped(NetlinkExecutor):
    """Ignores the group of a device."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        whole = seen.state.with_parts(
            *(replace(link, group=0) for link in seen.state.links.values() if isinstance(link, Bridge | Veth))
        )
        return Observed(whole, seen.facts)


class Deaf(NetlinkExecutor):
    """Ignores the settings of the host's IP stack."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        veths = [link for link in seen.state.links.values() if isinstance(link, Veth)]
        whole = seen.state.with_parts(*(replace(veth, host_ip=HOST_IP_OFF, peer_host_ip=HOST_IP_OFF) for veth in veths))
        return Observed(whole, seen.facts)


class Portless(NetlinkExecutor):
    """Ignores the flags of a bridge port."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        veths = [link for link in seen.state.links.values() if isinstance(link, Veth)]
        return Observed(seen.state.with_parts(*(replace(veth, bridge_port=OPEN) for veth in veths)), seen.facts)


class LowerUp(NetlinkExecutor):
    """Reports a device that is down as one without carrier."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        links = {name: fact._replace(carrier=fact.carrier and fact.up) for name, fact in seen.facts.links.items()}
        return Observed(seen.state, replace(seen.facts, links=links))


class FactlessSwitch(OvsdbExecutor):
    """Observes the port, but no facts."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        return Observed(super().observe(names, deadline).state)


class Literal(OvsdbExecutor):
    """Reports the datapath type literally as in the column."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        switches = {name: kind.replace("system", "") for name, kind in seen.facts.switches.items()}
        return Observed(seen.state, replace(seen.facts, switches=switches))


class Errorless(OvsdbExecutor):
    """Does not report the error of a device that was not accepted."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        ports = {name: fact._replace(error="") for name, fact in seen.facts.ports.items()}
        return Observed(seen.state, replace(seen.facts, ports=ports))


class Remaking(OvsdbExecutor):
    """Updates a row by deleting and creating it."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        for step in steps:
            if isinstance(step, Update):
                super().apply([Delete(step.before)], deadline)
                (outcome,) = super().apply([Create(step.after)], deadline)
                outcomes.append(replace(outcome, step=step))
            else:
                outcomes += super().apply([step], deadline)
        return outcomes


class Hopeful(OvsdbExecutor):
    """Reports success after a commit, without waiting for acceptance."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        outcomes = super().apply(steps, deadline)
        return [Outcome(outcome.step, Result.DONE) if outcome.code == NOT_REALIZED else outcome for outcome in outcomes]


class Strayless(OvsdbExecutor):
    """Does not report foreign objects."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        ports = {name: port for name, port in seen.state.ports.items() if not isinstance(port, ForeignPort)}
        return Observed(HostState({}, ports), seen.facts)


class MeddlingSwitch(OvsdbExecutor):
    """Writes to a row that is in no step."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        words = ["set", "Bridge", "br-int", f"external_ids:last={uuid.uuid4()}"]
        subprocess.run(["ovs-vsctl", "--no-wait", *words], check=True)
        return super().apply(steps, deadline)


BROKEN = [
    (check_link_executor, Careless, "what is observed is not what simulate"),
    (check_link_executor, Raising, "must not raise"),
    (check_link_executor, Short, "must return one outcome per step"),
    (check_link_executor, RecordingSwitch, "role"),
    (check_link_executor, RecordingLinks, "facts.members of qbr"),
    (check_switch_executor, Blind, "cannot reach"),
    (check_switch_executor, Eager, "it must be (failed or )?refused"),
    (check_link_executor, Factless, "facts.members of qbr"),
    (check_link_executor, Clannish, "facts.members of qbr.*hvmember"),
    (check_link_executor, Unmarked, "MTU 1400 joined"),
    (check_link_executor, Meddling, "beside the port was written"),
    (check_link_executor, Truncating, "must not raise .*PermissionError"),
    (check_link_executor, Lazy, "observe.. failed: .*ModuleNotFoundError"),
    (check_link_executor, Undeclared, "must not raise .*CalledProcessError"),
    (check_link_executor, Ungrouped, "group is 0, not 7"),
    (check_link_executor, Deaf, "host_ip is not observed as changed"),
    (check_link_executor, Portless, "bridge_port is not observed as changed"),
    (check_link_executor, LowerUp, "facts.links of .* and the kernel says"),
    (check_switch_executor, FactlessSwitch, "facts.switches lacks br-int"),
    (check_switch_executor, Literal, "facts.switches is .*, not .*'system'"),
    (check_switch_executor, Errorless, "the facts .ofport, error, tag. are"),
    (check_switch_executor, Remaking, "columns of others: .* no key .own."),
    (check_switch_executor, Hopeful, "a missing device: .*it must be failed"),
    (check_switch_executor, Strayless, "foreign objects are observed as"),
    (check_switch_executor, MeddlingSwitch, "beside the port was written"),
]
"""A check, an executor that fails it, and the message."""


@pytest.mark.prove
@pytest.mark.parametrize(("check", "make", "message"), sample(BROKEN, 3))
def test_an_executor_that_breaks_the_contract_is_told_so(
    sandbox: Sandbox, check: Callable[..., None], make: Any, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        check(make, sandbox)


def test_contract_is_refused_where_python_removes_its_assertions() -> None:
    """Every executor passed under python -O."""
    code = (
        "from hybridvif.testing.contract import check_link_executor; "
        "from hybridvif.executors.recording import RecordingLinks; check_link_executor(RecordingLinks)"
    )
    argv = [sys.executable, "-P", "-O", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.splitlines()[-1].startswith("RuntimeError: the contract is made of assertions; run it without")
