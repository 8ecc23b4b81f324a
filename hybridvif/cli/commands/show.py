"""hybridvif show: the topology of the plugged ports, as a tree or a graph."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence

from hybridvif.cli.infer import row_of
from hybridvif.cli.options import Command, argument, connected, repeated_options
from hybridvif.cli.output.topology import BUSY, Condition, PluggedPort, fix_of, look_at_ports
from hybridvif.cli.ports import PORT_HELP, found_ids, requested_ports
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.engine.any_host import AnyHost
from hybridvif.model.errors import InvalidInput
from hybridvif.model.names import names_of
from hybridvif.model.parts import DEAD_VLAN, Bridge, ForeignObject, NativePort, VhostUserPort

_GRAPH_COLORS = {Condition.DRIFT: "orange", Condition.HALF: "red", Condition.CONFLICT: "red"}

Node = tuple[str, str, "list[Node]"]
"""A node of the tree: (text, color, children)."""


def run(args: argparse.Namespace) -> Answer:
    """Draw all ports, or one."""
    requests = requested_ports(args, optional=True)
    with connected(args) as host:
        found = found_ids(requests, host, single=True, exist=True)
        return answer_of(host, *found, options=repeated_options(args))


def answer_of(host: AnyHost, port_id: str | None = None, *, options: Sequence[str] = ()) -> Answer:
    """Return the answer of `hybridvif show` for all ports, or for one. options: options to be repeated in a fix."""
    seen, ports, warnings = look_at_ports(host, None if port_id is None else set(names_of(port_id)))
    switches = seen.facts.switches
    if port_id is not None and not ports:
        raise InvalidInput(f"port {port_id} is not plugged here, nothing has its names; see hybridvif list")
    named = host.settings.named_bridges if port_id is None else ()
    bridges = {name: switches.get(name) for name in (*named, *(port.row.bridge for port in ports if port.row))}
    warnings += [warning.text for port in ports for warning in port.warnings]
    return Answer(
        document={
            "command": "show",
            "simulated": seen.facts.simulated,
            "switch": seen.facts.switch_version,
            "bridges": [{"name": name, "datapath_type": kind} for name, kind in bridges.items()],
            "ports": [_document(port, options) for port in ports],
            "warnings": warnings,
        },
        lines=lambda paint: tree(ports, bridges, seen.facts.switch_version, paint, options),
        drawings={"dot": lambda: dot(ports)},
        warnings=warnings,
    )


def _document(port: PluggedPort, options: Sequence[str]) -> Mapping[str, object]:
    members = [(name, port.facts.links.get(name)) for name in port.members]
    return {
        **port.document,
        "names": port.names._asdict(),
        "tag": port.fact.tag,
        "iface_id": (port.row.iface_id or None) if port.row else None,
        "error": port.fact.error,
        "members": [
            {"name": name, "kind": fact.kind, "up": fact.up, "carrier": fact.carrier} if fact else {"name": name}
            for name, fact in members
        ],
        "drift": [drift.document for drift in port.drift],
        "conflict": port.conflict,
        "fix": fix_of(port, options),
    }


def tree(
    ports: Sequence[PluggedPort],
    bridges: Mapping[str, str | None],
    version: str,
    paint: Paint,
    options: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the lines of the drawing. bridges: the integration bridges, with their datapath types."""
    for name, datapath in bridges.items():
        here = [port for port in ports if port.row and port.row.bridge == name]
        details = ", ".join(filter(None, (version, datapath)))
        yield paint(f"{name} ({details})" if datapath is not None else f"{name} (does not exist)", "bold")
        if not here:
            yield paint("    (no ports)", "dim")
        yield from _branches(_ports(here, options), paint)
    loose = [port for port in ports if port.row is None]
    if loose:
        yield paint("no port of an Open vSwitch", "bold")
        yield from _branches(_ports(loose, options), paint)


def _branches(nodes: Sequence[Node], paint: Paint, indent: str = "") -> Iterator[str]:
    for index, (text, colour, below) in enumerate(nodes, start=1):
        yield f"{indent}+-- {paint(text, colour)}"
        yield from _branches(below, paint, f"{indent}{'    ' if index == len(nodes) else '|   '}")


def _ports(ports: Sequence[PluggedPort], options: Sequence[str]) -> list[Node]:
    heads = [_head(port) for port in ports]
    width = max(map(len, heads), default=0)
    nodes: list[Node] = []
    for port, head in zip(ports, heads, strict=True):
        below = [*_chain(port), *_apart(port)]
        if port.condition is Condition.IN_ORDER:
            codes = ", ".join(warning.code for warning in port.warnings)
            verdict, colour = (f"in order, but {codes}", "yellow") if codes else ("in order", "")
        elif port.condition is Condition.BUSY:
            verdict, colour = BUSY, "yellow"
        elif port.conflict:
            verdict, colour = f"CONFLICT: {port.conflict}", "red"
        else:
            drift = [*map(str, port.drift), ""]
            more = f" (and {len(drift) - 2} more: hybridvif check)" if len(drift) > 2 else ""
            verdict, colour = f"DRIFT: {drift[0]}{more}", "red"
        if fix := fix_of(port, options):
            below.append((f"fix: {shlex.join(fix)}", "yellow", []))
        nodes.append((f"{head:<{width}}  {verdict}", colour, below))
    return nodes


def _head(port: PluggedPort) -> str:
    row = port.row
    if row is None:
        held = row_of(port.state, port.names)
        subject = f"{held.name} ({held.kind})" if held else f"{port.names.switch_end} (no OVS port)"
        return f"{subject}  port {port.port_id or f'{port.key}...'}"
    fact = port.fact
    tag = "" if fact.tag is None else f"tag {fact.tag}" + (" (dead vlan)" if fact.tag == DEAD_VLAN else "")
    words = (
        row.name,
        f"ofport {'none' if fact.ofport is None else fact.ofport}",
        f"({fact.error})" if fact.error else "",
        tag,
        f"iface-id {row.iface_id or 'none'}",
        f"port {port.port_id}" if port.port_id and port.port_id != row.iface_id else "",
    )
    return "  ".join(filter(None, words))


def _chain(port: PluggedPort) -> list[Node]:
    """Return the nodes from qvo on, as far as they are connected."""
    veth, bridge = port.veth, port.bridge
    if veth is None and isinstance(port.row, VhostUserPort):
        return [(f"= {port.row.type}  mtu {port.mtu or 'none'}", "", [])]
    if veth is None and isinstance(port.row, NativePort):
        return [(f"= the tap of the VM itself, plugged natively  mtu {port.mtu or 'unknown'}", "", [])]
    if veth is None:
        return [(f"= {port.names.bridge_end} (missing)", "red", [])]
    below: list[Node] = [(f"{veth.master} (not its bridge)", "red", [])] if veth.master else []
    if bridge is not None and veth.master == bridge.name:
        below = [_bridge(port, bridge)]
    state = "" if veth.up and veth.peer_up else "  down"
    return [(f"= {veth.name}  mtu {veth.mtu}{state}", "", below)]


def _bridge(port: PluggedPort, bridge: Bridge) -> Node:
    return f"{bridge.name}{'' if bridge.up else '  down'}", "", [_member(port, name) for name in port.members]


def _apart(port: PluggedPort) -> list[Node]:
    """Return the devices of the port that are not connected to its other devices."""
    nodes: list[Node] = []
    veth, bridge = port.veth, port.bridge
    if bridge is not None and (veth is None or veth.master != bridge.name):
        text, _, below = _bridge(port, bridge)
        nodes.append((f"{text}  apart: {port.names.bridge_end} is not in it", "red", below))
    strays = [link for link in port.state.links.values() if isinstance(link, ForeignObject)]
    nodes += [(f"{stray.name}  stray: {stray.what}", "red", []) for stray in strays]
    tap = port.state.links.get(port.names.tap)
    if tap is not None and tap.name not in port.members and not isinstance(port.row, NativePort):
        nodes.append((f"{tap.name}  apart: in {getattr(tap, 'master', '') or 'no bridge'}", "red", []))
    return nodes


def _member(port: PluggedPort, name: str) -> Node:
    fact = port.facts.links.get(name)
    state = "" if fact is None else "down" if not fact.up else "up" if fact.carrier else "no carrier"
    ours = name == port.names.tap
    owner = "" if ours else f"  not ours ({fact.kind or 'physical'} link)" if fact else "  not ours"
    return f"{name}  {state}{owner}", "" if ours else "yellow", []


def dot(ports: Sequence[PluggedPort]) -> str:
    """Return a Graphviz graph: `hybridvif show -f dot | dot -Tsvg`."""
    lines = ["graph hybridvif {", "    rankdir=LR; node [shape=box];"]
    for port in ports:
        veth, row, fact = port.veth, port.row, port.fact
        switch_end = row.name if row else port.names.switch_end
        if port.condition in _GRAPH_COLORS:
            lines.append(f'    "{switch_end}" [color={_GRAPH_COLORS[port.condition]}, penwidth=3];')
        lines += [_edge(member, port.names.bridge) for member in port.members]
        if veth is not None:
            lines += [_edge(veth.master, veth.name)] if veth.master else []
            lines.append(_edge(veth.name, veth.peer, f"mtu {veth.mtu}"))
        if row is not None:
            tag = "" if fact.tag is None else f", tag {fact.tag}"
            lines.append(_edge(switch_end, row.bridge, f"ofport {fact.ofport}{tag}"))
    return "\n".join([*lines, "}", ""])


def _edge(*words: str) -> str:
    """Return a connection of two names with an optional label, without characters that dot would interpret."""
    start, end, *label = (
        "".join(sign if sign.isalnum() or sign in "-_. :,=/" else "?" for sign in word) for word in words
    )
    return f'    "{start}" -- "{end}"' + "".join(f' [label="{text}"]' for text in label) + ";"


_PORT = argument("port", nargs="?", metavar="PORT", text=f"this port only; {PORT_HELP}")
COMMANDS = {"show": Command(run, ("tree", "json", "yaml", "dot"), (_PORT,))}
