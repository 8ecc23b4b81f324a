"""What is plugged on a host, port by port, each judged by the wiring that it itself asks for.

What a port should be is read from its own row (ids, MAC, instance, bridge) and from qvo (MTU), as by `hybridvif check
PORT`; so a value that is wrong everywhere is not seen here, and `check` with all options is the stricter judge.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hybridvif.cli.infer import InferredPort, infer_port, is_there, row_of
from hybridvif.cli.output.changes import Change, changes_of_plan
from hybridvif.cli.port_request import PortRequest
from hybridvif.cli.ports import options_of
from hybridvif.engine.preconditions import check_tap_is_not_in_switch
from hybridvif.model.desired import desired_state
from hybridvif.model.errors import Refused
from hybridvif.model.facts import Facts, LinkFact, Observed, PortFact
from hybridvif.model.names import KEY_LENGTH, PortNames, is_uuid, key_of, names_of_key
from hybridvif.model.orphans import find_orphans, states_of_ports
from hybridvif.model.ownership import check_ownership
from hybridvif.model.parts import Bridge, ForeignObject, HostState, IvsPort, OvsPort, Veth, VhostUserPort
from hybridvif.model.planner import goal_for, plan
from hybridvif.model.port import Port, VifType
from hybridvif.model.steps import owners_of

_NOBODY = "00-0000-0000-000000000000"
"""Completes the 11 characters of a name where nothing tells the port's id."""


class Standing(enum.Enum):
    """How it stands with a plugged port."""

    IN_ORDER = "in-order"
    DRIFT = "drift"
    """Whole, but not as it should be."""
    HALF = "half"
    """Its bridge, its veth pair or its row is missing."""
    ORPHAN = "orphan"
    """Half, ours and without a VM: what gc takes, once it has been so for some time."""
    CONFLICT = "conflict"
    """Something foreign is in the way, or two ports claim it: plug refuses."""


@dataclass(frozen=True, kw_only=True)
class Plugged:
    """One port as it is on a host."""

    names: PortNames
    state: HostState
    facts: Facts
    inferred: InferredPort
    standing: Standing
    changes: tuple[Change, ...] = ()
    """What plug would change."""
    conflict: str = ""
    """Why plug would refuse."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is no drift of its own, and yet to be known."""
        return warnings_of(self.inferred.port, self.facts) if self.port_id else ()

    @property
    def key(self) -> str:
        """The 11 characters that name its devices."""
        return str(key_of(self.names.bridge))

    @property
    def port_id(self) -> str | None:
        """Its id; None if nothing tells it."""
        return None if "id" in self.inferred.unknown else self.inferred.port.id

    @property
    def bridge(self) -> Bridge | None:
        """Its Linux bridge."""
        found = self.state.links.get(self.names.bridge)
        return found if isinstance(found, Bridge) else None

    @property
    def veth(self) -> Veth | None:
        """Its veth pair."""
        found = self.state.links.get(self.names.bridge_end)
        return found if isinstance(found, Veth) else None

    @property
    def row(self) -> OvsPort | None:
        """Its rows in OVSDB."""
        found = row_of(self.state, self.names)
        return found if isinstance(found, OvsPort) else None

    @property
    def is_vhost_user(self) -> bool:
        """Whether it is a vhost-user port, which has no links."""
        return isinstance(self.row, VhostUserPort)

    @property
    def switch_name(self) -> str:
        """The name of its port in the switch."""
        return self.names.vhost_user if self.is_vhost_user else self.names.switch_end

    @property
    def mtu(self) -> int | None:
        """Its MTU; None where nothing tells it."""
        if isinstance(self.row, VhostUserPort):
            return self.row.mtu_request or None
        return self.veth.peer_mtu if self.veth else None

    @property
    def fact(self) -> PortFact:
        """What the switch says of it."""
        return self.facts.ports.get(self.switch_name, PortFact())

    @property
    def members(self) -> tuple[str, ...]:
        """What is in its Linux bridge beside qvb."""
        held = self.facts.members.get(self.names.bridge, ())
        return tuple(name for name in held if name != self.names.bridge_end)

    def link(self, name: str) -> LinkFact | None:
        """What the kernel says of a device."""
        return self.facts.links.get(name)


def plugged_ports(seen: Observed) -> list[Plugged]:
    """The ports of which anything is there, by name."""
    orphans = {orphan.port_id[:KEY_LENGTH] for orphan in find_orphans(seen, ()) if orphan.is_tagged}
    return [
        _judged(key, names_of_key(key), state, seen.facts, key in orphans)
        for key, state in states_of_ports(seen.state).items()
        if is_there(state, names_of_key(key))
    ]


def _judged(key: str, names: PortNames, state: HostState, facts: Facts, is_orphan: bool) -> Plugged:
    port_id = _id_of(key, state)
    kind = VifType.IVS if isinstance(state.ports.get(names.switch_end), IvsPort) else VifType.OVS
    found = infer_port(PortRequest(fields={"id": port_id or key + _NOBODY, "vif_type": kind}), state)
    if port_id is None:
        found = replace(found, unknown=("id", *found.unknown))
    conflict = ""
    changes: tuple[Change, ...] = ()
    try:
        check_ownership(state, found.port.id, found.port.iface_id)
        check_tap_is_not_in_switch(found.port.id, names, facts)
        changes = changes_of_plan(plan(state, goal_for(state, desired_state(found.port), names)))
    except Refused as error:
        conflict = str(error) if port_id is not None else _unnamed(state) or str(error)
    return Plugged(
        names=names,
        state=state,
        facts=facts,
        inferred=found,
        standing=Standing.ORPHAN if is_orphan and not conflict else _standing_of(state, names, changes, conflict),
        changes=changes,
        conflict=conflict,
    )


def _unnamed(state: HostState) -> str:
    """What keeps a row without any mark of ours from telling whose it is: an iface-id of its own; empty if nothing."""
    rows = [row for row in state.ports.values() if isinstance(row, OvsPort) and not is_uuid(row.port_id)]
    if any(owners_of(link) for link in state.links.values()) or not any(is_uuid(row.iface_id) for row in rows):
        return ""
    return (
        f"its row has the iface-id {rows[0].iface_id}, for which its devices are not named, so nothing tells its port "
        "id; plug it with all its options, --interface-id among them"
    )


def _standing_of(state: HostState, names: PortNames, changes: tuple[Change, ...], conflict: str) -> Standing:
    if conflict:
        return Standing.CONFLICT
    links = names.bridge in state.links and names.bridge_end in state.links
    whole = (links and names.switch_end in state.ports) or isinstance(row_of(state, names), VhostUserPort)
    if not whole:
        return Standing.HALF
    return Standing.DRIFT if changes else Standing.IN_ORDER


def _id_of(key: str, state: HostState) -> str | None:
    """The id of the port, from the evidence that there is, the strongest first."""
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


def fix_of(port: Plugged, options: Sequence[str] = ()) -> list[str] | None:
    """The command that mends a port; None if it is in order, or only its conflict says what to do."""
    if port.standing in (Standing.IN_ORDER, Standing.CONFLICT):
        return None
    words = options_of(port.inferred.port, port.inferred.unknown)
    return ["hybridvif", *options, "plug", *(["PORT"] if port.port_id is None else words[:1]), *words[1:]]
