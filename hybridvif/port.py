"""What the caller asks for: one port. A Port that exists is legal."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace

from hybridvif.errors import InvalidInput
from hybridvif.names import PortNames, is_uuid, names_of
from hybridvif.settings import Settings

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
        _require(
            isinstance(self.mac, str) and is_mac(self.mac.lower()),
            f"port {self.id}: mac {self.mac!r} is not a unicast MAC address; write it as fa:16:3e:aa:bb:cc",
        )
        object.__setattr__(self, "mac", self.mac.lower())
        for field, value in (("instance_id", self.instance_id), ("interface_id", self.interface_id)):
            _require(
                isinstance(value, str) and (is_uuid(value) or (field == "interface_id" and value == "")),
                f"port {self.id}: {field} {value!r} is not a UUID in canonical form; "
                "write it in lower case: 0b1c2d3e-0000-4000-8000-000000000002",
            )
        _require(
            type(self.mtu) is int and MIN_MTU <= self.mtu <= MAX_MTU,
            f"port {self.id}: mtu {self.mtu!r} is not a whole number from {MIN_MTU} to {MAX_MTU}; "
            "leave it out for 1500",
        )
        _require(
            isinstance(self.bridge, str) and is_bridge_name(self.bridge),
            f"port {self.id}: bridge {self.bridge!r} cannot be the name of an Open vSwitch bridge; "
            "use 1 to 15 letters, digits, '_', '.' or '-'",
        )
        _require(
            isinstance(self.vif_type, VifType),
            f"port {self.id}: vif_type {self.vif_type!r} is not known; use one of "
            + ", ".join(kind.value for kind in VifType),
        )
        for field, flag in ((name, getattr(self, name)) for name in _FLAGS):
            _require(
                type(flag) is bool,
                f"port {self.id}: {field} {flag!r} is neither true nor false; leave it out for false",
            )
        _require(
            self.create_tap or not self.multiqueue,
            f"port {self.id}: multiqueue is of the tap that create_tap makes; give create_tap, too, or leave it out",
        )
        _require(
            self.mtu <= MAX_TAP_MTU or not self.create_tap,
            f"port {self.id}: mtu {self.mtu} is more than the {MAX_TAP_MTU} that a tap can have; "
            "make it smaller, or leave create_tap out",
        )
        _require(
            self.qos_type in ("", NONE, *QOS_TYPES),
            f"port {self.id}: qos_type {self.qos_type!r} is not known; use one of {NONE}, {', '.join(QOS_TYPES)}",
        )
        _require(
            self.qos_type in ("", NONE) or self.vif_type is VifType.OVS,
            f"port {self.id}: qos_type is for Open vSwitch, and an Indigo Virtual Switch has none; leave it out",
        )
        _require(
            self.datapath_type in ("", *DATAPATH_TYPES),
            f"port {self.id}: datapath_type {self.datapath_type!r} is not known; "
            f"use one of {', '.join(DATAPATH_TYPES)}",
        )
        _require(
            not self.datapath_type or self.vif_type is VifType.OVS,
            f"port {self.id}: datapath_type is for Open vSwitch, and an Indigo Virtual Switch has no bridges; "
            "leave it out",
        )
        _require(
            not self.isolate or self.vif_type is VifType.OVS,
            f"port {self.id}: isolate is for Open vSwitch, and an Indigo Virtual Switch has no VLAN tag of a port's; "
            "leave it out",
        )

        _require(
            self.vhostuser_mode in ("", *VHOSTUSER_MODES),
            f"port {self.id}: vhostuser_mode {self.vhostuser_mode!r} is not known; "
            f"use one of {', '.join(VHOSTUSER_MODES)}, or leave it out for a hybrid port",
        )
        _require(
            not self.vhostuser_mode or self.vif_type is VifType.OVS,
            f"port {self.id}: vhostuser_mode is for Open vSwitch, and an Indigo Virtual Switch has no such ports; "
            "leave it out",
        )
        _require(
            not (self.vhostuser_mode and self.call_iptables),
            f"port {self.id}: a vhost-user port has no Linux bridge that could call iptables; leave call_iptables out",
        )
        _require(
            not (self.vhostuser_mode and self.create_tap),
            f"port {self.id}: a vhost-user port has a socket and no tap that could be made; "
            "leave create_tap and multiqueue out",
        )
        _require(
            not self.vhostuser_mode or self.qos_type in ("", NONE),
            f"port {self.id}: qos_type {self.qos_type} is of the kernel's devices, and a vhost-user port is none; "
            "leave it out",
        )

    def on(self, settings: Settings) -> Port:
        """The port with this host's defaults for what it leaves to the host."""
        if self.vhostuser_mode:
            return self
        takes_qos = self.vif_type is VifType.OVS and not self.qos_type and settings.default_qos_type != NONE
        if not takes_qos and settings.call_iptables <= self.call_iptables:
            return self
        qos_type = settings.default_qos_type if takes_qos else self.qos_type
        return replace(self, qos_type=qos_type, call_iptables=self.call_iptables or settings.call_iptables)

    @property
    def names(self) -> PortNames:
        """The names of this port's devices."""
        return names_of(self.id)

    @property
    def iface_id(self) -> str:
        """What external_ids:iface-id holds for this port."""
        return self.interface_id or self.id


def _require(legal: bool, sentence: str) -> None:
    if not legal:
        raise InvalidInput(sentence)
