"""What every link executor must do, and must refuse."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from hybridvif.contract.bench import (
    PORT,
    STRANGER,
    Bench,
    Make,
    require_declared,
    require_equal,
    said,
    variants,
)
from hybridvif.facts import LinkFact
from hybridvif.parts import NOTHING, Bridge, HostState, MadeTap, Role, Tap, Veth
from hybridvif.planner import plan
from hybridvif.report import Result
from hybridvif.sandbox import Sandbox
from hybridvif.steps import Create, Delete, Step, Update
from hybridvif.wiring import wiring_of

NAMES = PORT.names
WIRING = HostState(wiring_of(PORT).links)
BRIDGE = next(link for link in WIRING.links.values() if isinstance(link, Bridge))
VETH = next(link for link in WIRING.links.values() if isinstance(link, Veth))

OTHER_VALUES: dict[str, tuple[Any, ...]] = {
    "alias": ("",),
    "peer_alias": ("",),
    "mac": ("0a:00:00:00:00:99",),
    "mtu": (68, 1400, 9000),
    "peer_mtu": (68, 1400, 9000),
    "up": (False,),
    "peer_up": (False,),
    "promisc": (False,),
    "peer_promisc": (False,),
    "forward_delay": (1500,),
    "ageing": (30_000,),
    "multicast_snooping": (True,),
    "disable_ipv6": (False,),
    "addr_gen_mode": ("eui64",),
    "arp_ignore": (0,),
    "arp_announce": (0,),
    "nf_call_iptables": (False,),
    "nf_call_ip6tables": (False,),
    "master": ("",),
    "group": (7,),
}
"""Legal values that a wiring does not have, by attribute."""
CARRIER_TIME = 2.0
"""Seconds until the kernel has told a carrier for certain."""
SKIPPED_OR_WORSE = frozenset({Result.FAILED, Result.REFUSED, Result.SKIPPED})


def check_link_executor(make: Make, sandbox: Sandbox | None = None, **settings: Any) -> None:
    """Make sure that a link executor keeps the contract; AssertionError says in one sentence where it does not.

    make: an executor class, or an importable function of Settings that makes one. settings: fields of Settings.
    """
    require_declared(make, Role.LINK)
    if sandbox is None:
        with Sandbox(ovs=False) as box:
            _check(Bench(make, box, settings))
    else:
        _check(Bench(make, sandbox, settings))


def _check(bench: Bench) -> None:
    try:
        with bench:
            for check in (
                _facts,
                _member_of_another_mtu,
                _each_step,
                _absence,
                _presence,
                _foreign,
                _order,
                _names,
                _grammar,
                *([_made_tap] if MadeTap in getattr(bench.make, "serves", ()) else []),
                _late,
            ):
                _sweep(bench)
                check(bench)
    finally:
        _sweep(bench)


def _sweep(bench: Bench) -> None:
    devices = [*NAMES, "hvforeign", "hvpeer"]
    bench.sh("".join(f"ip link delete {name} 2>/dev/null || true\n" for name in devices))


def _states() -> Iterator[HostState]:
    yield NOTHING
    yield HostState({BRIDGE.name: BRIDGE})
    yield HostState({VETH.name: replace(VETH, master="")})
    for part in (BRIDGE, VETH):
        for variant in variants(part, OTHER_VALUES):
            yield WIRING.having(variant)
    stp = replace(BRIDGE, stp=True, forward_delay=1500)
    yield WIRING.having(stp)


def _each_step(bench: Bench) -> None:
    """Every step from every starting state, there and back; what is beside the port is found as it was."""
    bench.sh(f"ip link add hvforeign type bridge; ip link set hvforeign alias {STRANGER}; ip link set lo alias hvlo")
    before = _beside(bench)
    for state in _states():
        bench.try_path(NAMES, WIRING, state)
        bench.try_path(NAMES, state, WIRING)
    bench.try_path(NAMES, WIRING, NOTHING)
    changed = sorted(set(_beside(bench)) ^ set(before))
    bench.sh('ip link set lo alias ""')
    assert not changed, f"something beside the port was written: {changed[:4]}"


def _absence(bench: Bench) -> None:
    """That a part to delete is gone is success; that one to change is gone is worth another try."""
    for part in (BRIDGE, VETH):
        with bench.unchanged("by a delete of what is not there"):
            (outcome,) = bench.do([Delete(part)])
        assert outcome.result is Result.DONE, f"{said(outcome.step)} of what is gone: {outcome.result.value}"
    for step in (Update(BRIDGE, replace(BRIDGE, mtu=1400)), Update(VETH, replace(VETH, mtu=1400))):
        outcome = bench.try_refused(step, results={Result.FAILED})
        assert outcome.retry, f"{said(step)} of what is gone must be worth a retry"


def _presence(bench: Bench) -> None:
    """A create of what is there must not be done, and is worth another try."""
    bench.reach(NAMES, WIRING)
    for part in (BRIDGE, VETH):
        outcome = bench.try_refused(Create(part), results={Result.FAILED})
        assert outcome.retry, f"create of {part.name}, which is there, must be worth a retry"


def _foreign(bench: Bench) -> None:
    """Wrong kinds, other ports' devices and other bridges' members are refused."""
    changed = replace(BRIDGE, mtu=1400), replace(VETH, mtu=1400)
    cases: list[tuple[str, tuple[Step, ...]]] = [
        (f"ip link add {NAMES.bridge} type veth peer name hvpeer", (Update(BRIDGE, changed[0]), Delete(BRIDGE))),
        (f"ip link add {NAMES.bridge_end} type bridge", (Update(VETH, changed[1]), Delete(VETH))),
        (
            f"ip link add {NAMES.bridge_end} type veth peer name hvpeer",
            (Update(VETH, changed[1]), Delete(VETH)),
        ),
    ]
    for script, steps in cases:
        _sweep(bench)
        bench.sh(script)
        for step in steps:
            bench.try_refused(step, results={Result.REFUSED})
    for device, steps in (
        (NAMES.bridge, (Update(BRIDGE, changed[0]), Delete(BRIDGE))),
        (NAMES.bridge_end, (Update(VETH, changed[1]), Delete(VETH))),
        (NAMES.switch_end, (Update(VETH, changed[1]), Delete(VETH))),
    ):
        _sweep(bench)
        bench.reach(NAMES, WIRING)
        bench.sh(f"ip link set {device} alias {STRANGER}")
        for step in steps:
            bench.try_refused(step, results={Result.REFUSED})
    _sweep(bench)
    bench.reach(NAMES, WIRING.having(replace(VETH, master="")))
    bench.sh(f"ip link add hvforeign type bridge; ip link set {NAMES.bridge_end} master hvforeign")
    bench.try_refused(Update(replace(VETH, master=""), VETH), results={Result.REFUSED})


def _order(bench: Bench) -> None:
    """After a failed step the port's later creates and updates are not tried, its deletes are."""
    bench.sh(f"ip link add {NAMES.bridge} type veth peer name hvpeer")
    steps = (Create(BRIDGE), Create(VETH))
    outcomes = bench.do(steps)
    assert [outcome.result in SKIPPED_OR_WORSE for outcome in outcomes] == [True, True], f"{outcomes}"
    _sweep(bench)
    bench.reach(NAMES, HostState({VETH.name: replace(VETH, master="")}))
    failing, deleting = bench.do([Update(BRIDGE, replace(BRIDGE, mtu=1400)), Delete(replace(VETH, master=""))])
    assert (failing.result, deleting.result) == (Result.FAILED, Result.DONE), "a delete after a failure must be tried"


def _names(bench: Bench) -> None:
    """What is not a name of the grammar is refused, whatever it would mean to a program or a shell."""
    for name in ("-x", "--help", "eth0", "lo", "qbr;reboot", "qbr$(id)", "../../etc", "q" * 40, "qbrc0117ac7-0\n"):
        for part in (replace(BRIDGE, name=name), replace(VETH, name=name), replace(VETH, peer=name)):
            for step in (Create(part), Update(part, replace(part, mtu=1400)), Delete(part)):
                with bench.unchanged(f"by a step about {name!r}"):
                    outcomes = bench.do([step])
                wrong = [one for one in outcomes if one.result is Result.DONE]
                assert not wrong, f"{type(step).__name__} of a {part.kind} named {name!r} was done"


def _grammar(bench: Bench) -> None:
    """observe(None) sees the same as observe(names), and only names of the grammar; the tap is seen with its master."""
    bench.reach(NAMES, WIRING)
    bench.sh(f"ip link add {NAMES.tap} type veth peer name hvpeer; ip link set {NAMES.tap} master {NAMES.bridge}")
    expected = WIRING.having(Tap(name=NAMES.tap, master=NAMES.bridge))
    require_equal(bench.see(NAMES), expected, "with a tap in the bridge")
    everything = bench.see(None)
    require_equal(everything.of(NAMES), expected, "observed without names")
    assert set(everything.links) == set(expected.links), "observe(None) saw devices that are not of the grammar"
    bench.try_path(NAMES, expected, expected.having(Tap(name=NAMES.tap, master=NAMES.bridge)))
    bench.sh(f"ip link set {NAMES.tap} nomaster")
    (outcome,) = bench.do([Update(Tap(name=NAMES.tap, master=""), Tap(name=NAMES.tap, master=NAMES.bridge))])
    assert outcome.result is Result.DONE, f"{said(outcome.step)}: {outcome.reason}"
    require_equal(bench.see(NAMES), expected, "after the tap was put back")


def _made_tap(bench: Bench) -> None:
    """A tap of ours is made whole, changed and deleted; one without our mark is left alone, whatever a step says."""
    wired = wiring_of(replace(PORT, create_tap=True, multiqueue=True))
    tap = next(part for part in wired if isinstance(part, MadeTap))
    goal = HostState(wired.links)
    bench.try_path(NAMES, WIRING, goal)
    (link,) = json.loads(bench.sh(f"ip -d -j link show dev {tap.name}"))
    told = link["linkinfo"]["info_data"]
    assert (told["type"], told["multi_queue"], told["persist"]) == ("tap", True, True), f"{tap.name} is {told}"
    with bench.unchanged("by a tap that is there already"):
        (outcome,) = bench.do([Create(tap)])
    assert outcome.result is Result.FAILED, "a tap that is there was made again"
    assert outcome.retry, "create of a tap, which is there, must be worth a retry"
    for changes in ({"mac": "02:00:00:00:00:09"}, {"mtu": 1400}, {"up": False}, {"master": ""}):
        other = goal.having(replace(tap, **changes))
        bench.try_path(NAMES, goal, other)
        bench.try_path(NAMES, other, goal)
    bench.try_path(NAMES, goal, NOTHING)
    bench.reach(NAMES, HostState({tap.name: replace(tap, master="", up=False)}))
    bench.sh(f"ip link set {tap.name} alias ''")
    for step in (Delete(tap), Update(tap, replace(tap, mtu=1400))):
        bench.try_refused(step, results={Result.FAILED, Result.REFUSED})
    with bench.unchanged("by a tap that was made by another"):
        bench.do([Create(tap)])


def _facts(bench: Bench) -> None:
    """The facts are what `ip` says: of the devices asked for, and of all that is in the bridge."""
    bench.reach(NAMES, WIRING)
    assert bench.sh(f"ip link show dev {NAMES.bridge}", check=False), f"{NAMES.bridge} was made, so it must be there"
    bench.sh(
        f"ip link add hvforeign type veth peer name hvpeer; ip link set hvforeign master {NAMES.bridge}\n"
        "ip link set hvforeign up"
    )
    held = tuple(sorted((NAMES.bridge_end, "hvforeign")))
    for names in (NAMES, None):
        facts = bench.observe(names).facts
        members = facts.members.get(NAMES.bridge)
        assert members == held, f"facts.members of {NAMES.bridge} is {members}, not {held}, which is in it"
        for name in (NAMES.bridge, NAMES.bridge_end, NAMES.switch_end, "hvforeign"):
            assert name in facts.links, f"facts.links lacks {name}"
            _require_fact(bench, names, name)


def _require_fact(bench: Bench, names: Iterable[str] | None, name: str) -> None:
    until = time.monotonic() + CARRIER_TIME
    while True:
        fact = bench.observe(names).facts.links[name]
        (link,) = json.loads(bench.sh(f"ip -d -j link show dev {name}"))
        told = LinkFact(
            ifindex=link["ifindex"],
            kind=link.get("linkinfo", {}).get("info_kind", ""),
            up="UP" in link["flags"],
            carrier="LOWER_UP" in link["flags"],
            master=link.get("master", ""),
            mtu=link["mtu"],
        )
        if fact == told:
            return
        assert time.monotonic() < until, f"facts.links of {name} is {fact}, and ip says {told}"


def _member_of_another_mtu(bench: Bench) -> None:
    """A bridge that was made with an MTU keeps it, whatever joins it: a plain one follows its smallest member.

    The kernel takes an MTU for chosen only where it was changed (LP 1623876).
    """
    bridge = replace(BRIDGE, mtu=1500)
    alone = HostState({bridge.name: bridge})
    bench.reach(NAMES, alone)
    bench.sh(
        f"ip link add hvforeign mtu 1400 type veth peer name hvpeer mtu 1400\n"
        f"ip link set hvforeign master {bridge.name}"
    )
    require_equal(bench.see(NAMES), alone, "after a member of MTU 1400 joined a bridge made with 1500")


def _beside(bench: Bench) -> list[str]:
    """All links but the port's own, and the switches of the directories that are not its own."""
    links = [link for link in bench.snapshot() if json.loads(link)["ifname"] not in NAMES]
    return (
        links
        + bench.sh(
            "cd /proc/sys/net; for device in all default lo hvforeign; do\n"
            "grep -s . ipv4/conf/$device/arp_* ipv6/conf/$device/disable_ipv6 || true; done"
        ).splitlines()
    )


def _late(bench: Bench) -> None:
    """Nothing is begun after the deadline."""
    steps = plan(NOTHING, WIRING)
    with bench.unchanged("after the deadline"):
        outcomes = bench.do(steps, patience=-1.0)
    assert all(outcome.result in SKIPPED_OR_WORSE for outcome in outcomes), f"done after the deadline: {outcomes}"
