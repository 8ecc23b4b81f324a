"""Observation of a host with more than 300 links in any state, while links come and go."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from subprocess import DEVNULL
from typing import Any

import pytest

from hybridvif import Bridge, HostState, HybridVifError, Port, Veth
from hybridvif.model.parts import Role
from hybridvif.privileged.execute import installed
from hybridvif.testing.contract.bench import wrong
from tests.contract.bench import Bench, any_links, make
from tests.functional.conftest import make_port

PORTS = [make_port(number) for number in range(1, 106)]
CHURN = "while :; do ip link add hvc$0 type veth peer name hvd$0; ip link delete hvc$0; done"
DUMPS = """
import time
from hybridvif.executors.netlink.connection import dump_request
from hybridvif.executors.netlink.socket import NetlinkSocket, Interrupted
end = time.monotonic() + 10
while time.monotonic() < end:
    try:
        with NetlinkSocket(end) as channel:
            channel.dump(dump_request())
    except Interrupted:
        print("interrupted")
        break
"""
EXECUTORS = [name for name in installed(Role.LINK) if name != "recording"]


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"link_executor": request.param}


@pytest.fixture(scope="module")
def crowd(standing: Bench) -> dict[str, HostState]:
    """Return the links of each port by port id, the same in every run."""
    choice = Random(20)
    states = {port.id: any_links(port, choice) for port in PORTS}
    standing.sweep()
    make(standing.box, merge_observed(states, PORTS))
    return states


def merge_observed(crowd: dict[str, HostState], ports: list[Port]) -> HostState:
    """Return the state of several ports."""
    return HostState().with_parts(*(part for port in ports for part in crowd[port.id]))


class IpRoute2:
    """Links of a host as `ip -d -j link` and /proc/sys report them."""

    def __init__(self, bench: Bench) -> None:
        self.links = {link["ifname"]: link for link in json.loads(bench.sh("ip -d -j link"))}
        self.sysctls = dict(
            line.removeprefix("/proc/sys/net/").split(":")
            for line in bench.sh(
                "cd /proc/sys/net; grep -H . ipv4/conf/qbr*/arp_ignore ipv4/conf/qbr*/arp_announce "
                "ipv6/conf/q*/disable_ipv6 ipv4/conf/q*/forwarding ipv4/conf/q*/proxy_arp ipv4/conf/q*/rp_filter"
            ).split()
        )

    def state_of(self, port: Port) -> HostState:
        names = port.names
        bridge, near, far = (self.links[name] for name in list(names)[:3])
        options = bridge["linkinfo"]["info_data"]
        ipv6 = self.sysctls.get(f"ipv6/conf/{names.bridge}/disable_ipv6")
        return HostState().with_parts(
            Bridge(
                name=names.bridge,
                stp=bool(options["stp_state"]),
                forward_delay=options["forward_delay"],
                ageing=options["ageing_time"],
                multicast_snooping=bool(options["mcast_snooping"]),
                nf_call_iptables=bool(options["nf_call_iptables"]),
                nf_call_ip6tables=bool(options["nf_call_ip6tables"]),
                disable_ipv6=None if ipv6 is None else ipv6 == "1",
                addr_gen_mode=bridge.get("inet6_addr_gen_mode"),
                arp_ignore=int(self.sysctls[f"ipv4/conf/{names.bridge}/arp_ignore"]),
                arp_announce=int(self.sysctls[f"ipv4/conf/{names.bridge}/arp_announce"]),
                group=self.group_of(bridge),
                host_ip=self.host_ip_of(bridge, ipv6=False),
                **self.common(bridge),
            ),
            Veth(
                name=names.bridge_end,
                peer=near["link"],
                master=near.get("master", ""),
                promisc="PROMISC" in near["flags"],
                peer_promisc="PROMISC" in far["flags"],
                group=self.group_of(near),
                host_ip=self.host_ip_of(near),
                peer_host_ip=self.host_ip_of(far),
                bridge_port=self.bridge_port_of(near),
                **self.common(near),
                **{f"peer_{key}": value for key, value in self.common(far).items()},
            ),
        )

    def host_ip_of(self, link: dict[str, Any], *, ipv6: bool = True) -> str:
        name = link["ifname"]
        values = {key: int(self.sysctls[f"ipv4/conf/{name}/{key}"]) for key in ("forwarding", "proxy_arp", "rp_filter")}
        words = [f"{key} {value}" for key, value in values.items() if bool(value) != (key == "rp_filter")]
        words += [] if "NOARP" in link["flags"] else ["ARP on"]
        if ipv6:
            words += ["IPv6 on"] if self.sysctls.get(f"ipv6/conf/{name}/disable_ipv6") == "0" else []
            mode = link.get("inet6_addr_gen_mode", "none")
            words += [] if mode == "none" else [f"addr_gen_mode {mode}"]
        return ", ".join(words) or "off"

    @staticmethod
    def bridge_port_of(link: dict[str, Any]) -> str | None:
        port = link["linkinfo"].get("info_slave_data")
        if port is None:
            return None
        wrong = [f"{key} off" for key in ("flood", "mcast_flood", "bcast_flood") if not port[key]]
        wrong += [f"{key} on" for key in ("isolated", "locked") if port[key]]
        return ", ".join(wrong) or "open"

    @staticmethod
    def common(link: dict[str, Any]) -> dict[str, Any]:
        return {"alias": link.get("ifalias", ""), "mtu": link["mtu"], "up": "UP" in link["flags"]}

    @staticmethod
    def group_of(link: dict[str, Any]) -> int:
        return 0 if link["group"] == "default" else int(link["group"])


def test_three_hundred_links_are_as_ip_has_them(standing: Bench, crowd: dict[str, HostState]) -> None:
    reference = IpRoute2(standing)
    assert len(reference.links) > 300
    seen = standing.observed(None).state
    for port in PORTS:
        assert seen.of(port.names) == reference.state_of(port)
        assert seen.of(port.names) == crowd[port.id]
    assert len(seen.links) == 2 * len(PORTS)


def test_links_asked_for_by_name_are_as_ip_has_them(standing: Bench, crowd: dict[str, HostState]) -> None:
    reference = IpRoute2(standing)
    for first in range(0, len(PORTS), 10):
        some = PORTS[first : first + 10]
        seen = standing.observed({name for port in some for name in port.names}).state
        assert len(seen.links) == 2 * len(some)
        for port in some:
            assert seen.of(port.names) == reference.state_of(port)


def test_many_names_are_answered_for_and_no_other(standing: Bench, crowd: dict[str, HostState]) -> None:
    some = PORTS[:60]
    seen = standing.observed({name for port in some for name in port.names}).state
    assert set(seen.links) == {name for port in some for name in (port.names.bridge, port.names.bridge_end)}
    assert wrong(seen, merge_observed(crowd, some)) == []


@pytest.fixture
def churn(standing: Bench) -> Iterator[None]:
    """Three processes that create and delete links."""
    with ExitStack() as churning:
        for number in range(3):
            process = churning.enter_context(standing.box.popen(["sh", "-c", CHURN, str(number)], stderr=DEVNULL))
            churning.callback(process.kill)
        # Dumps were interrupted.
        assert standing.box.python(DUMPS).stdout == "interrupted\n"
        yield


def test_no_port_is_missing_while_links_come_and_go(standing: Bench, crowd: dict[str, HostState], churn: None) -> None:
    seen, messages = list[HostState](), set[str]()
    end = time.monotonic() + 1
    while time.monotonic() < end:
        try:
            seen.append(standing.observed(None).state)
        except HybridVifError as error:
            messages.add(str(error))
    assert not [sentence for sentence in messages if "change faster" not in sentence]
    assert seen
    assert [wrong(state, merge_observed(crowd, PORTS)) for state in seen] == [[]] * len(seen)


def test_a_port_is_found_by_name_while_links_come_and_go(
    standing: Bench, crowd: dict[str, HostState], churn: None
) -> None:
    end = time.monotonic() + 0.5
    rounds = 0
    while rounds < 6 or time.monotonic() < end:
        assert wrong(standing.see(), crowd[PORTS[0].id]) == []
        rounds += 1
