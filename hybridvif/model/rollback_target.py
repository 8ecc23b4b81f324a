"""Target of a rollback: the first observed state, as far as it may be written again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hybridvif.model.conversion import as_native, native_row, replacement
from hybridvif.model.parts import (
    ISOLATING,
    NativePort,
    OvsPort,
    Part,
    attributes_of,
    create_only_values,
    invalid_attributes,
)
from hybridvif.model.settings import Settings
from hybridvif.model.state import NOTHING, HostState
from hybridvif.model.steps import owners_of, unfiltered


def rollback_target(
    first: HostState, desired: HostState, current: HostState = NOTHING, settings: Settings | None = None
) -> tuple[HostState, tuple[str, ...]]:
    """Return the target, and the attributes ("qbr...: stp") that keep their desired value.

    first: the first observed state. desired: the goal of the failed plug. current: the state now. An attribute that
    was not changed is not listed. settings: the settings of this host. They restrict the target further.
    """
    target = first
    lost: list[str] = []
    for part in map(_with_absent_isolation, first):
        wanted, found = (state.side(part.role).get(part.name) for state in (desired, current))
        if wanted is None and isinstance(part, NativePort):
            wanted = as_native(desired, part.port_id, NOTHING).ports.get(part.name)
        if wanted is None and isinstance(part, OvsPort):
            # The row of the other binding: a hybrid port and a vhost-user port replace each other.
            rows = [row for row in desired.ports.values() if isinstance(row, OvsPort)]
            target = target.with_parts(*(_created_as(row, part) for row in rows))
        if type(wanted) is type(part):
            names = _invalid(part, settings)
        elif ISOLATING[type(part)]:
            # The links of a hybrid port that becomes a vhost-user port have no desired values.
            isolation = ISOLATING[type(part)]
            wanted = replace(part, **isolation)
            names = [name for name, value in isolation.items() if getattr(part, name) != value]
        else:
            continue
        target = target.with_parts(_created_as(wanted, part))
        names += _foreign_ids(_with_values_of(wanted, part, names), wanted)
        changed = [name for name in names if _differ(part, found, name)]
        if changed:
            target = target.with_parts(_created_as(wanted, _with_values_of(wanted, part, changed)))
            lost += [f"{part.name}: {name}" for name in changed]
    native = native_row(target)
    if native and current.ports and native.name not in current.ports and replacement(current, target) is None:
        # It was deleted beside the row of a hybrid port. A native row is replaced, never created.
        return target.without(native), (*lost, native.name)
    return target, tuple(lost)


def _with_values_of(source: Part, part: Part, names: Iterable[str]) -> Part:
    return replace(part, **{name: getattr(source, name) for name in names})


def _with_absent_isolation(part: Part) -> Part:
    """Return the part with isolating values for None. A small MTU hides the IPv6 settings."""
    isolation = ISOLATING[type(part)]
    return replace(part, **{name: value for name, value in isolation.items() if getattr(part, name) is None})


def _created_as(wanted: Part, part: Part) -> Part:
    """Return the part with the create-only attributes of another, because its own were not observed.

    A row may be deleted during the plug. The rollback must not recreate it outside of the dead VLAN.
    """
    values = create_only_values(wanted)
    legal = {name: value for name, value in values.items() if not invalid_attributes(part, {name: value})}
    return replace(part, **legal)


def _invalid(part: Part, settings: Settings | None) -> list[str]:
    """Return the attributes of a part that cannot be written again."""
    names = list(invalid_attributes(part))
    if settings is None:
        return names
    if isinstance(part, OvsPort) and not settings.allows(part.bridge) and "bridge" not in names:
        names.append("bridge")
    return [*names, *unfiltered(part, attributes_of(type(part)), settings)]


def _foreign_ids(part: Part, wanted: Part) -> list[str]:
    """Return the ids of a row that name another port. They must not be written."""
    if isinstance(part, OvsPort) and owners_of(part) - owners_of(wanted):
        return [name for name in ("iface_id", "port_id") if _differ(part, wanted, name)]
    return []


def _differ(part: Part, found: Part | None, name: str) -> bool:
    return type(found) is not type(part) or getattr(found, name) != getattr(part, name)
