"""The answer of hybridvif trace: a drawing of 80 columns, one document, an exit code, and errors before any look."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

import hybridvif
from hybridvif import InvalidInput, NameCollision, PreconditionError, RecordingHost, desired_state
from hybridvif.cli import parse_arguments
from hybridvif.cli.commands import trace as command
from hybridvif.cli.commands.trace import answer_of
from hybridvif.cli.terminal import Paint
from hybridvif.client.trace import trace
from hybridvif.model.errors import MAX_SHOWN
from hybridvif.model.trace import Finding, RuleReport
from tests.support.answers import DIAGNOSIS, ID, MAC, PORT, QBR, QVB, TAP, TWIN_ID, VM, plugged


def text_of(diagnosis: hybridvif.Diagnosis) -> list[str]:
    return [*answer_of(diagnosis).lines(Paint(on=False))]


def test_drawing_has_the_hops_and_ends_with_the_sentence() -> None:
    assert text_of(DIAGNOSIS) == [
        "   hop             state                 mtu   from VM dropped     to VM dropped",
        f" | {TAP}  up                   1450        40       0        22       0",
        f"-> {QBR}  up                   1450",
        f" | {QVB}  missing",
        " | br-int          ofport 2, tag 5",
        "   a frame from the VM is forwarded",
        "   a frame to the VM is dropped: table 0: No match. drop",
        f"   frames for {MAC} go to {TAP}",
        f"   iptables dropped 40: FORWARD -i {TAP} -j DROP",
        "   also: packets stop at br-int: dead VLAN",
        "   not looked at: ip6tables: no permission",
        f"packets stop at {QBR}: iptables",
    ]


def test_dead_vlan_is_named_beside_its_tag() -> None:
    assert " | br-int          ofport 2, tag 4095 (dead VLAN)" in text_of(replace(DIAGNOSIS, tag=4095))


def test_drawing_fits_80_columns() -> None:
    words = " ".join(["x" * 14] * (MAX_SHOWN // 14))
    long = replace(
        DIAGNOSIS,
        sentence=words,
        hops=tuple(replace(hop, state=words, from_vm=10**8 - 1, dropped_to_vm=10**7 - 1) for hop in DIAGNOSIS.hops),
        findings=(Finding("down", TAP, words),) * 2,
        drops=(RuleReport(words, 10**12),),
        not_looked_at=(words,),
        drops_from_vm=words,
    )
    assert max(map(len, text_of(long))) <= 80


def test_a_hop_that_stops_packets_sets_the_exit_code() -> None:
    assert answer_of(DIAGNOSIS).exit_code == 3
    assert answer_of(replace(DIAGNOSIS, stops=False)).exit_code == 0


def test_row_that_is_missing_is_not_drawn() -> None:
    assert not any("ofport" in line for line in text_of(replace(DIAGNOSIS, bridge="")))


def test_row_without_number_and_tag_says_none() -> None:
    assert " | br-int          ofport none, tag none" in text_of(replace(DIAGNOSIS, ofport=None, tag=None))


@pytest.mark.parametrize("word", [ID, TAP, ID[:11], VM])
def test_port_is_found_by_any_of_its_names(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "connected", lambda *_: nullcontext(plugged(PORT)))
    monkeypatch.setattr("hybridvif.client.trace.trace", lambda port_id, *_, **__: replace(DIAGNOSIS, port_id=port_id))
    assert command.run(parse_arguments(["trace", word])).document["port"] == ID


def test_unknown_path_of_a_frame_is_not_drawn() -> None:
    assert not any("a frame" in line for line in text_of(replace(DIAGNOSIS, drops_from_vm=None, drops_to_vm=None)))


def test_document_has_the_port_and_every_field_of_the_diagnosis() -> None:
    document = json.loads(json.dumps(answer_of(DIAGNOSIS).document))
    assert (document["command"], document["port"], document["simulated"]) == ("trace", ID, False)
    assert document["hops"][1] == {
        "name": QBR,
        "state": "up",
        "mtu": 1450,
        "master": "",
        "from_vm": None,
        "dropped_from_vm": None,
        "to_vm": None,
        "dropped_to_vm": None,
    }
    assert set(document) == {"command", "simulated", "port", *DIAGNOSIS.__slots__} - {"port_id"}


def test_simulated_host_has_no_packets() -> None:
    with pytest.raises(PreconditionError, match="a simulated host has no packets"):
        trace(ID, RecordingHost(desired_state(PORT)), seconds=0)


def test_port_of_another_id_is_refused() -> None:
    host = RecordingHost(desired_state(PORT))
    observed = host.observe(None, 0.0)
    real = SimpleNamespace(
        settings=host.settings, observe=lambda *_: replace(observed, facts=replace(observed.facts, simulated=False))
    )
    with pytest.raises(NameCollision):
        trace(TWIN_ID, real, seconds=0)


@pytest.mark.parametrize(
    ("port_id", "seconds", "to"),
    [("5f2c", 5.0, ""), (ID, -1.0, ""), (ID, float("nan"), ""), (ID, 3601.0, ""), (ID, 1.0, "gw"), (ID, 1.0, "::1")],
)
def test_bad_arguments_are_refused_before_any_look(port_id: str, seconds: float, to: str) -> None:
    with pytest.raises(InvalidInput):
        trace(port_id, RecordingHost(), seconds=seconds, to=to)
