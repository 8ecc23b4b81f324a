"""Device names of a port, and back; the legal values of attributes, and their declaration.

The names are a contract with Nova, Neutron and libvirt. A name is a prefix and the first 11 characters of the port id:
14 characters (IFNAMSIZ allows 15). Neutron's firewall finds `tap<id>` and `qvb<id>` by name, so any other spelling
silently disables security groups.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

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


def names_of_device(name: str) -> PortNames:
    """Return the device names of the port that a device belongs to; those of an empty key for any other device."""
    return names_of_key(key_of(name) or "")


# -- legal values, and the declaration of an attribute -----------------------------------------------------------------


QOS_TYPES = ("linux-htb", "linux-hfsc", "linux-sfq", "linux-codel", "linux-fq_codel", "linux-noop")
"""The QoS types of a new port, as in os-vif's default_qos_type."""
NONE = "none"
"""No QoS, even if the host has a default."""
DATAPATH_TYPES = ("system", "netdev")
"""The kernel's datapath, and the userspace datapath of Open vSwitch."""
VHOSTUSER_MODES = ("client", "server")
"""The end of the socket that QEMU has, as in Neutron's vhostuser_mode. Open vSwitch has the other end."""
MIN_MTU, MAX_MTU = 68, 65535
"""The minimum of IPv4 (RFC 791), and the kernel's maximum for a veth or a bridge (ETH_MAX_MTU)."""
MAX_TAP_MTU = 65521
"""The kernel's maximum for a tap: ETH_MAX_MTU less the Ethernet header (drivers/net/tun.c)."""
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rule:
    """Legal values of an attribute of a part, or of a field of a port."""

    is_legal: Callable[[Any, object], bool]
    words: str
    """The legal values in words."""

    def __call__(self, part: Any, value: object) -> bool:
        """Return True if the value is legal."""
        return self.is_legal(part, value)


@dataclass(frozen=True, slots=True)
class Reason:
    """Reason for the value of an attribute."""

    text: str
    bugs: tuple[int, ...] = ()
    """Numbers of Launchpad bugs."""

    def __str__(self) -> str:
        return self.text + (f" (LP {', '.join(map(str, self.bugs))})" if self.bugs else "")


@dataclass(frozen=True, slots=True)
class Attribute:
    """Declaration of one attribute, as metadata of its type: Annotated[int, attribute(...)]."""

    is_legal: Rule
    reason: Reason
    label: str | None
    """Label in the output. None: the name of the attribute."""
    words: tuple[str, str]
    """Words of False and True in the output."""
    is_create_only: bool
    isolation: object
    """The only legal value, if the attribute isolates the VM from the host. None for every other attribute."""


def attribute(
    is_legal: Rule,
    reason: str,
    *bugs: int,
    label: str | None = None,
    words: tuple[str, str] = ("off", "on"),
    create_only: bool = False,
) -> Attribute:
    """Return the declaration of an attribute. bugs: numbers on Launchpad."""
    return Attribute(is_legal, Reason(reason, bugs), label, words, create_only, None)


def isolating(
    value: object, reason: str, *bugs: int, label: str | None = None, words: tuple[str, str] = ("off", "on")
) -> Attribute:
    """Return the declaration of an attribute that isolates the VM from the host, and so has one legal value."""
    return Attribute(one_of(value), Reason(reason, bugs), label, words, False, value)


def one_of(*values: object) -> Rule:
    """Return a rule that allows these values. True is not 1, although the two are equal."""
    legal = frozenset((type(value), value) for value in values)
    words = " or ".join(map(_word_of, dict.fromkeys(values)))
    return Rule(lambda _, value: isinstance(value, Hashable) and (type(value), value) in legal, words)


def _word_of(value: object) -> str:
    return "empty" if value == "" else str(value).lower() if isinstance(value, bool | None) else str(value)


def between(low: int, high: int) -> Rule:
    """Return a rule that allows the whole numbers from low to high."""
    return Rule(lambda _, value: type(value) is int and low <= value <= high, f"{low} to {high}")


def text(is_legal: Callable[[str], bool], words: str) -> Rule:
    """Return a rule that allows the texts of a predicate."""
    return Rule(lambda _, value: type(value) is str and is_legal(value), words)


def either(*rules: Rule) -> Rule:
    """Return a rule that allows the values of any of these rules."""
    return Rule(lambda part, value: any(rule(part, value) for rule in rules), " or ".join(rule.words for rule in rules))


def own_name(device: str) -> Rule:
    """Return a rule that allows the name of one device of the same port, a field of PortNames."""
    words = f"the {names_of_key('')._asdict()[device]} of the port"
    return Rule(lambda part, value: value == getattr(names_of_device(part.name), device), words)


def is_mac(text: str) -> bool:
    """Return True for the MAC address of a device: six lower-case octets, unicast, not all zero.

    >>> is_mac("fa:16:3e:aa:bb:cc"), is_mac("01:00:5e:00:00:01"), is_mac("00:00:00:00:00:00")
    (True, False, False)
    """
    return _MAC.fullmatch(text) is not None and int(text[:2], 16) % 2 == 0 and text != "00:00:00:00:00:00"


def _is_own_port_id(part: Any, value: object) -> bool:
    """Allow a port id that matches the name of the part."""
    return type(value) is str and is_uuid(value) and value[:KEY_LENGTH] == key_of(part.name)


def _is_flag_outside_trunk(part: Any, value: object) -> bool:
    """Allow True outside of a trunk bridge only.

    On a trunk bridge the tag belongs to the trunk. Nothing would take the port out of the dead VLAN (LP 2069543).
    """
    return value is False or (value is True and not is_trunk_bridge(part.bridge))


EMPTY, FLAG, MTU = one_of(""), one_of(True, False), between(MIN_MTU, MAX_MTU)
MAC, UUID = text(is_mac, "a unicast MAC address, in lower case"), text(is_uuid, "a UUID, in lower case")
SWITCH_BRIDGE = text(is_bridge_name, "the name of an Open vSwitch bridge")
TRUNK_BRIDGE = text(lambda name: is_trunk_bridge(name) and is_bridge_name(name), "the name of a trunk bridge, tbr-...")
own_port_id = Rule(_is_own_port_id, "the id of the port")
flag_outside_trunk = Rule(_is_flag_outside_trunk, "true or false; on a trunk bridge false")
