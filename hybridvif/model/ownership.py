"""Ownership of the observed parts, decided once per port before any plan.

Two ports can share their first 11 characters (40 bits), and so all names. Evidence, strongest first: the alias of a
link, our own key external_ids:hybridvif-port-id, iface-id. Parts without evidence come from os-vif, Nova or a person.
They are adopted if they fit.
"""

from __future__ import annotations

from hybridvif.model.errors import NameCollision
from hybridvif.model.names import is_uuid
from hybridvif.model.parts import ForeignObject, OvsPort, VhostUserPort
from hybridvif.model.state import HostState
from hybridvif.model.steps import owners_of


def check_ownership(observed: HostState, port_id: str, interface_id: str = "") -> None:
    """Check that no observed part belongs to another port.

    interface_id: the iface-id that this port may have beside its own id. Raises NameCollision with both ids.
    """
    aliases = {owner for link in observed.links.values() for owner in owners_of(link)}
    aliases |= {
        link.alias for link in observed.links.values() if isinstance(link, ForeignObject) and is_uuid(link.alias)
    }
    for alias in sorted(aliases - {port_id}):
        raise _collision(port_id, alias, "the alias of its links")
    for row in observed.ports.values():
        # The aliases cover the row of the switch end. A vhost-user port has no links.
        if not isinstance(row, OvsPort) or (aliases and not isinstance(row, VhostUserPort)):
            continue
        if is_uuid(row.port_id):
            if row.port_id != port_id:
                raise _collision(port_id, row.port_id, "external_ids:hybridvif-port-id")
        elif is_uuid(row.iface_id) and row.iface_id not in (port_id, interface_id):
            raise _collision(port_id, row.iface_id, "external_ids:iface-id")


def _collision(port_id: str, other: str, evidence: str) -> NameCollision:
    return NameCollision(
        f"port {port_id} shares its first 11 characters, and so its device names, with port {other}, "
        f"which is plugged here ({evidence}); unplug that port first, or give one of them another id"
    )
