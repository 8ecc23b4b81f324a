"""Golden plans: the tables of golden/, one file per topic. A part is written as its differences from a known state.

case: one sentence. because: optional reason with its evidence. port: optional fields of the Port that differ from PORT.
observed, desired: the name of a known state (STATES), or a table with the known state as `from`. The other keys of that
table are parts: `absent`, the attributes that differ, or all attributes with the `kind`.
plan: the steps in order. A created part is the desired part. An update shows each change as `before -> after`.
refused: the message of the Conflict, instead of a plan.

qbr, qvb, qvo, tap and vhu are the names of PORT, and ID is its id.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridvif.model.errors import Conflict
from hybridvif.model.parts import PARTS, ForeignPort, Part, Tap, differences
from hybridvif.model.planner import as_native, plan
from hybridvif.model.port import Port, VifType, desired_state
from hybridvif.model.state import NOTHING, Create, HostState, Step, Update, simulate_all
from tests.support.strategies import NAMES, PORT, disagreements

Case = dict[str, Any]

TABLES = sorted((Path(__file__).parent / "golden").glob("*.yaml"))
CASES: list[Case] = [case for path in TABLES for case in yaml.safe_load(path.read_text())]
KEYS = {"case", "because", "port", "observed", "desired", "plan", "refused"}
KINDS = {cls.kind: cls for cls in PARTS if cls is not ForeignPort} | {"stray in the switch": ForeignPort}
SHORT = {
    NAMES.bridge: "qbr",
    NAMES.bridge_end: "qvb",
    NAMES.switch_end: "qvo",
    NAMES.tap: "tap",
    NAMES.vhost_user: "vhu",
}
SHORT[PORT.id] = "ID"
LONG = {short: name for name, short in SHORT.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_plan_equals_the_golden_plan(case: Case) -> None:
    difference = difference_from(case)
    if difference:
        pytest.fail(f"{case['case']}:\n{difference}", pytrace=False)


@pytest.mark.parametrize("case", [case for case in CASES if "plan" in case], ids=lambda case: case["case"])
def test_plan_reaches_the_desired_state(case: Case) -> None:
    observed, desired = states_of(case)
    steps = plan(observed, desired)
    reached = simulate_all(observed, steps)
    assert disagreements(reached, desired) == []
    assert plan(reached, desired) == ()
    assert [step.part for step in steps if isinstance(step, Create) and step.part not in list(desired)] == []


def test_golden_cases_cover_every_verb_and_goal() -> None:
    assert len(CASES) >= 120
    assert len({case["case"] for case in CASES}) == len(CASES)
    assert not [case["case"] for case in CASES if case.keys() - KEYS]
    assert {case["desired"] for case in CASES if isinstance(case["desired"], str)} >= {"plugged", "nothing"}
    verbs = {step.partition(" ")[0] for case in CASES for step in map("".join, case.get("plan", []))}
    assert verbs == {"create", "update", "delete", "replace"}


def test_failed_case_shows_a_diff() -> None:
    wrong = {"observed": "plugged", "desired": "plugged", "plan": ["delete bridge qbr"]}
    assert difference_from(wrong).splitlines()[3:] == ["-plan:", "-- delete bridge qbr", "+plan: []"]


def test_case_with_refusal_fails_on_a_plan() -> None:
    wrong = {"observed": "plugged", "desired": "plugged", "refused": "no"}
    assert difference_from(wrong).splitlines()[3:] == ["-refused: 'no'", "+plan: []"]


@pytest.mark.parametrize("unknown", [{"eth0": "absent"}, {"vhu": {"mtu": 1}}, {"from": "somewhere"}])
def test_case_with_unknown_part_raises(unknown: Case) -> None:
    with pytest.raises(KeyError):
        state_of({"from": "plugged"} | unknown, PORT)


def difference_from(case: Case) -> str:
    """Return a diff of the expected and the actual plan. Empty if they are equal."""
    expected: Case = {key: case[key] for key in ("plan", "refused") if key in case}
    try:
        planned: Case = {"plan": [shown(step) for step in plan(*states_of(case))]}
    except Conflict as conflict:
        planned = {"refused": str(conflict)}
    before, after = (yaml.safe_dump(document, sort_keys=False).splitlines() for document in (expected, planned))
    return "\n".join(difflib.unified_diff(before, after, "expected", "planned", n=99, lineterm=""))


def shown(step: Step) -> str | Case:
    text = f"{type(step).__name__.lower()} {step.part.kind} {SHORT[step.part.name]}"
    if not isinstance(step, Update):
        return text
    changes = differences(step.before, step.after)
    return {text: {change.attribute: f"{word(change.before)} -> {word(change.after)}" for change in changes}}


def word(value: object) -> str:
    return SHORT.get(value, value) or '""' if isinstance(value, str) else json.dumps(value)


def states_of(case: Case) -> tuple[HostState, HostState]:
    given = dict(case.get("port", {}))
    if "vif_type" in given:
        given["vif_type"] = VifType(given["vif_type"])
    port = replace(PORT, **given)
    return state_of(case["observed"], port), state_of(case["desired"], port)


def state_of(document: Any, port: Port) -> HostState:
    parts: Case = {"from": document} if isinstance(document, str) else dict(document)
    plugged = desired_state(port)
    running = plugged.with_parts(Tap(name=port.names.tap, master=port.names.bridge))
    # The other two are states of the same port with the other binding.
    hybrid, vhost_user = desired_state(PORT), desired_state(replace(PORT, vhostuser_mode="server"))
    native = as_native(plugged, port.id, plugged).with_parts(Tap(name=port.names.tap, master=""))
    known = {
        "native": native,
        "nothing": NOTHING,
        "plugged": plugged,
        "running": running,
        "hybrid": hybrid,
        "vhost-user": vhost_user,
    }
    state = known[parts.pop("from")]
    for short, values in parts.items():
        state = (
            state.without(named(state, short))
            if values == "absent"
            else state.with_parts(part_of(state, short, values))
        )
    return state


def named(state: HostState, short: str) -> Part:
    return {part.name: part for part in state}[LONG[short]]


def part_of(state: HostState, short: str, values: Case) -> Part:
    kind = values.get("kind")
    long = {key: LONG.get(value, value) if isinstance(value, str) else value for key, value in values.items()}
    long.pop("kind", None)
    return KINDS[kind](name=LONG[short], **long) if kind else replace(named(state, short), **long)
