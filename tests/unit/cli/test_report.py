from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hybridvif import Create, Port, Tap
from hybridvif.cli.output.report import answer_of_reports, failure_of, failure_of_report, result_text
from hybridvif.client.host import NoResponse
from hybridvif.engine.converge import RUNS_NATIVELY
from hybridvif.model.errors import (
    BridgeMissing,
    ConfigurationError,
    Conflict,
    HybridVifError,
    InvalidInput,
    PlugFailed,
    PreconditionError,
)
from hybridvif.model.report import Report, Status
from tests.support.answers import (
    ID,
    MAC,
    OTHER,
    OTHER_ID,
    PORT,
    QBR,
    QVB,
    QVO,
    TAP,
    TWIN_ID,
    VM,
    plug_answer,
    plugged,
    ports_of,
    text_of,
    unplug_answer,
)


def report(status: Status, port_id: str = ID, **more: Any) -> Report:
    return Report(port_id=port_id, status=status, **{"reason": f"it {status.value}", **more})


def test_converted_port_with_a_repaired_row_says_so() -> None:
    done = report(Status.DONE, code=RUNS_NATIVELY)
    assert result_text("plug", done) == "runs natively, nothing plugged"
    assert result_text("plug", replace(done, changed=True)) == "runs natively, its row repaired"


def test_plug_prints_one_line_per_port_and_a_summary() -> None:
    host = plugged(OTHER)
    assert text_of(plug_answer([PORT, OTHER], host)).splitlines() == [
        f"{ID}  plugged",
        f"{OTHER_ID}  was in order, nothing written",
        "2 ports: 1 changed, 1 as wanted already.",
    ]
    assert text_of(plug_answer([PORT], host)) == f"{ID}  was in order, nothing written"


def test_plug_of_a_drifted_port_prints_repaired() -> None:
    host = plugged(PORT)
    host.state = host.state.without(host.state.links[QVB])
    assert "repaired: 1 made" in text_of(plug_answer([PORT], host))


def test_second_unplug_writes_nothing() -> None:
    host = plugged(PORT)
    assert text_of(unplug_answer(ID, host)) == f"{ID}  unplugged"
    assert text_of(unplug_answer(ID, host)) == f"{ID}  was not there, nothing written"


def test_simulated_answer_is_marked() -> None:
    answer = plug_answer([PORT], plugged())
    assert answer.document["simulated"] is True
    assert ports_of(answer)[0]["simulated"] is True


def test_plug_document_has_every_step_and_result() -> None:
    answer = plug_answer([PORT], plugged())
    (port,) = json.loads(json.dumps(answer.document))["ports"]
    assert (port["port"], port["status"], port["ok"], port["changed"]) == (ID, "done", True, True)
    assert [(step["verb"], step["kind"], step["name"], step["result"]) for step in port["steps"]] == [
        ("create", "bridge", QBR, "done"),
        ("create", "veth", QVB, "done"),
        ("create", "ovs-port", QVO, "done"),
    ]
    assert answer.document["summary"] == {"done": 1}
    assert "error" not in answer.document


def test_failed_plug_is_reported_with_its_report() -> None:
    host = plugged()
    host.fail(verb=Create, name=QVO, reason="no room")
    answer = plug_answer([PORT], host)
    assert answer.exit_code == 1
    assert text_of(answer) == f"{ID}  failed, rolled back"
    error: Any = answer.document["error"]
    assert (error["message"], error["exit_code"]) == (f"port {ID}: no room", 1)
    assert error["report"]["status"] == "rolled-back"
    assert [failure.lines()[0] for failure in answer.failures] == [f"port {ID}: no room"]


def test_unplug_of_a_running_vm_needs_force() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(Tap(name=TAP, master=QBR))
    host.simulation.carrier.add(TAP)
    refused = unplug_answer(ID, host)
    assert (refused.exit_code, refused.failures[0].code) == (6, "port-running")
    assert unplug_answer(ID, host, force=True).exit_code == 0


def test_exit_code_of_many_ports_is_the_worst() -> None:
    twin = Port(id=TWIN_ID, mac=MAC, instance_id=VM)
    answer = plug_answer([OTHER, twin], plugged(PORT))
    assert answer.exit_code == 6
    assert answer.document["summary"] == {"done": 1, "refused": 1}
    assert text_of(answer).endswith("2 ports: 1 changed, 1 refused.")
    assert answer.document["error"]["report"]["port"] == TWIN_ID  # type: ignore[index]


@pytest.mark.parametrize(
    ("ends", "exit_code"),
    [
        ([Status.DONE], 0),
        ([Status.DONE, Status.ROLLED_BACK], 1),
        ([Status.INCOMPLETE, Status.UNKNOWN], 4),
        ([Status.PRECONDITION], 5),
        ([Status.REFUSED, Status.CONFIGURED], 65),
        ([Status.UNKNOWN, Status.ROLLED_BACK], 7),
    ],
)
def test_every_status_has_its_exit_code(ends: list[Status], exit_code: int) -> None:
    answer = answer_of_reports("plug", [report(status) for status in ends])
    assert answer.exit_code == exit_code
    assert answer.document.get("error", {}).get("exit_code", 0) == exit_code  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.DONE])
def test_failed_status_never_prints_plugged(status: Status) -> None:
    assert "plugged" not in result_text("plug", report(status))
    assert failure_of_report(report(status)).exit_code == status.exit_code != 0


def test_rolled_back_steps_are_no_changes() -> None:
    host = plugged()
    host.fail(verb=Create, name=QVO, reason="no room")
    assert QBR not in text_of(plug_answer([PORT], host, verbose=1))


def test_leftovers_are_listed() -> None:
    failure = failure_of_report(report(Status.INCOMPLETE, leftovers=(QBR, f"{QVB}: mtu")))
    assert failure.lines() == [
        f"port {ID}: it incomplete; left over: {QBR}, {QVB}: mtu",
        "  try: the same command again: it goes on from what is there",
    ]


def test_common_precondition_is_printed_once() -> None:
    reason = "cannot start the privileged daemon; run as root"
    reports = [report(Status.PRECONDITION, port_id, code="precondition", reason=reason) for port_id in (ID, OTHER_ID)]
    (failure,) = answer_of_reports("plug", reports).failures
    assert failure.lines() == [
        "cannot start the privileged daemon",
        "  try: run as root",
        "  see: hybridvif doctor",
    ]


def test_verbose_plug_prints_steps_and_reasons() -> None:
    text = text_of(plug_answer([PORT], plugged(), verbose=1))
    assert f"  +  bridge    {QBR}" in text
    assert "LP 1129055" in text


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (InvalidInput("Bad."), "invalid-input", 2),
        (PreconditionError("No; do."), "precondition", 5),
        (ConfigurationError("No; do."), "configuration", 5),
        (BridgeMissing("No; do."), "bridge-missing", 5),
        (Conflict("In the way."), "conflict", 6),
        (NoResponse("Lost."), "no-answer", 7),
        (HybridVifError("Failed."), "error", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (PlugFailed("x", report(Status.UNKNOWN)), "unknown", 7),
        (ZeroDivisionError("by zero"), "internal", 7),
    ],
)
def test_every_error_has_code_and_exit_code(error: BaseException, code: str, exit_code: int) -> None:
    failure = failure_of(error)
    assert (failure.code, failure.exit_code) == (code, exit_code)
    assert failure.document["exit_code"] == exit_code


def test_remedy_of_a_precondition_has_its_own_line() -> None:
    assert failure_of(PreconditionError("there is none; make one")).lines() == [
        "there is none",
        "  try: make one",
        "  see: hybridvif doctor",
    ]


def test_port_not_yet_accepted_names_the_command_that_waits() -> None:
    failure = failure_of_report(report(Status.CONFIGURED))
    assert list(failure.lines())[1] == f"  try: hybridvif wait {ID}: ovs-vswitchd accepts it by itself when it runs"
