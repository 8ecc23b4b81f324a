"""Warnings: a running VM is cut off, although its port is in sync. RULES has all of them.

No plan changes these values. They belong to the VM, to Neutron's agent or to an administrator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hybridvif.model.conversion import native_row
from hybridvif.model.parts import DEAD_VLAN, OvsPort
from hybridvif.model.port import Port
from hybridvif.model.state import Facts, HostState, LinkFact, PortFact

Dropped = Mapping[str, Collection[int]]
"""By the name of a switch bridge: the OpenFlow port numbers from which its first table drops every packet."""


class PortWarning(NamedTuple):
    """A warning about one port."""

    code: str
    """A word for machines, stable across releases."""
    text: str
    """A sentence: the fact; the remedy."""


@dataclass(frozen=True, slots=True)
class Observation:
    """All that a rule may use about one port."""

    port: Port
    state: HostState
    """The parts of the port."""
    facts: Facts
    dropped: Dropped

    @property
    def vm(self) -> LinkFact | None:
        """The tap of a running VM. A tap has carrier only while a process holds it open."""
        tap = self.facts.links.get(self.port.names.tap)
        return tap if tap is not None and tap.carrier else None

    @property
    def row(self) -> OvsPort | None:
        """The row of the port in Open vSwitch."""
        return next((row for row in self.state.ports.values() if isinstance(row, OvsPort)), None)

    @property
    def fact(self) -> PortFact:
        """The facts about its row."""
        return self.facts.ports.get(self.row.name, PortFact()) if self.row else PortFact()


def _duplicate(seen: Observation) -> str:
    own = {seen.port.names.switch_end, seen.port.names.vhost_user, seen.row and seen.row.name}
    others = [name for name in seen.facts.bearers.get(seen.port.iface_id, ()) if name not in own]
    if not others:
        return ""
    return (
        f"its iface-id {seen.port.iface_id} is also in {', '.join(others)} of Open vSwitch, and Neutron's agent "
        f"expects it in one row; remove the row that is not the port's: ovs-vsctl del-port {others[0]}"
    )


def _outside(seen: Observation) -> str:
    names, vm = seen.port.names, seen.vm
    is_native = native_row(seen.state) is not None or names.tap in seen.facts.ports
    if vm is None or is_native or vm.master == names.bridge:
        return ""
    return (
        f"its VM runs, and {names.tap} is in {vm.master or 'no bridge'} and not in {names.bridge}, so no packet "
        f"passes; put it back: ip link set {names.tap} master {names.bridge}"
    )


def _down(seen: Observation) -> str:
    tap = seen.port.names.tap
    if seen.vm is None or seen.vm.up:
        return ""
    return f"its VM runs, and {tap} is down, so no packet passes; set it up: ip link set {tap} up"


def _in_dead_vlan(seen: Observation) -> str:
    if seen.vm is None or seen.row is None or seen.fact.tag != DEAD_VLAN:
        return ""
    return (
        f"its VM runs, and {seen.row.name} is in the dead VLAN {DEAD_VLAN}, so no packet passes; Neutron's agent "
        "has not wired the port: see its log, and the port in Neutron"
    )


def _dropped_by_flow(seen: Observation) -> str:
    if seen.vm is None or seen.row is None or seen.fact.ofport not in seen.dropped.get(seen.row.bridge, ()):
        return ""
    bridge, number = seen.row.bridge, seen.fact.ofport
    return (
        f"its VM runs, and the flows of {bridge} drop every packet from its OpenFlow port {number}; "
        f"see them: ovs-ofctl dump-flows {bridge} table=0,in_port={number}"
    )


RULES: Mapping[str, Callable[[Observation], str]] = {
    "duplicate-iface-id": _duplicate,
    "tap-outside": _outside,
    "tap-down": _down,
    "dead-vlan": _in_dead_vlan,
    "flows-drop": _dropped_by_flow,
}
"""By code: a function that returns the sentence, or "" if all is well."""


def port_warnings(port: Port, state: HostState, facts: Facts, dropped: Dropped) -> tuple[PortWarning, ...]:
    """Return the warnings about one port. Only facts of an observation of all names include duplicates."""
    seen = Observation(port, state, facts, dropped)
    found = ((code, rule(seen)) for code, rule in RULES.items())
    return tuple(PortWarning(code, f"port {port.id}: {text}") for code, text in found if text)


# -- flows -------------------------------------------------------------------------------------------------------------

_FLOW = re.compile(r"(?:.* )?([^ ]*) actions=(.*)")
_FLAGS = frozenset({"send_flow_rem", "check_overlap", "reset_counts", "no_packet_counts", "no_byte_counts"})
_DEFAULT_PRIORITY = 32768


class _Flow(NamedTuple):
    priority: int
    fields: frozenset[str]
    drops: bool


def dropped_ofports(flows: str, ofports: Collection[int]) -> frozenset[int]:
    """Return the ports of which the first table drops every packet. flows: its lines in `ovs-ofctl dump-flows`.

    A finer flow of the same or a higher priority may let some packets pass. Such a port is not returned.
    """
    of_port: dict[str, list[_Flow]] = {}
    for match in filter(None, map(_FLOW.fullmatch, flows.splitlines())):
        flow = _flow(*match.groups())
        in_port = next((field for field in flow.fields if field.startswith("in_port=")), "")
        of_port.setdefault(in_port, []).append(flow)
    general = of_port.get("", [])
    return frozenset(
        number for number in ofports if _is_dropped([*general, *of_port.get(f"in_port={number}", ())], number)
    )


def _flow(match: str, actions: str) -> _Flow:
    # Without a match, the last word before the actions is a flag.
    fields = [field for field in match.split(",") if field and field not in _FLAGS]
    priorities = [int(field.partition("=")[2]) for field in fields if field.startswith("priority=")]
    others = frozenset(field for field in fields if not field.startswith("priority="))
    return _Flow((*priorities, _DEFAULT_PRIORITY)[0], others, actions == "drop")


def _is_dropped(flows: Collection[_Flow], number: int) -> bool:
    """Return True if every packet from a port is dropped. flows: all that a packet from it may match."""
    # A packet that no flow matches is dropped.
    whole = [flow for flow in flows if flow.fields <= {f"in_port={number}"}]
    last = max(whole, key=lambda flow: flow.priority, default=_Flow(-1, frozenset(), drops=True))
    return last.drops and not any(flow.priority >= last.priority and not flow.drops for flow in flows)
