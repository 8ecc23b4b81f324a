"""Common objects of the command's tests: a port, a host with it, and the output as text."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from hybridvif import Diagnosis, Port, RecordingHost, plug, plug_all, unplug_all
from hybridvif.cli import parse_arguments
from hybridvif.cli.output.report import answer_of_reports
from hybridvif.cli.ports import PortRequest
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.model.parts import OvsPort
from hybridvif.model.trace import EntryReport, Finding, HopReport, RuleReport

ID = "5f2c0e1a-7b00-4c00-8000-000000000001"
OTHER_ID = "91d3aa02-4100-4c00-8000-000000000002"
TWIN_ID = "5f2c0e1a-7b00-4c00-8000-0000000000ff"
"""Another port with the same first 11 characters."""
VM = "0b1c2d3e-0000-4000-8000-000000000002"
MAC = "fa:16:3e:aa:bb:cc"
PORT = Port(id=ID, mac=MAC, instance_id=VM, mtu=1450)
OTHER = Port(id=OTHER_ID, mac="fa:16:3e:aa:bb:dd", instance_id=VM)
QBR, QVB, QVO, TAP, _ = PORT.names
FILTERED = Finding("filtered", QBR, f"packets stop at {QBR}: iptables")
DIAGNOSIS = Diagnosis(
    port_id=ID,
    seconds=5.0,
    stops=True,
    code=FILTERED.code,
    hop=FILTERED.hop,
    sentence=FILTERED.sentence,
    hops=(
        HopReport(TAP, "up", 1450, QBR, 40, 0, 22, 0),
        HopReport(QBR, "up", 1450, "", None, None, None, None),
        HopReport(QVB, "missing", None, "", None, None, None, None),
    ),
    entries=(EntryReport(MAC, TAP, consumed=False), EntryReport("02:00:00:00:00:09", QVB, consumed=True)),
    bridge="br-int",
    ofport=2,
    tag=5,
    error="",
    drops_from_vm="",
    drops_to_vm="table 0: No match. drop",
    drops=(RuleReport(f"FORWARD -i {TAP} -j DROP", 40),),
    findings=(FILTERED, Finding("dead-vlan", QVO, "packets stop at br-int: dead VLAN")),
    not_looked_at=("ip6tables: no permission",),
)
OPTIONS = ["--mac", MAC, "--instance", VM, "--mtu", "1450"]


def plugged(*ports: Port) -> RecordingHost:
    """Return a simulated host with these ports, without recorded steps."""
    host = RecordingHost()
    for port in ports:
        plug(port, host)
    host.steps.clear()
    return host


def plug_answer(ports: Sequence[Port], host: RecordingHost, *, verbose: int = 0) -> Answer:
    """Plug these ports and return the answer of the command."""
    return answer_of_reports("plug", plug_all(ports, host), verbose=verbose)


def unplug_answer(port_id: str, host: RecordingHost, *, force: bool = False) -> Answer:
    """Unplug a port and return the answer of the command."""
    return answer_of_reports("unplug", unplug_all([port_id], host, force=force))


def arguments(*words: str) -> argparse.Namespace:
    """Return the arguments of a command line."""
    return parse_arguments(words)


def asked(port_id: str = ID, **fields: object) -> PortRequest:
    """Return a port request with these fields."""
    return PortRequest(fields={"id": port_id, **fields})


def text_of(answer: Answer) -> str:
    """Return the text output, without color."""
    return "\n".join(answer.lines(Paint(on=False)))


def ports_of(answer: Answer) -> list[Any]:
    """Return the ports of its document."""
    ports = json.loads(json.dumps(answer.document))["ports"]
    assert isinstance(ports, list)
    return ports


def row_of(host: RecordingHost, port: Port = PORT) -> OvsPort:
    """Return the row of a port."""
    row = host.state.ports[port.names.switch_end]
    assert isinstance(row, OvsPort)
    return row
