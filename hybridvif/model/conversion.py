"""Conversion of a hybrid port to a native one, and back, under a running VM.

A native port has its tap in the switch itself, as libvirt plugs it for VIFOpenVSwitch of os-vif. The rows have other
names, so one transaction replaces the row and carries everything over. Order:

- The row is marked first. The mark survives an interruption: any later plan sees it, and completes or reconnects.
  ovs-vswitchd has acknowledged the mark, so the VM leaves its path only while ovs-vswitchd works.
- To native: the tap leaves qbr, then the row is replaced. The kernel's datapath takes no tap that is in a bridge.
- To hybrid: qbr and the veth pair are complete, then the row is replaced, then the tap joins qbr.
- The mark goes last, with the requested OpenFlow port number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from hybridvif.model.names import key_of, names_of_key
from hybridvif.model.parts import CONVERTING, ManagedTap, NativePort, OvsPort, Tap, VhostUserPort, attributes_of
from hybridvif.model.state import HostState, Replace, Step, Update

R = TypeVar("R", OvsPort, NativePort)


def native_row(state: HostState) -> NativePort | None:
    """Return the converted row of a port; None if there is none."""
    return next((row for row in state.ports.values() if isinstance(row, NativePort)), None)


def is_converting(state: HostState) -> bool:
    """Return whether a conversion of this port has been interrupted."""
    return any(isinstance(row, OvsPort) and row.converting for row in state.ports.values())


def as_native(desired: HostState, port_id: str, observed: HostState) -> HostState:
    """Return the desired state of a hybrid port as a native one. A managed tap stays, outside of any bridge."""
    rows = [row for row in desired.ports.values() if type(row) is OvsPort]
    taps = [tap for tap in observed.links.values() if isinstance(tap, ManagedTap)]
    return HostState().with_parts(
        *(_as(NativePort, row, names_of_key(key_of(row.name) or "").tap, port_id) for row in rows),
        *(replace(tap, master="", bridge_port=None) for tap in taps),
    )


def as_hybrid(row: NativePort) -> OvsPort:
    """Return the row of a native port as that of a hybrid port, with our own key only if iface-id is another id."""
    port_id = "" if row.iface_id == row.port_id else row.port_id
    return _as(OvsPort, row, names_of_key(key_of(row.name) or "").switch_end, port_id)


def replacement(observed: HostState, desired: HostState) -> tuple[OvsPort, OvsPort] | None:
    """Return the rows before and after a conversion; None if no row is to be replaced."""
    before, after = (
        [row for row in state.ports.values() if isinstance(row, OvsPort) and not isinstance(row, VhostUserPort)]
        for state in (observed, desired)
    )
    # A placeholder has no device to go on with.
    if len(before) != 1 or len(after) != 1 or type(before[0]) is type(after[0]) or before[0].type:
        return None
    if isinstance(before[0], NativePort):
        # With its own key, if its iface-id has drifted: that would name another port.
        return before[0], as_hybrid(before[0])
    return before[0], _as(NativePort, before[0], after[0].name, after[0].port_id)


def conversion_steps(state: HostState, before: OvsPort, after: OvsPort) -> Iterator[Step]:
    """Yield the steps that replace a row: the mark, the tap out of its bridge, the replacement."""
    marked = replace(before, converting=CONVERTING)
    if before != marked:
        yield Update(before, marked)
    names = names_of_key(key_of(before.name) or "")
    tap = state.links.get(names.tap)
    if isinstance(after, NativePort) and isinstance(tap, Tap | ManagedTap) and tap.master == names.bridge:
        yield Update(tap, replace(tap, master=""))
    yield Replace(marked, replace(after, converting=CONVERTING))


def _as(kind: type[R], row: OvsPort, name: str, port_id: str) -> R:
    values = {attribute: getattr(row, attribute) for attribute in attributes_of(OvsPort)}
    return kind(**values | {"name": name, "port_id": port_id, "realized": True, "mtu_request": 0, "converting": ""})
