"""Declaration of an attribute: its legal values, its reason with the Launchpad bugs, and its label.

A rule takes the part and the value. It restricts writes only: an observed part may hold any value.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import Field, dataclass
from typing import Any

from hybridvif.model.names import KEY_LENGTH, is_trunk_bridge, is_uuid, key_of, names_of_key
from hybridvif.model.port import MAX_MTU, MIN_MTU, is_bridge_name, is_mac

Rule = Callable[[Any, object], bool]


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
    """Declaration of one attribute."""

    is_legal: Rule
    reason: Reason
    label: str | None
    """Label in the output. None: the name of the attribute."""
    is_create_only: bool
    isolation: object
    """The only legal value, if the attribute isolates the VM from the host. None for every other attribute."""


def attribute(
    is_legal: Rule,
    reason: str,
    *bugs: int,
    label: str | None = None,
    create_only: bool = False,
    isolation: object = None,
) -> Mapping[str, Attribute]:
    """Return the metadata of a dataclass field that declares an attribute."""
    return {"attribute": Attribute(is_legal, Reason(reason, bugs), label, create_only, isolation)}


def isolating(value: object, reason: str, *bugs: int, label: str | None = None) -> Mapping[str, Attribute]:
    """Return the metadata of an attribute that isolates the VM from the host, and so has one legal value."""
    return attribute(one_of(value), reason, *bugs, label=label, isolation=value)


def declaration_of(field: Field[Any]) -> Attribute | None:
    """Return the declaration of a field. None for a field that is not written."""
    return field.metadata.get("attribute")


def one_of(*values: object) -> Rule:
    """Return a rule that allows these values. True is not 1, although the two are equal."""
    legal = frozenset((type(value), value) for value in values)
    return lambda _, value: isinstance(value, Hashable) and (type(value), value) in legal


def between(low: int, high: int) -> Rule:
    """Return a rule that allows the whole numbers from low to high."""
    return lambda _, value: type(value) is int and low <= value <= high


def flag(_: Any, value: object) -> bool:
    """Allow True and False."""
    return type(value) is bool


def own_port_id(part: Any, value: object) -> bool:
    """Allow a port id that matches the name of the part."""
    return type(value) is str and is_uuid(value) and value[:KEY_LENGTH] == key_of(part.name)


def own_port_id_or_empty(part: Any, value: object) -> bool:
    """Allow a port id that matches the name of the part, or no id."""
    return value == "" or own_port_id(part, value)


def uuid_or_empty(_: Any, value: object) -> bool:
    """Allow a canonical UUID, or none."""
    return value == "" or (type(value) is str and is_uuid(value))


def unicast_mac(_: Any, value: object) -> bool:
    """Allow a unicast MAC address."""
    return type(value) is str and is_mac(value)


def unicast_mac_or_empty(part: Any, value: object) -> bool:
    """Allow a unicast MAC address, or none."""
    return value == "" or unicast_mac(part, value)


def own_bridge_or_empty(part: Any, value: object) -> bool:
    """Allow the Linux bridge of the same port, or no bridge."""
    return value == "" or value == names_of_key(key_of(part.name) or "").bridge


def own_switch_end(part: Any, value: object) -> bool:
    """Allow the switch end of the same port."""
    return value == names_of_key(key_of(part.name) or "").switch_end


def switch_bridge(_: Any, value: object) -> bool:
    """Allow the name of an Open vSwitch bridge."""
    return type(value) is str and is_bridge_name(value)


def trunk_bridge_or_empty(_: Any, value: object) -> bool:
    """Allow the name of a Neutron trunk bridge, or none."""
    return value == "" or (type(value) is str and is_trunk_bridge(value) and is_bridge_name(value))


def mtu_or_none(_: Any, value: object) -> bool:
    """Allow an MTU, 0 for no request, or None for no such column."""
    return value is None or (type(value) is int and (value == 0 or MIN_MTU <= value <= MAX_MTU))


def flag_outside_trunk(part: Any, value: object) -> bool:
    """Allow True outside of a trunk bridge only.

    On a trunk bridge the tag belongs to the trunk. Nothing would take the port out of the dead VLAN (LP 2069543).
    """
    return value is False or (value is True and not is_trunk_bridge(part.bridge))
