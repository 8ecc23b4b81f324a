"""ivs-ctl: ports of an Indigo Virtual Switch through `ivs-ctl add-port` and `del-port`, as in Nova (VifType.IVS).

It is tested with a stand-in only, since the real program was not available. The ports are read from `ivs-ctl show`: the
words in its output that are device names of ports.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import ClassVar

from hybridvif.executors.base import ExecutorError, one_by_one
from hybridvif.executors.command import Program
from hybridvif.executors.command_lines import ivs_line
from hybridvif.model.names import SWITCH_PREFIXES, key_of
from hybridvif.model.parts import IvsPort, Part, Role
from hybridvif.model.report import Outcome
from hybridvif.model.settings import Settings
from hybridvif.model.state import Facts, HostState, Observed, PortFact, Step


class IvsExecutor:
    """Ports of an Indigo Virtual Switch through ivs-ctl."""

    role: ClassVar[Role] = Role.SWITCH
    serves: ClassVar[frozenset[type[Part]]] = frozenset({IvsPort})
    programs: ClassVar[tuple[str, ...]] = ("ivs-ctl",)
    atomic: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self._ivs = Program("ivs-ctl", settings.program_path)

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the ports under these names, or under all device names of ports."""
        result = self._ivs.run(["show"], deadline)
        if result.expired:
            raise ExecutorError("ivs-ctl show did not end before the deadline (is ivs hung?)")
        if result.code < 0:
            raise ExecutorError(f"the ports of ivs could not be read: {result.said}; call again")
        if result.code:
            raise ExecutorError(f"cannot read the ports of ivs: {result.said}; is ivs running?", precondition=True)
        words = set(re.findall(r"[\w-]+", result.stdout))
        existing = sorted(
            word
            for word in words
            if word[:3] in SWITCH_PREFIXES - {"vhu"} and key_of(word) and (names is None or word in names)
        )
        return Observed(
            # A qbr, qvb or tap in the switch is not a part of a port but a fact.
            HostState({}, {name: IvsPort(name=name) for name in existing if name.startswith("qvo")}),
            Facts(ports={name: PortFact() for name in existing}, switch_version="ivs"),
        )

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Carry out the steps one by one."""
        state = self.observe({step.part.name for step in steps}, deadline).state

        return one_by_one(steps, state, lambda step: self._ivs.carry_out(ivs_line(step), deadline), deadline)
