"""Batches of steps, and the consequences of failures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hybridvif.executors.base import NOT_REALIZED, Executor, ExecutorError
from hybridvif.executors.recording import RecordingLinks, RecordingSwitch
from hybridvif.model.parts import PARTS, PLACEHOLDER_TYPE, Bridge, IvsPort, OvsPort, Part, Role, Tap
from hybridvif.model.planner import as_native, plan
from hybridvif.model.port import Port, desired_state
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import Create, Delete, HostState, Observed, Step, Update, simulate_all
from hybridvif.privileged.execute import FEW, MAX_CUT_OFF, SHARE, execute
from tests.support.strategies import BRIDGE, PORT, ROW, VETH, the

SOON = 60.0
PORTS = [
    Port(id=f"{number:08x}-7b00-4c00-8000-000000000001", mac=PORT.mac, instance_id=PORT.instance_id)
    for number in range(8)
]
ROWS = [the(OvsPort, desired_state(port)) for port in PORTS]
Answer = Callable[[Sequence[Step]], Sequence[Outcome]]


def all_done(steps: Sequence[Step]) -> list[Outcome]:
    return [Outcome(step, Result.DONE) for step in steps]


@dataclass
class Scripted:
    """An executor with given outcomes, which records its calls."""

    role: Role
    answer: Answer = all_done
    atomic: bool = False
    serves: frozenset[type[Part]] = frozenset(PARTS)
    programs: tuple[str, ...] = ()
    asked: list[list[Step]] = field(default_factory=list)
    remaining: list[float] = field(default_factory=list)
    order: list[Role | str] = field(default_factory=list)

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        raise AssertionError("execute() does not observe")

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        self.asked.append(list(steps))
        self.remaining.append(deadline - time.monotonic())
        self.order.append(self.role)
        return self.answer(steps)


@dataclass
class Pair:
    """An executor of each role, with one common list of calls."""

    links: Scripted = field(default_factory=lambda: Scripted(Role.LINK))
    switch: Scripted = field(default_factory=lambda: Scripted(Role.SWITCH, atomic=True))

    def __post_init__(self) -> None:
        self.links.order = self.switch.order

    @property
    def by_role(self) -> Mapping[Role, Executor]:
        return {Role.LINK: self.links, Role.SWITCH: self.switch}  # type: ignore[dict-item]  # a dataclass has no ClassVar

    def carry_out(self, *plans: Sequence[Step], seconds: float = SOON) -> list[list[Result]]:
        outcomes = execute(plans, self.by_role, time.monotonic() + seconds)
        assert [[outcome.step for outcome in some] for some in outcomes] == [list(plan) for plan in plans]
        return [[outcome.result for outcome in some] for some in outcomes]


@pytest.fixture
def pair() -> Pair:
    return Pair()


def failing(*names: str, result: Result = Result.FAILED, code: str = "", whole: bool = False) -> Answer:
    """Fail the steps on these names; whole: skip the others, as a transaction does."""

    def answer(steps: Sequence[Step]) -> list[Outcome]:
        guilty = [step for step in steps if step.part.name in names]
        rest = Result.SKIPPED if whole and guilty else Result.DONE
        return [Outcome(step, result, "no", code=code) if step in guilty else Outcome(step, rest) for step in steps]

    return answer


def plug_plan(port: Port) -> list[Step]:
    state = desired_state(port)
    return [*map(Create, state.links.values()), *map(Create, state.ports.values())]


def unplug_plan(port: Port) -> list[Step]:
    return [Delete(step.part) for step in reversed(plug_plan(port))]


# The order.


def test_empty_plans_use_no_executor(pair: Pair) -> None:
    assert pair.carry_out() == []
    assert pair.carry_out([], []) == [[], []]
    assert pair.switch.order == []


def test_plug_of_many_ports_calls_each_executor_once(pair: Pair) -> None:
    results = pair.carry_out(*map(plug_plan, PORTS))
    assert results == [[Result.DONE] * 3] * len(PORTS)
    assert pair.switch.order == [Role.LINK, Role.SWITCH]
    assert len(pair.links.asked[0]) == 2 * len(PORTS)
    assert [step.part for step in pair.switch.asked[0]] == ROWS


def test_unplug_calls_the_switch_first(pair: Pair) -> None:
    pair.carry_out(*map(unplug_plan, PORTS))
    assert pair.switch.order == [Role.SWITCH, Role.LINK]


def test_plans_of_different_order_share_batches(pair: Pair) -> None:
    pair.carry_out(plug_plan(PORTS[0]), unplug_plan(PORTS[1]), [])
    assert pair.switch.order == [Role.SWITCH, Role.LINK, Role.SWITCH]
    assert len(pair.links.asked[0]) == 4


def test_placeholder_and_its_end_are_not_in_one_batch(pair: Pair) -> None:
    """In one transaction the two updates cancel out, and ovs-vswitchd notices no change."""
    parked = replace(ROW, type=PLACEHOLDER_TYPE, realized=False)
    pair.carry_out([Update(ROW, parked), Update(parked, ROW)], [Create(ROWS[1])])
    assert [[step.part for step in asked] for asked in pair.switch.asked] == [[parked, ROWS[1]], [ROW]]


def test_batch_before_others_gets_a_share_of_the_time(pair: Pair) -> None:
    parked = replace(ROW, type=PLACEHOLDER_TYPE, realized=False)
    pair.carry_out([Update(ROW, parked), Create(VETH), Update(parked, ROW)], seconds=30)
    assert pair.switch.remaining == [pytest.approx(30 * SHARE, abs=0.5), pytest.approx(30, abs=0.5)]
    assert pair.links.remaining == [pytest.approx(30 * SHARE, abs=0.5)]


# Conversions: few VMs are cut off together.


MANY = [replace(PORT, id=f"{number:08x}-7b00-4c00-8000-000000000001") for number in range(2 * MAX_CUT_OFF + 1)]


def conversion_plans(to: str) -> list[tuple[Step, ...]]:
    plans = []
    for port in MANY:
        tap = Tap(name=port.names.tap, master=port.names.bridge)
        hybrid = desired_state(port).with_parts(tap)
        native = as_native(hybrid, port.id, hybrid)
        steps = plan(hybrid, native)
        plans.append(steps if to == "native" else plan(simulate_all(hybrid, steps), desired_state(port)))
    return plans


def calls(pair: Pair) -> list[tuple[Role | str, int]]:
    """Return the role and the number of steps of each call, in order."""
    asked = {Role.LINK: iter(pair.links.asked), Role.SWITCH: iter(pair.switch.asked)}
    return [(role, len(next(asked[Role(role)]))) for role in pair.switch.order]


def test_conversions_to_native_cut_few_vms_off_together(pair: Pair) -> None:
    """The taps leave their bridges, and the rows are replaced, before the next taps leave."""
    pair.carry_out(*conversion_plans("native"))
    link, switch, few = Role.LINK, Role.SWITCH, MAX_CUT_OFF
    cut_offs = [(role, size) for size in (few, few, 1) for role in (link, switch)]
    assert calls(pair) == [(switch, len(MANY)), *cut_offs, (link, 2 * len(MANY)), (switch, len(MANY))]


def test_conversions_to_hybrid_cut_few_vms_off_together(pair: Pair) -> None:
    pair.carry_out(*conversion_plans("hybrid"))
    link, switch, few = Role.LINK, Role.SWITCH, MAX_CUT_OFF
    cut_offs = [(role, size) for size in (few, few, 1) for role in (switch, link)]
    assert calls(pair) == [(link, 2 * len(MANY)), (switch, len(MANY)), *cut_offs, (switch, len(MANY))]


@pytest.mark.parametrize("result", [Result.CONFIGURED, Result.UNKNOWN])
def test_no_more_vms_are_cut_off_while_the_switch_is_silent(pair: Pair, result: Result) -> None:
    names = [port.names.tap for port in MANY]
    pair.switch.answer = failing(*names[:MAX_CUT_OFF], result=result)
    results = pair.carry_out(*conversion_plans("native"))
    assert [step.part.name for step in pair.links.asked[0]] == names[:MAX_CUT_OFF]
    assert len(pair.links.asked) == 1
    assert [some[1] for some in results] == [Result.DONE] * MAX_CUT_OFF + [Result.FAILED] * (MAX_CUT_OFF + 1)


# Consequences of a failure.


@pytest.mark.parametrize("result", [Result.FAILED, Result.REFUSED, Result.SKIPPED])
def test_failure_skips_the_creates_of_its_port(pair: Pair, result: Result) -> None:
    pair.links.answer = failing(VETH.name, result=result)
    results = pair.carry_out(plug_plan(PORT), plug_plan(PORTS[1]))
    assert results == [[Result.DONE, result, Result.SKIPPED], [Result.DONE] * 3]
    assert [[step.part for step in asked] for asked in pair.switch.asked] == [[ROWS[1]]]


def test_failure_does_not_skip_the_deletes_of_its_port(pair: Pair) -> None:
    pair.switch.answer = failing(ROW.name)
    assert pair.carry_out(unplug_plan(PORT)) == [[Result.FAILED, Result.DONE, Result.DONE]]


def test_lost_response_skips_all_steps_of_its_port(pair: Pair) -> None:
    pair.switch.answer = failing(ROW.name, result=Result.UNKNOWN)
    assert pair.carry_out(unplug_plan(PORT)) == [[Result.UNKNOWN, Result.SKIPPED, Result.SKIPPED]]
    assert pair.links.asked == []


def test_configured_result_skips_nothing(pair: Pair) -> None:
    pair.switch.answer = failing(ROW.name, result=Result.CONFIGURED)
    assert pair.carry_out(unplug_plan(PORT)) == [[Result.CONFIGURED, Result.DONE, Result.DONE]]


def test_skipped_step_has_a_reason(pair: Pair) -> None:
    pair.links.answer = failing(BRIDGE.name)
    (outcomes,) = execute([plug_plan(PORT)], pair.by_role, time.monotonic() + SOON)
    assert "earlier step of this port failed" in outcomes[2].reason


# The cause of a failed transaction.


@pytest.mark.parametrize("guilty", range(len(PORTS)))
def test_failed_transaction_fails_only_the_faulty_port(pair: Pair, guilty: int) -> None:
    pair.switch.answer = failing(ROWS[guilty].name, whole=True)
    results = pair.carry_out(*([Create(row)] for row in ROWS))
    assert [index for index, (result,) in enumerate(results) if result is not Result.DONE] == [guilty]
    # Eight halved three times: the whole batch, and two halves at each level.
    assert len(pair.switch.asked) == 7


@given(st.sets(st.integers(0, len(PORTS) - 1)))
def test_any_set_of_faulty_ports_fails_alone(guilty: set[int]) -> None:
    pair = Pair()
    pair.switch.answer = failing(*(ROWS[index].name for index in guilty), whole=True)
    results = pair.carry_out(*([Create(row)] for row in ROWS))
    assert {index for index, (result,) in enumerate(results) if result is not Result.DONE} == guilty
    names = [[step.part.name for step in asked] for asked in pair.switch.asked]
    committed = [some for some in names if not {ROWS[index].name for index in guilty} & {*some}]
    assert sorted(name for some in committed for name in some) == [
        row.name for index, row in enumerate(ROWS) if index not in guilty
    ]


def test_committed_transaction_is_not_repeated(pair: Pair) -> None:
    """The transaction took effect, so the rows of the other ports exist already."""
    pair.switch.answer = failing(ROWS[2].name, code=NOT_REALIZED)
    results = pair.carry_out(*([Create(row)] for row in ROWS))
    assert [index for index, (result,) in enumerate(results) if result is not Result.DONE] == [2]
    assert len(pair.switch.asked) == 1


def test_committed_transaction_without_success_is_not_repeated(pair: Pair) -> None:
    pair.switch.answer = failing(*(row.name for row in ROWS), code=NOT_REALIZED)
    assert pair.carry_out(*([Create(row)] for row in ROWS)) == [[Result.FAILED]] * len(ROWS)
    assert len(pair.switch.asked) == 1


def test_lost_response_is_unknown_for_all_ports(pair: Pair) -> None:
    pair.switch.answer = failing(*(row.name for row in ROWS), result=Result.UNKNOWN)
    assert pair.carry_out(*([Create(row)] for row in ROWS)) == [[Result.UNKNOWN]] * len(ROWS)
    assert len(pair.switch.asked) == 1


def test_executor_that_is_not_atomic_is_called_once(pair: Pair) -> None:
    pair.links.answer = failing(BRIDGE.name, VETH.name)
    assert pair.carry_out([Create(BRIDGE)], [Create(the(Bridge, desired_state(PORTS[1])))]) == [
        [Result.FAILED],
        [Result.DONE],
    ]
    assert len(pair.links.asked) == 1


def test_exception_of_one_executor_keeps_the_outcomes_of_the_other() -> None:
    def broken(steps: Sequence[Step]) -> Sequence[Outcome]:
        raise KeyError("peer")

    pair = Pair(switch=Scripted(Role.SWITCH, broken, atomic=True))
    steps = [Create(BRIDGE), Create(VETH), Create(ROW)]
    assert pair.carry_out(steps) == [[Result.DONE, Result.DONE, Result.UNKNOWN]]
    ((*_, lost),) = execute([steps], pair.by_role, time.monotonic() + SOON)
    assert lost.code == "error"
    name = f"{Scripted.__module__}.Scripted"
    assert lost.reason.startswith(f"the switch executor {name} failed (KeyError), and it is not known how far it came")


@pytest.mark.parametrize("kind", ["missing", "one more", "another order", "no outcome", "exit"])
def test_invalid_outcomes_of_one_executor_are_unknown_under_its_name(kind: str) -> None:
    """The whole request failed with "the daemon failed: ValueError"; one outcome more moved those of other ports."""

    def broken(steps: Sequence[Step]) -> Any:
        outcomes = all_done(steps)
        match kind:
            case "missing":
                return outcomes[:-1]
            case "one more":
                return [outcomes[0], *outcomes]
            case "another order":
                return outcomes[::-1]
            case "no outcome":
                return [True] * len(steps)
        raise SystemExit(1)

    pair = Pair(switch=Scripted(Role.SWITCH, broken, atomic=True))
    for outcomes in execute([plug_plan(port) for port in PORTS[:2]], pair.by_role, time.monotonic() + SOON):
        assert [outcome.result for outcome in outcomes] == [Result.DONE, Result.DONE, Result.UNKNOWN]
        assert outcomes[-1].reason.startswith(f"the switch executor {Scripted.__module__}.Scripted failed (")


def test_executor_error_fails_every_step(pair: Pair) -> None:
    def raise_error(steps: Sequence[Step]) -> list[Outcome]:
        raise ExecutorError("no socket", precondition=True)

    pair.switch.answer = raise_error
    (outcomes,) = execute([plug_plan(PORT)], pair.by_role, time.monotonic() + SOON)
    assert [outcome.result for outcome in outcomes] == [Result.DONE, Result.DONE, Result.FAILED]
    assert (outcomes[2].reason, outcomes[2].code, outcomes[2].retry) == ("no socket", "precondition", False)


# Parts without an executor.


def test_plan_with_unserved_part_fails_before_its_first_step(pair: Pair) -> None:
    pair.switch.serves = frozenset({OvsPort})
    plan = [Create(BRIDGE), Create(IvsPort(name=ROW.name))]
    outcomes, others = execute([plan, plug_plan(PORTS[1])], pair.by_role, time.monotonic() + SOON)
    assert [(outcome.result, outcome.code) for outcome in outcomes] == [(Result.FAILED, "precondition")] * 2
    assert "ivs-port" in outcomes[0].reason
    assert "switch_executor" in outcomes[0].reason
    assert [outcome.result for outcome in others] == [Result.DONE] * 3
    assert all(step.part.name != BRIDGE.name for asked in pair.links.asked for step in asked)


# The audit log, and two real executors.


def test_outcomes_of_a_plan_are_one_log_line(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hybridvif.privileged.execute")
    pair.links.answer = failing(VETH.name)
    pair.carry_out(plug_plan(PORT))
    skipped = "skipped not tried, since an earlier step of this port failed"
    assert [record.getMessage().strip() for record in caplog.records] == [
        f"create bridge {BRIDGE.name}: done; create veth {VETH.name}: failed no; create ovs-port {ROW.name}: {skipped}"
    ]


def test_two_executors_share_one_simulated_host(monkeypatch: pytest.MonkeyPatch) -> None:
    links, switch = RecordingLinks(Settings()), RecordingSwitch(Settings())
    assert links.simulation is switch.simulation
    monkeypatch.setattr(links.simulation, "state", HostState())
    outcomes = execute([plug_plan(PORT)], {Role.LINK: links, Role.SWITCH: switch}, time.monotonic() + SOON)
    assert [outcome.result for outcome in outcomes[0]] == [Result.DONE] * 3
    assert all(outcome.simulated for outcome in outcomes[0])
    assert links.simulation.state == desired_state(PORT)


class Expecting(Scripted):
    """An executor that records expected()."""

    @contextmanager
    def expected(self) -> Iterator[None]:
        self.order.append("expected")
        yield
        self.order.append("no longer")


@pytest.mark.parametrize(
    ("plans", "order"),
    [
        ([plug_plan(PORTS[0])], ["expected", Role.LINK, Role.SWITCH, "no longer"]),
        ([unplug_plan(PORTS[0])], [Role.SWITCH, Role.LINK]),
        ([plug_plan(PORTS[0])[:2]], [Role.LINK]),
        ([plug_plan(port) for port in PORTS] * FEW, [Role.LINK, Role.SWITCH]),
    ],
    ids=["links first", "links last", "links alone", "many ports"],
)
def test_request_with_links_first_is_expected_at_the_switch(plans: list[list[Step]], order: list[object]) -> None:
    pair = Pair(switch=Expecting(Role.SWITCH, atomic=True))
    pair.carry_out(*plans)
    assert pair.switch.order == order
