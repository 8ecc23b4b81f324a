"""What comes and goes with the rows of ports in Open vSwitch, in words and as documents.

A document of it:

    verb        create or delete
    kind        ovs-bridge or qos
    name        of the bridge; of a QoS row that of the port whose it is
    type        of what is made: the datapath type of a bridge, "" for the default; the type of a QoS
    only_if     what it depends on and the plan does not look at; "" if on nothing
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from hybridvif.cli.terminal import Paint
from hybridvif.executors.besides import IF_THERE, OVS_BRIDGE, Beside


def beside_documents(besides: Sequence[Beside]) -> list[Mapping[str, object]]:
    """All of them."""
    return [asdict(beside) for beside in besides]


def beside_lines(besides: Sequence[Beside], paint: Paint, *, reasons: bool = False) -> Iterator[str]:
    """One line each; a QoS row that may be there, as of any port, is told with the reasons alone."""
    for beside in besides:
        if reasons or beside.only_if != IF_THERE:
            yield paint(f"       {_text(beside)}", "green" if beside.verb == "create" else "red")


def _text(beside: Beside) -> str:
    subject = f"the bridge {beside.name}" if beside.kind == OVS_BRIDGE else f"the QoS row of {beside.name}"
    kind = f" ({beside.type})" if beside.type else ""
    provided = f", if {beside.only_if}" if beside.only_if else ""
    return f"{subject}{kind} {'comes' if beside.verb == 'create' else 'goes'} with the port{provided}"
