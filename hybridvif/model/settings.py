"""Settings: the configuration as one frozen value. config.py reads it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hybridvif.model.names import TRUNK_BRIDGES, is_trunk_bridge

OVS_SOCKET = "unix:/var/run/openvswitch/db.sock"
"""Default socket of Open vSwitch in the packages of Debian, Ubuntu and Fedora."""
SOCKET_DIR = "/var/run/openvswitch"
"""Default directory of vhost-user sockets in Neutron's agent (vhostuser_socket_dir)."""
MIN_DEADLINE, MAX_DEADLINE = 0.5, 3600.0
MAX_NAMES = 4096
"""Maximum number of names in one request to the daemon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The [hybridvif] section."""

    link_executor: str = "iproute2-netlink"
    switch_executor: str = "ovsdb"
    ovsdb_connection: str = OVS_SOCKET
    ssl_key_file: str = ""
    """The daemon's private key, if ovsdb_connection is ssl:."""
    ssl_cert_file: str = ""
    """Its certificate."""
    ssl_ca_cert_file: str = ""
    """The certificate of the CA that signed the server's certificate."""
    integration_bridges: tuple[str, ...] = ("br-int",)
    """The allowed integration bridges, by name, or names.TRUNK_BRIDGES."""
    create_bridges: tuple[str, ...] = ()
    """The integration bridges that are created if they are missing, in the same form."""
    remove_trunk_bridges: bool = False
    """True if a trunk bridge is deleted with the last of its ports, and with Neutron's patch ports."""
    deadline: float = 30.0
    """Seconds without progress allowed to one port, or to one batch of a bulk call."""
    unplug_running: str = "refuse"
    """Default of unplug for a port with a running VM: refuse or force."""
    lock_path: str = "/run/lock/hybridvif"
    program_path: str = "/usr/sbin:/usr/bin:/sbin:/bin"
    """Search path of the executors that run programs."""
    call_iptables: bool = False
    """True if the Linux bridge of every port calls iptables and ip6tables."""
    require_isolate: bool = False
    """True if every new row is created in the dead VLAN. The daemon refuses any other new row."""
    default_qos_type: str = "none"
    """Default QoS of new Open vSwitch ports: one of port.QOS_TYPES, or none."""
    vhost_socket_dir: str = SOCKET_DIR
    """Directory of the sockets of vhost-user ports in mode `server`. The socket has the name of the port."""
    answer_to_ovs: bool = False
    """True if hybridvif serves the plugin `ovs` of os-vif."""

    @property
    def named_bridges(self) -> tuple[str, ...]:
        """The integration bridges that are configured by name."""
        return tuple(name for name in self.integration_bridges if name != TRUNK_BRIDGES)

    def allows(self, bridge: str) -> bool:
        """Return True if ports may be plugged into this bridge."""
        return _is_among(bridge, self.integration_bridges)

    def creates(self, bridge: str) -> bool:
        """Return True if this bridge is created when it is missing."""
        return self.allows(bridge) and _is_among(bridge, self.create_bridges)


def _is_among(bridge: str, configured: Collection[str]) -> bool:
    return bridge in configured or (TRUNK_BRIDGES in configured and is_trunk_bridge(bridge))
