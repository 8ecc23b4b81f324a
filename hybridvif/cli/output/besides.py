"""The side effects of a plan: bridges and QoS rows that are created and deleted with ports.

A document:

    verb        create or delete
    kind        ovs-bridge or qos
    name        the bridge, or the port of a QoS row
    type        the datapath type of a created bridge ("" for the default), or the QoS type
    only_if     a condition that the plan does not check; "" if there is none
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from hybridvif.cli.terminal import Paint
from hybridvif.executors.side_effects import IF_THERE, OVS_BRIDGE, SideEffect


def beside_documents(besides: Sequence[SideEffect]) -> list[Mapping[str, object]]:
    """Convert the side effects to documents."""
    return [asdict(beside) for beside in besides]


def beside_lines(besides: Sequence[SideEffect], paint: Paint, *, reasons: bool = False) -> Iterator[str]:
    """Yield one line for each side effect. A QoS row that may not exist is shown only with reasons."""
    for beside in besides:
        if reasons or beside.only_if != IF_THERE:
            yield paint(f"       {_text(beside)}", "green" if beside.verb == "create" else "red")


def _text(beside: SideEffect) -> str:
    subject = f"the bridge {beside.name}" if beside.kind == OVS_BRIDGE else f"the QoS row of {beside.name}"
    kind = f" ({beside.type})" if beside.type else ""
    provided = f", if {beside.only_if}" if beside.only_if else ""
    return f"{subject}{kind} {'comes' if beside.verb == 'create' else 'goes'} with the port{provided}"
