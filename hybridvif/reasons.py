"""Why every attribute is what it is: one line, and the Launchpad bugs that taught it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybridvif.parts import Bridge, MadeTap, OvsPort, Part, Tap, Veth, VhostUserPort


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an attribute has its value."""

    text: str
    bugs: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.text + (f" (LP {', '.join(map(str, self.bugs))})" if self.bugs else "")


_OWNER = Reason("the full port id says whose it is: two ports can share the 11 characters of a name")
_MTU = Reason("the network's MTU, at every hop of the chain and updated on re-plug", (1623876, 1959586))
_PROMISC = Reason("frames for the VM's MAC must pass a device that has another")
_UP = Reason("a device that is down forwards nothing", (1597287,))
_FIREWALL = Reason("only where asked for: Neutron's hybrid firewall filters what crosses this bridge, and no other")
_HOST_IP = Reason(
    "the host's IP stack is off on every device of the port, so that the VM neither reaches nor configures the host",
    (1302080, 1470931, 1825888),
)
_BRIDGE_PORT = Reason("a flag that isolates, locks or does not flood a bridge port stops the VM's packets")
_GROUP = Reason("only a bulk delete moves links into a group; one that was killed must not take a port along later")

_REASONS: dict[tuple[type[Part], str], Reason] = {
    (Bridge, "alias"): _OWNER,
    (Bridge, "mtu"): Reason("explicit, else the kernel resets it when the bridge is empty", (1623876,)),
    (Bridge, "up"): _UP,
    (Bridge, "forward_delay"): Reason("no learning delay: the first DHCP request must pass", (1129055,)),
    (Bridge, "ageing"): Reason(
        "floods like a hub: no loss while MAC addresses move in live migration; only on this private bridge",
        (1715317, 1414559, 1837252),
    ),
    (Bridge, "stp"): Reason("there is no loop behind a private two-port bridge, and STP would delay the port"),
    (Bridge, "multicast_snooping"): Reason("snooping eats IPv6 neighbour discovery on a two-port bridge", (1276038,)),
    (Bridge, "disable_ipv6"): Reason(
        "a tenant's router advertisements must not configure the host", (1302080, 1470931)
    ),
    (Bridge, "addr_gen_mode"): Reason("no link-local address of the host's on a tenant's segment", (1302080, 1470931)),
    (Bridge, "arp_ignore"): Reason("the bridge must not answer ARP for the host's addresses", (1825888,)),
    (Bridge, "arp_announce"): Reason("the bridge must not announce the host's addresses", (1825888,)),
    (Bridge, "nf_call_iptables"): _FIREWALL,
    (Bridge, "nf_call_ip6tables"): _FIREWALL,
    (Bridge, "group"): _GROUP,
    (Bridge, "host_ip"): _HOST_IP,
    (Veth, "peer"): Reason("the other end of the pair, on the switch"),
    (Veth, "alias"): _OWNER,
    (Veth, "peer_alias"): _OWNER,
    (Veth, "mtu"): _MTU,
    (Veth, "peer_mtu"): _MTU,
    (Veth, "up"): _UP,
    (Veth, "peer_up"): _UP,
    (Veth, "promisc"): _PROMISC,
    (Veth, "peer_promisc"): _PROMISC,
    (Veth, "master"): Reason("Neutron's firewall filters the port on this bridge, between tap and qvb"),
    (Veth, "group"): _GROUP,
    (Veth, "host_ip"): _HOST_IP,
    (Veth, "peer_host_ip"): _HOST_IP,
    (Veth, "bridge_port"): _BRIDGE_PORT,
    (Tap, "master"): Reason("a bridge made anew has lost the VM's device, and libvirt will not put it back"),
    (MadeTap, "alias"): Reason("the full port id says that it was made here, and goes with the port"),
    (MadeTap, "mac"): Reason("not the VM's own: a bridge keeps what is sent to the address of a member for itself"),
    (MadeTap, "mtu"): _MTU,
    (MadeTap, "up"): _UP,
    (MadeTap, "master"): Reason("the VM is behind it, and there ahead of its first packet", (2069718,)),
    (MadeTap, "group"): _GROUP,
    (MadeTap, "host_ip"): _HOST_IP,
    (MadeTap, "bridge_port"): _BRIDGE_PORT,
    (MadeTap, "owner"): Reason("root: to a tap without an owner every local user may attach, and be the VM"),
    (MadeTap, "multi_queue"): Reason("as many queues as the VM has: it cannot open a tap that was made for one"),
    (OvsPort, "bridge"): Reason("the integration bridge; a row is moved, never deleted and added again", (1670628,)),
    (OvsPort, "iface_id"): Reason("Neutron's agent ignores a port without it"),
    (OvsPort, "iface_status"): Reason("tells the agent that the interface is in use"),
    (OvsPort, "attached_mac"): Reason("Neutron's agent ignores a port without it"),
    (OvsPort, "vm_uuid"): Reason("whose VM it is, for operators and tools"),
    (OvsPort, "port_id"): Reason("our own key, only where iface-id is not the port id"),
    (OvsPort, "bridge_name"): Reason(
        "only on a trunk bridge: by it Neutron's agent clears up after a trunk that is gone", (2087944,)
    ),
    (OvsPort, "type"): Reason("a system device; parked as a patch only while its device is made anew", (1519926,)),
    (OvsPort, "isolated"): Reason(
        "only when the row is made: no packet may pass before Neutron's agent has wired the port",
        (1734320, 2023300, 1930414, 2069543),
    ),
    (OvsPort, "datapath_type"): Reason(
        "only where the bridge is made with the row: of a bridge that lives it would cut off every port"
    ),
    (OvsPort, "qos_type"): Reason(
        "only when the row is made: else ovs-vswitchd takes the queueing of the device away", (2017868, 2133225)
    ),
    (OvsPort, "realized"): Reason("ovs-vswitchd must hold the device as it is now, or no packet passes"),
}
_OF_VHOST_USER: Mapping[str, Reason] = {
    "type": Reason("who listens at the socket: the other end than QEMU, whose mode Neutron says"),
    "datapath_type": Reason(
        "only where the bridge is made with the row: of vhost-user the kernel's datapath has nothing"
    ),
    "qos_type": Reason("none: ovs-vswitchd queues only in the kernel's devices"),
    "mtu": Reason("the network's MTU: there is no device that could be given it", (1959586,)),
    "socket_as_configured": Reason("composed from [hybridvif] vhost_socket_dir and the name: no caller says a path"),
    "realized": Reason("ovs-vswitchd must have taken it, which without DPDK it never does"),
}
REASONS: Mapping[tuple[type[Part], str], Reason] = (
    _REASONS
    | {(VhostUserPort, name): reason for (kind, name), reason in _REASONS.items() if kind is OvsPort}
    | {(VhostUserPort, name): reason for name, reason in _OF_VHOST_USER.items()}
)


def reason_of(part: Part, attribute: str) -> Reason:
    """Why this attribute of this part is what it is."""
    return REASONS[type(part), attribute]
