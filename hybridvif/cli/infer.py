"""A port of which only some fields were given: the rest is taken from what is plugged, and so cannot be judged.

What the parts of a port contradict each other about is not known: a value that plug would not choose must not be
announced as if it would. Of the MTU most devices decide.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from hybridvif.cli.port_request import PLACEHOLDERS, PortRequest
from hybridvif.model.desired import tap_mac_of
from hybridvif.model.names import PortNames, is_trunk_bridge, is_uuid, names_of
from hybridvif.model.parts import (
    VHOST_USER_TYPES,
    Bridge,
    HostState,
    IvsPort,
    ManagedTap,
    OvsPort,
    SwitchPort,
    Tap,
    Veth,
    VhostUserPort,
)
from hybridvif.model.port import MAX_MTU, MAX_TAP_MTU, MIN_MTU, Port, VifType, is_bridge_name, is_mac
from hybridvif.model.steps import owners_of

OF_LINKS = ("call_iptables", "create_tap")
"""The fields of which a vhost-user port has none."""
VHOST_USER_MODES = {kind: mode for mode, kind in VHOST_USER_TYPES.items()}
OPEN_FIELDS = ("mac", "instance_id", "interface_id", "bridge", "mtu")
"""The fields that a plugged port can tell."""
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "mac": ("attached_mac", "made-tap mac"),
    "instance_id": ("vm_uuid",),
    "interface_id": ("iface_id", "port_id"),
    "bridge": ("bridge", "bridge_name"),
    "mtu": ("mtu", "peer_mtu", "mtu_request"),
    "id": ("alias", "peer_alias", "iface_id", "port_id"),
}
"""What a field decides, by field: the attributes whose right value is unknown if the field is."""
_NO_MACS = ("02:00:00:00:00:00", "02:00:00:00:00:01", "02:00:00:00:00:02")
"""Legal MAC addresses, for a port whose row and tap contradict each other."""
_NO_MTU = 68
"""A legal MTU, for a port whose MTU nothing tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferredPort:
    """A port, its gaps filled."""

    port: Port
    left_out: tuple[str, ...] = ()
    """The fields that were taken from the plugged port, and so are not judged."""
    unjudged: tuple[str, ...] = ()
    """The fields that nothing tells, if any was left out: the plan is for a port without them."""
    unknown: tuple[str, ...] = ()
    """Those of left_out that it could not tell; the Port has a placeholder."""
    doubtful: tuple[str, ...] = ()
    """Attributes of its row that contradict each other: one of them at least is wrong, and nothing tells which."""

    @property
    def unknown_attributes(self) -> frozenset[str]:
        """The attributes whose right value is not known."""
        return frozenset(name for field in self.unknown for name in ATTRIBUTES[field])


def infer_port(
    request: PortRequest, state: HostState, configured: Collection[str] = (), bridges: Sequence[str] | None = None
) -> InferredPort:
    """The port that was asked for, what was left out taken from the parts that are there.

    configured: the fields that the host's configuration decides. bridges: those that ports may be plugged into here,
    None if that does not matter.
    """
    values, doubts = values_from(request.port_id, state)
    if any(request.fields.get(name) for name in OF_LINKS):
        # It is asked for as a hybrid one, whatever is there.
        values.pop("vhostuser_mode", None)
    if "vhostuser_mode" in request.fields or all(name in request.fields for name in OPEN_FIELDS):
        values.pop("create_tap", None)
    if bridges and request.with_defaults({**PLACEHOLDERS, **values}).bridge not in bridges:
        # A plug into that bridge is refused, so the port was plugged into another one.
        values["bridge"] = bridges[0]
        doubts["bridge"] = ("bridge",)
    left_out = tuple(name for name in OPEN_FIELDS if name not in request.fields)
    left_out += tuple(
        name for name in ("vhostuser_mode", "create_tap") if values.get(name) and name not in request.fields
    )
    given = {*request.fields, *left_out, *configured}
    unknown = tuple(name for name in left_out if name in doubts or (name in PLACEHOLDERS and name not in values))
    return InferredPort(
        port=request.with_defaults({**PLACEHOLDERS, **values}),
        left_out=left_out,
        unjudged=tuple(
            name for name in OF_LINKS if left_out and not values.get("vhostuser_mode") and name not in given
        ),
        unknown=unknown,
        doubtful=tuple(name for field in unknown for name in doubts.get(field, ())),
    )


def values_from(port_id: str, state: HostState) -> tuple[dict[str, object], dict[str, tuple[str, ...]]]:
    """Return the fields that the parts of a port tell, as far as they are legal, and those that they contradict.

    Of the latter: the attributes of the row that are doubtful, by field. Their values are placeholders.
    """
    names = names_of(port_id)
    row = row_of(state, names)
    values: dict[str, object] = {}
    doubts: dict[str, tuple[str, ...]] = {}
    _infer_mtu(values, doubts, state, names)
    if isinstance(row, IvsPort):
        values["vif_type"] = VifType.IVS
    if isinstance(row, OvsPort):
        _infer_row(values, row)
        _infer_bridge(values, doubts, row)
        _infer_interface_id(values, doubts, row, port_id, state)
    tap = state.links.get(names.tap)
    if isinstance(tap, ManagedTap) and not isinstance(row, VhostUserPort) and values.get("mtu", 0) <= MAX_TAP_MTU:  # type: ignore[operator]
        values["create_tap"] = True
        if "mac" in values and tap.mac != tap_mac_of(str(values["mac"]).lower()):
            values["mac"] = next(mac for mac in _NO_MACS if mac != values["mac"] and tap_mac_of(mac) != tap.mac)
            doubts["mac"] = ()
    return values, doubts


def _infer_mtu(
    values: dict[str, object], doubts: dict[str, tuple[str, ...]], state: HostState, names: PortNames
) -> None:
    """Tell the MTU that most devices of the chain have, or the row of a vhost-user port requests."""
    bridge, veth, row = (state.links.get(names.bridge), state.links.get(names.bridge_end), row_of(state, names))
    found: list[int | None] = [bridge.mtu] if isinstance(bridge, Bridge) else []
    found += [veth.mtu, veth.peer_mtu] if isinstance(veth, Veth) else []
    if isinstance(row, VhostUserPort):
        found = [row.mtu_request]
    mtus = [mtu for mtu in found if mtu is not None]
    most = [mtu for mtu in set(mtus) if mtus.count(mtu) * 2 > len(mtus) and MIN_MTU <= mtu <= MAX_MTU]
    if most:
        values["mtu"] = most[0]
    elif mtus:
        values["mtu"] = next(mtu for mtu in range(_NO_MTU, MAX_MTU) if mtu not in mtus)
        doubts["mtu"] = ()


def _infer_row(values: dict[str, object], row: OvsPort) -> None:
    if isinstance(row, VhostUserPort):
        values["vhostuser_mode"] = VHOST_USER_MODES.get(row.type, "")
    if is_mac(row.attached_mac.lower()):
        values["mac"] = row.attached_mac
    if is_uuid(row.vm_uuid):
        values["instance_id"] = row.vm_uuid


def _infer_bridge(values: dict[str, object], doubts: dict[str, tuple[str, ...]], row: OvsPort) -> None:
    """Tell the bridge, unless bridge_name says that the row belongs to another one, or to none of trunks."""
    if not is_bridge_name(row.bridge):
        doubts["bridge"] = ("bridge",)
        return
    values["bridge"] = row.bridge
    wanted = row.bridge if is_trunk_bridge(row.bridge) else ""
    if row.bridge_name != wanted and (row.bridge_name == "" or is_trunk_bridge(row.bridge_name)):
        doubts["bridge"] = ("bridge", "bridge_name")


def _infer_interface_id(
    values: dict[str, object], doubts: dict[str, tuple[str, ...]], row: OvsPort, port_id: str, state: HostState
) -> None:
    """Tell the interface id, where iface-id and our key agree: the key is there if and only if they differ.

    Another iface-id is this port's only if something else says that the row is: else it is another port's row.
    """
    owners = {owner for link in state.links.values() for owner in owners_of(link)} | {row.port_id}
    keyed, differs = row.port_id == port_id, row.iface_id != port_id
    if is_uuid(row.iface_id) and differs == keyed:
        values |= {"interface_id": row.iface_id} if differs else {}
    elif port_id in owners and (keyed or is_uuid(row.iface_id)):
        values["interface_id"] = PLACEHOLDERS["instance_id"]
        doubts["interface_id"] = ("iface_id", "port_id") if is_uuid(row.iface_id) else ("iface_id",)


def row_of(state: HostState, names: PortNames) -> SwitchPort | None:
    """The row of a port: that of its switch end, else the one of a vhost-user port."""
    return state.ports.get(names.switch_end) or state.ports.get(names.vhost_user)


def is_there(state: HostState, names: PortNames) -> bool:
    """Whether anything of the port is there; a tap that is the VM's alone does not count."""
    return any(part.name in names and not isinstance(part, Tap) for part in state)
