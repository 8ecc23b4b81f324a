"""Labels of attributes and values: forward_delay=0 -> "forward-delay 0", up=True -> "up"."""

from __future__ import annotations

from collections.abc import Mapping

from hybridvif.model.parts import (
    ANYBODY,
    DECLARATIONS,
    PLACEHOLDER_TYPE,
    Bridge,
    Difference,
    ManagedTap,
    OvsPort,
    Part,
    Tap,
    Veth,
    VhostUserPort,
    attributes_of,
    create_only_values,
)

UNKNOWN = "?"
"""The unknown value of an attribute."""

_DECLARED = {name: declared for of_kind in DECLARATIONS.values() for name, declared in of_kind.items()}
_SUMMARY: Mapping[type[Part], tuple[str, ...]] = {
    Bridge: ("mtu", "up", "ageing", "stp", "multicast_snooping", "disable_ipv6"),
    Veth: ("mtu", "up", "promisc", "master"),
    ManagedTap: ("mtu", "up", "master"),
    OvsPort: ("iface_id", "attached_mac", "vm_uuid"),
    VhostUserPort: ("type", "iface_id", "attached_mac", "vm_uuid"),
}
"""The attributes of a created part that are always shown. Others need -v."""


def subject_of(part: Part) -> str:
    """Return the name of a part and its location."""
    match part:
        case Veth():
            return f"{part.name} = {part.peer}"
        case OvsPort():
            return f"{part.name} on {part.bridge}"
        case _:
            return part.name


def summary_of(part: Part) -> str:
    """Return the main attributes of a part that is to be created."""
    values = {name: getattr(part, name) for name in _SUMMARY.get(type(part), ())}
    return ", ".join(phrase(name, value) for name, value in values.items() if value is not None) or "present"


def phrase(attribute: str, value: object) -> str:
    """Format an attribute with its value.

    >>> phrase("ageing", 0), phrase("peer_promisc", True), phrase("up", False), phrase("master", "qbr5f2c0e1a-7b")
    ('ageing 0', 'qvo promisc on', 'down', 'in qbr5f2c0e1a-7b')
    """
    if attribute == "master":
        return f"in {value or 'no bridge'}"
    return " ".join(filter(None, (_label(attribute), value_of(attribute, value))))


def change(difference: Difference) -> str:
    """Format the change of an attribute.

    >>> change(Difference("mtu", 1500, 1450)), change(Difference("up", False, True))
    ('mtu 1500 -> 1450', 'down -> up')
    """
    before, after = (value_of(difference.attribute, value) for value in (difference.before, difference.after))
    return " ".join(filter(None, (_label(difference.attribute), before, "->", after)))


def value_of(attribute: str, value: object) -> str:
    """Format the value of an attribute."""
    if isinstance(value, bool):
        return _DECLARED[attribute].words[value]
    if attribute == "type":
        return {"": "system", PLACEHOLDER_TYPE: f"{PLACEHOLDER_TYPE} (parked)"}.get(str(value), str(value))
    if attribute == "owner" and value == ANYBODY:
        return "anybody"
    return "none" if value in ("", None) or (attribute == "mtu_request" and value == 0) else str(value)


def wanted_attributes(part: Part) -> tuple[str, ...]:
    """Return the attributes of a created part for -v: those with a value, and requested create-only ones."""
    births = create_only_values(part)
    return tuple(
        name
        for name in attributes_of(type(part))
        if (births[name] if name in births else getattr(part, name) not in ("", None) or name == "type")
    )


def _label(attribute: str) -> str:
    own = attribute.removeprefix("peer_")
    declared = _DECLARED.get(attribute)
    label = declared.label if declared and declared.label is not None else own.replace("_", "-")
    return label if own == attribute else f"qvo {label}".rstrip()


def is_shown_by(part: Part, attribute: str) -> bool:
    """Return True if subject_of() already contains the attribute."""
    return (isinstance(part, OvsPort) and attribute == "bridge") or (isinstance(part, Veth) and attribute == "peer")


def link_kind(part: Part) -> str:
    """Return the noun for a part in a sentence."""
    return {
        Bridge: "Linux bridge",
        Veth: "veth pair",
        Tap: "tap",
        ManagedTap: "tap",
        OvsPort: "OVS port",
        VhostUserPort: "vhost-user port",
    }.get(type(part), part.kind)
