from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridvif import Delete, Port, RecordingHost, Status, Update, simulate
from hybridvif.cli import parse_arguments
from hybridvif.cli.commands.repair import repair
from hybridvif.cli.options import UsageError
from hybridvif.cli.ports import found_ids, requested_ports
from tests.support.answers import (
    ID,
    OTHER,
    OTHER_ID,
    PORT,
    QBR,
    QVB,
    QVO,
    TWIN_ID,
    arguments,
    plugged,
    ports_of,
    text_of,
)

THIRD = replace(OTHER, id="a3f00000-0000-4000-8000-000000000003")


def drifted(*ports: Port, name: str = QVB, **values: Any) -> RecordingHost:
    host = plugged(*ports)
    part: Any = host.state.links.get(name) or host.state.ports[name]
    host.state = host.state.with_parts(replace(part, **values))
    return host


def test_repair_writes_only_the_drift_of_the_port() -> None:
    host = drifted(PORT, OTHER, up=False)
    answer = repair(host, arguments("repair"), [ID])
    assert (answer.exit_code, text_of(answer)) == (0, f"{ID}  repaired: 1 changed")
    assert [(type(step), step.part.name) for step in host.steps] == [(Update, QVB)]
    assert host.state == plugged(PORT, OTHER).state


def test_repair_of_a_port_in_order_writes_nothing() -> None:
    host = plugged(PORT)
    assert text_of(repair(host, arguments("repair"), [ID])) == f"{ID}  was in order, nothing written"
    assert host.steps == []


def test_repair_names_a_port_that_is_not_plugged_and_repairs_the_others() -> None:
    """A file may name any port."""
    host = drifted(PORT, up=False)
    answer = repair(host, arguments("repair"), [ID, OTHER_ID])
    assert answer.exit_code == Status.REFUSED.exit_code
    reasons = {document["port"]: document["reason"] for document in ports_of(answer)}
    assert reasons[OTHER_ID].startswith(f"port {OTHER_ID}: it is not plugged on this host")
    assert host.state == plugged(PORT).state


def test_repair_of_all_leaves_ports_in_order_out() -> None:
    host = drifted(PORT, OTHER, up=False)
    answer = repair(host, arguments("repair"))
    assert [port["port"] for port in ports_of(answer)] == [ID]
    assert answer.document["command"] == "repair"
    assert text_of(repair(host, arguments("repair"))) == ""


def test_dry_run_prints_the_plan_and_writes_nothing() -> None:
    host = drifted(PORT, up=False)
    answer = repair(host, arguments("repair", "--dry-run"))
    assert text_of(answer).splitlines()[-1] == "Plan: 0 to create, 1 to change, 0 to delete."
    assert (answer.exit_code, answer.document["command"], host.steps) == (0, "repair", [])


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_ambiguous_port_is_refused_and_the_others_are_repaired(options: list[str]) -> None:
    host = drifted(PORT, OTHER, name=QVO, attached_mac="")
    part: Any = host.state.links[OTHER.names.bridge_end]
    host.state = host.state.with_parts(replace(part, promisc=False))
    answer = repair(host, arguments("repair", "--config-file=a", *options))
    assert answer.exit_code == 6
    (failure,) = answer.failures
    assert failure.message.startswith(f"port {ID}: its mac cannot be inferred; plug it by: ")
    assert f"hybridvif --config-file=a plug {ID} --mac MAC" in failure.message
    assert {port["port"]: port["code"] for port in ports_of(answer)} == {OTHER_ID: "", ID: "refused"}
    assert [step.part.name for step in host.steps] == ([] if options else [OTHER.names.bridge_end])


def test_port_with_contradicting_owners_is_refused() -> None:
    answer = repair(drifted(PORT, peer_alias=TWIN_ID), arguments("repair"))
    assert answer.exit_code == 6
    assert TWIN_ID in answer.failures[0].message


def test_port_without_its_id_is_repaired_by_the_given_id() -> None:
    host = drifted(PORT, alias="", peer_alias="")
    for name, values in {QBR: {"alias": ""}, QVO: {"iface_id": "zzz"}}.items():
        part: Any = host.state.links.get(name) or host.state.ports[name]
        host.state = host.state.with_parts(replace(part, **values))
    assert repair(host, arguments("repair")).exit_code == 6
    answer = repair(host, arguments("repair"), [ID])
    assert (answer.exit_code, text_of(answer)) == (0, f"{ID}  repaired: 3 changed")
    assert host.state == plugged(PORT).state


def test_port_with_the_id_of_another_is_refused() -> None:
    host = drifted(PORT, up=False)
    answer = repair(host, arguments("repair"), [TWIN_ID])
    assert (answer.exit_code, host.steps) == (6, [])


def test_refused_port_is_named_once_in_its_message() -> None:
    (failure,) = repair(drifted(PORT, peer_alias=TWIN_ID), arguments("repair"), [TWIN_ID]).failures
    assert failure.message.count(f"port {TWIN_ID}: ") == 1


def test_port_of_unknown_id_is_left_with_exit_code_6() -> None:
    host = drifted(PORT, name=QBR, alias="")
    host.state = host.state.without(host.state.links[QVB]).without(host.state.ports[QVO])
    answer = repair(host, arguments("repair"))
    assert (answer.exit_code, ports_of(answer), host.steps) == (6, [], [])
    (warning,) = answer.warnings
    assert warning.startswith(f"not repaired: {ID[:11]}...: its id and mac")


def test_orphan_is_repaired_by_name_only() -> None:
    host = plugged(PORT)
    host.state = simulate(host.state, Delete(host.state.links[QBR]))
    assert ports_of(repair(host, arguments("repair"))) == []
    assert text_of(repair(host, arguments("repair"), [ID])) == f"{ID}  repaired: 1 made, 1 changed"


@pytest.mark.parametrize("words", [[], ["--all", ID]])
def test_repair_needs_either_ports_or_all(words: list[str]) -> None:
    args = parse_arguments(["repair", *words])
    with pytest.raises(UsageError, match="--all"):
        args.spec.run(args)


@pytest.mark.parametrize("command", ["repair", "wait"])
def test_ports_of_a_file_are_named_by_their_ids(command: str, tmp_path: Path) -> None:
    file = tmp_path / "ports.yaml"
    file.write_text(f"- {{id: {ID}}}\n- {{id: {OTHER_ID}}}\n")
    requests = requested_ports(parse_arguments([command, "-F", str(file)]))
    assert found_ids(requests, plugged(PORT), exist=True) == [ID, OTHER_ID]
