"""Our own executors keep the contract that we ship; a careless one does not."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hybridvif.contract import check_link_executor, check_switch_executor
from hybridvif.executors.base import NOT_REALIZED
from hybridvif.executors.brctl import BrctlExecutor
from hybridvif.executors.ivs import IvsExecutor
from hybridvif.executors.netlink import NetlinkExecutor
from hybridvif.executors.ovsdb import OvsdbExecutor
from hybridvif.executors.recording import RecordingLinks, RecordingSwitch
from hybridvif.executors.vsctl import VsctlExecutor
from hybridvif.facts import Observed
from hybridvif.names import key_of
from hybridvif.parts import HOST_IP_OFF, OPEN, Bridge, HostState, StrayPort, Veth
from hybridvif.report import Outcome, Result
from hybridvif.sandbox import Sandbox
from hybridvif.steps import Create, Delete, Step, Update
from tests.ivs import program_path_with_ivs


@pytest.mark.parametrize("make", [NetlinkExecutor, BrctlExecutor])
def test_our_link_executors_keep_the_contract(sandbox: Sandbox, make: Any) -> None:
    check_link_executor(make, sandbox)


@pytest.mark.parametrize("make", [OvsdbExecutor, VsctlExecutor])
def test_our_switch_executors_keep_the_contract(sandbox: Sandbox, make: Any) -> None:
    check_switch_executor(make, sandbox)


def test_ivs_ctl_keeps_the_contract_with_a_stand_in(sandbox: Sandbox, tmp_path: Path) -> None:
    check_switch_executor(IvsExecutor, sandbox, program_path=program_path_with_ivs(tmp_path))


class Careless(NetlinkExecutor):
    """Takes whatever has the right name for its own, and calls everything done."""

    serves: ClassVar[Any] = NetlinkExecutor.serves

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        return [Outcome(step, Result.DONE) for step in steps]


class Raising(NetlinkExecutor):
    """Lets what the library raises escape."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        raise KeyError(steps[0].part.name)


class Blind(OvsdbExecutor):
    """Sees no port, so never finds what it made."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        return Observed()


class Eager(OvsdbExecutor):
    """Deletes what it is told to, whoever's it is."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        outcomes = list(super().apply(steps, deadline))
        return [Outcome(one.step, Result.DONE) if isinstance(one.step, Delete) else one for one in outcomes]


class Factless(NetlinkExecutor):
    """Sees the parts, and nothing beside them."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        return Observed(super().observe(names, deadline).state)


class Clannish(NetlinkExecutor):
    """Tells of a bridge only those members that are ours."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        members = {
            bridge: tuple(member for member in held if key_of(member)) for bridge, held in seen.facts.members.items()
        }
        return Observed(seen.state, replace(seen.facts, members=members))


class Unmarked(NetlinkExecutor):
    """Makes a bridge, and sets only what is not yet as it should be."""

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
    """Writes to a device that no step is about."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        subprocess.run(["ip", "link", "set", "lo", "alias", steps[0].part.name], check=True)
        return super().apply(steps, deadline)


class Ungrouped(NetlinkExecutor):
    """Does not look at the group of a device."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        whole = seen.state.having(
            *(replace(link, group=0) for link in seen.state.links.values() if isinstance(link, Bridge | Veth))
        )
        return Observed(whole, seen.facts)


class Deaf(NetlinkExecutor):
    """Does not look at what the host's IP stack listens to."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        veths = [link for link in seen.state.links.values() if isinstance(link, Veth)]
        whole = seen.state.having(*(replace(veth, host_ip=HOST_IP_OFF, peer_host_ip=HOST_IP_OFF) for veth in veths))
        return Observed(whole, seen.facts)


class Portless(NetlinkExecutor):
    """Does not look at the flags of a bridge port."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        veths = [link for link in seen.state.links.values() if isinstance(link, Veth)]
        return Observed(seen.state.having(*(replace(veth, bridge_port=OPEN) for veth in veths)), seen.facts)


class LowerUp(NetlinkExecutor):
    """Takes a device that is down for one without carrier."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        links = {name: fact._replace(carrier=fact.carrier and fact.up) for name, fact in seen.facts.links.items()}
        return Observed(seen.state, replace(seen.facts, links=links))


class FactlessSwitch(OvsdbExecutor):
    """Sees the port, and no bridge that it could be on."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        return Observed(super().observe(names, deadline).state)


class Literal(OvsdbExecutor):
    """Tells the datapath type as the column has it."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        switches = {name: kind.replace("system", "") for name, kind in seen.facts.switches.items()}
        return Observed(seen.state, replace(seen.facts, switches=switches))


class Remaking(OvsdbExecutor):
    """Updates a row by making it anew."""

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
    """Calls done what was committed."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        outcomes = super().apply(steps, deadline)
        return [Outcome(one.step, Result.DONE) if one.code == NOT_REALIZED else one for one in outcomes]


class Strayless(OvsdbExecutor):
    """Passes over what is not of its shape."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        seen = super().observe(names, deadline)
        ports = {name: port for name, port in seen.state.ports.items() if not isinstance(port, StrayPort)}
        return Observed(HostState({}, ports), seen.facts)


class MeddlingSwitch(OvsdbExecutor):
    """Writes to a row that no step is about."""

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        words = ["set", "Bridge", "br-int", f"external_ids:last={uuid.uuid4()}"]
        subprocess.run(["ovs-vsctl", "--no-wait", *words], check=True)
        return super().apply(steps, deadline)


@pytest.mark.parametrize(
    ("check", "make", "said"),
    [
        (check_link_executor, Careless, "what is observed is not what simulate"),
        (check_link_executor, Raising, "must not raise"),
        (check_link_executor, RecordingSwitch, "role"),
        (check_link_executor, RecordingLinks, "must be|must not|not what simulate"),
        (check_switch_executor, Blind, "what is observed is not what simulate"),
        (check_switch_executor, Eager, "must be refused|was made or deleted"),
        (check_link_executor, Factless, "facts.members of qbr"),
        (check_link_executor, Clannish, "facts.members of qbr.*hvforeign"),
        (check_link_executor, Unmarked, "MTU 1400 joined"),
        (check_link_executor, Meddling, "beside the port was written"),
        (check_link_executor, Ungrouped, "group is 0, not 7"),
        (check_link_executor, Deaf, "host_ip of qvb.* is off after"),
        (check_link_executor, Portless, "bridge_port is open after"),
        (check_link_executor, LowerUp, "facts.links of .* and the kernel says"),
        (check_switch_executor, FactlessSwitch, "facts.ports lacks qvo"),
        (check_switch_executor, Literal, "facts.switches.* not 'system'|or its datapath type"),
        (check_switch_executor, Remaking, "the rows had"),
        (check_switch_executor, Hopeful, "failed with code 'not-realized'"),
        (check_switch_executor, Strayless, "not as a StrayPort"),
        (check_switch_executor, MeddlingSwitch, "row that is not the port's"),
    ],
)
def test_an_executor_that_breaks_the_contract_is_told_so(
    sandbox: Sandbox, check: Callable[..., None], make: Any, said: str
) -> None:
    with pytest.raises(AssertionError, match=said):
        check(make, sandbox)
