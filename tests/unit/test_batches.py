"""Which steps go to an executor together, and what a failure of one stops."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridvif.executors.base import NOT_REALIZED, Executor, ExecutorError
from hybridvif.executors.recording import RecordingLinks, RecordingSwitch
from hybridvif.facts import Observed
from hybridvif.parts import PARKED, PARTS, Bridge, HostState, IvsPort, OvsPort, Part, Role
from hybridvif.port import Port
from hybridvif.privileged.batches import FEW, SHARE, carry_out
from hybridvif.report import Outcome, Result
from hybridvif.settings import Settings
from hybridvif.steps import Create, Delete, Step, Update
from hybridvif.wiring import wiring_of
from tests.unit.strategies import BRIDGE, PORT, ROW, VETH, the

SOON = 60.0
PORTS = [
    Port(id=f"{number:08x}-7b00-4c00-8000-000000000001", mac=PORT.mac, instance_id=PORT.instance_id)
    for number in range(8)
]
ROWS = [the(OvsPort, wiring_of(port)) for port in PORTS]
Answer = Callable[[Sequence[Step]], Sequence[Outcome]]


def all_done(steps: Sequence[Step]) -> list[Outcome]:
    return [Outcome(step, Result.DONE) for step in steps]


@dataclass
class Scripted:
    """An executor that answers as it is told, and remembers what it was asked."""

    role: Role
    answer: Answer = all_done
    atomic: bool = False
    serves: frozenset[type[Part]] = frozenset(PARTS)
    programs: tuple[str, ...] = ()
    asked: list[list[Step]] = field(default_factory=list)
    left: list[float] = field(default_factory=list)
    order: list[Role | str] = field(default_factory=list)

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        raise AssertionError("carry_out() does not observe")

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        self.asked.append(list(steps))
        self.left.append(deadline - time.monotonic())
        self.order.append(self.role)
        return self.answer(steps)


@dataclass
class Pair:
    """An executor of each role, on one list of who was asked when."""

    links: Scripted = field(default_factory=lambda: Scripted(Role.LINK))
    switch: Scripted = field(default_factory=lambda: Scripted(Role.SWITCH, atomic=True))

    def __post_init__(self) -> None:
        self.links.order = self.switch.order

    @property
    def by_role(self) -> Mapping[Role, Executor]:
        return {Role.LINK: self.links, Role.SWITCH: self.switch}  # type: ignore[dict-item]  # a dataclass has no ClassVar

    def carry_out(self, *plans: Sequence[Step], seconds: float = SOON) -> list[list[Result]]:
        outcomes = carry_out(plans, self.by_role, time.monotonic() + seconds)
        assert [[outcome.step for outcome in some] for some in outcomes] == [list(plan) for plan in plans]
        return [[outcome.result for outcome in some] for some in outcomes]


@pytest.fixture
def pair() -> Pair:
    return Pair()


def failing(*names: str, result: Result = Result.FAILED, code: str = "", whole: bool = False) -> Answer:
    """An answer in which what is about these names fails; whole: and the rest with it, as in a transaction."""

    def answer(steps: Sequence[Step]) -> list[Outcome]:
        guilty = [step for step in steps if step.part.name in names]
        rest = Result.SKIPPED if whole and guilty else Result.DONE
        return [Outcome(step, result, "no", code=code) if step in guilty else Outcome(step, rest) for step in steps]

    return answer


def plug_plan(port: Port) -> list[Step]:
    state = wiring_of(port)
    return [*map(Create, state.links.values()), *map(Create, state.ports.values())]


def unplug_plan(port: Port) -> list[Step]:
    return [Delete(step.part) for step in reversed(plug_plan(port))]


# The order.


def test_no_plans_and_empty_plans_ask_nobody(pair: Pair) -> None:
    assert pair.carry_out() == []
    assert pair.carry_out([], []) == [[], []]
    assert pair.switch.order == []


def test_all_ports_are_plugged_with_one_question_to_each_executor(pair: Pair) -> None:
    results = pair.carry_out(*map(plug_plan, PORTS))
    assert results == [[Result.DONE] * 3] * len(PORTS)
    assert pair.switch.order == [Role.LINK, Role.SWITCH]
    assert len(pair.links.asked[0]) == 2 * len(PORTS)
    assert [step.part for step in pair.switch.asked[0]] == ROWS


def test_an_unplug_asks_the_switch_first(pair: Pair) -> None:
    pair.carry_out(*map(unplug_plan, PORTS))
    assert pair.switch.order == [Role.SWITCH, Role.LINK]


def test_plans_of_different_order_still_share_their_questions(pair: Pair) -> None:
    pair.carry_out(plug_plan(PORTS[0]), unplug_plan(PORTS[1]), [])
    assert pair.switch.order == [Role.SWITCH, Role.LINK, Role.SWITCH]
    assert len(pair.links.asked[0]) == 4


def test_a_row_is_not_parked_and_freed_in_one_question(pair: Pair) -> None:
    """In one transaction the two cancel out, and ovs-vswitchd sees no change."""
    parked = replace(ROW, type=PARKED, realized=False)
    pair.carry_out([Update(ROW, parked), Update(parked, ROW)], [Create(ROWS[1])])
    assert [[step.part for step in asked] for asked in pair.switch.asked] == [[parked, ROWS[1]], [ROW]]


def test_a_question_that_others_follow_gets_a_share_of_the_time(pair: Pair) -> None:
    parked = replace(ROW, type=PARKED, realized=False)
    pair.carry_out([Update(ROW, parked), Create(VETH), Update(parked, ROW)], seconds=30)
    assert pair.switch.left == [pytest.approx(30 * SHARE, abs=0.5), pytest.approx(30, abs=0.5)]
    assert pair.links.left == [pytest.approx(30 * SHARE, abs=0.5)]


# What a failure stops.


@pytest.mark.parametrize("result", [Result.FAILED, Result.REFUSED, Result.SKIPPED])
def test_after_a_failure_nothing_more_of_that_port_is_made(pair: Pair, result: Result) -> None:
    pair.links.answer = failing(VETH.name, result=result)
    results = pair.carry_out(plug_plan(PORT), plug_plan(PORTS[1]))
    assert results == [[Result.DONE, result, Result.SKIPPED], [Result.DONE] * 3]
    assert [[step.part for step in asked] for asked in pair.switch.asked] == [[ROWS[1]]]


def test_after_a_failure_the_deletes_of_that_port_are_still_tried(pair: Pair) -> None:
    pair.switch.answer = failing(ROW.name)
    assert pair.carry_out(unplug_plan(PORT)) == [[Result.FAILED, Result.DONE, Result.DONE]]


def test_after_a_lost_answer_nothing_more_of_that_port_is_tried(pair: Pair) -> None:
    pair.switch.answer = failing(ROW.name, result=Result.UNKNOWN)
    assert pair.carry_out(unplug_plan(PORT)) == [[Result.UNKNOWN, Result.SKIPPED, Result.SKIPPED]]
    assert pair.links.asked == []


def test_what_is_only_configured_stops_nothing(pair: Pair) -> None:
    pair.switch.answer = failing(ROW.name, result=Result.CONFIGURED)
    assert pair.carry_out(unplug_plan(PORT)) == [[Result.CONFIGURED, Result.DONE, Result.DONE]]


def test_what_is_skipped_says_why(pair: Pair) -> None:
    pair.links.answer = failing(BRIDGE.name)
    (outcomes,) = carry_out([plug_plan(PORT)], pair.by_role, time.monotonic() + SOON)
    assert "earlier step of this port failed" in outcomes[2].reason


# Who is guilty of a transaction that failed.


@pytest.mark.parametrize("guilty", range(len(PORTS)))
def test_of_a_transaction_that_failed_the_guilty_alone_fails(pair: Pair, guilty: int) -> None:
    pair.switch.answer = failing(ROWS[guilty].name, whole=True)
    results = pair.carry_out(*([Create(row)] for row in ROWS))
    assert [at for at, (result,) in enumerate(results) if result is not Result.DONE] == [guilty]
    # Halving eight three times: the whole, and two at each of three levels.
    assert len(pair.switch.asked) == 7


@given(st.sets(st.integers(0, len(PORTS) - 1)))
def test_whoever_is_guilty_fails_and_nobody_else(guilty: set[int]) -> None:
    pair = Pair()
    pair.switch.answer = failing(*(ROWS[at].name for at in guilty), whole=True)
    results = pair.carry_out(*([Create(row)] for row in ROWS))
    assert {at for at, (result,) in enumerate(results) if result is not Result.DONE} == guilty
    names = [[step.part.name for step in asked] for asked in pair.switch.asked]
    committed = [some for some in names if not {ROWS[at].name for at in guilty} & {*some}]
    assert sorted(name for some in committed for name in some) == [
        row.name for at, row in enumerate(ROWS) if at not in guilty
    ]


def test_what_was_committed_and_not_realized_is_not_committed_again(pair: Pair) -> None:
    """A transaction took effect: the others of it have their ports, and would find them in their way."""
    pair.switch.answer = failing(ROWS[2].name, code=NOT_REALIZED)
    results = pair.carry_out(*([Create(row)] for row in ROWS))
    assert [at for at, (result,) in enumerate(results) if result is not Result.DONE] == [2]
    assert len(pair.switch.asked) == 1


def test_nor_if_none_of_them_is_realized(pair: Pair) -> None:
    pair.switch.answer = failing(*(row.name for row in ROWS), code=NOT_REALIZED)
    assert pair.carry_out(*([Create(row)] for row in ROWS)) == [[Result.FAILED]] * len(ROWS)
    assert len(pair.switch.asked) == 1


def test_a_lost_answer_is_lost_for_all_and_not_asked_again(pair: Pair) -> None:
    pair.switch.answer = failing(*(row.name for row in ROWS), result=Result.UNKNOWN)
    assert pair.carry_out(*([Create(row)] for row in ROWS)) == [[Result.UNKNOWN]] * len(ROWS)
    assert len(pair.switch.asked) == 1


def test_an_executor_that_is_not_atomic_is_asked_once(pair: Pair) -> None:
    pair.links.answer = failing(BRIDGE.name, VETH.name)
    assert pair.carry_out([Create(BRIDGE)], [Create(the(Bridge, wiring_of(PORTS[1])))]) == [
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
    ((*_, lost),) = carry_out([steps], pair.by_role, time.monotonic() + SOON)
    assert lost.code == "error"
    assert "the switch executor failed" in lost.reason


def test_an_executor_that_can_do_nothing_fails_every_step(pair: Pair) -> None:
    def raise_error(steps: Sequence[Step]) -> list[Outcome]:
        raise ExecutorError("no socket", precondition=True)

    pair.switch.answer = raise_error
    (outcomes,) = carry_out([plug_plan(PORT)], pair.by_role, time.monotonic() + SOON)
    assert [outcome.result for outcome in outcomes] == [Result.DONE, Result.DONE, Result.FAILED]
    assert (outcomes[2].reason, outcomes[2].code, outcomes[2].retry) == ("no socket", "precondition", False)


# Parts that nobody serves.


def test_a_plan_with_a_part_that_nobody_serves_fails_before_any_of_its_steps(pair: Pair) -> None:
    pair.switch.serves = frozenset({OvsPort})
    plan = [Create(BRIDGE), Create(IvsPort(name=ROW.name))]
    outcomes, others = carry_out([plan, plug_plan(PORTS[1])], pair.by_role, time.monotonic() + SOON)
    assert [(outcome.result, outcome.code) for outcome in outcomes] == [(Result.FAILED, "precondition")] * 2
    assert "ivs-port" in outcomes[0].reason
    assert "switch_executor" in outcomes[0].reason
    assert [outcome.result for outcome in others] == [Result.DONE] * 3
    assert all(step.part.name != BRIDGE.name for asked in pair.links.asked for step in asked)


# The audit trail, and two real executors.


def test_what_came_of_every_step_of_a_plan_is_one_line_of_the_log(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hybridvif.privileged.batches")
    pair.links.answer = failing(VETH.name)
    pair.carry_out(plug_plan(PORT))
    skipped = "skipped not tried, since an earlier step of this port failed"
    assert [record.getMessage().strip() for record in caplog.records] == [
        f"create bridge {BRIDGE.name}: done; create veth {VETH.name}: failed no; create ovs-port {ROW.name}: {skipped}"
    ]


def test_a_port_goes_through_two_executors_onto_one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    links, switch = RecordingLinks(Settings()), RecordingSwitch(Settings())
    assert links.simulation is switch.simulation
    monkeypatch.setattr(links.simulation, "state", HostState())
    outcomes = carry_out([plug_plan(PORT)], {Role.LINK: links, Role.SWITCH: switch}, time.monotonic() + SOON)
    assert [outcome.result for outcome in outcomes[0]] == [Result.DONE] * 3
    assert all(outcome.simulated for outcome in outcomes[0])
    assert links.simulation.state == wiring_of(PORT)


class Awaiting(Scripted):
    """An executor that wants to know who will come to it."""

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
def test_who_does_links_first_is_expected_at_the_switch(plans: list[list[Step]], order: list[object]) -> None:
    pair = Pair(switch=Awaiting(Role.SWITCH, atomic=True))
    pair.carry_out(*plans)
    assert pair.switch.order == order
