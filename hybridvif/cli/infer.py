"""Infer the missing fields of a port from its plugged devices and rows.

An inferred field cannot be checked for drift. A field is unknown if the parts of the port contradict each other,
because plug might choose another value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from hybridvif.cli.ports import PLACEHOLDERS, PortRequest, options_in_words
from hybridvif.model.names import (
    MAX_MTU,
    MAX_TAP_MTU,
    MIN_MTU,
    PortNames,
    is_bridge_name,
    is_mac,
    is_trunk_bridge,
    is_uuid,
    names_of,
)
from hybridvif.model.parts import (
    VHOST_USER_TYPES,
    Bridge,
    IvsPort,
    ManagedTap,
    NativePort,
    OvsPort,
    SwitchPort,
    Tap,
    Veth,
    VhostUserPort,
)
from hybridvif.model.planner import native_row
from hybridvif.model.port import Port, VifType, tap_mac_of
from hybridvif.model.state import HostState, Observed, owners_of

LINK_FIELDS = ("call_iptables", "create_tap")
"""Fields that a vhost-user port does not have."""
VHOST_USER_MODES = {kind: mode for mode, kind in VHOST_USER_TYPES.items()}
INFERABLE_FIELDS = ("mac", "instance_id", "interface_id", "bridge", "mtu")
"""Fields that can be inferred."""
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "mac": ("attached_mac", "made-tap mac"),
    "instance_id": ("vm_uuid",),
    "interface_id": ("iface_id", "port_id"),
    "bridge": ("bridge", "bridge_name"),
    "mtu": ("mtu", "peer_mtu", "mtu_request"),
    "id": ("alias", "peer_alias", "iface_id", "port_id"),
}
"""The attributes that depend on each field. Their desired value is unknown if the field is unknown."""
_PLACEHOLDER_MACS = ("02:00:00:00:00:00", "02:00:00:00:00:01", "02:00:00:00:00:02")
"""Placeholders for the MAC of a port whose row and tap contradict each other."""


Values = dict[str, object]
"""The value of each field that can be inferred. An unknown field has a placeholder."""
Doubts = dict[str, tuple[str, ...]]
"""The unknown fields, with the attributes of the row that contradict each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferredPort:
    """A port with inferred fields."""

    port: Port
    left_out: tuple[str, ...] = ()
    """The inferred fields. They are not checked."""
    not_inferable: tuple[str, ...] = ()
    """Fields that cannot be inferred at all. The plan is for a port without them."""
    unknown: tuple[str, ...] = ()
    """The fields of left_out that could not be inferred. The Port has a placeholder for each."""
    doubtful: tuple[str, ...] = ()
    """Attributes of the row that contradict each other. At least one of them is wrong."""

    @property
    def unknown_attributes(self) -> frozenset[str]:
        """The attributes whose desired value is unknown."""
        return frozenset(name for field in self.unknown for name in ATTRIBUTES[field])

    @property
    def unknown_text(self) -> str:
        """A sentence about the unknown fields: "its mac and mtu cannot be inferred"."""
        return f"its {' and '.join(self.unknown)} cannot be inferred"

    @property
    def hint(self) -> str:
        """The same sentence, with the options to give."""
        return f"{self.unknown_text}; give {options_in_words(self.unknown)}"


def infer_port(
    request: PortRequest, state: HostState, configured: Collection[str] = (), bridges: Sequence[str] | None = None
) -> InferredPort:
    """Create the requested port, with missing fields inferred from the existing parts.

    configured: the fields set by the configuration of the host. bridges: the allowed integration bridges of this host;
    None: any.
    """
    if request.where and not request.missing:
        # An entry of a file is complete. plug takes the defaults for the rest.
        return InferredPort(port=request.to_port())
    values, doubts = values_from(request.port_id, state)
    if any(request.fields.get(name) for name in LINK_FIELDS):
        # These options request a hybrid port.
        values.pop("vhostuser_mode", None)
    if "vhostuser_mode" in request.fields or all(name in request.fields for name in INFERABLE_FIELDS):
        values.pop("create_tap", None)
    if bridges and request.with_defaults({**PLACEHOLDERS, **values}).bridge not in bridges:
        # plug refuses that bridge, so the port was plugged into another one.
        values["bridge"] = bridges[0]
        doubts["bridge"] = ("bridge",)
    kinds = [name for name in ("vhostuser_mode", "create_tap") if values.get(name)]
    left_out = tuple(name for name in (*INFERABLE_FIELDS, *kinds) if name not in request.fields)
    given = {*request.fields, *left_out, *configured}
    unknown = tuple(name for name in left_out if name in doubts or (name in PLACEHOLDERS and name not in values))
    return InferredPort(
        port=request.with_defaults({**PLACEHOLDERS, **values}),
        left_out=left_out,
        not_inferable=tuple(
            name for name in LINK_FIELDS if left_out and not values.get("vhostuser_mode") and name not in given
        ),
        unknown=unknown,
        doubtful=tuple(name for field in unknown for name in doubts.get(field, ())),
    )


def values_from(port_id: str, state: HostState) -> tuple[Values, Doubts]:
    """Return the values and the doubts. Invalid values are left out."""
    names = names_of(port_id)
    row, tap = row_of(state, names), state.links.get(names.tap)
    values: Values = {}
    doubts: Doubts = {}
    _infer_mtu(values, doubts, state, names)
    if isinstance(row, IvsPort):
        values["vif_type"] = VifType.IVS
    if isinstance(row, VhostUserPort):
        values["vhostuser_mode"] = VHOST_USER_MODES.get(row.type, "")
    if isinstance(row, OvsPort):
        if is_mac(row.attached_mac.lower()):
            values["mac"] = row.attached_mac
        if is_uuid(row.vm_uuid):
            values["instance_id"] = row.vm_uuid
        _infer_bridge(values, doubts, row)
        _infer_interface_id(values, doubts, row, port_id, state)
    if isinstance(tap, ManagedTap) and not isinstance(row, VhostUserPort) and values.get("mtu", 0) <= MAX_TAP_MTU:  # type: ignore[operator]
        values["create_tap"] = True
        if "mac" in values and tap.mac != tap_mac_of(str(values["mac"]).lower()):
            others = (mac for mac in _PLACEHOLDER_MACS if mac != values["mac"] and tap_mac_of(mac) != tap.mac)
            values["mac"], doubts["mac"] = next(others), ()
    return values, doubts


def _infer_mtu(values: Values, doubts: Doubts, state: HostState, names: PortNames) -> None:
    """Infer the MTU on which qbr, qvb and qvo agree, or the MTU requested by the row of a vhost-user port.

    Without its veth pair, a bridge is no evidence: the kernel resets the MTU of an empty one, and lowers that of a
    bridge without an explicit MTU to the MTU of its lowest member.
    """
    bridge, veth, row = state.links.get(names.bridge), state.links.get(names.bridge_end), row_of(state, names)
    is_running_natively = isinstance(row, NativePort) and names.tap in state.links
    if not is_there(state, names) or is_running_natively:
        # plug creates the port with the default, or leaves its devices as they are.
        return
    mtus = {bridge.mtu} if isinstance(bridge, Bridge) else set()
    mtus |= {veth.mtu, veth.peer_mtu} if isinstance(veth, Veth) else set()
    is_evidence = isinstance(veth, Veth)
    if isinstance(row, VhostUserPort):
        if row.mtu_request is None:
            return
        mtus, is_evidence = {row.mtu_request}, True
    if is_evidence and len(mtus) == 1 and MIN_MTU <= min(mtus) <= MAX_MTU:
        values["mtu"] = min(mtus)
    else:
        values["mtu"], doubts["mtu"] = next(mtu for mtu in range(MIN_MTU, MAX_MTU) if mtu not in mtus), ()


def _infer_bridge(values: Values, doubts: Doubts, row: OvsPort) -> None:
    """Infer the bridge. It is doubtful if bridge_name contradicts it, as for trunk bridges."""
    if not is_bridge_name(row.bridge):
        doubts["bridge"] = ("bridge",)
        return
    values["bridge"] = row.bridge
    wanted = row.bridge if is_trunk_bridge(row.bridge) else ""
    if row.bridge_name != wanted and (row.bridge_name == "" or is_trunk_bridge(row.bridge_name)):
        doubts["bridge"] = ("bridge", "bridge_name")


def _infer_interface_id(values: Values, doubts: Doubts, row: OvsPort, port_id: str, state: HostState) -> None:
    """Infer the interface id from iface-id.

    The row has our key hybridvif-port-id if and only if the interface id differs from the port id. A different iface-id
    counts only if something else assigns the row to this port.
    """
    owners = {owner for link in state.links.values() for owner in owners_of(link)} | {row.port_id}
    differs = row.iface_id != port_id
    # A converted row always has the key.
    keyed = differs if isinstance(row, NativePort) else row.port_id == port_id
    if is_uuid(row.iface_id) and differs == keyed:
        values |= {"interface_id": row.iface_id} if differs else {}
    elif port_id in owners and (keyed or is_uuid(row.iface_id)):
        values["interface_id"] = PLACEHOLDERS["instance_id"]
        doubts["interface_id"] = ("iface_id", "port_id") if is_uuid(row.iface_id) else ("iface_id",)


def row_of(state: HostState, names: PortNames) -> SwitchPort | None:
    """Return the switch port: that of the switch end, that of a vhost-user port, or the tap of a converted port."""
    return state.ports.get(names.switch_end) or state.ports.get(names.vhost_user) or native_row(state)


def state_of_port(request: PortRequest, seen: Observed) -> HostState:
    """Return the state of one port. Raises InvalidInput if it does not exist and a required field is missing."""
    names = names_of(request.port_id)
    state = seen.state.of(names)
    if request.missing and not is_there(state, names):
        raise request.missing_error(request.missing, "is not plugged here, so omitted fields cannot be inferred")
    return state


def is_there(state: HostState, names: PortNames) -> bool:
    """Return True if any part of the port exists. The tap of a VM does not count."""
    return any(part.name in names and not isinstance(part, Tap) for part in state)
