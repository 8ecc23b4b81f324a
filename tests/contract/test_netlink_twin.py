"""Our link messages against pyroute2: it decodes our requests, and both decode the kernel's responses alike.

The devices are compared attribute by attribute, by the numbers of one and the names of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from hybridvif import Bridge, Veth, desired_state
from hybridvif.executors.netlink import connection as ours
from hybridvif.executors.netlink.devices import HOST_IPV4_OFF
from hybridvif.executors.netlink.operations import Add, Get, Remove, Set, operations_of
from hybridvif.executors.netlink.socket import RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, NetlinkRequest
from hybridvif.model.state import Create
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import make_port
from tests.support.strategies import the

ROOT = Path(__file__).parents[2]
WIRING = desired_state(make_port())
BRIDGE, VETH = the(Bridge, WIRING), the(Veth, WIRING)
MAC = "0a:00:00:00:01:7b"


def decoded(request: NetlinkRequest) -> Any:
    """Decode one of our requests by pyroute2."""
    length = 16 + len(request.body)
    header = length.to_bytes(4, "little") + request.kind.to_bytes(2, "little") + request.flags.to_bytes(2, "little")
    message = ifinfmsg(header + bytes(8) + request.body)
    message.decode()
    return message


def created(part: Bridge | Veth, indexes: Mapping[str, int] = {}, **master: str) -> NetlinkRequest:
    """Return our request to create a part."""
    new = operations_of(Create(part), MAC)[0]
    assert isinstance(new, Add)
    return ours.request_of(replace(new, values={**new.values, **master}), indexes)


def attrs(message: Any, *path: str) -> dict[str, Any]:
    """Return the attributes under a path, by name."""
    for name in path:
        message = message.get_attr(name)
    return dict(message["attrs"])


def test_pyroute2_reads_a_new_bridge_as_it_was_meant() -> None:
    message = decoded(created(replace(BRIDGE, multicast_snooping=True, ageing=300)))
    values = attrs(message)
    assert (values["IFLA_IFNAME"], values["IFLA_ADDRESS"], values["IFLA_MTU"]) == (
        BRIDGE.name,
        MAC,
        BRIDGE.mtu ^ 1,
    )
    assert attrs(message, "IFLA_LINKINFO")["IFLA_INFO_KIND"] == "bridge"
    assert attrs(message, "IFLA_LINKINFO", "IFLA_INFO_DATA") == {
        "IFLA_BR_FORWARD_DELAY": 0,
        "IFLA_BR_AGEING_TIME": 300,
        "IFLA_BR_STP_STATE": 0,
        "IFLA_BR_MCAST_SNOOPING": 1,
    }


@pytest.mark.parametrize("promisc", [True, False])
def test_pyroute2_reads_a_new_veth_pair_as_it_was_meant(promisc: bool) -> None:
    veth = replace(VETH, promisc=promisc, peer_promisc=not promisc, mtu=1400, peer_mtu=9000)
    message = decoded(created(veth, {"qbr": 17}, master="qbr"))
    values = attrs(message)
    assert (values["IFLA_IFNAME"], values["IFLA_MTU"], values["IFLA_MASTER"]) == (VETH.name, 1400, 17)
    assert (message["flags"], message["change"]) == (0x80 + 0x100 * promisc, 0x180)
    assert attrs(message, "IFLA_LINKINFO")["IFLA_INFO_KIND"] == "veth"
    peer = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert attrs(peer) == {"IFLA_IFNAME": VETH.peer, "IFLA_MTU": 9000}
    assert (peer["flags"], peer["change"]) == (0x80 + 0x100 * (not promisc), 0x180)


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"mtu": 9000}, "IFLA_MTU", 9000),
        ({"mac": "0a:00:00:00:01:7b"}, "IFLA_ADDRESS", "0a:00:00:00:01:7b"),
        ({"group": 70000}, "IFLA_GROUP", 70000),
        ({"alias": "häuser"}, "IFLA_IFALIAS", "häuser"),
        ({"alias": ""}, "IFLA_IFALIAS", ""),
    ],
)
def test_pyroute2_reads_a_change_as_it_was_meant(changes: dict[str, object], name: str, value: object) -> None:
    message = decoded(ours.request_of(Set("qbr", changes), {"qbr": 7}))
    assert (message["index"], message["change"]) == (7, 0)
    assert attrs(message) == {name: value}


def test_pyroute2_reads_flags_and_masters_as_they_were_meant() -> None:
    message = decoded(ours.request_of(Set("qvb", {"up": True, "promisc": False, "master": ""}), {"qvb": 7}))
    assert (message["flags"], message["change"], attrs(message)) == (1, 0x101, {"IFLA_MASTER": 0})


def test_pyroute2_reads_the_generation_of_addresses_as_it_was_meant() -> None:
    message = decoded(ours.request_of(Set("qvb", {"addr_gen_mode": 1}), {"qvb": 7}))
    assert attrs(message, "IFLA_AF_SPEC", "AF_INET6") == {"IFLA_INET6_ADDR_GEN_MODE": 1}


def test_pyroute2_reads_a_switched_off_host_ip_as_it_was_meant() -> None:
    message = decoded(ours.request_of(Set("qvb", HOST_IPV4_OFF), {"qvb": 7}))
    assert (message["flags"], message["change"]) == (0x80, 0x80)
    # pyroute2 does not decode IFLA_INET_CONF: forwarding 0, proxy_arp 0, rp_filter 1 by linux/ip.h.
    values = attrs(message, "IFLA_AF_SPEC")["AF_INET"]
    assert values.hex(" ", 4) == "20000280 1c000180 08000100 00000000 08000300 00000000 08000800 01000000"


def test_pyroute2_reads_the_flags_of_a_bridge_port_as_they_were_meant() -> None:
    flags = {"isolated": 0, "locked": 0, "flood": 1, "state": 3}
    message = decoded(ours.request_of(Set("qvb", {"bridge_port": flags}), {"qvb": 7}))
    assert attrs(message, "IFLA_LINKINFO")["IFLA_INFO_SLAVE_KIND"] == "bridge"
    assert attrs(message, "IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA") == {
        "IFLA_BRPORT_ISOLATED": 0,
        "IFLA_BRPORT_LOCKED": 0,
        "IFLA_BRPORT_UNICAST_FLOOD": 1,
        "IFLA_BRPORT_STATE": 3,
    }


def test_pyroute2_reads_questions_and_deletes_as_they_were_meant() -> None:
    reads = [ours.request_of(Get(name), {}) for name in ("qbr", 9)]
    remove = ours.request_of(Remove("qbr"), {"qbr": 9})
    assert attrs(decoded(reads[0])) == {"IFLA_IFNAME": "qbr", "IFLA_EXT_MASK": 8}
    assert decoded(reads[1])["index"] == 9
    assert attrs(decoded(ours.dump_request(5))) == {"IFLA_EXT_MASK": 8, "IFLA_MASTER": 5}
    assert attrs(decoded(ours.delete_group(70000))) == {"IFLA_GROUP": 70000}
    assert decoded(remove)["index"] == 9
    kinds = [
        request.kind for request in (reads[0], remove, ours.request_of(Set("qbr", {}), {"qbr": 9}), created(BRIDGE))
    ]
    assert kinds == [RTM_GETLINK, RTM_DELLINK, RTM_NEWLINK, RTM_NEWLINK]


COMPARE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from hybridvif.executors.netlink.devices import ATTRIBUTES
from hybridvif.executors.netlink.connection import Connection
from tests.support.pyroute2_devices import dumped

def described(devices):
    keys = ("name", "kind", "carrier", "runs", "master", "peer", "port", "owner", "altnames")
    return {
        device.index: ([getattr(device, key) for key in keys], {key: device.value(key) for key in ATTRIBUTES})
        for device in devices
    }

end = time.monotonic() + 10
with Connection(end) as own:
    # The kernel propagates a carrier later, and ovs-vswitchd may create a device: compare when two dumps are alike.
    ours, later = None, described(own.dump(0))
    while ours != later:
        theirs = described(dumped())
        ours, later = later, described(own.dump(0))
assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
for index, device in ours.items():
    assert device == theirs[index], (device, theirs[index])
made = [facts for facts, _ in ours.values() if facts[0].startswith("hvt")]
print(len(made), len([facts for facts in made if facts[1] == "bridge"]))
"""
MADE = """
ip link add hvtbridge mtu 1400 type bridge forward_delay 1500 ageing_time 100 mcast_snooping 1 nf_call_iptables 1
ip link set hvtbridge alias 'a "quoted" alias' up
ip link add hvtsmall mtu 1000 type bridge stp_state 1
ip link add hvtone mtu 9000 type veth peer name hvttwo
ip link set hvtone master hvtbridge up promisc on group 77
ip link set hvttwo up
ip link property add dev hvtone altname hvtfirst altname hvtsecond
echo 1 > /proc/sys/net/ipv4/conf/hvtbridge/arp_ignore
echo 2 > /proc/sys/net/ipv4/conf/hvtbridge/arp_announce
echo 1 > /proc/sys/net/ipv6/conf/hvtbridge/disable_ipv6
"""


def test_both_read_alike_what_the_kernel_tells(sandbox: Sandbox) -> None:
    sandbox.run(["sh", "-ec", MADE])
    try:
        links, bridges = map(int, sandbox.python(COMPARE, str(ROOT)).stdout.split())
    finally:
        sandbox.run(["sh", "-c", "for l in hvtone hvtbridge hvtsmall; do ip link delete $l; done"])
    assert (links, bridges) == (4, 2)
