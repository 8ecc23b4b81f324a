"""The topology as a tree: integration bridge, its ports, and behind each its veth pair, Linux bridge and members."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from hybridvif.cli.checking import drift_of
from hybridvif.cli.infer import row_of
from hybridvif.cli.output.topology import Condition, PluggedPort, fix_of
from hybridvif.cli.terminal import Paint
from hybridvif.model.parts import ForeignObject, VhostUserPort

DEAD_VLAN = 4095

Node = tuple[str, str, "list[Node]"]
"""(text, color, children)."""


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
    for index, (text, colour, below) in enumerate(nodes):
        last = index == len(nodes) - 1
        yield f"{indent}+-- {paint(text, colour)}"
        yield from _branches(below, paint, f"{indent}{'    ' if last else '|   '}")


def _ports(ports: Sequence[PluggedPort], options: Sequence[str]) -> list[Node]:
    heads = [_head(port) for port in ports]
    width = max(map(len, heads), default=0)
    return [_port(port, f"{head:<{width}}  ", options) for port, head in zip(ports, heads, strict=True)]


def _port(port: PluggedPort, text: str, options: Sequence[str]) -> Node:
    below = [*_chain(port), *_apart(port)]
    if port.condition is Condition.IN_ORDER:
        return f"{text}in order", "", below
    if port.conflict:
        return f"{text}CONFLICT: {port.conflict}", "red", below
    found = [str(drift) for drift in drift_of(port.changes, port.inferred)]
    more = f" (and {len(found) - 1} more: hybridvif check)" if len(found) > 1 else ""
    fix = fix_of(port, options)
    tail: list[Node] = [(f"fix: {shlex.join(fix)}", "yellow", [])] if fix else []
    return f"{text}DRIFT: {found[0] if found else ''}{more}", "red", [*below, *tail]


def _head(port: PluggedPort) -> str:
    row = port.row
    if row is None:
        held = row_of(port.state, port.names)
        subject = f"{held.name} ({held.kind})" if held else f"{port.names.switch_end} (no OVS port)"
        return f"{subject}  port {port.port_id or f'{port.key}...'}"
    fact = port.fact
    words = [row.name, f"ofport {'none' if fact.ofport is None else fact.ofport}"]
    if fact.error:
        words.append(f"({fact.error})")
    if fact.tag is not None:
        words.append(f"tag {fact.tag}" + (" (dead vlan)" if fact.tag == DEAD_VLAN else ""))
    words.append(f"iface-id {row.iface_id or 'none'}")
    if port.port_id and port.port_id != row.iface_id:
        words.append(f"port {port.port_id}")
    return "  ".join(words)


def _chain(port: PluggedPort) -> list[Node]:
    """Return the nodes from qvo on, as far as they are connected."""
    veth, bridge = port.veth, port.bridge
    if veth is None and isinstance(port.row, VhostUserPort):
        return [(f"= {port.row.type}  mtu {port.mtu or 'none'}", "", [])]
    if veth is None:
        return [(f"= {port.names.bridge_end} (missing)", "red", [])]
    below: list[Node] = []
    if veth.master == port.names.bridge and bridge is not None:
        below = [_bridge(port)]
    elif veth.master:
        below = [(f"{veth.master} (not its bridge)", "red", [])]
    state = "" if veth.up and veth.peer_up else "  down"
    return [(f"= {veth.name}  mtu {veth.mtu}{state}", "", below)]


def _bridge(port: PluggedPort) -> Node:
    bridge = port.bridge
    state = "" if bridge is None or bridge.up else "  down"
    return f"{port.names.bridge}{state}", "", [_member(port, name) for name in port.members]


def _apart(port: PluggedPort) -> list[Node]:
    """Return the devices of the port that are not connected to its other devices."""
    nodes: list[Node] = []
    veth = port.veth
    if port.bridge is not None and (veth is None or veth.master != port.names.bridge):
        text, _, below = _bridge(port)
        nodes.append((f"{text}  apart: {port.names.bridge_end} is not in it", "red", below))
    strays = [link for link in port.state.links.values() if isinstance(link, ForeignObject)]
    nodes += [(f"{stray.name}  stray: {stray.what}", "red", []) for stray in strays]
    tap = port.state.links.get(port.names.tap)
    if tap is not None and tap.name not in port.members:
        where = getattr(tap, "master", "")
        nodes.append((f"{tap.name}  apart: in {where or 'no bridge'}", "red", []))
    return nodes


def _member(port: PluggedPort, name: str) -> Node:
    fact = port.link(name)
    state = "" if fact is None else "down" if not fact.up else "up" if fact.carrier else "no carrier"
    ours = name == port.names.tap
    owner = "" if ours else f"  not ours ({fact.kind or 'physical'} link)" if fact else "  not ours"
    return f"{name}  {state}{owner}", "" if ours else "yellow", []
