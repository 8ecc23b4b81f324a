"""Golden plans. Each file of golden/ is one case.

because: optional reason with its evidence.
port: optional fields of the Port that differ from PORT.
observed: a list of parts, or a starting point ("nothing", "plugged", "running") with changes (without, change, with).
desired: "wiring", "nothing", or a state in the form of `observed` for the goal of a rollback.
plan: the steps in order. A created part is the desired part. An update shows [before, after].
refused: the message of the Conflict, instead of a plan.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridvif.model.desired import desired_state
from hybridvif.model.errors import Conflict
from hybridvif.model.parts import PARTS, Part, Role, Tap, differences
from hybridvif.model.planner import plan
from hybridvif.model.port import Port, VifType
from hybridvif.model.state import NOTHING, HostState
from hybridvif.model.steps import Create, Step, Update, simulate_all
from tests.support.strategies import PORT, disagreements

CASES = sorted((Path(__file__).parent / "golden").glob("*.json"))
KEYS = {"because", "port", "observed", "desired", "plan", "refused"}

Case = dict[str, Any]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_plan_equals_the_golden_plan(path: Path) -> None:
    difference = difference_from(json.loads(path.read_text()))
    if difference:
        pytest.fail(f"{path.stem}:\n{difference}", pytrace=False)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_plan_reaches_the_desired_state(path: Path) -> None:
    case = json.loads(path.read_text())
    if "plan" in case:
        observed, desired = states_of(case)
        reached = simulate_all(observed, plan(observed, desired))
        assert disagreements(reached, desired) == []
        assert plan(reached, desired) == ()


def test_golden_cases_cover_every_verb_and_goal() -> None:
    cases = [json.loads(path.read_text()) for path in CASES]
    assert len(cases) >= 30
    assert not [path.stem for path, case in zip(CASES, cases, strict=True) if case.keys() - KEYS]
    assert {case["desired"] for case in cases if isinstance(case["desired"], str)} == {"wiring", "nothing"}
    assert {step["verb"] for case in cases for step in case.get("plan", [])} == {"create", "update", "delete"}


def test_failed_case_shows_a_diff() -> None:
    wrong = {"observed": {"from": "plugged"}, "desired": "wiring", "plan": [{"verb": "delete", "name": "eth0"}]}
    assert difference_from(wrong).splitlines() == [
        "--- expected",
        "+++ planned",
        "@@ -1,3 +1 @@",
        "-{",
        '-  "plan": [{"verb": "delete", "name": "eth0"}]',
        "-}",
        '+{"plan": []}',
    ]


def test_case_with_refusal_fails_on_a_plan() -> None:
    wrong = {"observed": {"from": "plugged"}, "desired": "wiring", "refused": "no"}
    assert '-  "refused": "no"' in difference_from(wrong)
    assert '+{"plan": []}' in difference_from(wrong)


@pytest.mark.parametrize("unknown", [{"without": ["eth0"]}, {"change": {"eth0": {}}}, {"from": "somewhere"}])
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
    if planned == expected:
        return ""
    lines = difflib.unified_diff(as_lines(expected), as_lines(planned), "expected", "planned", n=99, lineterm="")
    return "\n".join(lines)


def as_lines(case: Case) -> list[str]:
    if case == {"plan": []}:
        return ['{"plan": []}']
    steps = case.get("plan", [])
    if len(steps) == 1 or "refused" in case:
        return ["{", *(f'  "{key}": {json.dumps(value)}' for key, value in case.items()), "}"]
    return ["{", '  "plan": [', *(f"    {json.dumps(step)}," for step in steps), "  ]", "}"]


def shown(step: Step) -> Case:
    entry: Case = {"verb": type(step).__name__.lower(), "kind": step.part.kind, "name": step.part.name}
    if isinstance(step, Update):
        changes = differences(step.before, step.after)
        entry["changes"] = {change.attribute: [change.before, change.after] for change in changes}
    return entry


def states_of(case: Case) -> tuple[HostState, HostState]:
    given = dict(case.get("port", {}))
    if "vif_type" in given:
        given["vif_type"] = VifType(given["vif_type"])
    port = replace(PORT, **given)
    goals = {"wiring": desired_state(port), "nothing": NOTHING}
    desired = case["desired"]
    return state_of(case["observed"], port), goals[desired] if isinstance(desired, str) else state_of(desired, port)


def state_of(document: Any, port: Port) -> HostState:
    if isinstance(document, list):
        return HostState().with_parts(*map(part_of, document))
    plugged = desired_state(port)
    running = plugged.with_parts(Tap(name=port.names.tap, master=port.names.bridge))
    state = {"nothing": NOTHING, "plugged": plugged, "running": running}[document["from"]]
    for name in document.get("without", []):
        state = state.without(named(state, name))
    for name, changes in document.get("change", {}).items():
        state = state.with_parts(replace(named(state, name), **changes))
    return state.with_parts(*map(part_of, document.get("with", [])))


def named(state: HostState, name: str) -> Part:
    return {part.name: part for part in state}[name]


def part_of(document: Case) -> Part:
    fields = dict(document)
    kind, switch = fields.pop("kind"), fields.pop("role", None) == Role.SWITCH.value
    [cls] = [cls for cls in PARTS if cls.kind == kind and (kind != "stray" or (cls.role is Role.SWITCH) == switch)]
    return cls(**fields)


def test_created_part_is_the_desired_part() -> None:
    for path in CASES:
        case = json.loads(path.read_text())
        if "plan" in case:
            observed, desired = states_of(case)
            for step in plan(observed, desired):
                assert not isinstance(step, Create) or step.part in list(desired)
