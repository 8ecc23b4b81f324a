"""The same plan leaves the same host with each pair of executors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, given, settings

from hybridvif import HostState, Port, desired_state
from hybridvif.model.parts import Bridge, OvsPort, Veth
from hybridvif.model.planner import plan
from hybridvif.model.report import Result
from hybridvif.model.state import HostState as State
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.contract.bench import Bench, states
from tests.functional.conftest import make_port
from tests.support.sizes import FULL

PAIRS = [("iproute2-netlink", "ovsdb"), ("iproute2-netlink", "ovs-vsctl"), ("subprocess-brctl", "ovsdb")]
PAIRS += [("subprocess-brctl", "ovs-vsctl"), ("pyroute2", "ovsdb")]
CASES = 200 if FULL else 6
PORT = make_port()
DROPPED = {"ifindex", "link_index", "stats", "stats64", "operstate", "flags"}
"""Attributes that the kernel numbers, counts or updates later."""


def host_of(bench: Bench) -> dict[str, Any]:
    """Return the state of the host as ip, /proc/sys and ovs-vsctl report it."""
    links = {}
    for link in json.loads(bench.sh("ip -d -j link")):
        name = link["ifname"]
        if name not in PORT.names:
            continue
        flags = sorted(set(link["flags"]) - {"NO-CARRIER", "LOWER_UP", "M-DOWN"})
        kept = {key: value for key, value in link.items() if key not in DROPPED} | {"flags": flags}
        if name == PORT.names.switch_end:
            # ovs-vswitchd switches it on when it opens a device, and restores it by name when it closes it.
            kept["flags"] = [flag for flag in flags if flag != "PROMISC"]
            del kept["promiscuity"]
        if link.get("linkinfo", {}).get("info_kind") != "bridge":
            # The kernel draws the MAC of a veth at random.
            kept["linkinfo"] = {"info_kind": link.get("linkinfo", {}).get("info_kind")}
        else:
            options = kept["linkinfo"]["info_data"]
            kept["linkinfo"]["info_data"] = {
                key: option for key, option in options.items() if not key.endswith("timer")
            }
        # That of a bridge is random, too.
        for key in ("address", "bridge_id", "root_id", "designated_root"):
            kept.pop(key, None)
            kept["linkinfo"].get("info_data", {}).pop(key, None)
        links[name] = kept
    files = [f"ipv4/conf/{{}}/{key}" for key in ("arp_ignore", "arp_announce", "forwarding", "proxy_arp", "rp_filter")]
    switches = {
        key.format(name): bench.sh(f"cat /proc/sys/net/{key.format(name)} 2>/dev/null || echo absent").strip()
        for key in (*files, "ipv6/conf/{}/disable_ipv6")
        for name in (PORT.names.bridge, PORT.names.bridge_end, PORT.names.switch_end)
    }
    interface = bench.row(PORT.names.switch_end)
    row = {key: str(interface.get(key)) for key in ("name", "type", "options", "external_ids")}
    held = bench.sh(f"ovs-vsctl --if-exists port-to-br {PORT.names.switch_end} 2>/dev/null || true").strip()
    return {"links": links, "switches": switches, "row": row, "held": held}


def cases() -> list[tuple[State, State]]:
    """Return drifted states, each with a goal: the desired state, nothing, or another state."""
    drawn: list[tuple[State, State]] = []

    @settings(max_examples=CASES, deadline=None, database=None, phases=[Phase.generate])
    @given(states(PORT), states(PORT, target=True))
    def draw(first: State, target: State) -> None:
        drawn.append((first, target))

    draw()
    assert len(drawn) >= CASES
    choice = Random(len(drawn))
    goals = [desired_state(PORT), HostState()]
    return [(first, choice.choice([target, *goals])) for first, target in drawn]


@pytest.mark.prove
def test_all_pairs_of_executors_leave_the_same_host(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> None:
    tried = cases()
    hosts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for link, switch in PAIRS:
        directory: Path = tmp_path_factory.mktemp("differential")
        options = {"integration_bridges": "br-int,br-two", "link_executor": link, "switch_executor": switch}
        with connected(sandbox, directory, **options) as host:
            bench = Bench(sandbox, host)
            hosts[link, switch] = [after(bench, first, goal) for first, goal in tried]
            bench.sweep()
    reference = hosts[PAIRS[0]]
    for pair in PAIRS[1:]:
        unlike = [index for index, host in enumerate(hosts[pair]) if host != reference[index]]
        assert not unlike, (
            f"{pair}: {len(unlike)} of {len(tried)} differ, the first in "
            f"{list(_differences(hosts[pair][unlike[0]], reference[unlike[0]]))}: {tried[unlike[0]]}"
        )
    print(f"{len(tried)} of {len(tried)} equal for each of {len(PAIRS)} pairs")  # noqa: T201  # the figure, for who runs it with -s


def _differences(reference: Any, other: Any, where: str = "") -> Iterator[str]:
    if isinstance(reference, dict) and isinstance(other, dict):
        for key in sorted({*reference, *other}):
            yield from _differences(reference.get(key), other.get(key), f"{where}/{key}")
    elif reference != other:
        yield f"{where}: {reference} and {other}"


def after(bench: Bench, first: State, goal: State) -> dict[str, Any]:
    """Return the host after the plan from one state to another, or the error."""
    bench.furnish(first)
    seen = bench.see()
    steps = plan(seen, goal)
    outcomes = bench.do(*steps) if steps else ()
    failed = [outcome for outcome in outcomes if outcome.result is not Result.DONE]
    assert not failed, f"from {first} to {goal}: {failed}"
    return host_of(bench)


def test_the_comparison_sees_a_difference(sandbox: Sandbox, tmp_path: Path) -> None:
    port: Port = PORT
    with connected(sandbox, tmp_path) as host:
        bench = Bench(sandbox, host)
        whole = after(bench, HostState(), desired_state(port))
        for befalls in (
            f"ip link set {port.names.bridge} type bridge ageing_time 100",
            f"ip link set {port.names.switch_end} alias other",
            f"echo 0 > /proc/sys/net/ipv4/conf/{port.names.bridge}/arp_ignore",
            f"ovs-vsctl remove Interface {port.names.switch_end} external_ids vm-uuid",
        ):
            bench.sh(befalls)
            now = host_of(bench)
            assert now != whole
            whole = now
        bench.sweep()
        assert {type(part) for part in desired_state(port)} == {Bridge, Veth, OvsPort}
