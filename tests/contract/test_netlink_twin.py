"""Our link messages against pyroute2: it decodes our requests, and both decode the kernel's responses alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from hybridvif import Bridge, Veth, desired_state
from hybridvif.executors.netlink import messages as ours
from hybridvif.executors.netlink.devices import ADDR_GEN_MODES
from hybridvif.executors.netlink.socket import RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK, Request
from hybridvif.testing.sandbox import Sandbox
from tests.functional.conftest import make_port
from tests.support.strategies import the

WIRING = desired_state(make_port())
BRIDGE, VETH = the(Bridge, WIRING), the(Veth, WIRING)
MAC = bytes.fromhex("0a000000017b")


def decoded(request: Request) -> Any:
    """Decode one of our requests by pyroute2."""
    length = 16 + len(request.body)
    header = length.to_bytes(4, "little") + request.kind.to_bytes(2, "little") + request.flags.to_bytes(2, "little")
    message = ifinfmsg(header + bytes(8) + request.body)
    message.decode()
    return message


def attrs(message: Any, *path: str) -> dict[str, Any]:
    """Return the attributes under a path, by name."""
    for name in path:
        message = message.get_attr(name)
    return dict(message["attrs"])


def test_pyroute2_reads_a_new_bridge_as_it_was_meant() -> None:
    message = decoded(ours.create_bridge(replace(BRIDGE, multicast_snooping=True, ageing=300), MAC))
    values = attrs(message)
    assert (values["IFLA_IFNAME"], values["IFLA_ADDRESS"], values["IFLA_MTU"]) == (
        BRIDGE.name,
        MAC.hex(":"),
        BRIDGE.mtu ^ 1,
    )
    assert attrs(message, "IFLA_LINKINFO")["IFLA_INFO_KIND"] == "bridge"
    assert attrs(message, "IFLA_LINKINFO", "IFLA_INFO_DATA") == {
        "IFLA_BR_FORWARD_DELAY": 0,
        "IFLA_BR_AGEING_TIME": 300,
        "IFLA_BR_STP_STATE": 0,
        "IFLA_BR_MCAST_SNOOPING": 1,
    }


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("promisc", [True, False])
def test_pyroute2_reads_a_new_veth_pair_as_it_was_meant(up: bool, promisc: bool) -> None:
    veth = replace(VETH, up=up, promisc=promisc, peer_promisc=not promisc, mtu=1400, peer_mtu=9000)
    message = decoded(ours.create_veth(veth, 17))
    values = attrs(message)
    assert (values["IFLA_IFNAME"], values["IFLA_MTU"], values["IFLA_MASTER"]) == (VETH.name, 1400, 17)
    assert (message["flags"], message["change"]) == (up + 0x80 + 0x100 * promisc, 0x181)
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
    message = decoded(ours.set_link(7, changes))
    assert (message["index"], message["change"]) == (7, 0)
    assert attrs(message) == {name: value}


def test_pyroute2_reads_flags_masters_and_ipv6_as_they_were_meant() -> None:
    message = decoded(ours.set_link(7, {"up": True, "promisc": False}, 0))
    assert (message["flags"], message["change"], attrs(message)) == (1, 0x101, {"IFLA_MASTER": 0})
    for mode, name in enumerate(ADDR_GEN_MODES):
        inet6 = attrs(decoded(ours.set_link(7, {"addr_gen_mode": name})), "IFLA_AF_SPEC", "AF_INET6")
        assert inet6 == {"IFLA_INET6_ADDR_GEN_MODE": mode}


def test_pyroute2_reads_a_switched_off_host_ip_as_it_was_meant() -> None:
    message = decoded(ours.set_link(7, {"host_ip": "off"}))
    assert (message["flags"], message["change"]) == (0x80, 0x80)
    # pyroute2 does not decode IFLA_INET_CONF: forwarding 0, proxy_arp 0, rp_filter 1 by linux/ip.h.
    values = attrs(message, "IFLA_AF_SPEC")["AF_INET"]
    assert values.hex(" ", 4) == "20000280 1c000180 08000100 00000000 08000300 00000000 08000800 01000000"


def test_pyroute2_reads_the_flags_of_a_bridge_port_as_they_were_meant() -> None:
    message = decoded(ours.set_port(7, {"isolated": 0, "locked": 0, "flood": 1, "state": 3}))
    assert attrs(message, "IFLA_LINKINFO")["IFLA_INFO_SLAVE_KIND"] == "bridge"
    assert attrs(message, "IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA") == {
        "IFLA_BRPORT_ISOLATED": 0,
        "IFLA_BRPORT_LOCKED": 0,
        "IFLA_BRPORT_UNICAST_FLOOD": 1,
        "IFLA_BRPORT_STATE": 3,
    }


def test_pyroute2_reads_questions_and_deletes_as_they_were_meant() -> None:
    assert attrs(decoded(ours.get_link("qbr"))) == {"IFLA_IFNAME": "qbr", "IFLA_EXT_MASK": 8}
    assert decoded(ours.get_link(9))["index"] == 9
    assert attrs(decoded(ours.dump_request(5))) == {"IFLA_EXT_MASK": 8, "IFLA_MASTER": 5}
    assert attrs(decoded(ours.delete_group(70000))) == {"IFLA_GROUP": 70000}
    assert decoded(ours.delete_link(9))["index"] == 9
    bridge = ours.create_bridge(BRIDGE, MAC)
    kinds = [request.kind for request in (ours.get_link(1), ours.delete_link(1), ours.set_link(1, {}), bridge)]
    assert kinds == [RTM_GETLINK, RTM_DELLINK, RTM_SETLINK, RTM_NEWLINK]


COMPARE = """
import time
from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from hybridvif.executors.netlink.dump import dump_links
from hybridvif.executors.netlink.messages import devices_of

ours = {device.name: device for device in devices_of(dump_links(time.monotonic() + 10))}
names, compared = {}, 0
with IPRoute() as ipr:
    theirs = list(ipr.link("dump"))
    names = {message["index"]: message.get_attr("IFLA_IFNAME") for message in theirs}
    for message in theirs:
        get, device = message.get_attr, ours.get(message.get_attr("IFLA_IFNAME"))
        if device is None:
            # Created between the two dumps by ovs-vswitchd or a late process of an earlier test.
            assert not message.get_attr("IFLA_IFNAME").startswith("hvt")
            continue
        assert device.index == message["index"]
        assert device.mtu == get("IFLA_MTU")
        assert device.mac == (get("IFLA_ADDRESS") or "")
        assert device.alias == (get("IFLA_IFALIAS") or "")
        assert device.group == get("IFLA_GROUP")
        assert device.carrier == bool(get("IFLA_CARRIER"))
        assert device.master == names.get(get("IFLA_MASTER"), "")
        assert device.kind == (message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "")
        assert (device.up, device.promisc) == (bool(message["flags"] & 1), bool(message["flags"] & 0x100))
        if device.kind == "veth":
            assert device.peer == names.get(get("IFLA_LINK"), "")
        if device.options is None:
            continue
        compared += 1
        data = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA").get_attr
        families = get("IFLA_AF_SPEC").get_attr
        inet, inet6 = families("AF_INET"), families("AF_INET6")
        options = device.options
        assert options.forward_delay == data("IFLA_BR_FORWARD_DELAY")
        assert options.ageing == data("IFLA_BR_AGEING_TIME")
        assert options.stp == bool(data("IFLA_BR_STP_STATE"))
        assert options.multicast_snooping == bool(data("IFLA_BR_MCAST_SNOOPING"))
        assert options.nf_call_iptables == bool(data("IFLA_BR_NF_CALL_IPTABLES"))
        assert options.nf_call_ip6tables == bool(data("IFLA_BR_NF_CALL_IP6TABLES"))
        assert (options.arp_ignore, options.arp_announce) == (inet["arp_ignore"], inet["arp_announce"])
        conf = inet6.get_attr("IFLA_INET6_CONF") if inet6 is not None else None
        assert options.disable_ipv6 == (None if conf is None else bool(conf["disable_ipv6"]))
print(len(theirs), compared)
"""
MADE = """
ip link add hvtbridge mtu 1400 type bridge forward_delay 1500 ageing_time 100 mcast_snooping 1 nf_call_iptables 1
ip link set hvtbridge alias 'a "quoted" alias' up
ip link add hvtsmall mtu 1000 type bridge stp_state 1
ip link add hvtone mtu 9000 type veth peer name hvttwo
ip link set hvtone master hvtbridge up promisc on group 77
ip link set hvttwo up
echo 1 > /proc/sys/net/ipv4/conf/hvtbridge/arp_ignore
echo 2 > /proc/sys/net/ipv4/conf/hvtbridge/arp_announce
echo 1 > /proc/sys/net/ipv6/conf/hvtbridge/disable_ipv6
"""


def test_both_read_alike_what_the_kernel_tells(sandbox: Sandbox) -> None:
    sandbox.run(["sh", "-ec", MADE])
    try:
        links, bridges = map(int, sandbox.python(COMPARE).stdout.split())
    finally:
        sandbox.run(["sh", "-c", "for l in hvtone hvtbridge hvtsmall; do ip link delete $l; done"])
    assert links >= 5
    assert bridges >= 2
