"""Rows of OVSDB, by whatever means they were read -> parts and facts; and how a part is spelled in a row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hybridvif.executors.base import NOT_REALIZED
from hybridvif.executors.netlink.packet_sockets import held_devices
from hybridvif.model.facts import Facts, Observed, PortFact, bearers_of
from hybridvif.model.names import is_uuid, key_of, names_of_key
from hybridvif.model.parts import (
    DEAD_VLAN,
    PLACEHOLDER_TYPE,
    VHOST_USER_TYPES,
    ForeignPort,
    HostState,
    OvsPort,
    SwitchPort,
    VhostUserPort,
)
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import SOCKET_DIR
from hybridvif.model.steps import Step
from hybridvif.model.text import shown

IDS = {
    "iface_id": "iface-id",
    "iface_status": "iface-status",
    "attached_mac": "attached-mac",
    "vm_uuid": "vm-uuid",
    "port_id": "hybridvif-port-id",
    "bridge_name": "bridge_name",
}
"""The keys of Interface.external_ids that are ours, by the attribute of OvsPort."""
OPTIONS: Mapping[str, Mapping[str, str]] = {"": {}, PLACEHOLDER_TYPE: {"peer": "nobody"}}
"""Interface.options of a row named qvo by its type; a patch port needs a peer, and this one never exists."""
SOCKET = "vhost-server-path"
"""The key of Interface.options that is ours in a row named vhu; what else is there, as tx-retries-max, is others'."""
ISOLATION: Mapping[str, str | int] = {"tag": DEAD_VLAN, "vlan_mode": "trunk", "trunks": DEAD_VLAN}
"""The columns of a Port that is born in the dead VLAN, as Neutron's agent has them for a port that it has not wired."""
STALE = "No usable peer"
"""What ovs-vswitchd says of a patch port: about a system device it is what was said of the row while it was parked."""
UNKNOWN_TYPE = "Address family not supported"
"""EAFNOSUPPORT: what Interface.error has of a type that ovs-vswitchd does not know (lib/netdev.c, netdev_open)."""
USERSPACE = frozenset({"netdev", "dummy"})
"""The datapath types in which ovs-vswitchd reads a system device through a packet socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An Interface that has one of our names, with what is to be known of its Port and its Bridge."""

    name: str
    bridge: str | None
    """The bridge that holds a Port of this name with this one Interface; None: there is no such Port."""
    type: str
    external_ids: Mapping[str, str]
    ofport: int | None
    error: str
    tag: int | None
    options: Mapping[str, str] = field(default_factory=dict)
    mtu_request: int | None = None
    """0 if none is asked for; None: there is no such column, which came with Open vSwitch 2.6."""

    @property
    def complaint(self) -> str:
        """What ovs-vswitchd says against the row as it is now; "" for nothing.

        About a system device, what it says of patch ports is left from when the row was parked. Where that has got a
        port number since, the sentence was seen to stay for good (OVS 3.1), with the device taken and packets passing.
        """
        return (
            ""
            if self.type != PLACEHOLDER_TYPE and STALE in self.error and (self.ofport or 0) > 0
            else shown(self.error)
        )


def options_by_type(name: str, socket_dir: str) -> Mapping[str, Mapping[str, str]]:
    """The Interface types that a row of this name may be given, each with the Interface.options that go with it.

    Of a vhost-user port Open vSwitch says itself where it listens, and is told where QEMU does (os-vif does the same).
    """
    if name != names_of_key(key_of(name) or "").vhost_user:
        return OPTIONS
    listening, connecting = VHOST_USER_TYPES["client"], VHOST_USER_TYPES["server"]
    return {listening: {}, connecting: {SOCKET: f"{socket_dir}/{name}"}}


def options_of(port: OvsPort, socket_dir: str) -> Mapping[str, str]:
    """The Interface.options of a port."""
    return options_by_type(port.name, socket_dir).get(port.type, {})


def iface_id_of(external_ids: Mapping[str, str]) -> str:
    """Return the iface-id of a row; "" if it has none that Neutron could have given."""
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

    bridges: the datapath type of each bridge there is, "" for the default. iface_ids: of all rows, as bearers_of()
    takes them, if all were read.
    """
    rows = list(rows)
    switches = {name: kind or "system" for name, kind in bridges.items()}
    held = held_devices([row.name for row in rows if switches.get(row.bridge or "") in USERSPACE])
    return Observed(
        HostState({}, {row.name: _part_of(row, switches, held, socket_dir) for row in rows}),
        Facts(
            ports={row.name: PortFact(ofport=row.ofport, error=row.complaint, tag=row.tag) for row in rows},
            switches=switches,
            switch_version=f"ovs {version}".rstrip(),
            bearers=bearers_of(iface_ids),
        ),
    )


def is_undecided(row: Row | None) -> bool:
    """Whether ovs-vswitchd has yet to tell of a system device: cur_cfg comes before a row's own columns."""
    if row is None or row.type == PLACEHOLDER_TYPE:
        return False
    return STALE in row.complaint or (row.ofport is None and not row.error)


def complaint_about(row: Row | None) -> str:
    """Why ovs-vswitchd did not take a system device; empty if it did, or was not asked to."""
    if row is None or row.type == PLACEHOLDER_TYPE or not (row.complaint or row.ofport == -1):
        return ""
    said = row.complaint or "no reason given"
    if row.type in VHOST_USER_TYPES.values() and UNKNOWN_TYPE in said:
        said += f"; it knows no interface of type {row.type}, as without DPDK: ovs-vsctl get Open_vSwitch . iface_types"
    return f"ovs-vswitchd did not take {row.name}: {said}"


def not_realized(step: Step, reason: str) -> Outcome:
    """The outcome of a step that was committed, and that ovs-vswitchd would not carry out.

    A device that it finds missing, though it was read back before, is one that it has not yet let go of (seen where a
    port was deleted and plugged again at once): the next plan parks and frees the row, which mends it.
    """
    retry = any(passing in reason for passing in ("No such device", STALE))
    return Outcome(step, Result.FAILED, reason, retry=retry, code=NOT_REALIZED)


def ids_of(port: OvsPort) -> dict[str, str]:
    """The external_ids that a port is created with."""
    ids = {key: str(getattr(port, attribute)) for attribute, key in IDS.items()}
    return {key: value for key, value in ids.items() if value}


def columns_at_birth(port: OvsPort) -> Mapping[str, str | int]:
    """What a Port is created with, beside its name, its interface and its QoS."""
    return ISOLATION if port.isolated else {}


def _part_of(row: Row, switches: Mapping[str, str], held: Collection[str], socket_dir: str) -> SwitchPort:
    if row.bridge is None:
        return ForeignPort(name=row.name, what="an Open vSwitch interface that is part of a bond or of no bridge")
    # "system" is the long spelling of "" (ovs-vswitchd.conf.db(5), Interface: type).
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
        and not row.complaint
        # Where a device is deleted and made anew under its row, ofport and error stay good and no packet passes
        # (docs/host.md): only the socket tells.
        and (switches.get(row.bridge) not in USERSPACE or row.name in held)
    )
    return OvsPort(name=row.name, bridge=row.bridge, type=kind, realized=realized, mtu_request=row.mtu_request, **ids)
