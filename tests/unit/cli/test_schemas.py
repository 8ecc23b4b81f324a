"""The shipped schemas accept the documents of the command, and no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from hybridvif import RecordingHost
from hybridvif.cli import COMMANDS, options
from hybridvif.cli.commands import check, doctor, explain, plan, show
from hybridvif.cli.commands.list import list_of
from hybridvif.cli.commands.ports import export
from hybridvif.cli.commands.reconcile import gc, reconcile
from hybridvif.cli.commands.repair import adopt, repair
from hybridvif.cli.host_checks import CheckResult
from hybridvif.cli.output.report import answer_of_reports
from hybridvif.cli.ports import FIELDS
from hybridvif.cli.terminal import Answer, Terminal, enveloped
from hybridvif.engine.any_host import SimulatedHost, look
from hybridvif.engine.converge import plug_all
from hybridvif.engine.convert import convert_all
from hybridvif.model.parts import ForeignObject, Tap
from tests.support.answers import (
    ID,
    OTHER,
    OTHER_ID,
    PORT,
    QBR,
    QVO,
    TAP,
    arguments,
    asked,
    plug_answer,
    plugged,
    unplug_answer,
)
from tests.support.schemas import DIRECTORY, ENVELOPE, schema_of, validate, validate_as

FILES = sorted(path.stem for path in DIRECTORY.glob("*.json"))
WITH_JSON = [name for name in COMMANDS if "json" in options.command_of(name).formats]


def half() -> RecordingHost:
    host = plugged(PORT, OTHER)
    host.state = host.state.without(host.state.ports[QVO])
    return host


def conflicting() -> RecordingHost:
    host = RecordingHost()
    host.state = host.state.with_parts(ForeignObject(name=QBR, what="a macvlan"))
    return host


def running() -> RecordingHost:
    host = plugged(PORT)
    host.state = host.state.with_parts(Tap(name=TAP, master=QBR))
    host.simulation.carrier = {TAP}
    return host


def planned(host: RecordingHost) -> Answer:
    stage = SimulatedHost(host.settings, look(host, [ID, OTHER_ID]))
    return plan.answer_of("plug", plug_all([PORT, OTHER], stage), stage)


ANSWERS: dict[str, Callable[[], Answer]] = {
    "plug": lambda: plug_answer([PORT, OTHER], half()),
    "plug, refused": lambda: plug_answer([PORT], conflicting()),
    "unplug": lambda: unplug_answer(ID, half()),
    "unplug, refused": lambda: unplug_answer(ID, running()),
    "convert": lambda: answer_of_reports("convert", convert_all([ID], running(), "native", unfiltered=True)),
    "plan": lambda: planned(half()),
    "plan, refused": lambda: planned(conflicting()),
    "check": lambda: check.answer_of([asked(), asked(OTHER_ID)], half()),
    "adopt": lambda: adopt(half(), arguments("adopt")),
    "adopt, dry run": lambda: adopt(half(), arguments("adopt", "--dry-run")),
    "show": lambda: show.answer_of(half()),
    "show, conflict": lambda: show.answer_of(conflicting()),
    "list": lambda: list_of(half()),
    "list, conflict": lambda: list_of(conflicting()),
    "reconcile": lambda: reconcile([PORT], half(), arguments("reconcile", "--prune")),
    "reconcile, dry run": lambda: reconcile([PORT], half(), arguments("reconcile", "--dry-run")),
    "gc": lambda: gc(half(), arguments("gc", "--older-than=0")),
    "gc, dry run": lambda: gc(half(), arguments("gc", "--dry-run")),
    "repair": lambda: repair(half(), arguments("repair"), [ID, OTHER_ID]),
    "repair, dry run": lambda: repair(half(), arguments("repair", "--dry-run"), [ID, OTHER_ID]),
    "repair, conflict": lambda: repair(conflicting(), arguments("repair")),
    "wait": lambda: check.wait([ID], plugged(PORT), 0),
    "export": lambda: export(half()),
    "explain": lambda: explain.answer_of("mtu"),
    "explain, code": lambda: explain.answer_of("busy"),
    "doctor": lambda: doctor.answer_of([CheckResult("daemon", "fail", "it is missing", "install it")]),
}


@pytest.mark.parametrize("name", FILES)
def test_schema_is_one_of_json_schema(name: str) -> None:
    schema = schema_of(name)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("command", WITH_JSON)
def test_command_with_json_ships_a_schema_with_the_envelope(command: str) -> None:
    schema = schema_of(command)
    assert schema["properties"]["command"] == {"const": command}
    assert set(ENVELOPE) <= set(schema["required"])


def test_schema_belongs_to_a_command_or_is_shared() -> None:
    assert set(FILES) - set(WITH_JSON) == {"common", "error", "port-file", "trace-file"}


@pytest.mark.parametrize("name", ANSWERS)
def test_schema_accepts_the_document(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal("json").write_answer(ANSWERS[name]())
    assert validate(json.loads(capsys.readouterr().out))["command"] == name.partition(",")[0]


def test_schema_rejects_a_missing_key_another_type_and_an_unknown_key() -> None:
    document: dict[str, Any] = {**enveloped(list_of(half()).document)}
    port = document["ports"][0]
    validate(document)
    hostile = [
        {key: value for key, value in document.items() if key != "host"},
        {**document, "time": "2026-11-29 10:00:00"},
        {**document, "ports": [{**port, "mtu": "1500"}]},
        {**document, "ports": [{**port, "new": 1}]},
    ]
    for wrong in hostile:
        with pytest.raises(ValidationError):
            validate_as("list", wrong)


def test_schema_of_the_port_file_has_the_fields_of_a_port() -> None:
    assert tuple(schema_of("port-file")["items"]["properties"]) == FIELDS
