"""Our own executors keep the contract that we ship; a careless one does not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hybridvif.contract import check_link_executor, check_switch_executor
from hybridvif.executors.brctl import BrctlExecutor
from hybridvif.executors.ivs import IvsExecutor
from hybridvif.executors.netlink import NetlinkExecutor
from hybridvif.executors.ovsdb import OvsdbExecutor
from hybridvif.executors.recording import RecordingLinks, RecordingSwitch
from hybridvif.executors.vsctl import VsctlExecutor
from hybridvif.facts import Observed
from hybridvif.report import Outcome, Result
from hybridvif.sandbox import Sandbox
from hybridvif.steps import Delete, Step
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


@pytest.mark.parametrize(
    ("check", "make", "said"),
    [
        (check_link_executor, Careless, "what is observed is not what simulate"),
        (check_link_executor, Raising, "must not raise"),
        (check_link_executor, RecordingSwitch, "role"),
        (check_link_executor, RecordingLinks, "must be|must not|not what simulate"),
        (check_switch_executor, Blind, "what is observed is not what simulate"),
        (check_switch_executor, Eager, "was made or deleted"),
    ],
)
def test_an_executor_that_breaks_the_contract_is_told_so(
    sandbox: Sandbox, check: Callable[..., None], make: Any, said: str
) -> None:
    with pytest.raises(AssertionError, match=said):
        check(make, sandbox)
