"""What the configuration says, as one frozen value; config.py reads it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hybridvif.model.names import TRUNK_BRIDGES, is_trunk_bridge

OVS_SOCKET = "unix:/var/run/openvswitch/db.sock"
"""Open vSwitch's own socket, where Debian's, Ubuntu's and Fedora's packages put it."""
SOCKET_DIR = "/var/run/openvswitch"
"""Where Neutron's agent has the sockets of vhost-user ports by default (vhostuser_socket_dir)."""
MIN_DEADLINE, MAX_DEADLINE = 0.5, 3600.0
MAX_NAMES = 4096
"""Names in one request to the daemon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The [hybridvif] section."""

    link_executor: str = "iproute2-netlink"
    switch_executor: str = "ovsdb"
    ovsdb_connection: str = OVS_SOCKET
    ssl_key_file: str = ""
    """The daemon's private key, for an ovsdb_connection of ssl:."""
    ssl_cert_file: str = ""
    """Its certificate."""
    ssl_ca_cert_file: str = ""
    """The certificate of the CA that has signed the server's."""
    integration_bridges: tuple[str, ...] = ("br-int",)
    """The bridges that ports may be plugged into, by name, or names.TRUNK_BRIDGES."""
    create_bridges: tuple[str, ...] = ()
    """Those of them that are created where they are missing, in the same way."""
    remove_trunk_bridges: bool = False
    """Whether a trunk bridge goes with the last of its ports, and with Neutron's patch ports in it."""
    deadline: float = 30.0
    """Seconds without progress allowed to one port, or to one batch of a bulk call."""
    unplug_running: str = "refuse"
    """What unplug does to a port whose VM runs, where the caller does not say: refuse or force."""
    lock_path: str = "/run/lock/hybridvif"
    program_path: str = "/usr/sbin:/usr/bin:/sbin:/bin"
    """Where the executors that run programs look for them."""
    call_iptables: bool = False
    """Whether every port's own Linux bridge calls iptables and ip6tables."""
    require_isolate: bool = False
    """Whether every row that is made anew is in the dead VLAN, whatever its port says; the daemon refuses any other."""
    default_qos_type: str = "none"
    """The QoS of new ports of Open vSwitch that ask for none of their own: one of port.QOS_TYPES, or none."""
    vhost_socket_dir: str = SOCKET_DIR
    """Where QEMU listens for the switch, for vhost-user ports of the mode `server`: the socket is named as the port."""
    answer_to_ovs: bool = False
    """Whether os-vif's `ovs` is ours."""

    @property
    def named_bridges(self) -> tuple[str, ...]:
        """The integration bridges that are known by name."""
        return tuple(name for name in self.integration_bridges if name != TRUNK_BRIDGES)

    def allows(self, bridge: str) -> bool:
        """Whether ports may be plugged into this bridge."""
        return _is_among(bridge, self.integration_bridges)

    def creates(self, bridge: str) -> bool:
        """Whether this bridge is created where it is missing."""
        return self.allows(bridge) and _is_among(bridge, self.create_bridges)


def _is_among(bridge: str, configured: Collection[str]) -> bool:
    return bridge in configured or (TRUNK_BRIDGES in configured and is_trunk_bridge(bridge))
