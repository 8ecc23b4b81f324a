"""Every link executor does to a real kernel what simulate() says, and refuses alike what objection() says."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given

from hybridvif import (
    Bridge,
    Create,
    Delete,
    HostState,
    Result,
    Status,
    Step,
    Stray,
    Tap,
    Update,
    Veth,
    check,
    plan,
    plug,
    simulate,
    unplug,
    wiring_of,
)
from hybridvif.parts import Part, Role
from hybridvif.privileged.registry import installed
from tests.contract.bench import BRIDGE_PORTS, FOREIGN, HOST_IPS, Bench, possible, sampled, states, wrong
from tests.functional.conftest import make_port, require_tun
from tests.unit.strategies import the

EXECUTORS = [name for name in installed(Role.LINK) if name != "recording"]
PORT = make_port()
TAPPED = make_port(create_tap=os.access("/dev/net/tun", os.R_OK | os.W_OK))
"""The same port with a tap of its own, where this user may make one."""
QBR, QVB, QVO, TAP, _ = PORT.names
OTHERS = "00000001-7bff-4fff-8fff-ffffffffffff"
"""The id of another port, with the same first 11 characters."""


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"link_executor": request.param}


def links_of(mtu: int = 1500) -> HostState:
    """The links of the plugged port."""
    return HostState().having(*map(possible, wiring_of(make_port(mtu=mtu)).links.values()))


LINKS = links_of()
BRIDGE, VETH = the(Bridge, LINKS), the(Veth, LINKS)
VM_TAP = Tap(name=TAP, master=QBR)


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


@dataclass(frozen=True)
class Change:
    """One attribute, there and back; or only back, where policy lets nobody write what it is there."""

    part: Part
    attribute: str
    there: Any
    only_back: bool = False

    def __str__(self) -> str:
        return f"{self.part.kind} {self.attribute} {self.there!r}"


SLOW_BRIDGE = replace(BRIDGE, forward_delay=200, up=False)
"""Down, so that STP does not move its ports from state to state meanwhile."""
CALLING_BRIDGE = replace(BRIDGE, nf_call_iptables=True, nf_call_ip6tables=True)
CHANGES = [
    Change(BRIDGE, "alias", ""),
    Change(BRIDGE, "alias", "someone wrote here", only_back=True),
    Change(BRIDGE, "mtu", 1400),
    Change(BRIDGE, "up", False),
    Change(BRIDGE, "forward_delay", 1500),
    Change(BRIDGE, "ageing", 30000),
    Change(SLOW_BRIDGE, "stp", True, only_back=True),
    Change(BRIDGE, "multicast_snooping", True, only_back=True),
    Change(BRIDGE, "disable_ipv6", False, only_back=True),
    Change(BRIDGE, "addr_gen_mode", "eui64", only_back=True),
    Change(BRIDGE, "addr_gen_mode", "random", only_back=True),
    Change(BRIDGE, "arp_ignore", 0, only_back=True),
    Change(BRIDGE, "arp_announce", 0, only_back=True),
    *(Change(BRIDGE, "host_ip", text, only_back=True) for text in HOST_IPS[1:] if "IPv6" not in text),
    *(Change(VETH, end, text, only_back=True) for end in ("host_ip", "peer_host_ip") for text in HOST_IPS[1:]),
    *(Change(VETH, "bridge_port", text, only_back=True) for text in BRIDGE_PORTS[1:]),
    Change(CALLING_BRIDGE, "nf_call_iptables", False),
    Change(CALLING_BRIDGE, "nf_call_ip6tables", False),
    Change(BRIDGE, "group", 7, only_back=True),
    Change(VETH, "alias", ""),
    Change(VETH, "peer_alias", ""),
    Change(VETH, "peer_alias", "someone wrote here", only_back=True),
    Change(VETH, "mtu", 1400),
    Change(VETH, "peer_mtu", 9000),
    Change(VETH, "up", False),
    Change(VETH, "peer_up", False),
    Change(VETH, "promisc", False),
    Change(VETH, "peer_promisc", False),
    Change(VETH, "master", ""),
    Change(VETH, "group", 7, only_back=True),
    Change(VM_TAP, "master", ""),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_one_attribute_changes_there_and_back_and_nothing_else(standing: Bench, change: Change) -> None:
    back = change.part
    there = replace(back, **{change.attribute: change.there})
    standing.keep(LINKS.having(VM_TAP, there if change.only_back else back))
    first = standing.snapshot()

    for step in [Update(there, back)] if change.only_back else [Update(back, there), Update(there, back)]:
        before = standing.see()
        (outcome,) = standing.do(step)
        assert outcome.result is Result.DONE, outcome
        assert standing.see() == simulate(before, step)
        assert standing.see() != before
    assert (standing.snapshot() == first) is not change.only_back


def test_the_spanning_tree_is_switched_together_with_the_delay_that_it_asks_for(bench: Bench) -> None:
    """While it runs the kernel takes no delay below 2 s, nor in the message that switches it off."""
    running = replace(BRIDGE, stp=True, forward_delay=1500)
    bench.furnish(LINKS.having(running))
    assert bench.see().links[QBR] == running
    # The port that STP has not opened yet is told, and opened with it.
    for step in plan(bench.see(), LINKS):
        assert [outcome.result for outcome in bench.do(step)] == [Result.DONE]
    assert bench.see() == LINKS


def test_mtu_that_rises_switches_ipv6_off_whatever_is_said_of_before(bench: Bench) -> None:
    """A captured caller says that IPv6 was off, where a small MTU hid it."""
    small, large = (HostState(wiring_of(make_port(mtu=mtu)).links) for mtu in (1200, 1500))
    for step in (*plan(HostState(), small), *plan(small, large)):
        assert [outcome.result for outcome in bench.do(step)] == [Result.DONE]
    files = " ".join(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6" for name in (QBR, QVB, QVO))
    assert bench.sh(f"cat {files}").split() == ["1"] * 3
    assert "inet6" not in "".join(bench.sh(f"ip address show dev {name}") for name in (QBR, QVB, QVO))


# What is there, and what is not.


def test_links_come_and_go_without_a_trace(bench: Bench) -> None:
    before = bench.snapshot()
    for step in (*plan(HostState(), LINKS), *plan(LINKS, HostState())):
        assert [outcome.result for outcome in bench.do(step)] == [Result.DONE]
    assert bench.snapshot() == before


@pytest.mark.parametrize("part", [BRIDGE, VETH], ids=lambda part: part.kind)
def test_to_delete_what_is_absent_is_done(bench: Bench, part: Part) -> None:
    assert bench.try_out(Delete(part)).result is Result.DONE


@pytest.mark.parametrize("part", [BRIDGE, VETH], ids=lambda part: part.kind)
def test_to_create_what_exists_fails_and_is_worth_another_try(bench: Bench, part: Part) -> None:
    bench.furnish(LINKS)
    outcome = bench.try_out(Create(part))
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert part.name in outcome.reason


@pytest.mark.parametrize(
    "step",
    [
        Update(replace(BRIDGE, mtu=1400), BRIDGE),
        Update(replace(VETH, mtu=1400), VETH),
        Update(replace(VM_TAP, master=""), VM_TAP),
        Create(VETH),
    ],
    ids=["bridge", "veth", "tap", "the bridge of a veth"],
)
def test_what_vanished_meanwhile_fails_and_is_worth_another_try(bench: Bench, step: Step) -> None:
    outcome = bench.try_out(step)
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert "vanished" in outcome.reason


def test_after_a_failed_step_the_next_is_skipped_unless_it_deletes(bench: Bench) -> None:
    bench.furnish(HostState().having(BRIDGE))
    outcomes = bench.do(Create(BRIDGE), Create(VETH), Delete(BRIDGE))
    assert [outcome.result for outcome in outcomes] == [Result.FAILED, Result.SKIPPED, Result.DONE]
    assert bench.see() == HostState()


# What is not ours.

KINDS = {
    "a veth for the bridge": (f"ip link add {QBR} type veth peer name hvpeer", BRIDGE),
    "a tap for the bridge": (f"ip tuntap add {QBR} mode tap || ip link add {QBR} type veth peer name hvend", BRIDGE),
    "a bridge for the veth": (f"ip link add {QVB} type bridge", VETH),
    "a veth of another peer": (f"ip link add {QVB} type veth peer name hvpeer", VETH),
}
DRIFTED: dict[type[Part], dict[str, Any]] = {Bridge: {"ageing": 30000}, Veth: {"mtu": 1400}}


@pytest.mark.parametrize("verb", [Update, Delete])
@pytest.mark.parametrize(("made", "part"), KINDS.values(), ids=KINDS)
def test_another_kind_is_refused_and_left_alone(bench: Bench, made: str, part: Part, verb: type[Step]) -> None:
    bench.sh(made)
    drifted = replace(part, **DRIFTED[type(part)])
    outcome = bench.try_out(Delete(part) if verb is Delete else Update(drifted, part))
    assert outcome.result is Result.REFUSED
    assert part.name in outcome.reason


@pytest.mark.parametrize("verb", [Update, Delete])
@pytest.mark.parametrize(
    ("name", "part"), [(QBR, BRIDGE), (QVB, VETH), (QVO, VETH)], ids=["bridge", "bridge end", "switch end"]
)
def test_another_ports_link_is_refused_and_left_alone(bench: Bench, name: str, part: Part, verb: type[Step]) -> None:
    bench.furnish(LINKS)
    bench.sh(f"ip link set {name} alias {OTHERS}")
    drifted = replace(part, **DRIFTED[type(part)])
    outcome = bench.try_out(Delete(part) if verb is Delete else Update(drifted, part))
    assert outcome.result is Result.REFUSED
    assert OTHERS in outcome.reason


@pytest.mark.parametrize("part", [VETH, VM_TAP], ids=lambda part: part.kind)
def test_a_link_in_a_foreign_bridge_is_not_stolen(bench: Bench, part: Veth | Tap) -> None:
    bench.furnish(LINKS.having(VM_TAP))
    bench.sh(f"ip link add {FOREIGN} type bridge; ip link set {part.name} master {FOREIGN}")
    outcome = bench.try_out(Update(replace(part, master=""), part))
    assert outcome.result is Result.REFUSED
    assert FOREIGN in outcome.reason


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
        assert isinstance(part, Stray)
        assert part.name == ours
        assert "another namespace" in part.what


@pytest.mark.parametrize("name", [QBR, QVB, QVO])
def test_an_alternative_name_is_nobodys_name(bench: Bench, name: str) -> None:
    # Not before: `ip link delete` itself goes by alternative names.
    rest = HostState() if name == QBR else HostState().having(BRIDGE)
    bench.furnish(rest)
    bench.sh(f"ip link add hvother type veth peer name hvpeer; ip link property add dev hvother altname {name}")
    part = BRIDGE if name == QBR else VETH

    assert bench.see() == bench.observed(None).state == rest
    assert bench.try_out(Delete(part)).result is Result.DONE
    outcome = bench.try_out(Create(part))

    assert (outcome.result, outcome.retry) == (Result.FAILED, True)


# What a kernel keeps of IPv6.


@pytest.mark.parametrize("small", [68, 1000, 1279])
def test_a_bridge_whose_mtu_is_too_small_for_ipv6_gets_it_back_switched_off(bench: Bench, small: int) -> None:
    ipv6 = f"/proc/sys/net/ipv6/conf/{QBR}"
    large, tiny = (HostState(wiring_of(make_port(mtu=mtu)).links) for mtu in (1500, small))

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


# What is seen beside the parts.


def test_the_facts_tell_carrier_members_and_kinds(bench: Bench) -> None:
    require_tun()
    bench.furnish(LINKS.having(VM_TAP))
    bench.sh(
        f"ip link add hvmember type veth peer name hvpeer; ip link set hvmember master {QBR}; ip link set {TAP} up"
    )
    facts = bench.facts()
    assert facts.members == {QBR: ("hvmember", QVB, TAP)}
    assert [facts.links[name].kind for name in (QBR, QVB, QVO, TAP)] == ["bridge", "veth", "veth", "tun"]
    # Nobody holds the tap open.
    assert (facts.links[QVB].carrier, facts.links[TAP].carrier) == (True, False)
    assert facts.links[QVB].master == QBR
    assert not facts.simulated
