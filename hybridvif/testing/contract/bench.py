"""The test bench of an executor: a sandbox with the executor in a process inside, and the host's own tools."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen
from types import TracebackType
from typing import Any, Self

from hybridvif.executors.base import Executor
from hybridvif.model.names import PortNames
from hybridvif.model.parts import Part, attributes_of, differences
from hybridvif.model.planner import plan
from hybridvif.model.port import Port
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import HostState, Observed
from hybridvif.model.steps import Step, simulate
from hybridvif.privileged import codec
from hybridvif.testing.sandbox import Sandbox

Make = Callable[[Settings], Executor]
PATIENCE = 15.0
"""Timeout of a call of the executor in seconds."""
PORT = Port(
    id="c0117ac7-0000-4000-8000-000000000001",
    mac="fa:16:3e:c0:17:ac",
    instance_id="c0117ac7-0000-4000-8000-000000000002",
    call_iptables=True,
)
STRANGER = "c0117ac7-0000-4000-8000-00000000beef"
"""Another port with the same device names."""


class Bench:
    """An executor in a sandbox."""

    def __init__(self, make: Make, box: Sandbox, settings: dict[str, Any]) -> None:
        self.box = box
        self.make = make
        self._argv = [
            sys.executable,
            "-P",
            "-m",
            "hybridvif.testing.contract.worker",
            *_place_of(make),
            json.dumps(settings),
        ]
        self._worker: Popen[str] | None = None

    def __enter__(self) -> Self:
        self._worker = self.box.popen(self._argv, stdin=PIPE, stdout=PIPE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            with self._worker as worker:
                worker.kill()

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a shell script on the host and return its output."""
        return self.box.run(["sh", "-ec", script], check=check).stdout

    def see(self, names: Iterable[str] | None) -> HostState:
        """Return the parts that the executor observes."""
        return self.observe(names).state

    def observe(self, names: Iterable[str] | None) -> Observed:
        """Return the parts and the facts that the executor observes."""
        asked = None if names is None else sorted(names)
        answer = self._ask({"call": "observe", "names": asked, "patience": PATIENCE})
        assert "seen" in answer, f"observe() failed: {answer}"
        return codec.decode_observed(answer["seen"])

    def do(self, steps: Sequence[Step], *, patience: float = PATIENCE) -> tuple[Outcome, ...]:
        """Apply the steps and return the outcomes; () if apply() itself failed with an ExecutorError."""
        (encoded,) = codec.encode_plans([steps])
        answer = self._ask({"call": "apply", "steps": encoded, "patience": patience})
        assert "raised" not in answer, f"apply() must not raise for a step that fails, but: {answer['raised']}"
        if "error" in answer:
            return ()
        (outcomes,) = codec.decode_outcomes(answer["outcomes"], [steps])
        assert len(outcomes) == len(steps), f"apply() gave {len(outcomes)} outcomes for {len(steps)} steps"
        return outcomes

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        worker = self._worker
        assert worker is not None
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(question) + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
        assert line, f"the executor {self.make.__qualname__} ended its process"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def reach(self, names: PortNames, goal: HostState) -> None:
        """Converge the host to a state by means of the executor."""
        steps = plan(self.see(names), goal)
        outcomes = self.do(steps) if steps else ()
        assert all(outcome.result is Result.DONE for outcome in outcomes), f"cannot reach {goal}: {outcomes}"
        require_equal(self.see(names), goal, "after a plan")

    def try_path(self, names: PortNames, start: HostState, goal: HostState) -> int:
        """Apply each step between two states separately. Return the number of steps."""
        self.reach(names, start)
        steps = plan(start, goal)
        for step in steps:
            before = self.see(names)
            expected = simulate(before, step)
            (outcome,) = self.do([step]) or (None,)
            assert outcome is not None, f"the executor can do nothing: {step}"
            assert outcome.result is Result.DONE, f"{describe(step)}: {outcome.result.value}, {outcome.reason}"
            require_equal(self.see(names), expected, f"after {describe(step)}")
        return len(steps)

    def try_refused(self, step: Step, *, results: Collection[Result]) -> Outcome:
        """Check that the executor rejects a step and does not change the host."""
        with self.unchanged(f"by {describe(step)}, which must not be done"):
            outcomes = self.do([step])
        assert outcomes, f"{describe(step)}: the executor describe that it can do nothing, instead of refusing"
        (outcome,) = outcomes
        wanted = " or ".join(sorted(result.value for result in results))
        assert outcome.result in results, f"{describe(step)}: {outcome.result.value}, but it must be {wanted}"
        assert outcome.reason, f"{describe(step)}: {outcome.result.value} without a reason"
        return outcome

    @contextmanager
    def unchanged(self, cause: str) -> Iterator[None]:
        """Check that the block does not change the host."""
        before = self.snapshot()
        yield
        after = self.snapshot()
        assert after == before, f"the host was changed {cause}: {sorted(set(after) ^ set(before))[:4]}"

    def snapshot(self) -> list[str]:
        """Return the links as `ip` prints them, without the fields that change by themselves."""
        found = []
        for link in json.loads(self.sh("ip -d -j link")):
            info = link.get("linkinfo", {})
            for options in (info.get("info_data", {}), info.get("info_slave_data", {})):
                for key in [key for key in options if key.endswith("timer")]:
                    del options[key]
            # The kernel updates the carrier with a delay.
            for key in ("operstate", "flags"):
                link[key] = sorted(set(link[key]) - {"NO-CARRIER", "LOWER_UP"}) if key == "flags" else ""
            found.append(json.dumps(link, sort_keys=True))
        return sorted(found)


def _place_of(make: Make) -> list[str]:
    """Return the arguments that identify an executor: directory, module, class."""
    file = Path(sys.modules[make.__module__].__file__ or "")
    depth = make.__module__.count(".") + (file.name == "__init__.py")
    return [str(file.parents[depth]), make.__module__, make.__qualname__]


def require_equal(seen: HostState, expected: HostState, when: str) -> None:
    """Compare the observed with the specified state. Raises AssertionError with each difference."""
    wrong = []
    for side in ("links", "ports"):
        ones, others = getattr(seen, side), getattr(expected, side)
        wrong += [f"{name} is there" for name in ones.keys() - others.keys()]
        wrong += [f"{name} is not there" for name in others.keys() - ones.keys()]
        for name in ones.keys() & others.keys():
            if type(ones[name]) is not type(others[name]):
                wrong.append(f"{name} is a {ones[name].kind}, not a {others[name].kind}")
                continue
            for change in differences(ones[name], others[name]):
                wrong.append(f"{name}: {change.attribute} is {change.before!r}, not {change.after!r}")
    assert not wrong, f"{when}, what is observed is not what simulate() says: {'; '.join(sorted(wrong))}"


def describe(step: Step) -> str:
    """Format a step."""
    return f"{type(step).__name__.lower()} of {step.part.kind} {step.part.name}"


def variants(part: Part, others: dict[str, Any]) -> Iterator[Part]:
    """Yield copies of the part, each with one attribute changed."""
    for name in attributes_of(type(part)):
        for value in others.get(name, ()):
            if value != getattr(part, name):
                yield replace(part, **{name: value})


def require_declared(make: Any, role: Any) -> None:
    """Check that an executor declares role, serves and the other attributes of the protocol."""
    for member in ("role", "serves", "programs", "atomic", "observe", "apply"):
        assert hasattr(make, member), f"{make.__qualname__} lacks {member} (executors.base.Executor)"
    assert make.role is role, f"{make.__qualname__}.role is {make.role}, not {role}"
    assert make.serves, f"{make.__qualname__}.serves nothing"
    assert isinstance(make.atomic, bool), f"{make.__qualname__}.atomic is neither True nor False"
