"""ivs-ctl: the switch is an Indigo Virtual Switch. `ivs-ctl add-port` and `del-port`, as Nova did (VifType.IVS).

The real program was not at hand when this was written: it is tested against a stand-in. Which ports there are is read
from `ivs-ctl show`, in which only words that are names of our grammar count.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import ClassVar

from hybridvif.executors.base import ExecutorError, StepFailed, one_by_one
from hybridvif.executors.command import Program
from hybridvif.executors.command_lines import ivs_line
from hybridvif.model.errors import PreconditionError
from hybridvif.model.facts import Facts, Observed, PortFact
from hybridvif.model.names import key_of
from hybridvif.model.parts import HostState, IvsPort, Part, Role
from hybridvif.model.report import Outcome
from hybridvif.model.settings import Settings
from hybridvif.model.steps import Step


class IvsExecutor:
    """Ports of an Indigo Virtual Switch by ivs-ctl."""

    role: ClassVar[Role] = Role.SWITCH
    serves: ClassVar[frozenset[type[Part]]] = frozenset({IvsPort})
    programs: ClassVar[tuple[str, ...]] = ("ivs-ctl",)
    atomic: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self._ivs = Program("ivs-ctl", settings.program_path)

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """The ports under these names, or all of our grammar."""
        done = self._ivs.run(["show"], deadline)
        if done.expired:
            raise ExecutorError("ivs-ctl show did not end before the deadline (is ivs hung?)")
        if done.code < 0:
            raise ExecutorError(f"the ports of ivs could not be read: {done.said}; call again")
        if done.code:
            raise ExecutorError(f"cannot read the ports of ivs: {done.said}; is ivs running?", precondition=True)
        words = set(re.findall(r"[\w-]+", done.stdout))
        there = sorted(
            word for word in words if word[:3] in ("qvo", "tap") and key_of(word) and (names is None or word in names)
        )
        return Observed(
            # A tap in the switch is no part of a port, and a fact.
            HostState({}, {name: IvsPort(name=name) for name in there if name.startswith("qvo")}),
            Facts(ports={name: PortFact() for name in there}, switch_version="ivs"),
        )

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Carry the steps out one by one."""
        state = self.observe({step.part.name for step in steps}, deadline).state

        def do(step: Step) -> None:
            line = ivs_line(step)
            done = self._ivs.run(line.arguments, deadline)
            if done.expired:
                raise StepFailed(f"{line} did not end before the deadline and was killed", retry=True)
            if done.code < 0:
                raise StepFailed(f"{line} was killed: {done.said}", retry=True)
            if done.code:
                lacking = PreconditionError.code if "ermission" in done.stderr else ""
                raise StepFailed(f"{line} failed: {done.said}", code=lacking)

        return one_by_one(steps, state, do, deadline)
