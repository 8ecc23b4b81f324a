"""Rows of OVSDB, read by any executor -> parts and facts; and how a part is encoded in a row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridvif.executors.base import NOT_ACKNOWLEDGED, NOT_REALIZED, StepFailed
from hybridvif.executors.netlink.packet_sockets import held_devices
from hybridvif.model.errors import BridgeMissing, shown
from hybridvif.model.names import is_uuid, key_of, names_of_key
from hybridvif.model.parts import (
    DEAD_VLAN,
    PLACEHOLDER_TYPE,
    VHOST_USER_TYPES,
    ForeignPort,
    OvsPort,
    SwitchPort,
    VhostUserPort,
)
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import SOCKET_DIR
from hybridvif.model.state import Facts, HostState, Observed, PortFact, bearers_of
from hybridvif.model.steps import Delete, Step

IDS = {
    "iface_id": "iface-id",
    "iface_status": "iface-status",
    "attached_mac": "attached-mac",
    "vm_uuid": "vm-uuid",
    "port_id": "hybridvif-port-id",
    "bridge_name": "bridge_name",
}
"""Keys of Interface.external_ids that hybridvif owns, by attribute of OvsPort."""
OPTIONS: Mapping[str, Mapping[str, str]] = {"": {}, PLACEHOLDER_TYPE: {"peer": "nobody"}}
"""Interface.options of a row named qvo, by type. A patch port needs a peer; this one never exists."""
SOCKET = "vhost-server-path"
"""The key of Interface.options of a vhu row that hybridvif owns; the others, such as tx-retries-max, are not ours."""
ISOLATION: Mapping[str, str | int] = {"tag": DEAD_VLAN, "vlan_mode": "trunk", "trunks": DEAD_VLAN}
"""Columns of a Port created in the dead VLAN, as Neutron's agent sets them for a port that is not wired yet."""
PLACEHOLDER_ERROR = "No usable peer"
"""Error of ovs-vswitchd about a patch port. On a system device, it is left over from the placeholder."""
UNKNOWN_TYPE = "Address family not supported"
"""EAFNOSUPPORT: Interface.error of a type unknown to ovs-vswitchd (lib/netdev.c, netdev_open)."""
USERSPACE = frozenset({"netdev", "dummy"})
"""Datapath types in which ovs-vswitchd reads a system device through a packet socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An Interface with one of our names, and what is needed of its Port and its Bridge."""

    name: str
    bridge: str | None
    """The bridge of a Port of this name with only this Interface; None if there is no such Port."""
    type: str
    external_ids: Mapping[str, str]
    ofport: int | None
    error: str
    tag: int | None
    options: Mapping[str, str] = field(default_factory=dict)
    mtu_request: int | None = None
    """0 if unset; None if there is no such column (it came with Open vSwitch 2.6)."""

    @property
    def error_now(self) -> str:
        """Return the error of ovs-vswitchd about the row as it is now; "" if none.

        The error of the placeholder may stay after the row is a system device again (OVS 3.1). It is ignored once the
        device has a port number, since packets pass then.
        """
        return (
            ""
            if self.type != PLACEHOLDER_TYPE and PLACEHOLDER_ERROR in self.error and (self.ofport or 0) > 0
            else shown(self.error)
        )


def row_of(interface: Mapping[str, Any], port: Mapping[str, Any] | None, holder_of: Mapping[str, str]) -> Row:
    """Decode an Interface and its Port (RFC 7047, 5.1). holder_of: the bridge of each Port, by uuid."""
    alone = port is not None and [uuid[1] for uuid in elements(port["interfaces"])] == [interface["_uuid"][1]]
    tag = optional(port["tag"]) if port is not None and alone else None
    return Row(
        name=interface["name"],
        bridge=holder_of.get(port["_uuid"][1]) if port is not None and alone else None,
        type=interface["type"],
        external_ids=dict(interface["external_ids"][1]),
        ofport=optional(interface["ofport"]),
        error=optional(interface.get("error", ["set", []])) or "",
        tag=tag,
        options=dict(interface["options"][1]),
        mtu_request=(optional(interface["mtu_request"]) or 0) if "mtu_request" in interface else None,
    )


def elements(value: Any) -> list[Any]:
    """Return a set as a list; OVSDB encodes a set of one element as that element."""
    return list(value[1]) if isinstance(value, list) and value[:1] == ["set"] else [value] if value else []


def optional(value: Any) -> Any:
    """Return the element of a set with at most one element; None if empty."""
    return next(iter(elements(value)), None) if isinstance(value, list) else value


def options_by_type(name: str, socket_dir: str) -> Mapping[str, Mapping[str, str]]:
    """Return the Interface types that a row of this name may have, each with its Interface.options.

    For a vhost-user port, Open vSwitch chooses its own listening socket. The path of QEMU's socket is an option, as in
    os-vif.
    """
    if name != names_of_key(key_of(name) or "").vhost_user:
        return OPTIONS
    listening, connecting = VHOST_USER_TYPES["client"], VHOST_USER_TYPES["server"]
    return {listening: {}, connecting: {SOCKET: f"{socket_dir}/{name}"}}


def options_of(port: OvsPort, socket_dir: str) -> Mapping[str, str]:
    """Return the Interface.options of a port."""
    return options_by_type(port.name, socket_dir).get(port.type, {})


def iface_id_of(external_ids: Mapping[str, str]) -> str:
    """Return the iface-id of a row; "" if it has none that Neutron could have assigned."""
    value = external_ids.get(IDS["iface_id"], "")
    return value if is_uuid(value) else ""


def observed(
    rows: Iterable[Row],
    bridges: Mapping[str, str],
    version: str,
    socket_dir: str = SOCKET_DIR,
    iface_ids: Iterable[tuple[str, str]] = (),
) -> Observed:
    """Return the parts and facts of these rows.

    bridges: the datapath type of each bridge, "" for the default. iface_ids: pairs for bearers_of(), of all rows if all
    were read.
    """
    rows = list(rows)
    switches = {name: kind or "system" for name, kind in bridges.items()}
    held = held_devices([row.name for row in rows if switches.get(row.bridge or "") in USERSPACE])
    return Observed(
        HostState({}, {row.name: _part_of(row, switches, held, socket_dir) for row in rows}),
        Facts(
            ports={row.name: PortFact(ofport=row.ofport, error=row.error_now, tag=row.tag) for row in rows},
            switches=switches,
            switch_version=f"ovs {version}".rstrip(),
            bearers=bearers_of(iface_ids),
        ),
    )


def is_undecided(row: Row | None) -> bool:
    """Return whether ovs-vswitchd has not reported on a system device yet; cur_cfg is written before that."""
    if row is None or row.type == PLACEHOLDER_TYPE:
        return False
    return PLACEHOLDER_ERROR in row.error_now or (row.ofport is None and not row.error)


def error_about(row: Row | None) -> str:
    """Return the reason that ovs-vswitchd rejected a system device; empty if it did not."""
    if row is None or row.type == PLACEHOLDER_TYPE or not (row.error_now or row.ofport == -1):
        return ""
    error = row.error_now or "no reason given"
    if row.type in VHOST_USER_TYPES.values() and UNKNOWN_TYPE in error:
        error += (
            f"; it knows no interface of type {row.type}, as without DPDK: ovs-vsctl get Open_vSwitch . iface_types"
        )
    return f"ovs-vswitchd did not take {row.name}: {error}"


def not_realized(step: Step, reason: str) -> Outcome:
    """Return the outcome of a committed step that ovs-vswitchd rejected.

    A device that it reports missing, although it was read back, is one that it has not released yet. That happens if a
    port is deleted and plugged again at once. The next plan replaces the row by the placeholder and back, which repairs
    it.
    """
    retry = any(transient in reason for transient in ("No such device", PLACEHOLDER_ERROR))
    return Outcome(step, Result.FAILED, reason, retry=retry, code=NOT_REALIZED)


def needs_device(step: Step) -> bool:
    """Return whether ovs-vswitchd must accept the device of a step.

    A rollback may leave a row without its device, as it was found; that is no failure.
    """
    return isinstance(step.part, OvsPort) and step.part.realized and not isinstance(step, Delete)


def committed(steps: Iterable[Step], error_of: Callable[[str], str]) -> list[Outcome]:
    """Return the outcomes of committed steps. error_of: why ovs-vswitchd rejected the device of this name, or ""."""
    errors = [(step, error_of(step.part.name) if needs_device(step) else "") for step in steps]
    return [not_realized(step, error) if error else Outcome(step, Result.DONE) for step, error in errors]


def not_acknowledged(steps: Iterable[Step]) -> list[Outcome]:
    """Return the outcomes of committed steps that ovs-vswitchd has not acknowledged by the deadline."""
    return [Outcome(step, Result.CONFIGURED, NOT_ACKNOWLEDGED) for step in steps]


def no_response(steps: Sequence[Step]) -> list[Outcome]:
    """Return the outcomes of a transaction that was sent, and whose response is missing."""
    reason = "OVSDB was sent the transaction and did not answer; whether it takes effect is not known"
    return [Outcome(step, Result.UNKNOWN, f"{reason}: {_names(steps)}") for step in steps]


def not_committed(steps: Sequence[Step], error: str, *, rows_changed: bool, retries: int) -> list[Outcome]:
    """Return the outcomes of a transaction that OVSDB refused."""
    reason = "others keep changing the same rows" if rows_changed else error
    reason = f"OVSDB refused the transaction for {_names(steps)}: {reason}"
    return [Outcome(step, Result.FAILED, reason, retry=rows_changed, retries=retries) for step in steps]


def bridge_missing(bridge: str) -> StepFailed:
    """Return the failure of a step whose integration bridge does not exist."""
    reason = f"integration bridge {bridge} does not exist; create it: ovs-vsctl add-br {bridge}"
    return StepFailed(reason, code=BridgeMissing.code)


def _names(steps: Iterable[Step]) -> str:
    names = sorted({step.part.name for step in steps})
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def ids_of(port: OvsPort) -> dict[str, str]:
    """Return the external_ids that a port is created with."""
    ids = {key: str(getattr(port, attribute)) for attribute, key in IDS.items()}
    return {key: value for key, value in ids.items() if value}


def columns_at_creation(port: OvsPort) -> Mapping[str, str | int]:
    """Return the columns that a Port is created with, except name, interfaces and QoS."""
    return ISOLATION if port.isolated else {}


def _part_of(row: Row, switches: Mapping[str, str], held: Collection[str], socket_dir: str) -> SwitchPort:
    if row.bridge is None:
        return ForeignPort(name=row.name, what="an Open vSwitch interface that is part of a bond or of no bridge")
    # "system" and "" are the same type (ovs-vswitchd.conf.db(5), Interface: type).
    kind = "" if row.type == "system" else shown(row.type)
    ids: dict[str, Any] = {attribute: shown(row.external_ids.get(key, "")) for attribute, key in IDS.items()}
    if row.name == names_of_key(key_of(row.name) or "").vhost_user and kind in VHOST_USER_TYPES.values():
        return VhostUserPort(
            name=row.name,
            bridge=row.bridge,
            type=kind,
            realized=(row.ofport or 0) > 0 and not row.error,
            mtu_request=row.mtu_request,
            socket_as_configured=row.options.get(SOCKET) == options_by_type(row.name, socket_dir)[kind].get(SOCKET),
            **ids,
        )
    if row.name.startswith("vhu") or kind not in ("", PLACEHOLDER_TYPE):
        return ForeignPort(name=row.name, what=f"an Open vSwitch interface of type {kind or 'system'}")
    realized = (
        kind == ""
        and (row.ofport or 0) > 0
        and not row.error_now
        # If a device is deleted and recreated under its row, ofport and error stay good although no packet passes
        # (docs/host.md). Only the packet socket shows it.
        and (switches.get(row.bridge) not in USERSPACE or row.name in held)
    )
    return OvsPort(name=row.name, bridge=row.bridge, type=kind, realized=realized, mtu_request=row.mtu_request, **ids)
