"""Whose are the parts that were found? Decided once per port, from all evidence, before anything is planned.

Two ports can share their first 11 characters (40 bits) and so all names. Evidence, strongest first: the alias of a
link; our own key external_ids:hybridvif-port-id; iface-id. Parts without any evidence were plugged by os-vif, by Nova
or by hand, and are adopted where they fit.
"""

from __future__ import annotations

from hybridvif.model.errors import NameCollision
from hybridvif.model.names import is_uuid
from hybridvif.model.parts import ForeignObject, HostState, OvsPort, VhostUserPort
from hybridvif.model.steps import owners_of, ownership_tags


def check_ownership(observed: HostState, port_id: str, interface_id: str = "") -> None:
    """Make sure that nothing observed under this port's names is another port's.

    interface_id: the iface-id that this port may have beside its own id. Raises NameCollision, naming both ids.
    """
    if _all_are_of(observed, port_id):
        return
    aliases = {owner for link in observed.links.values() for owner in owners_of(link)}
    aliases |= {
        link.alias for link in observed.links.values() if isinstance(link, ForeignObject) and is_uuid(link.alias)
    }
    for alias in sorted(aliases - {port_id}):
        raise _collision(port_id, alias, "the alias of its links")
    for row in observed.ports.values():
        # The links speak for the row of their switch end; a vhost-user port has none.
        if not isinstance(row, OvsPort) or (aliases and not isinstance(row, VhostUserPort)):
            continue
        if is_uuid(row.port_id):
            if row.port_id != port_id:
                raise _collision(port_id, row.port_id, "external_ids:hybridvif-port-id")
        elif is_uuid(row.iface_id) and row.iface_id not in (port_id, interface_id):
            raise _collision(port_id, row.iface_id, "external_ids:iface-id")


def _all_are_of(observed: HostState, port_id: str) -> bool:
    """Whether the links speak for all that is there, and each that has a mark bears this port's: so it is of most."""
    if any(isinstance(part, ForeignObject | VhostUserPort) for part in observed):
        return False
    marks = {mark for link in observed.links.values() for mark in ownership_tags(link)}
    return marks == {port_id}


def _collision(port_id: str, other: str, evidence: str) -> NameCollision:
    return NameCollision(
        f"port {port_id} shares its first 11 characters, and so its device names, with port {other}, "
        f"which is plugged here ({evidence}); unplug that port first, or give one of them another id"
    )
