"""Our link executors by way of the daemon, beyond the shipped contract: random states, and rules of the kernel."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest
from hypothesis import given

from hybridvif import (
    Bridge,
    Create,
    Delete,
    ForeignObject,
    HostState,
    Result,
    Status,
    Update,
    Veth,
    check,
    desired_state,
    plan,
    plug,
    simulate,
    unplug,
)
from hybridvif.model.parts import Role
from hybridvif.privileged.execute import installed
from hybridvif.testing.contract.bench import wrong
from tests.contract.bench import Bench, possible, sampled, states
from tests.functional.conftest import make_port
from tests.support.sizes import FULL
from tests.support.strategies import the

EXECUTORS = [name for name in installed(Role.LINK) if name != "recording"]
PORT = make_port()
TAPPED = make_port(create_tap=os.access("/dev/net/tun", os.R_OK | os.W_OK))
"""The same port with a tap of its own, if this user may create one."""
QBR, QVB, QVO, TAP, _ = PORT.names


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"link_executor": request.param}


LINKS = HostState().with_parts(*map(possible, desired_state(PORT).links.values()))
BRIDGE, VETH = the(Bridge, LINKS), the(Veth, LINKS)


@pytest.mark.prove
@sampled(10)
@given(state=states(TAPPED, rows=False), target=states(TAPPED, rows=False, target=True))
def test_each_step_does_what_simulate_says(standing: Bench, state: HostState, target: HostState) -> None:
    standing.furnish(state)
    assert wrong(standing.see(), state) == []
    for step in plan(state, target):
        before = standing.see()
        (outcome,) = standing.do(step)
        assert outcome.result is Result.DONE, outcome
        assert wrong(standing.see(), simulate(before, step)) == []
    assert plan(standing.see(), target) == ()


FLOOD = str(Path(__file__).parents[1] / "support" / "flood.py")
ROUNDS = 20 if FULL else 3
OPEN = ("all.rp_filter=0", "default.rp_filter=0", "all.forwarding=1")


@pytest.fixture
def open_host(bench: Bench) -> Iterator[Bench]:
    """A host that takes packets on any device of which the settings are not complete."""
    bench.sh("ip addr add 198.51.100.1/32 dev lo; ip route add 203.0.113.0/24 dev lo")
    before = bench.sh("sysctl " + " ".join(f"net.ipv4.conf.{word.split('=')[0]}" for word in OPEN)).replace(" = ", "=")
    bench.sh("sysctl -qw " + " ".join(f"net.ipv4.conf.{word}" for word in OPEN))
    yield bench
    bench.sh(
        f"sysctl -qw {' '.join(before.split())}; ip addr del 198.51.100.1/32 dev lo; ip route flush 203.0.113.0/24"
    )


@pytest.mark.parametrize("way", [(QVO, QVB), (QVB, QVO)], ids=["to qvb", "to qvo"])
@pytest.mark.parametrize("destination", ["own", "01:80:c2:00:00:0e"])
@pytest.mark.parametrize("master", [QBR, ""])
def test_no_packet_reaches_the_host_while_a_pair_is_created(
    open_host: Bench, master: str, destination: str, way: tuple[str, str]
) -> None:
    for _ in range(ROUNDS):
        line = [sys.executable, "-P", FLOOD, *way, destination]
        with open_host.box.popen(line, stdin=PIPE, stdout=PIPE) as flooded:
            assert flooded.stdout
            assert flooded.stdout.readline() == "ready\n"
            for part in (BRIDGE, replace(VETH, master=master)):
                (outcome,) = open_host.do(Create(part))
                assert outcome.result is Result.DONE, outcome
            received, _ = flooded.communicate(timeout=20)
        assert int(received) == 0
        open_host.sweep()


def test_a_switch_end_that_the_kernels_datapath_holds_is_in_order(bench: Bench) -> None:
    bench.furnish(LINKS)
    bench.sh(f"ip link add ovs-system type bridge; ip link set {QVO} master ovs-system")
    assert bench.see() == LINKS
    for step in (Update(VETH, replace(VETH, peer_mtu=1400)), Update(replace(VETH, peer_mtu=1400), VETH)):
        assert [outcome.result for outcome in bench.do(step)] == [Result.DONE]
    assert bench.link(QVO)["master"] == "ovs-system"
    assert bench.see() == LINKS
    bench.sh("ip link delete ovs-system")


@pytest.mark.parametrize("ours", [QVB, QVO])
def test_a_veth_whose_peer_is_in_another_namespace_is_a_stray(bench: Bench, ours: str) -> None:
    peer = QVO if ours == QVB else QVB
    bench.sh(f"ip netns add hvns; ip link add {ours} type veth peer name {peer} netns hvns; ip link set {ours} up")
    # The peer's index, in its own namespace, may be that of another device in ours.
    for names in ((), None):
        (part,) = bench.observed(names).state
        assert isinstance(part, ForeignObject)
        assert part.name == ours
        assert "another namespace" in part.what


@pytest.mark.parametrize("name", [QBR, QVB, QVO])
def test_an_alternative_name_is_nobodys_name(bench: Bench, name: str) -> None:
    # Not before: `ip link delete` also accepts alternative names.
    rest = HostState() if name == QBR else HostState().with_parts(BRIDGE)
    bench.furnish(rest)
    bench.sh(f"ip link add hvother type veth peer name hvpeer; ip link property add dev hvother altname {name}")
    part = BRIDGE if name == QBR else VETH

    assert bench.see() == bench.observed(None).state == rest
    assert bench.observed().facts.altnames == bench.observed(None).facts.altnames == {name: "hvother"}
    assert bench.try_out(Delete(part)).result is Result.DONE
    outcome = bench.try_out(Create(part))

    # The next observation shows the cause.
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)


def test_all_alternative_names_of_devices_are_read(bench: Bench) -> None:
    bench.furnish(HostState().with_parts(BRIDGE))
    holders = {QVB: QBR, QVO: "hvother", TAP: "hvother"}
    bench.sh("ip link add hvother type bridge; ip link property add dev hvother altname another-name-of-no-port")
    for name, holder in holders.items():
        bench.sh(f"ip link property add dev {holder} altname {name}")

    assert bench.observed().facts.altnames == bench.observed(None).facts.altnames == holders
    assert bench.see() == HostState().with_parts(BRIDGE)


@pytest.mark.parametrize("small", [68, 1000, 1279])
def test_bridge_with_mtu_too_small_for_ipv6_gets_ipv6_back_switched_off(bench: Bench, small: int) -> None:
    ipv6 = f"/proc/sys/net/ipv6/conf/{QBR}"
    large, tiny = (HostState(desired_state(make_port(mtu=mtu)).links) for mtu in (1500, small))

    for state in (tiny, large, tiny, large):
        for step in plan(bench.see(), state):
            assert [outcome.result for outcome in bench.do(step)] == [Result.DONE]
        assert plan(bench.see(), state) == ()
        assert bench.observed().facts.unchecked == (
            () if state is large else (f"{QBR}: disable_ipv6", f"{QBR}: addr_gen_mode")
        )
        there = bench.box.run(["test", "-d", ipv6], check=False).returncode == 0
        assert there is (state is large)
    assert bench.sh(f"cat {ipv6}/disable_ipv6").strip() == "1"
    assert "inet6" not in bench.sh(f"ip address show dev {QBR}")


def test_a_port_is_plugged_and_unplugged_at_any_mtu(bench: Bench) -> None:
    for mtu in (68, 1279, 1280, 65535):
        port = make_port(mtu=mtu)
        report = plug(port, bench.host)
        assert (report.status, report.retries) == (Status.DONE, 0)
        assert check(port, bench.host) == ()
    assert unplug(PORT.id, bench.host).status is Status.DONE
    assert bench.see() == HostState()
