"""What the configuration says, as one frozen value; config.py reads it."""

from __future__ import annotations

from dataclasses import dataclass

OVS_SOCKET = "unix:/var/run/openvswitch/db.sock"
"""Open vSwitch's own socket, where Debian's, Ubuntu's and Fedora's packages put it."""
MIN_DEADLINE, MAX_DEADLINE = 0.5, 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The [hybridvif] section."""

    link_executor: str = "iproute2-netlink"
    switch_executor: str = "ovsdb"
    ovsdb_connection: str = OVS_SOCKET
    integration_bridges: tuple[str, ...] = ("br-int",)
    deadline: float = 30.0
    """Seconds without progress allowed to one port, or to one batch of a bulk call."""
    unplug_running: str = "refuse"
    """What unplug does to a port whose VM runs, where the caller does not say: refuse or force."""
    lock_path: str = "/run/lock/hybridvif"
    program_path: str = "/usr/sbin:/usr/bin:/sbin:/bin"
    """Where the executors that run programs look for them."""
    default_qos_type: str = "none"
    """The QoS of new ports of Open vSwitch that ask for none of their own: one of port.QOS_TYPES, or none."""
    answer_to_ovs: bool = False
    """Whether os-vif's `ovs` is ours."""
