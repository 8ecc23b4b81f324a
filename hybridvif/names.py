"""Port id -> the names of its devices; and which names are ours.

The names are a contract with Nova, Neutron and libvirt: prefix + the first 11 characters of the port id, 14
characters in all (IFNAMSIZ leaves 15). Neutron's firewall finds `tap<id>` and `qvb<id>` by name, so any other
spelling would silently switch security groups off.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hybridvif.errors import InvalidInput

KEY_LENGTH = 11
"""How many characters of the port id go into a name: 10 hexadecimal digits, 40 bits, so two ports can collide."""

LINK_PREFIXES = frozenset({"qbr", "qvb", "qvo", "tap"})
SWITCH_PREFIXES = frozenset({"qvo", "vhu", "tap"})
"""What the names of a port's links, and of its ports of the switch, begin with; a tap in the switch is a conflict."""

TRUNK_PREFIX = "tbr-"
"""What the name of a trunk bridge of Neutron's begins with: one trunk's own bridge, between its ports and br-int."""
TRUNK_BRIDGES = f"{TRUNK_PREFIX}*"
"""All trunk bridges, where a configuration names bridges."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
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
    """vhu: the switch's port of a VM that it reaches through a socket, which has none of the others."""


def is_uuid(text: str) -> bool:
    """Whether the text is a UUID in its canonical form: lower case, with hyphens."""
    return _UUID.fullmatch(text) is not None


def names_of(port_id: str) -> PortNames:
    """The device names of a port.

    Raises InvalidInput if the id is not a canonical UUID.
    """
    if not isinstance(port_id, str) or not is_uuid(port_id):
        raise InvalidInput(
            f"port id {port_id!r} is not a UUID in canonical form; "
            "write it as Neutron does, in lower case: 5f2c0e1a-7b00-4c00-8000-000000000001"
        )
    return names_of_key(port_id[:KEY_LENGTH])


def names_of_key(key: str) -> PortNames:
    """The device names of all ports whose id begins with these 11 characters."""
    return PortNames(f"qbr{key}", f"qvb{key}", f"qvo{key}", f"tap{key}", f"vhu{key}")


def is_trunk_bridge(name: str) -> bool:
    """Whether the name is that of a trunk bridge of Neutron's."""
    return name.startswith(TRUNK_PREFIX)


def key_of(name: str) -> str | None:
    """The 11 characters of the port id in a device name of ours; None for any other name.

    >>> key_of("qvo5f2c0e1a-7b"), key_of("eth0")
    ('5f2c0e1a-7b', None)
    """
    match = _OURS.fullmatch(name)
    return match[2] if match else None
