"""The plugged ports of a host, each compared with its desired state.

The fields of a port are inferred from its row (ids, MAC, instance, bridge) and its devices (MTU), as by
`hybridvif check PORT`. A value that is wrong everywhere is found only by `check` with all options.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hybridvif.cli.infer import InferredPort, infer_port, is_there, row_of
from hybridvif.cli.output.changes import Change, changes_of_plan
from hybridvif.cli.port_request import PortRequest
from hybridvif.cli.ports import options_of
from hybridvif.engine.goals import check_tap_is_not_in_switch
from hybridvif.model.desired import desired_state
from hybridvif.model.errors import Refused
from hybridvif.model.names import KEY_LENGTH, PortNames, is_uuid, key_of, names_of_key
from hybridvif.model.ownership import check_ownership, find_orphans, states_of_ports
from hybridvif.model.parts import Bridge, ForeignObject, IvsPort, OvsPort, Veth, VhostUserPort
from hybridvif.model.planner import goal_for, plan
from hybridvif.model.port import Port, VifType
from hybridvif.model.state import Facts, HostState, LinkFact, Observed, PortFact
from hybridvif.model.steps import owners_of

_ID_SUFFIX = "00-0000-0000-000000000000"
"""Completes the 11 characters of a device name to a UUID if the port id is unknown."""


class Condition(enum.Enum):
    """The state of a plugged port."""

    IN_ORDER = "in-order"
    DRIFT = "drift"
    """Complete, but some attributes differ from the desired state."""
    HALF = "half"
    """The bridge, the veth pair or the row is missing."""
    ORPHAN = "orphan"
    """Incomplete, with our ownership tag and without a VM. gc deletes it after some time."""
    CONFLICT = "conflict"
    """plug refuses: there is a foreign object, or two ports share the device names."""


@dataclass(frozen=True, kw_only=True)
class PluggedPort:
    """A port as observed on the host."""

    names: PortNames
    state: HostState
    facts: Facts
    inferred: InferredPort
    condition: Condition
    changes: tuple[Change, ...] = ()
    """The changes that plug would make."""
    conflict: str = ""
    """The reason of a refusal; "" if plug would not refuse."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about other rows with the same iface-id."""
        return warnings_of(self.inferred.port, self.facts) if self.port_id else ()

    @property
    def key(self) -> str:
        """The 11 characters of the port id in its device names."""
        return str(key_of(self.names.bridge))

    @property
    def port_id(self) -> str | None:
        """The port id; None if it is unknown."""
        return None if "id" in self.inferred.unknown else self.inferred.port.id

    @property
    def bridge(self) -> Bridge | None:
        """The Linux bridge."""
        found = self.state.links.get(self.names.bridge)
        return found if isinstance(found, Bridge) else None

    @property
    def veth(self) -> Veth | None:
        """The veth pair."""
        found = self.state.links.get(self.names.bridge_end)
        return found if isinstance(found, Veth) else None

    @property
    def row(self) -> OvsPort | None:
        """The rows in OVSDB."""
        found = row_of(self.state, self.names)
        return found if isinstance(found, OvsPort) else None

    @property
    def is_vhost_user(self) -> bool:
        """True for a vhost-user port, which has no links."""
        return isinstance(self.row, VhostUserPort)

    @property
    def switch_name(self) -> str:
        """The name of the port in the switch."""
        return self.names.vhost_user if self.is_vhost_user else self.names.switch_end

    @property
    def mtu(self) -> int | None:
        """The MTU; None if it is unknown."""
        if isinstance(self.row, VhostUserPort):
            return self.row.mtu_request or None
        return self.veth.peer_mtu if self.veth else None

    @property
    def fact(self) -> PortFact:
        """The facts about the port in the switch."""
        return self.facts.ports.get(self.switch_name, PortFact())

    @property
    def members(self) -> tuple[str, ...]:
        """The members of the Linux bridge, except qvb."""
        held = self.facts.members.get(self.names.bridge, ())
        return tuple(name for name in held if name != self.names.bridge_end)

    def link(self, name: str) -> LinkFact | None:
        """Return the facts about a device."""
        return self.facts.links.get(name)


def plugged_ports(seen: Observed) -> list[PluggedPort]:
    """Return the ports that have at least one part, ordered by name."""
    orphans = {orphan.port_id[:KEY_LENGTH] for orphan in find_orphans(seen, ()) if orphan.is_tagged}
    return [
        _plugged_port(key, names_of_key(key), state, seen.facts, key in orphans)
        for key, state in states_of_ports(seen.state).items()
        if is_there(state, names_of_key(key))
    ]


def _plugged_port(key: str, names: PortNames, state: HostState, facts: Facts, is_orphan: bool) -> PluggedPort:
    port_id = _id_of(key, state)
    kind = VifType.IVS if isinstance(state.ports.get(names.switch_end), IvsPort) else VifType.OVS
    found = infer_port(PortRequest(fields={"id": port_id or key + _ID_SUFFIX, "vif_type": kind}), state)
    if port_id is None:
        found = replace(found, unknown=("id", *found.unknown))
    conflict = ""
    changes: tuple[Change, ...] = ()
    try:
        check_ownership(state, found.port.id, found.port.iface_id)
        check_tap_is_not_in_switch(found.port.id, names, facts)
        changes = changes_of_plan(plan(state, goal_for(state, desired_state(found.port), names)))
    except Refused as error:
        conflict = str(error) if port_id is not None else _unknown_id_reason(state) or str(error)
    return PluggedPort(
        names=names,
        state=state,
        facts=facts,
        inferred=found,
        condition=Condition.ORPHAN if is_orphan and not conflict else _condition_of(state, names, changes, conflict),
        changes=changes,
        conflict=conflict,
    )


def _unknown_id_reason(state: HostState) -> str:
    """Return an explanation if the port id is unknown because the row has an own iface-id; else ""."""
    rows = [row for row in state.ports.values() if isinstance(row, OvsPort) and not is_uuid(row.port_id)]
    if any(owners_of(link) for link in state.links.values()) or not any(is_uuid(row.iface_id) for row in rows):
        return ""
    return (
        f"its row has the iface-id {rows[0].iface_id}, which does not match its device names, so its port id is "
        "unknown; plug it with all its options, including --interface-id"
    )


def _condition_of(state: HostState, names: PortNames, changes: tuple[Change, ...], conflict: str) -> Condition:
    if conflict:
        return Condition.CONFLICT
    links = names.bridge in state.links and names.bridge_end in state.links
    whole = (links and names.switch_end in state.ports) or isinstance(row_of(state, names), VhostUserPort)
    if not whole:
        return Condition.HALF
    return Condition.DRIFT if changes else Condition.IN_ORDER


def _id_of(key: str, state: HostState) -> str | None:
    """Return the port id from the strongest evidence; None if there is none."""
    marks = [mark for link in state.links.values() for mark in sorted(owners_of(link))]
    marks += [link.alias for link in state.links.values() if isinstance(link, ForeignObject)]
    for row in state.ports.values():
        if isinstance(row, OvsPort):
            marks += [row.port_id, row.iface_id]
    return next((mark for mark in marks if is_uuid(mark) and mark[:KEY_LENGTH] == key), None)


def warnings_of(port: Port, facts: Facts) -> tuple[str, ...]:
    """Return a sentence about the other rows of Open vSwitch that bear the iface-id of a port.

    facts: of an observation of all names.
    """
    own = {port.names.switch_end, port.names.vhost_user}
    others = [name for name in facts.bearers.get(port.iface_id, ()) if name not in own]
    if not others:
        return ()
    sentence = (
        f"port {port.id}: its iface-id {port.iface_id} is also in {', '.join(others)} of Open vSwitch, and Neutron's "
        f"agent expects it in one row; remove the row that is not the port's: ovs-vsctl del-port {others[0]}"
    )
    return (sentence,)


def fix_of(port: PluggedPort, options: Sequence[str] = ()) -> list[str] | None:
    """Return the command that fixes a port; None if it is in order or in conflict."""
    if port.condition in (Condition.IN_ORDER, Condition.CONFLICT):
        return None
    words = options_of(port.inferred.port, port.inferred.unknown)
    return ["hybridvif", *options, "plug", *(["PORT"] if port.port_id is None else words[:1]), *words[1:]]
