"""Warnings: a running VM is cut off, although its port is in sync. TEXTS has all of them.

No plan changes these values. They belong to the VM, to Neutron's agent or to an administrator.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from hybridvif.model.names import KEY_LENGTH, key_of
from hybridvif.model.parts import DEAD_VLAN, OvsPort
from hybridvif.model.planner import native_row
from hybridvif.model.port import Port
from hybridvif.model.state import Facts, HostState

Dropped = Mapping[str, Collection[int]]
"""By the name of a switch bridge: the OpenFlow port numbers from which its first table drops every packet."""


class PortWarning(NamedTuple):
    """A warning about one port."""

    code: str
    """A word for machines, stable across releases."""
    text: str
    """A sentence: the fact; the remedy."""


TEXTS: Mapping[str, str] = {
    "duplicate-iface-id": "its iface-id {iface_id} is also in {others} of Open vSwitch, and Neutron's agent expects it "
    "in one row; {remedy}",
    "tap-outside": "its VM runs, and {tap} is in {master} and not in {bridge}, so no packet passes; put it back: "
    "ip link set {tap} master {bridge}",
    "tap-down": "its VM runs, and {tap} is down, so no packet passes; set it up: ip link set {tap} up",
    "dead-vlan": f"its VM runs, and {{row}} is in the dead VLAN {DEAD_VLAN}, so no packet passes; Neutron's agent has "
    "not wired the port: see its log, and the port in Neutron",
    "flows-drop": "its VM runs, and the flows of {switch} drop every packet from its OpenFlow port {ofport}; see them: "
    "ovs-ofctl dump-flows {switch} table=0,in_port={ofport}",
}
"""All warnings, by code."""


def port_warnings(port: Port, state: HostState, facts: Facts, dropped: Dropped) -> tuple[PortWarning, ...]:
    """Return the warnings about one port. Only facts of an observation of all names include duplicates."""
    names, vm = port.names, facts.vm(port.names)
    row = next((row for row in state.ports.values() if isinstance(row, OvsPort)), None)
    own = {names.switch_end, names.vhost_user, row and row.name}
    others = [name for name in facts.bearers.get(port.iface_id, ()) if name not in own]
    values: dict[str, object] = {"iface_id": port.iface_id, "others": ", ".join(others)}
    codes = ["duplicate-iface-id"] if others else []
    values |= {"remedy": remedy_for_duplicate(port.id, others[0])} if others else {}
    if vm:
        is_native = native_row(state) is not None or names.tap in facts.ports
        codes += ["tap-outside"] if not is_native and vm.master != names.bridge else []
        codes += ["tap-down"] if not vm.up else []
        values |= {"tap": names.tap, "master": vm.master or "no bridge", "bridge": names.bridge}
    if vm and row:
        ofport = facts.port(row).ofport
        codes += ["dead-vlan"] if facts.port(row).tag == DEAD_VLAN else []
        codes += ["flows-drop"] if ofport in dropped.get(row.bridge, ()) else []
        values |= {"row": row.name, "switch": row.bridge, "ofport": ofport}
    return tuple(PortWarning(code, f"port {port.id}: {TEXTS[code].format_map(values)}") for code in codes)


def remedy_for_duplicate(port_id: str, other: str) -> str:
    """Return the remedy for another row with the iface-id of a port. The row of another port may serve its own VM."""
    if key_of(other) in (None, port_id[:KEY_LENGTH]):
        return f"remove the row that is not the port's: ovs-vsctl del-port {other}"
    return f"plug again the port whose row has the wrong iface-id, see: hybridvif check {other}"


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
