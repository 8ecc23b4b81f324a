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

from hybridvif.cli.screen import Paint
from hybridvif.executors.side_effects import IF_THERE, OVS_BRIDGE, SideEffect


def beside_documents(besides: Sequence[SideEffect]) -> list[Mapping[str, object]]:
    """All of them."""
    return [asdict(one) for one in besides]


def beside_lines(besides: Sequence[SideEffect], paint: Paint, *, reasons: bool = False) -> Iterator[str]:
    """One line each; a QoS row that may be there, as of any port, is told with the reasons alone."""
    for one in besides:
        if reasons or one.only_if != IF_THERE:
            yield paint(f"       {_text(one)}", "green" if one.verb == "create" else "red")


def _text(one: SideEffect) -> str:
    what = f"the bridge {one.name}" if one.kind == OVS_BRIDGE else f"the QoS row of {one.name}"
    kind = f" ({one.type})" if one.type else ""
    provided = f", if {one.only_if}" if one.only_if else ""
    return f"{what}{kind} {'comes' if one.verb == 'create' else 'goes'} with the port{provided}"
