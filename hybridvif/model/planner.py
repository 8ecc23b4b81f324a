"""plan(observed, desired) -> steps.

One planner serves every goal. plug: the plan to the desired state. unplug: the plan to NOTHING. check: the plan of plug
without its execution. rollback: the plan to the first observed state.

Order:
- Plug creates the links first and the switch port last. So ovs-vswitchd and Neutron's agent never see half a port.
- Unplug deletes the switch port first. So ovs-vswitchd never holds a deleted device.
- A conversion replaces the row: to native before the links are deleted, to hybrid after they are created. The section
  "conversion" has the order.
- A row that stays while its veth pair is recreated is a placeholder meanwhile. Otherwise ovs-vswitchd would keep the
  old device, and no packet would pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from hybridvif.model.errors import Conflict, NameCollision
from hybridvif.model.names import KEY_LENGTH, MAX_TAP_MTU, PortNames, is_uuid, names_of_device
from hybridvif.model.parts import (
    CONVERTING,
    ISOLATING,
    PLACEHOLDER_TYPE,
    Bridge,
    ForeignObject,
    ManagedTap,
    NativePort,
    OvsPort,
    Part,
    Tap,
    Veth,
    VhostUserPort,
    attributes_of,
    create_only_values,
    differences,
    invalid_attributes,
)
from hybridvif.model.settings import Settings
from hybridvif.model.state import (
    NOTHING,
    Create,
    Delete,
    HostState,
    Replace,
    Step,
    Update,
    owners_of,
    ownership_tags,
    simulate,
    unfiltered,
)


def plan(observed: HostState, desired: HostState) -> tuple[Step, ...]:
    """Return the steps from one state of a port to another. Empty if in sync.

    Both states hold parts of one port only. Raises Conflict with the remedy if a foreign object has one of its names or
    holds one of its parts.
    """
    for part in observed:
        _check_not_foreign(part)
    extra = (part for part in observed if part.name not in desired.side(part.role) and not isinstance(part, Tap))
    if not any(extra) and all(_is_in_sync(observed, part) for part in desired):
        # The fast path: most ports are in sync.
        return ()
    draft = _Draft(observed)
    rows = replacement(observed, desired)
    if rows and isinstance(rows[1], NativePort):
        draft.convert(*rows)
    _clear_switch(draft, desired)
    _delete_links(draft, desired)
    _create_links(draft, desired)
    if rows and isinstance(rows[0], NativePort):
        draft.convert(*rows)
        _create_links(draft, desired)
    for _, port in sorted(desired.ports.items()):
        draft.create_or_update(port)
    return tuple(draft.steps)


def with_existing_tap(observed: HostState, desired: HostState, names: PortNames) -> HostState:
    """Return the desired state with the managed tap that an earlier plug created, kept in sync.

    A VM may use it. A second plug need not repeat the options of the first.
    """
    tap, bridge = observed.links.get(names.tap), desired.links.get(names.bridge)
    if not isinstance(tap, ManagedTap) or not isinstance(bridge, Bridge) or names.tap in desired.links:
        return desired
    mtu = min(bridge.mtu, MAX_TAP_MTU)
    return desired.with_parts(replace(tap, mtu=mtu, up=True, master=bridge.name, group=0, **ISOLATING[ManagedTap]))


def _with_existing_mtu_request(observed: HostState, desired: HostState) -> HostState:
    """Return the desired state with the existing MTU requests, if they equal the desired MTU.

    A new request is never written for a device. os-vif and Neutron do not use requests, and could not change the MTU
    afterwards.
    """
    for name, wanted in desired.ports.items():
        found, veth = observed.ports.get(name), desired.links.get(names_of_device(name).bridge_end)
        if type(found) is type(wanted) is OvsPort and isinstance(veth, Veth) and found.mtu_request == veth.peer_mtu:
            desired = desired.with_parts(replace(wanted, mtu_request=found.mtu_request))
    return desired


def goal_for(observed: HostState, desired: HostState, names: PortNames, *, stays_native: bool = False) -> HostState:
    """Return the goal of a plug on this host: the desired state, and the existing parts that may stay.

    stays_native: a converted port stays one, because a VM runs on it.
    """
    native = native_row(observed)
    if stays_native and native is not None and names.switch_end in desired.ports:
        return as_native(desired, native.port_id, observed)
    return _with_existing_mtu_request(observed, with_existing_tap(observed, desired, names))


def _is_in_sync(state: HostState, wanted: Part) -> bool:
    # None agrees with any value, so the two need not be equal.
    found = state.get(wanted)
    return type(found) is type(wanted) and not differences(found, wanted)


class _Draft:
    """The steps of a plan under construction, and the host after them."""

    def __init__(self, state: HostState) -> None:
        self.state = state
        self.steps: list[Step] = []
        self.is_converting = native_row(state) is not None or is_converting(state)
        """True if the tap may be outside of its bridge because of a conversion."""

    def add(self, step: Step) -> None:
        self.state = simulate(self.state, step)
        self.steps.append(step)

    def create_or_update(self, wanted: Part) -> None:
        found = self.state.get(wanted)
        if found is None:
            self.add(Create(wanted))
        elif differences(found, wanted):
            self.add(Update(found, wanted))

    def convert(self, before: OvsPort, after: OvsPort) -> None:
        """Replace a row: mark it, take the tap out of its bridge, replace the row."""
        marked, names = replace(before, converting=CONVERTING), names_of_device(before.name)
        if before != marked:
            self.add(Update(before, marked))
        tap = self.state.links.get(names.tap)
        if isinstance(after, NativePort) and isinstance(tap, Tap | ManagedTap) and tap.master == names.bridge:
            self.add(Update(tap, replace(tap, master="")))
        self.add(Replace(marked, replace(after, converting=CONVERTING)))


def _check_not_foreign(part: Part) -> None:
    if isinstance(part, ForeignObject):
        remedy = f"ovs-vsctl del-port {part.name}" if part.role is OvsPort.role else f"ip link delete {part.name}"
        raise Conflict(f"{part.name} exists but is {part.what}; if nothing needs it, remove it: {remedy}")
    if isinstance(part, Veth | ManagedTap) and part.master not in ("", names_of_device(part.name).bridge):
        raise Conflict(
            f"{part.name} is in {part.master}, which is not its bridge; "
            f"if that is a mistake, take it out: ip link set {part.name} nomaster"
        )


def _clear_switch(draft: _Draft, desired: HostState) -> None:
    is_replaced_later = replacement(draft.state, desired) is not None
    for name, port in sorted(draft.state.ports.items()):
        wanted = desired.ports.get(name)
        if is_replaced_later and type(port) in (OvsPort, NativePort):
            continue
        if type(wanted) is not type(port):
            draft.add(Delete(port))
        elif isinstance(port, OvsPort) and isinstance(wanted, OvsPort):
            is_recreated = _has_device(desired, port) and not _has_device(draft.state, port)
            prepared = replace(port, mtu_request=0) if _must_clear_mtu_request(draft, desired, port, wanted) else port
            if _needs_placeholder(port, wanted, is_recreated):
                prepared = replace(prepared, type=PLACEHOLDER_TYPE, realized=False)
            if prepared != port:
                draft.add(Update(port, prepared))


def _must_clear_mtu_request(draft: _Draft, desired: HostState, port: OvsPort, wanted: OvsPort) -> bool:
    """Return True if the links change. ovs-vswitchd would set the old MTU again."""
    veth = desired.links.get(names_of_device(port.name).bridge_end)
    if not port.mtu_request or wanted.mtu_request != 0 or veth is None:
        return False
    return not _is_in_sync(draft.state, veth)


def _needs_placeholder(port: OvsPort, wanted: OvsPort, is_recreated: bool) -> bool:
    if isinstance(port, VhostUserPort) or PLACEHOLDER_TYPE in (port.type, wanted.type) or not wanted.realized:
        return False
    return is_recreated or not port.realized


def _has_device(state: HostState, port: OvsPort) -> bool:
    return any(isinstance(link, Veth) and link.peer == port.name for link in state.links.values())


def _delete_links(draft: _Draft, desired: HostState) -> None:
    # Members first: the deletion of a bridge removes each remaining member from it.
    for kind in (Veth, ManagedTap, Bridge):
        for name, link in draft.state.links.items():
            # A Tap in the goal of a rollback has the name of the managed tap, which is deleted.
            if isinstance(link, kind) and isinstance(desired.links.get(name), Tap | None):
                draft.add(Delete(link))


def _create_links(draft: _Draft, desired: HostState) -> None:
    wanted = sorted(desired.links.values(), key=lambda link: (not isinstance(link, Bridge), link.name))
    for link in wanted:
        if isinstance(link, Veth):
            _reattach_tap(draft, link)
        found = draft.state.links.get(link.name)
        if isinstance(found, ManagedTap) and link.name in draft.state.ports and link.name not in desired.ports:
            # The switch holds it until the row is replaced.
            continue
        if not isinstance(link, Tap) and not (isinstance(link, ManagedTap) and isinstance(found, Tap)):
            # A tap of libvirt is used unchanged.
            draft.create_or_update(link)


def _reattach_tap(draft: _Draft, veth: Veth) -> None:
    """Put a tap without a master into a recreated qbr. Otherwise a running VM would stay disconnected.

    libvirt cannot be at work on a bridge that did not exist. A qbr without qvb counts as recreated, so that the repair
    also works after a kill between the two steps.
    """
    found = draft.state.links.get(veth.name)
    tap = draft.state.links.get(names_of_device(veth.name).tap)
    in_place = isinstance(found, Veth) and found.master == veth.master and not draft.is_converting
    if isinstance(tap, Tap) and tap.name in draft.state.ports:
        return
    if isinstance(tap, Tap) and tap.master == "" and veth.master and not in_place:
        draft.add(Update(tap, replace(tap, master=veth.master)))


# -- conversion --------------------------------------------------------------------------------------------------------

# A native port has its tap in the switch itself, as libvirt plugs it for VIFOpenVSwitch of os-vif. The rows have other
# names, so one transaction replaces the row and carries everything over. Order:
#
# - The row is marked first. The mark survives an interruption: any later plan sees it, and completes or reconnects.
#   ovs-vswitchd has acknowledged the mark, so the VM leaves its path only while ovs-vswitchd works.
# - To native: the tap leaves qbr, then the row is replaced. The kernel's datapath takes no tap that is in a bridge.
# - To hybrid: qbr and the veth pair are complete, then the row is replaced, then the tap joins qbr.
# - The mark goes last, with the requested OpenFlow port number.

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
        *(_as(NativePort, row, names_of_device(row.name).tap, port_id) for row in rows),
        *(replace(tap, master="", bridge_port=None) for tap in taps),
    )


def as_hybrid(row: NativePort) -> OvsPort:
    """Return the row of a native port as that of a hybrid port, with our own key only if iface-id is another id."""
    port_id = "" if row.iface_id == row.port_id else row.port_id
    return _as(OvsPort, row, names_of_device(row.name).switch_end, port_id)


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


def _as(kind: type[R], row: OvsPort, name: str, port_id: str) -> R:
    values = {attribute: getattr(row, attribute) for attribute in attributes_of(OvsPort)}
    return kind(**values | {"name": name, "port_id": port_id, "realized": True, "mtu_request": 0, "converting": ""})


# -- ownership ---------------------------------------------------------------------------------------------------------

# Two ports can share their first 11 characters (40 bits), and so all names. Evidence, strongest first: the alias of a
# link, our own key external_ids:hybridvif-port-id, iface-id. Parts without evidence come from os-vif, Nova or a person.
# A plug adopts them if they fit.


def check_ownership(observed: HostState, port_id: str, interface_id: str = "") -> None:
    """Check that no observed part belongs to another port.

    interface_id: the iface-id that this port may have beside its own id. Raises NameCollision with both ids.
    """
    aliases = aliases_in(observed)
    for alias in sorted(aliases - {port_id}):
        raise _contradiction(observed, port_id) or _collision(port_id, alias, "the alias of its links")
    for row in observed.ports.values():
        # The aliases cover the row of the switch end. A vhost-user port has no links.
        if not isinstance(row, OvsPort) or (aliases and not isinstance(row, VhostUserPort)):
            continue
        if is_uuid(row.port_id):
            if row.port_id != port_id:
                raise _collision(port_id, row.port_id, "external_ids:hybridvif-port-id")
        elif is_uuid(row.iface_id) and row.iface_id not in (port_id, interface_id):
            raise _collision(port_id, row.iface_id, "external_ids:iface-id")


def aliases_in(state: HostState) -> set[str]:
    """Return the port ids in the aliases of the links, with those of foreign objects."""
    return {alias for _, alias in _aliased_devices(state)}


def _aliased_devices(state: HostState) -> list[tuple[str, str]]:
    """Return each device with a port id in its alias, and that id."""
    tags = [(link.name, link.alias) for link in state.links.values() if isinstance(link, ForeignObject)]
    for link in state.links.values():
        tags += zip((link.name, getattr(link, "peer", "")), ownership_tags(link), strict=False)
    return [(device, alias) for device, alias in tags if is_uuid(alias)]


def _contradiction(observed: HostState, port_id: str) -> NameCollision | None:
    """Return the error if the devices of one port name different ports; None if all name the same other port.

    An alias that does not match the name of its device is wrong in any case. Else most devices are right.
    """
    aliases = _aliased_devices(observed)
    rows = [(row.name, owner) for row in observed.ports.values() for owner in owners_of(row)]
    votes = [owner for _, owner in (*rows, *aliases) if owner[:KEY_LENGTH] == port_id[:KEY_LENGTH]]
    # If two ids have as many votes, that of the row comes first.
    owner = max(votes, key=votes.count, default=port_id)
    wrong = [device for device, alias in aliases if alias != owner]
    if not wrong:
        return None
    evidence = [f"the row {name} names {other}" for name, other in rows]
    evidence = [f"{device} has the alias {alias}" for device, alias in aliases] + evidence
    return NameCollision(
        f"port {port_id}: its devices contradict each other about their port: {', '.join(evidence)}; if they are "
        f"devices of port {owner}, run: {' && '.join(f'ip link set {device} alias {owner}' for device in wrong)}"
    )


def _collision(port_id: str, other: str, evidence: str) -> NameCollision:
    return NameCollision(
        f"port {port_id} shares its first 11 characters, and so its device names, with port {other}, "
        f"which is plugged here ({evidence}); unplug that port first, or give one of them another id"
    )


# -- the target of a rollback ------------------------------------------------------------------------------------------


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
        wanted, found = (state.get(part) for state in (desired, current))
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
    if native and current is not NOTHING and native.name not in current.ports and not replacement(current, target):
        # A native row only replaces the row of a hybrid port. It is never created.
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
