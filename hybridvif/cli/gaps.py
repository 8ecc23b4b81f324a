"""A port of which only some fields were given: the rest is taken from what is plugged, and so cannot be judged."""

from __future__ import annotations

from dataclasses import dataclass

from hybridvif.cli.ports import PLACEHOLDERS, Asked
from hybridvif.names import PortNames, is_uuid, names_of
from hybridvif.parts import VHOST_USER_TYPES, HostState, OvsPort, SwitchPort, Tap, Veth, VhostUserPort
from hybridvif.port import MAX_MTU, MIN_MTU, Port, is_bridge_name, is_mac
from hybridvif.steps import owners_of

OF_LINKS = ("call_iptables", "create_tap")
"""The fields of which a vhost-user port has none."""
VHOST_USER_MODES = {kind: mode for mode, kind in VHOST_USER_TYPES.items()}
OPEN_FIELDS = ("mac", "instance_id", "interface_id", "bridge", "mtu")
"""The fields that a plugged port can tell."""
ATTRIBUTES = {
    "mac": ("attached_mac",),
    "instance_id": ("vm_uuid",),
    "id": ("alias", "peer_alias", "iface_id", "port_id"),
}
"""What a field decides, by field: the attributes whose right value is unknown if the field is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """A port, its gaps filled."""

    port: Port
    left_out: tuple[str, ...] = ()
    """The fields that were taken from the plugged port, and so are not judged."""
    unknown: tuple[str, ...] = ()
    """Those of them that it could not tell; the Port has a placeholder."""

    @property
    def unknown_attributes(self) -> frozenset[str]:
        """The attributes whose right value is not known."""
        return frozenset(name for field in self.unknown for name in ATTRIBUTES[field])


def filled(asked: Asked, state: HostState) -> Filled:
    """The port that was asked for, what was left out taken from the parts that are there."""
    told = told_by(asked.port_id, state)
    if any(asked.fields.get(name) for name in OF_LINKS):
        # It is asked for as a hybrid one, whatever is there.
        told.pop("vhostuser_mode", None)
    left_out = tuple(name for name in OPEN_FIELDS if name not in asked.fields)
    return Filled(
        port=asked.having({**PLACEHOLDERS, **told}),
        left_out=left_out,
        unknown=tuple(name for name in left_out if name in PLACEHOLDERS and name not in told),
    )


def told_by(port_id: str, state: HostState) -> dict[str, object]:
    """The fields that the parts of a port tell, as far as they are legal."""
    told: dict[str, object] = {}
    names = names_of(port_id)
    row, veth = row_of(state, names), state.links.get(names.bridge_end)
    if isinstance(veth, Veth) and MIN_MTU <= veth.peer_mtu <= MAX_MTU:
        told["mtu"] = veth.peer_mtu
    if not isinstance(row, OvsPort):
        return told
    if is_bridge_name(row.bridge):
        told["bridge"] = row.bridge
    if isinstance(row, VhostUserPort):
        told["vhostuser_mode"] = VHOST_USER_MODES.get(row.type, "")
        if row.mtu and MIN_MTU <= row.mtu <= MAX_MTU:
            told["mtu"] = row.mtu
    if is_mac(row.attached_mac.lower()):
        told["mac"] = row.attached_mac
    if is_uuid(row.vm_uuid):
        told["instance_id"] = row.vm_uuid
    # Another iface-id is this port's only if something else says that the row is: else it is another port's row.
    owners = {owner for link in state.links.values() for owner in owners_of(link)} | {row.port_id}
    if is_uuid(row.iface_id) and row.iface_id != port_id and port_id in owners:
        told["interface_id"] = row.iface_id
    return told


def row_of(state: HostState, names: PortNames) -> SwitchPort | None:
    """The row of a port: that of its switch end, else the one of a vhost-user port."""
    return state.ports.get(names.switch_end) or state.ports.get(names.vhost_user)


def is_there(state: HostState, names: PortNames) -> bool:
    """Whether anything of the port is there; a tap that is the VM's alone does not count."""
    return any(part.name in names and not isinstance(part, Tap) for part in state)
