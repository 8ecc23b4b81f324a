"""The output of hybridvif reconcile and hybridvif gc."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybridvif import cli
from hybridvif.cli.commands.reconcile import gc, reconcile
from hybridvif.cli.portfile import read_ports
from hybridvif.cli.terminal import Answer
from hybridvif.engine.host_wide import OLDER_THAN
from hybridvif.executors.recording import RecordingHost
from hybridvif.model.parts import Tap
from tests.support.answers import ID, MAC, OTHER, OTHER_ID, PORT, QBR, QVB, QVO, TAP, arguments, plugged, text_of


def document(answer: Answer) -> Any:
    return json.loads(json.dumps(answer.document))


def half() -> RecordingHost:
    host = plugged(PORT, OTHER)
    host.state = host.state.without(host.state.ports[QVO])
    return host


def running(host: RecordingHost) -> RecordingHost:
    host.state = host.state.with_parts(Tap(name=TAP, master=QBR))
    host.simulation.carrier = {TAP}
    return host


# reconcile


def test_reconcile_prints_one_line_per_port_and_a_summary() -> None:
    answer = reconcile([PORT], half(), arguments("reconcile", "--prune"))
    assert text_of(answer).splitlines() == [
        f"{ID}  repaired: 1 made",
        f"{OTHER_ID}  unplugged",
        "2 ports: 2 changed.",
    ]
    assert answer.exit_code == 0
    assert [(port["goal"], port["port"], port["status"]) for port in document(answer)["ports"]] == [
        ("plug", ID, "done"),
        ("unplug", OTHER_ID, "done"),
    ]
    assert document(answer)["summary"] == {"done": 2}
    assert [(row["goal"], row["status"]) for row in answer.rows] == [("plug", "done"), ("unplug", "done")]


def test_reconcile_of_no_ports_is_done(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    file.write_text("[]", encoding="utf-8")
    host = plugged(PORT)
    answer = reconcile([request.to_port() for request in read_ports(str(file))], host, arguments("reconcile"))
    assert (text_of(answer), answer.exit_code, host.steps) == ("0 ports.", 0, [])


def test_reconcile_with_a_running_vm_exits_with_6() -> None:
    answer = reconcile([OTHER], running(plugged(PORT, OTHER)), arguments("reconcile", "--prune"))
    assert answer.exit_code == 6
    assert document(answer)["error"]["code"] == "port-running"
    assert f"{ID}  refused, nothing changed" in text_of(answer)


def test_reconcile_dry_run_prints_a_diff_and_writes_nothing() -> None:
    host = half()
    answer = reconcile([PORT], host, arguments("reconcile", "--prune", "--dry-run"))
    lines = text_of(answer).splitlines()
    assert host.steps == []
    assert lines[0] == f"plug {ID}"
    assert f"unplug {OTHER_ID}" in lines
    assert lines[-1] == "Plan: 1 to create, 0 to change, 3 to delete."
    assert document(answer)["summary"] == {"create": 1, "update": 0, "delete": 3}
    for port in document(answer)["ports"]:
        assert set(port) == {"goal", "port", "code", "reason", "steps"}
        assert all("result" not in step for step in port["steps"])


def test_reconcile_dry_run_prints_the_number_of_refusals() -> None:
    host = running(plugged(PORT, OTHER))
    lines = text_of(reconcile([OTHER], host, arguments("reconcile", "--prune", "--dry-run"))).splitlines()
    assert lines == ["Plan: 0 to create, 0 to change, 0 to delete; 1 of 2 ports would be refused."]
    assert text_of(reconcile([OTHER], host, arguments("reconcile", "--dry-run"))) == "Plan: nothing to do."


def test_reconcile_without_a_file_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reconcile", "--prune"]) == 2
    assert "name a file of them with -F" in capsys.readouterr().err


def test_reconcile_rejects_an_incomplete_port_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "desired.yaml"
    file.write_text(f"- id: {ID}\n  mac: {MAC}\n")
    assert cli.main(["reconcile", "-F", str(file)]) == 2
    assert "lacks instance_id" in capsys.readouterr().err


# gc


def test_gc_keeps_a_new_orphan() -> None:
    host = half()
    answer = gc(host, arguments("gc"))
    assert answer.exit_code == 0
    assert text_of(answer).splitlines() == [
        f"{ID}  left, noted 0 s ago, removed from 3600 s on: {QVB}, {QBR}",
        "Nothing is due; the same command later removes what is still there.",
    ]
    (found,) = document(answer)["remains"]
    assert (found["port"], found["due"], found["report"], found["is_tagged"]) == (ID, False, None, True)
    assert found["parts"] == [{"kind": "veth", "name": QVB}, {"kind": "bridge", "name": QBR}]
    assert answer.rows[0]["status"] == "left"
    assert host.steps == []


def test_gc_deletes_an_old_orphan() -> None:
    host = half()
    answer = gc(host, arguments("gc", "--older-than=0"))
    assert text_of(answer) == f"{ID}  removed: {QVB}, {QBR}"
    assert answer.exit_code == 0
    assert document(answer)["remains"][0]["report"]["status"] == "done"
    assert text_of(gc(host, arguments("gc"))) == "No remains."


def test_gc_dry_run_exits_with_3_if_there_are_orphans() -> None:
    host = half()
    answer = gc(host, arguments("gc", "--older-than=0", "--dry-run"))
    assert (answer.exit_code, host.steps) == (3, [])
    assert text_of(answer) == f"{ID}  would be removed: {QVB}, {QBR}"
    assert gc(plugged(PORT), arguments("gc", "--dry-run")).exit_code == 0


def test_failed_gc_exits_with_4_and_lists_leftovers() -> None:
    host = half()
    host.fail(name=QBR, reason="busy")
    answer = gc(host, arguments("gc", "--older-than=0"))
    assert answer.exit_code == 4
    assert f"{ID}  failed, something is left over: {QVB}, {QBR}" in text_of(answer)
    assert document(answer)["error"]["report"]["leftovers"] == [QBR]


def test_gc_command_has_the_default_of_the_library() -> None:
    assert arguments("gc").older_than == OLDER_THAN


@pytest.mark.parametrize("text", ["-1", "x", "nan", "inf", ""])
def test_invalid_gc_age_is_a_usage_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gc", f"--older-than={text}"]) == 2
    assert "is no number of seconds" in capsys.readouterr().err
