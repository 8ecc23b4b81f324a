"""What the caller asks for: one port. A Port that exists is legal."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hybridvif.model.errors import InvalidInput
from hybridvif.model.names import PortNames, is_uuid, names_of
from hybridvif.model.settings import Settings

MIN_MTU, MAX_MTU = 68, 65535
"""IPv4's smallest MTU (RFC 791) and the largest the kernel gives a veth or a bridge (ETH_MAX_MTU)."""
MAX_TAP_MTU = 65521
"""The largest it gives a tap: that, less the header of a frame (drivers/net/tun.c)."""

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_FLAGS = ("call_iptables", "isolate", "create_tap", "multiqueue")
_SWITCH_BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", re.ASCII)


class VifType(enum.Enum):
    """Which switch the port goes to, spelled as Neutron's binding:vif_type."""

    OVS = "ovs"
    IVS = "ivs"


def is_mac(text: str) -> bool:
    """Whether the text is a MAC address a device can have: six lower-case octets, unicast, not all zero.

    >>> is_mac("fa:16:3e:aa:bb:cc"), is_mac("01:00:5e:00:00:01"), is_mac("00:00:00:00:00:00")
    (True, False, False)
    """
    return _MAC.fullmatch(text) is not None and int(text[:2], 16) % 2 == 0 and text != "00:00:00:00:00:00"


def is_bridge_name(text: str) -> bool:
    """Whether the text can name an OVS bridge: its internal port is a device, so 15 characters and no slash."""
    return _SWITCH_BRIDGE.fullmatch(text) is not None


QOS_TYPES = ("linux-htb", "linux-hfsc", "linux-sfq", "linux-codel", "linux-fq_codel", "linux-noop")
"""The types of QoS that a new port can be given, as os-vif's default_qos_type has them."""
NONE = "none"
"""No QoS at all, also where the host has a default."""
DATAPATH_TYPES = ("system", "netdev")
"""Of Open vSwitch: the kernel's, and its own in userspace."""


VHOSTUSER_MODES = ("client", "server")
"""Whose end of the socket is QEMU's, as Neutron's vhostuser_mode has it: Open vSwitch is the other one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One Neutron port that is to be plugged the hybrid way, or as a vhost-user port.

    Raises InvalidInput, naming the field, the value and the rule.

    >>> Port(id="5f2c0e1a-7b00-4c00-8000-000000000001", mac="FA:16:3E:AA:BB:CC",
    ...      instance_id="0b1c2d3e-0000-4000-8000-000000000002").mac
    'fa:16:3e:aa:bb:cc'
    """

    id: str
    """The Neutron port's id, a canonical UUID."""
    mac: str
    """The VM's MAC address: external_ids:attached-mac, by which Neutron's agent finds the port."""
    instance_id: str
    """The VM's id, a canonical UUID: external_ids:vm-uuid."""
    interface_id: str = ""
    """external_ids:iface-id, a canonical UUID; the port id if empty."""
    mtu: int = 1500
    """In bytes, 68 to 65535; for the Linux bridge and both ends of the veth pair."""
    bridge: str = "br-int"
    """The integration bridge; it must exist and this host's configuration must list it."""
    vif_type: VifType = VifType.OVS
    """The kind of switch."""
    call_iptables: bool = False
    """Whether its Linux bridge calls iptables and ip6tables, also where the host as a whole does not; the host's
    call_iptables if false. Of what a bridge does beside that nothing is changed."""
    isolate: bool = False
    """Whether a row that is made anew is in the dead VLAN until Neutron's agent wires it; a row that is there is left
    as it is, and none on a trunk bridge is isolated. For Open vSwitch."""
    qos_type: str = ""
    """The QoS of a row that is made anew, one of QOS_TYPES or "none"; the host's default_qos_type if empty. A row that
    is there is left as it is. For Open vSwitch."""

    datapath_type: str = ""
    """What its integration bridge is made with where it is missing, and the host's create_bridges has it: system or
    netdev; Open vSwitch's own default if empty. A bridge that is there is left as it is. For Open vSwitch."""
    create_tap: bool = False
    """Whether its tap is made ahead of the VM, persistent, and removed with the port. A tap that is there and was not
    made here is left as it is and used; one that was made here stays, whether or not a later plug asks for it."""
    multiqueue: bool = False
    """Whether a tap that is made can be opened once for each queue of the VM, and only so. With create_tap only. One
    that is there keeps the queues that it has."""
    vhostuser_mode: str = ""
    """A port of Open vSwitch that the VM has through a socket of DPDK's vhost-user, and no hybrid one: client (QEMU
    connects, and Open vSwitch listens) or server (QEMU listens), as Neutron's binding:vif_details has it; "" for a
    hybrid port."""

    def __post_init__(self) -> None:
        names_of(self.id)
        for said in _objections(self):
            raise InvalidInput(f"port {self.id}: {said}")
        if not self.mac.islower():
            object.__setattr__(self, "mac", self.mac.lower())

    def on(self, settings: Settings) -> Port:
        """The port with this host's defaults for what it leaves to the host."""
        if self.vhostuser_mode:
            return replace(self, isolate=True) if settings.require_isolate > self.isolate else self
        takes_qos = self.vif_type is VifType.OVS and not self.qos_type and settings.default_qos_type != NONE
        isolate = self.isolate or (self.vif_type is VifType.OVS and settings.require_isolate)
        call_iptables = self.call_iptables or settings.call_iptables
        if not takes_qos and (isolate, call_iptables) == (self.isolate, self.call_iptables):
            return self
        qos_type = settings.default_qos_type if takes_qos else self.qos_type
        return replace(self, qos_type=qos_type, call_iptables=call_iptables, isolate=isolate)

    @property
    def names(self) -> PortNames:
        """The names of this port's devices."""
        return names_of(self.id)

    @property
    def iface_id(self) -> str:
        """What external_ids:iface-id holds for this port."""
        return self.interface_id or self.id


def _objections(port: Port) -> Iterator[str]:
    """What is wrong with this port; the first of them only is told, and those after it take it to be right.

    A sentence is not made before it is needed: 300 ports, of which nothing is wrong, would make thousands.
    """
    yield from _objections_to_ids(port)
    yield from _objections_to_devices(port)
    yield from _objections_to_kinds(port)
    if port.vif_type is not VifType.OVS:
        yield from _objections_to_ivs(port)
    if port.vhostuser_mode:
        yield from _objections_to_vhost_user(port)


def _objections_to_ids(port: Port) -> Iterator[str]:
    if not isinstance(port.mac, str) or not is_mac(port.mac.lower()):
        yield f"mac {port.mac!r} is not a unicast MAC address; write it as fa:16:3e:aa:bb:cc"
    for field, value in (("instance_id", port.instance_id), ("interface_id", port.interface_id)):
        if not isinstance(value, str) or not (is_uuid(value) or (field == "interface_id" and value == "")):
            yield (
                f"{field} {value!r} is not a UUID in canonical form; "
                "write it in lower case: 0b1c2d3e-0000-4000-8000-000000000002"
            )


def _objections_to_devices(port: Port) -> Iterator[str]:
    if type(port.mtu) is not int or not MIN_MTU <= port.mtu <= MAX_MTU:
        yield f"mtu {port.mtu!r} is not a whole number from {MIN_MTU} to {MAX_MTU}; leave it out for 1500"
    if not isinstance(port.bridge, str) or not is_bridge_name(port.bridge):
        yield (
            f"bridge {port.bridge!r} cannot be the name of an Open vSwitch bridge; "
            "use 1 to 15 letters, digits, '_', '.' or '-'"
        )
    for field in _FLAGS:
        if type(flag := getattr(port, field)) is not bool:
            yield f"{field} {flag!r} is neither true nor false; leave it out for false"
    if port.multiqueue and not port.create_tap:
        yield "multiqueue is of the tap that create_tap makes; give create_tap, too, or leave it out"
    if port.create_tap and port.mtu > MAX_TAP_MTU:
        yield (
            f"mtu {port.mtu} is more than the {MAX_TAP_MTU} that a tap can have; "
            "make it smaller, or leave create_tap out"
        )


def _objections_to_kinds(port: Port) -> Iterator[str]:
    if not isinstance(port.vif_type, VifType):
        yield f"vif_type {port.vif_type!r} is not known; use one of {', '.join(kind.value for kind in VifType)}"
    if port.qos_type not in ("", NONE, *QOS_TYPES):
        yield f"qos_type {port.qos_type!r} is not known; use one of {NONE}, {', '.join(QOS_TYPES)}"
    if port.datapath_type not in ("", *DATAPATH_TYPES):
        yield f"datapath_type {port.datapath_type!r} is not known; use one of {', '.join(DATAPATH_TYPES)}"
    if port.vhostuser_mode not in ("", *VHOSTUSER_MODES):
        yield (
            f"vhostuser_mode {port.vhostuser_mode!r} is not known; "
            f"use one of {', '.join(VHOSTUSER_MODES)}, or leave it out for a hybrid port"
        )


def _objections_to_ivs(port: Port) -> Iterator[str]:
    if port.qos_type not in ("", NONE):
        yield "qos_type is for Open vSwitch, and an Indigo Virtual Switch has none; leave it out"
    if port.datapath_type:
        yield "datapath_type is for Open vSwitch, and an Indigo Virtual Switch has no bridges; leave it out"
    if port.isolate:
        yield "isolate is for Open vSwitch, and an Indigo Virtual Switch has no VLAN tag of a port's; leave it out"
    if port.vhostuser_mode:
        yield "vhostuser_mode is for Open vSwitch, and an Indigo Virtual Switch has no such ports; leave it out"


def _objections_to_vhost_user(port: Port) -> Iterator[str]:
    if port.call_iptables:
        yield "a vhost-user port has no Linux bridge that could call iptables; leave call_iptables out"
    if port.create_tap:
        yield "a vhost-user port has a socket and no tap that could be made; leave create_tap and multiqueue out"
    if port.qos_type not in ("", NONE):
        yield f"qos_type {port.qos_type} is of the kernel's devices, and a vhost-user port is none; leave it out"
