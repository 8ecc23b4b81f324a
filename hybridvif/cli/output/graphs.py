"""The topology as a graph in Graphviz's dot language."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hybridvif.cli.output.topology import Condition, PluggedPort

_COLORS = {Condition.DRIFT: "orange", Condition.HALF: "red", Condition.CONFLICT: "red"}


def dot(ports: Sequence[PluggedPort]) -> str:
    """Return a Graphviz graph: `hybridvif show -f dot | dot -Tsvg`."""
    lines = ["graph hybridvif {", "    rankdir=LR; node [shape=box];"]
    lines += [
        f'    "{port.switch_name}" [color={_COLORS[port.condition]}, penwidth=3];'
        for port in ports
        if port.condition in _COLORS
    ]
    lines += [
        f'    "{_plain(start)}" -- "{_plain(end)}"' + (f' [label="{_plain(label)}"];' if label else ";")
        for start, end, label in _edges(ports)
    ]
    return "\n".join([*lines, "}"]) + "\n"


def _edges(ports: Sequence[PluggedPort]) -> Iterator[tuple[str, str, str]]:
    """Yield each connection as two names and a label."""
    for port in ports:
        names, veth = port.names, port.veth
        for member in port.members:
            yield member, names.bridge, ""
        if veth is not None:
            if veth.master:
                yield veth.master, veth.name, ""
            yield veth.name, veth.peer, f"mtu {veth.mtu}"
        if port.row is not None:
            tag = "" if port.fact.tag is None else f", tag {port.fact.tag}"
            yield port.switch_name, port.row.bridge, f"ofport {port.fact.ofport}{tag}"


def _plain(text: str) -> str:
    """Replace characters that dot would interpret."""
    return "".join(sign if sign.isalnum() or sign in "-_. :,=/" else "?" for sign in text)
