"""Refuses whatever is not hybrid plugging on this host. It knows of the caller only the plan, and trusts none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

from hybridvif.errors import Refused
from hybridvif.limits import unfiltered, unwritable
from hybridvif.names import KEY_LENGTH, PortNames, key_of, names_of_key
from hybridvif.parts import (
    Bridge,
    IvsPort,
    MadeTap,
    Member,
    OvsPort,
    Part,
    Tap,
    Veth,
    VhostUserPort,
    attributes_of,
    births_of,
    with_article,
)
from hybridvif.settings import Settings
from hybridvif.steps import Create, Delete, Step, Update, changes_of, owners_of


def permit_names(names: Iterable[str] | None) -> None:
    """Make sure that only devices of our grammar are asked about. Raises Refused."""
    for name in names or ():
        if key_of(name) is None:
            raise Refused(f"refused: {name[:32]!r} is not the name of a device of ours")


def permit_plans(plans: Sequence[Sequence[Step]], settings: Settings) -> None:
    """Make sure that every step of every plan plugs or unplugs one port here. Raises Refused."""
    seen: set[str] = set()
    for plan in plans:
        keys = {key_of(step.part.name) for step in plan}
        if len(keys) > 1 or None in keys:
            raise Refused("refused: a plan holds parts that are not one port's")
        for key in keys:
            if key in seen:
                raise Refused("refused: two plans of one call are for the same port")
            seen.add(str(key))
            for step in plan:
                _permit(step, names_of_key(str(key)), settings)
        owner_stated(plan)


def owner_stated(plan: Sequence[Step]) -> str:
    """The id of the port that a plan is of, as its parts state it; "" if none does. Raises Refused for two.

    What is written states it, and what links bear. A row that is merely found may bear ids that are to be mended, so
    it counts where nothing else does, and where its id has these names.
    """
    stated: set[str] = set()
    found: set[str] = set()
    for step in plan:
        before = step.before if isinstance(step, Update) else step.part
        if not isinstance(step.part, OvsPort):
            stated |= owners_of(before) | owners_of(step.part)
            continue
        if not isinstance(step, Create):
            found |= owners_of(before)
        if isinstance(step, Create) or (isinstance(step, Update) and {"iface_id", "port_id"} & changes_of(step).keys()):
            # So an iface-id that is not this port's own goes with our key, which says whose it is.
            stated |= owners_of(step.part)
    owners = stated or {owner for owner in found if owner[:KEY_LENGTH] == key_of(plan[0].part.name)}
    if len(owners) > 1:
        raise Refused(f"refused: a plan is of two ports, {' and '.join(sorted(owners)[:2])}")
    for owner in owners:
        if owner[:KEY_LENGTH] != key_of(plan[0].part.name):
            raise Refused(f"refused: {plan[0].part.name} is not named for port {owner}")
    return "".join(owners)


def _permit(step: Step, names: PortNames, settings: Settings) -> None:
    _permit_name(step.part, names)
    # To delete writes nothing, so what was found may be anything.
    match step:
        case Create(Tap()) | Delete(Tap()):
            raise Refused(f"refused: {step.part.name} is the VM's device, which is neither made nor deleted here")
        case Create(part):
            _permit_values(part, unwritable(part))
            _permit_filtering(part, attributes_of(type(part)), settings)
            _permit_bridge(part, settings)
        case Update(before, after):
            _permit_name(before, names)
            _permit_master(before, names)
            changes = changes_of(step)
            _permit_values(after, unwritable(after, changes | _regained(step) | _written_anew(after, changes)))
            _permit_filtering(after, changes, settings)
            if "bridge" in changes:
                # The bridge may have to be made.
                _permit_values(after, unwritable(after, births_of(after)))
                _permit_bridge(after, settings)


def _regained(step: Update) -> dict[str, object]:
    """What a device that grows gets from the kernel anew, and an executor sets though it is no change: its IPv6."""
    names = [name for name in attributes_of(type(step.before)) if getattr(step.before, name) is None]
    return {name: getattr(step.after, name) for name in names}


def _written_anew(part: Part, changes: Mapping[str, object]) -> dict[str, object]:
    """What an executor may write though it is no change: the type, where a vhost-user port is asked for again."""
    if isinstance(part, VhostUserPort) and {"realized", "socket_as_configured"} & changes.keys():
        return {"type": part.type}
    return {}


_NAMED: Mapping[type[Part], Callable[[PortNames], str]] = {
    Bridge: attrgetter("bridge"),
    Veth: attrgetter("bridge_end"),
    Tap: attrgetter("tap"),
    MadeTap: attrgetter("tap"),
    OvsPort: attrgetter("switch_end"),
    VhostUserPort: attrgetter("vhost_user"),
    IvsPort: attrgetter("switch_end"),
}


def _permit_name(part: Part, names: PortNames) -> None:
    named = _NAMED.get(type(part))
    if named is None or part.name != named(names):
        raise Refused(f"refused: {with_article(part.kind)} cannot be named {part.name}")
    if isinstance(part, Veth) and part.peer != names.switch_end:
        raise Refused(f"refused: the peer of {part.name} cannot be named {part.peer[:32]!r}")


def _permit_values(part: Part, illegal: Sequence[str]) -> None:
    if illegal:
        raise Refused(f"refused: {part.name} may not be given that {', '.join(illegal)}")


def _permit_master(before: Part, names: PortNames) -> None:
    if isinstance(before, Member) and before.master not in ("", names.bridge):
        raise Refused(f"refused: {before.name} is not taken out of {before.master[:32]!r}, which is not its bridge")


def _permit_filtering(part: Part, attributes: Iterable[str], settings: Settings) -> None:
    off = unfiltered(part, attributes, settings)
    if off:
        raise Refused(
            f"refused: {part.name} may not be without {', '.join(off)}, since [hybridvif] call_iptables of this host "
            "asks for them; set it in the caller's configuration, too"
        )


def _permit_bridge(part: Part, settings: Settings) -> None:
    if isinstance(part, OvsPort) and not settings.allows(part.bridge):
        raise Refused(
            f"refused: {part.bridge} is not in [hybridvif] integration_bridges of this host "
            f"({', '.join(settings.integration_bridges)}); add it there"
        )
