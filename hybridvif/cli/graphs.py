"""The topology as a graph for other programs: Mermaid (GitHub and GitLab draw it) and Graphviz's dot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hybridvif.cli.topology import Plugged, Standing

_STANDS = {Standing.DRIFT: "orange", Standing.HALF: "red", Standing.CONFLICT: "red"}


def mermaid(ports: Sequence[Plugged]) -> str:
    """A Mermaid flowchart, from the taps on the left to the integration bridges on the right."""
    lines = ["flowchart LR"]
    nodes: dict[str, str] = {}
    for left, right, label in _edges(ports):
        for name in (left, right):
            if name not in nodes:
                nodes[name] = f"n{len(nodes)}"
                lines.append(f'    {nodes[name]}["{_plain(name)}"]')
        lines.append(f"    {nodes[left]} --- " + (f'|"{_plain(label)}"| ' if label else "") + nodes[right])
    for port in ports:
        colour = _STANDS.get(port.standing)
        node = nodes.get(port.switch_name)
        if colour and node:
            lines.append(f"    style {node} stroke:{colour},stroke-width:3px")
    return "\n".join(lines) + "\n"


def dot(ports: Sequence[Plugged]) -> str:
    """A Graphviz graph: `hybridvif show -f dot | dot -Tsvg`."""
    lines = ["graph hybridvif {", "    rankdir=LR; node [shape=box];"]
    lines += [
        f'    "{port.switch_name}" [color={_STANDS[port.standing]}, penwidth=3];'
        for port in ports
        if port.standing in _STANDS
    ]
    lines += [
        f'    "{_plain(left)}" -- "{_plain(right)}"' + (f' [label="{_plain(label)}"];' if label else ";")
        for left, right, label in _edges(ports)
    ]
    return "\n".join([*lines, "}"]) + "\n"


def _edges(ports: Sequence[Plugged]) -> Iterator[tuple[str, str, str]]:
    """What is joined to what, and how."""
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
    """Without what either language gives a meaning to."""
    return "".join(sign if sign.isalnum() or sign in "-_. :,=/" else "?" for sign in text)
