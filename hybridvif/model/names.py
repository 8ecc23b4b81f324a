"""Device names of a port, and back.

The names are a contract with Nova, Neutron and libvirt. A name is a prefix and the first 11 characters of the port id:
14 characters (IFNAMSIZ allows 15). Neutron's firewall finds `tap<id>` and `qvb<id>` by name, so any other spelling
silently disables security groups.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hybridvif.model.errors import InvalidInput

KEY_LENGTH = 11
"""Characters of the port id in a name. They hold 10 hexadecimal digits (40 bits), so two ports can collide."""

LINK_PREFIXES = frozenset({"qbr", "qvb", "qvo", "tap"})
SWITCH_PREFIXES = frozenset({"qvo", "vhu", "qbr", "qvb", "tap"})
"""Prefixes of the names of a port's links, and of its switch ports. A qbr, qvb or tap in the switch is a conflict."""

TRUNK_PREFIX = "tbr-"
"""Prefix of a Neutron trunk bridge: the bridge of one trunk, between its ports and br-int."""
TRUNK_BRIDGES = f"{TRUNK_PREFIX}*"
"""Word for all trunk bridges in the configuration."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_SWITCH_BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", re.ASCII)
_OURS = re.compile(r"(qbr|qvb|qvo|tap|vhu)([0-9a-f]{8}-[0-9a-f]{2})", re.ASCII)


class PortNames(NamedTuple):
    """The device names of one port.

    >>> names_of("5f2c0e1a-7b00-4c00-8000-000000000001").bridge
    'qbr5f2c0e1a-7b'
    """

    bridge: str
    """qbr: the Linux bridge."""
    bridge_end: str
    """qvb: the veth end on the Linux bridge."""
    switch_end: str
    """qvo: the veth end on the switch, and the name of the switch's port."""
    tap: str
    """tap: the VM's device."""
    vhost_user: str
    """vhu: the switch port of a vhost-user VM. Such a port has none of the other devices."""


def is_uuid(text: str) -> bool:
    """Return whether the text is a canonical UUID: lower case, with hyphens."""
    return _UUID.fullmatch(text) is not None


def not_canonical(text: object) -> str:
    """Return the rest of an error message about an id: its canonical form, or an example for a text that is no id."""
    import uuid

    try:
        return f"is not in canonical form; write it as {uuid.UUID(str(text).strip())}"
    except ValueError:
        return "is not a UUID; write one in lower case, such as 5f2c0e1a-7b00-4c00-8000-000000000001"


def names_of(port_id: str) -> PortNames:
    """Return the device names of a port. Raises InvalidInput if the id is not a canonical UUID."""
    if not isinstance(port_id, str) or not is_uuid(port_id):
        raise InvalidInput(f"port id {port_id!r} {not_canonical(port_id)}")
    return names_of_key(port_id[:KEY_LENGTH])


def names_of_key(key: str) -> PortNames:
    """Return the device names for the first 11 characters of a port id."""
    return PortNames(f"qbr{key}", f"qvb{key}", f"qvo{key}", f"tap{key}", f"vhu{key}")


def is_trunk_bridge(name: str) -> bool:
    """Return whether the name belongs to a Neutron trunk bridge."""
    return name.startswith(TRUNK_PREFIX)


def is_bridge_name(text: str) -> bool:
    """Return True if the text can name an OVS bridge. Its internal port is a device: 15 characters, no slash."""
    return _SWITCH_BRIDGE.fullmatch(text) is not None


def key_of(name: str) -> str | None:
    """Return the 11 characters of the port id in a device name. None for any other name.

    >>> key_of("qvo5f2c0e1a-7b"), key_of("eth0")
    ('5f2c0e1a-7b', None)
    """
    match = _OURS.fullmatch(name)
    return match[2] if match else None
